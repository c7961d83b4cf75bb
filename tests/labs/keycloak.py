"""Keycloak, which most facilities run, and EGI Check-in.

It says groups in userinfo only, insists on PKCE, names itself in the redirect, and posts a logout token to the portal
when somebody signs out there.
"""

from __future__ import annotations

import json
from typing import Any

from tests.labs.lab import ENTITLEMENT, MEMBER, ORDINARY, PEOPLE, Lab, email
from tests.labs.visitor import Page, Visitor

CLAIM = "eduperson_entitlement"
REALM = "facility"
#: fewer optimisations for a faster start
JAVA = ("-Xms64m", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8")


class Keycloak(Lab):
    slug, title = "keycloak", "Facility account"

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}/realms/{REALM}"

    def table(self) -> dict[str, object]:
        given = {"scopes": ["openid", "profile", "email"], "pkce": "require", "keeps_id_token": True}
        return super().table() | given

    def command(self) -> list[str]:
        """Start what was built once, with a folder of its own for its data."""
        self.write(f"home/data/import/{REALM}.json", self.realm())
        home = self.place / "home"
        for part in ("lib", "conf", "providers", "themes"):
            (home / part).symlink_to(self.programs.keycloak / part)
        properties = {
            "kc.home.dir": home,
            "jboss.server.config.dir": home / "conf",
            "java.util.logging.manager": "org.jboss.logmanager.LogManager",
            "picocli.disable.closures": "true",
        }
        return [
            *(self.programs.java, *JAVA, "--add-opens=java.base/java.util=ALL-UNNAMED"),
            *(f"-D{name}={value}" for name, value in properties.items()),
            *("-cp", str(home / "lib" / "quarkus-run.jar"), "io.quarkus.bootstrap.runner.QuarkusEntryPoint"),
            *(
                "start",
                "--optimized",
                "--import-realm",
                "--cache=local",
                "--http-enabled=true",
                "--http-host=127.0.0.1",
            ),
            *(f"--http-port={self.port}", f"--hostname=http://127.0.0.1:{self.port}"),
        ]

    def realm(self) -> dict[str, Any]:
        names = ("username", "email", "firstName", "lastName")
        everybody = {"view": ["admin", "user"], "edit": ["admin", "user"]}
        # without it an attribute that the profile does not declare is dropped
        profile = {
            "unmanagedAttributePolicy": "ENABLED",
            "attributes": [{"name": name, "permissions": everybody} for name in names],
        }
        component = {
            "providerId": "declarative-user-profile",
            "config": {"kc.user.profile.config": [json.dumps(profile)]},
        }
        return {
            "realm": REALM,
            "enabled": True,
            "sslRequired": "none",
            "accessTokenLifespan": 300,
            "components": {"org.keycloak.userprofile.UserProfileProvider": [component]},
            "clients": [self.client()],
            "users": [self.person(login) for login in PEOPLE],
        }

    def client(self) -> dict[str, Any]:
        back_channel = {
            "backchannel.logout.url": f"{self.portal}/auth/{self.slug}/backchannel-logout/",
            "backchannel.logout.session.required": "true",
        }
        mapper = {
            "name": CLAIM,
            "protocol": "openid-connect",
            "protocolMapper": "oidc-usermodel-attribute-mapper",
            "config": {
                **{"user.attribute": CLAIM, "claim.name": CLAIM, "jsonType.label": "String", "multivalued": "true"},
                **{"id.token.claim": "false", "access.token.claim": "false", "userinfo.token.claim": "true"},
            },
        }
        return {
            "clientId": self.client_id,
            "secret": self.client_secret,
            "enabled": True,
            "protocol": "openid-connect",
            "publicClient": False,
            "standardFlowEnabled": True,
            "redirectUris": [self.callback],
            "attributes": {
                "pkce.code.challenge.method": "S256",
                "post.logout.redirect.uris": f"{self.portal}/auth/signed-out/",
                **back_channel,
            },
            "protocolMappers": [mapper],
        }

    @staticmethod
    def person(login: str) -> dict[str, Any]:
        given, family = PEOPLE[login]
        return {
            "username": login,
            "enabled": True,
            "email": email(login),
            "emailVerified": True,
            "firstName": given,
            "lastName": family,
            "credentials": [{"type": "password", "value": login}],
            "attributes": {CLAIM: [ORDINARY, *([ENTITLEMENT] if login == MEMBER else [])]},
        }

    def show_who(self, visitor: Visitor, page: Page, login: str) -> Page:
        return visitor.fill_in(page, username=login, password=login)

    def sign_out_there(self, visitor: Visitor) -> Page:
        """The page by which somebody signs out at Keycloak itself; one button ends the session."""
        return visitor.open(f"{self.issuer}/protocol/openid-connect/logout")
