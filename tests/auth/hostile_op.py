"""An OpenID provider of our own, in this process, that can lie in every field it sends."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote_plus, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from auth.providers import Provider


class Missing(Enum):
    """As the value of a field: leave the field out. An enum, as its name is the same in each worker of the tests."""

    MISSING = "missing"


MISSING = Missing.MISSING


@cache
def rsa_key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def public_jwk(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, **more: Any) -> dict[str, Any]:
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return {**json.loads(algorithm.to_jwk(key.public_key())), "use": "sig", **more}  # type: ignore[arg-type]


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def changed(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (document | changes).items() if value is not MISSING}


@dataclass
class Reply:
    body: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    #: seconds before the first byte, and between single bytes of the head
    delay: float = 0.0
    trickle: float = 0.0

    @classmethod
    def of(cls, document: object, **more: Any) -> Self:
        return cls(json.dumps(document).encode(), **more)


class HostileOP:
    """Honest until told otherwise: each attribute below is a lie it may tell."""

    def __init__(self, port: int = 0) -> None:
        self.client_id, self.client_secret = "beamport", secrets.token_urlsafe()
        self.slug, self.registered = "demo", dict[str, Provider]()
        self.key: Any = rsa_key()
        self.alg = "RS256"
        self.jwks: list[Any] = [public_jwk(rsa_key(), kid="one", alg="RS256")]
        self.subject = "7be41f09c2d84a6f@provider.example"
        self.discovery: dict[str, Any] = {}
        self.header: dict[str, Any] = {"kid": "one"}
        self.claims: dict[str, Any] = {}
        self.userinfo: dict[str, Any] = {}
        self.token_answer: dict[str, Any] = {}
        self.make_token: Callable[[dict[str, Any], dict[str, Any]], str] = self.sign
        #: whole answers by path; a list is used up one by one
        self.replies: dict[str, Reply] = {}
        self.callback: dict[str, Any] = {}
        self.asked: Counter[str] = Counter()
        self.token_requests: list[dict[str, str]] = []
        self.authorizations: list[str] = []
        self.codes: dict[str, dict[str, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    # ---- life ----
    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    # ---- what the portal is told of it ----
    def join(self, registered: dict[str, Provider], slug: str = "demo") -> None:
        """Be one of the portal's providers."""
        self.slug, self.registered = slug, registered
        registered[slug] = Provider(
            slug=slug,
            title=f"{slug.title()} account",
            issuer=self.issuer,
            client_id=self.client_id,
            client_secret=self.client_secret,
            allow_private=True,
        )

    def configure(self, **changes: Any) -> None:
        self.registered[self.slug] = replace(self.registered[self.slug], **changes)

    # ---- the browser's part ----
    def authorize(self, url: str) -> dict[str, str]:
        """Sign the user in without asking and return the parameters that the browser carries back."""
        self.authorizations.append(url)
        sent = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        code = secrets.token_urlsafe(16)
        self.codes[code] = sent
        return changed({"code": code, "state": sent["state"], "iss": self.issuer}, self.callback)

    # ---- what it signs ----
    def sign(self, header: dict[str, Any], claims: dict[str, Any]) -> str:
        return jwt.PyJWS().encode(json.dumps(claims).encode(), self.key, self.alg, headers=header)

    def id_token(self, nonce: str, access_token: str) -> str:
        digest = hashlib.sha256(access_token.encode()).digest()
        now = int(time.time())
        claims = {
            "iss": self.issuer, "sub": self.subject, "aud": [self.client_id], "iat": now, "exp": now + 300,
            "nonce": nonce, "at_hash": base64url(digest[:16]), "sid": "session-at-op",
        }  # fmt: skip
        return self.make_token(self.header, changed(claims, self.claims))

    # ---- the portal's part ----
    def answer(self, method: str, path: str, headers: Any, body: str) -> Reply:
        if path in self.replies:
            return self.replies[path]
        if path == "/.well-known/openid-configuration":
            return Reply.of(changed(self._discovery(), self.discovery))
        if path == "/jwks":
            return Reply.of({"keys": self.jwks})
        if path == "/token" and method == "POST":
            return self._token(headers, {name: values[0] for name, values in parse_qs(body).items()})
        if path == "/userinfo" and headers.get("Authorization", "").startswith("Bearer access-"):
            return Reply.of(changed({"sub": self.subject, "name": "Jana Nováková"}, self.userinfo))
        return Reply(status=404)

    def _discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "jwks_uri": f"{self.issuer}/jwks",
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "authorization_response_iss_parameter_supported": True,
        }

    def _token(self, headers: Any, form: dict[str, str]) -> Reply:
        self.token_requests.append(form)
        sent = self.codes.get(form.get("code", ""))
        proof = base64url(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if sent is None or proof != sent["code_challenge"] or form["redirect_uri"] != sent["redirect_uri"]:
            return Reply.of({"error": "invalid_grant"}, status=400)
        if not self._knows_client(headers.get("Authorization", ""), form):
            return Reply.of({"error": "invalid_client"}, status=401)
        access_token = "access-" + secrets.token_urlsafe()
        answer = {
            "access_token": access_token, "token_type": "Bearer", "expires_in": 300,
            "refresh_token": "refresh-" + secrets.token_urlsafe(),
            "id_token": self.id_token(sent["nonce"], access_token),
        }  # fmt: skip
        return Reply.of(changed(answer, self.token_answer))

    def _knows_client(self, authorization: str, form: dict[str, str]) -> bool:
        given = f"{form.get('client_id')}:{form.get('client_secret')}"
        if authorization.startswith("Basic "):
            given = ":".join(map(unquote_plus, base64.b64decode(authorization[6:]).decode().split(":", 1)))
        return given == f"{self.client_id}:{self.client_secret}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        op = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                op.asked[path] += 1
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                # the portal hangs up, as it should, on an answer that is too slow or too large
                with contextlib.suppress(OSError):
                    self._send(op.answer(self.command, path, self.headers, body))

            do_POST = do_GET

            def _send(self, reply: Reply) -> None:
                time.sleep(reply.delay)
                head = {"Content-Type": reply.content_type, "Content-Length": str(len(reply.body)), **reply.headers}
                lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
                start = f"HTTP/1.1 {reply.status} Any\r\n{lines}Connection: close\r\n\r\n".encode()
                self.close_connection = True
                if not reply.trickle:
                    self.wfile.write(start + reply.body)
                    return
                for byte in start:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(reply.trickle)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
