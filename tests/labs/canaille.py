"""canaille: accounts, groups and consent of its own, on Authlib and joserfc. Its groups are a list of plain names."""

from __future__ import annotations

from pathlib import Path

from tests.labs.lab import MEMBER, PEOPLE, Lab, email
from tests.labs.visitor import Page, Visitor

GROUP = "xfel-users-pi"
SERVER = Path(__file__).parent / "servers" / "canaille_people.py"


class Canaille(Lab):
    slug, title, verifies_email = "canaille", "Institute account", False
    rule = {"kind": "claim", "claim": "groups", "value": GROUP, "namespace": "", "path": "", "authority": ""}

    def table(self) -> dict[str, object]:
        return super().table() | {"scopes": ["openid", "profile", "email", "groups"], "keeps_id_token": True}

    def command(self) -> list[str]:
        people = [
            {"login": login, "given": given, "family": family, "email": email(login), "member": login == MEMBER}
            for login, (given, family) in PEOPLE.items()
        ]
        described = {
            "port": self.port,
            "client": {
                "client_id": self.client_id,
                "client_secret": self.client_secret,
                "redirect_uris": [self.callback],
                "post_logout_redirect_uris": [f"{self.portal}/auth/signed-out/"],
            },
            "people": people,
            "group": GROUP,
        }
        return [str(self.programs.bin / "python"), str(SERVER), str(self.write("people.json", described))]

    def show_who(self, visitor: Visitor, page: Page, login: str) -> Page:
        page = visitor.fill_in(page, login=login)
        page = visitor.fill_in(page, password=login)
        if page.url.startswith(self.issuer):  # the first time it asks whether we may know
            page = visitor.press(page, button=("answer", "accept"))
        return page

    def asks_who(self, page: Page) -> bool:
        return page.asks_for("login")
