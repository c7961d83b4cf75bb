"""A real Keycloak (tests/labs) as the benches' provider, and somebody who signs in at it."""

from __future__ import annotations

import os
from pathlib import Path

from tests.bench.api_for_bench import Account
from tests.bench.peers.beamport import Beamport, token
from tests.gateway.authority import Authority
from tests.labs.keycloak import Keycloak
from tests.labs.lab import MEMBER
from tests.labs.setup import set_up
from tests.labs.visitor import Visitor


class AtKeycloak:
    """Made before the portal starts, which is told of it by its file of providers."""

    def __init__(self, folder: Path, ours: Beamport) -> None:
        self.authority = Authority(folder)
        self.lab = Keycloak(folder / "keycloak", f"http://localhost:{ours.port}", set_up(), self.authority)
        self.lab.place.chmod(0o711)
        file = folder / "providers.toml"
        file.write_text(self.lab.toml())
        portal = ours.state.portal
        os.chown(self.lab.place / "client_secret", portal.uid, portal.gid)
        os.environ["BEAMPORT_PROVIDERS"] = str(file)
        self.lab.start()

    def account(self) -> Account:
        """Sign in there, in a browser of its own, and go as far as the button that signs out."""
        from auth.models import Session
        from portal.lib.hashing import digest

        self.lab.wait()
        self.visitor = visitor = Visitor(self.authority.path)
        page = visitor.press(visitor.open(f"{self.lab.portal}/auth/sign-in/"), to=f"/auth/{self.lab.slug}/login/")
        self.lab.show_who(visitor, page, MEMBER)
        key = next(str(cookie.value) for cookie in visitor.session.cookies if cookie.name == "__Host-sid")
        session = Session.objects.select_related("user").get(key_hash=digest(key))
        self.question = self.lab.sign_out_there(visitor)
        return Account(token(session.user), key)

    def sign_out(self) -> None:
        """Press Keycloak's button: it posts a logout token to the portal."""
        self.visitor.press(self.question, to="/logout")
