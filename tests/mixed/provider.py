"""An OpenID provider at which everybody can sign in, many at a time."""

from __future__ import annotations

import json
import threading
from typing import Any

from tests.auth.hostile_op import HostileOP, Reply


class Everybody(HostileOP):
    """Honest; who signs in is said with the authorisation, and each token is that person's."""

    def __init__(self, port: int) -> None:
        self._now = threading.local()
        self._of: dict[str, str] = {}
        super().__init__(port)

    @property
    def subject(self) -> str:
        return str(self._now.subject)

    @subject.setter
    def subject(self, subject: str) -> None:
        self._now.subject = subject

    def sign_in(self, url: str, subject: str) -> dict[str, str]:
        """Let this person in; returns what the browser carries back."""
        carried = self.authorize(url)
        self._of[carried["code"]] = subject
        return carried

    def answer(self, method: str, path: str, headers: Any, body: str) -> Reply:
        if path == "/token":
            code = next((pair[5:] for pair in body.split("&") if pair.startswith("code=")), "")
            self.subject = self._of[code]
            reply = super().answer(method, path, headers, body)
            self._of[f"Bearer {json.loads(reply.body)['access_token']}"] = self.subject
            return reply
        if path == "/userinfo":
            subject = self._of[headers["Authorization"]]
            return Reply.of({"sub": subject, "name": subject.partition("@")[0]})
        return super().answer(method, path, headers, body)
