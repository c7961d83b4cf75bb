"""npm `oidc-provider`, as the demo runs it (deploy/identity): the one provider that needs no file of the portal's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.auth import test_demo_provider as demo
from tests.labs.lab import NAMESPACE, Lab
from tests.labs.visitor import Page, Visitor


class Demo(Lab):
    slug, title = "demo", "Demo account"

    def command(self) -> list[str]:
        return [str(demo.wheel() / "bin" / "node"), str(Path(os.environ["BEAMPORT_IDENTITY"]) / "server.mjs")]

    def environment(self) -> dict[str, str]:
        variables = demo.environment(self.place, self.port, self.portal)
        (self.place / "client_secret").write_text(self.client_secret)
        return variables | {"CLIENT_ID": self.client_id}

    def settings(self) -> dict[str, Any]:
        """What the portal knows of it by its own settings."""
        return {
            "slug": self.slug,
            "title": self.title,
            "issuer": self.issuer,
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "asserts_scopes": frozenset(["eduteams.example", NAMESPACE]),
        }

    def show_who(self, visitor: Visitor, page: Page, login: str) -> Page:
        return visitor.fill_in(page, login=login, password=login)

    def confirm_sign_out(self, visitor: Visitor, page: Page) -> Page:
        return visitor.press(page, button=("logout", "yes"))
