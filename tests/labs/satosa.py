"""SATOSA with pyop: what eduTEAMS-type community proxies run.

https with a certificate of its own authority, basic authentication only, keys without `kid`, claims as lists and by
userinfo only, endpoints beside one another, PKCE ignored, no logout.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.labs.lab import ENTITLEMENT, MEMBER, ORDINARY, PEOPLE, Lab, email
from tests.labs.visitor import Page, Visitor

SCOPE = "eduteams.example"
SERVERS = Path(__file__).parent / "servers"
#: SATOSA's word → the claim
ATTRIBUTES = {
    "name": "name",
    "givenname": "given_name",
    "surname": "family_name",
    "mail": "email",
    "verified": "voperson_verified_email",
    "entitlement": "eduperson_entitlement",
    "assurance": "eduperson_assurance",
    "identifier": "voperson_id",
}


class Satosa(Lab):
    slug, title, ends_sessions = "satosa", "Community account", False

    @property
    def issuer(self) -> str:
        return f"https://localhost:{self.port}"

    def table(self) -> dict[str, object]:
        given = super().table()
        return given | {"asserts_scopes": [SCOPE, *given["asserts_scopes"]]}  # type: ignore[misc]

    def command(self) -> list[str]:
        pair = self.authority.pair("localhost", file="satosa")
        self.write("proxy.json", self.proxy())
        return [
            *(str(self.programs.bin / "gunicorn"), "--bind", f"127.0.0.1:{self.port}", "--threads", "4"),
            *("--certfile", str(pair.certificate), "--keyfile", str(pair.key), "satosa.wsgi:app"),
        ]

    def environment(self) -> dict[str, str]:
        return {"SATOSA_CONFIG": str(self.place / "proxy.json"), "SATOSA_STATE_ENCRYPTION_KEY": secrets.token_urlsafe()}

    def proxy(self) -> dict[str, Any]:
        return {
            "BASE": self.issuer,
            "COOKIE_STATE_NAME": "SATOSA_STATE",
            "INTERNAL_ATTRIBUTES": {
                "attributes": {ours: {"openid": [claim]} for ours, claim in ATTRIBUTES.items()},
            },
            "CUSTOM_PLUGIN_MODULE_PATHS": [str(SERVERS)],
            "BACKEND_MODULES": [
                {"name": "People", "module": "satosa_people.People", "config": {"people": self.people()}}
            ],
            "FRONTEND_MODULES": [
                {"name": "OIDC", "module": "satosa.frontends.openid_connect.OpenIDConnectFrontend",
                 "config": self.frontend()}
            ],
            "LOGGING": {"version": 1, "root": {"level": "INFO"}},
        }  # fmt: skip

    def frontend(self) -> dict[str, Any]:
        client = {
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "client_name": "Beamport",
            "redirect_uris": [self.callback],
            "response_types": ["code"],
            "subject_type": "public",
            "token_endpoint_auth_method": "client_secret_basic",
        }
        return {
            "signing_key_path": str(self._key()),
            "client_db_path": str(self.write("clients.json", {self.client_id: client})),
            "sub_mirror_public": True,
            "provider": {
                "client_registration_supported": False,
                "response_types_supported": ["code"],
                "subject_types_supported": ["public", "pairwise"],
                "scopes_supported": ["openid", "profile", "email"],
                "extra_scopes": {
                    "eduperson_entitlement": ["eduperson_entitlement"],
                    "eduperson_assurance": ["eduperson_assurance"],
                    "voperson_id": ["voperson_id", "voperson_verified_email"],
                },
            },
        }

    def _key(self) -> Path:
        key = rsa.generate_private_key(65537, 2048)
        path = self.place / "signing.key"
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
        return path

    @staticmethod
    def people() -> dict[str, dict[str, Any]]:
        def person(login: str) -> dict[str, Any]:
            given, family = PEOPLE[login]
            opaque = hashlib.sha256(login.encode()).hexdigest()[:32]
            says = {
                "name": [f"{given} {family}"],
                "givenname": [given],
                "surname": [family],
                "mail": [email(login)],
                "verified": [email(login)],
                "entitlement": [ORDINARY, *([ENTITLEMENT] if login == MEMBER else [])],
                "assurance": ["https://refeds.org/assurance", "https://refeds.org/assurance/IAP/medium"],
                "identifier": [f"{opaque}@umbrella.example"],
            }
            return {"subject": f"{opaque}@{SCOPE}", "says": says}

        return {login: person(login) for login in PEOPLE}

    def show_who(self, visitor: Visitor, page: Page, login: str) -> Page:
        return visitor.fill_in(page, account=login)

    def asks_who(self, page: Page) -> bool:
        return page.asks_for("account")
