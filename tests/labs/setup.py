"""What the labs run, fetched once and verified, below ~/.cache/beamport: `python -m tests.labs.setup`."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

from portal.embedded import environments, steps
from portal.embedded.people import CannotStart
from tests.bench.peers.setup import CACHE

KEYCLOAK = "26.4.0"
KEYCLOAK_URL = (
    f"https://repo1.maven.org/maven2/org/keycloak/keycloak-quarkus-dist/{KEYCLOAK}/keycloak-quarkus-dist-{KEYCLOAK}.zip"
)
KEYCLOAK_SHA256 = "1b6a11a2726ac8a8dc9c91d5fafe989a75ce4f1622d7f7b45c21d5bc16629c0a"
#: settled when it is built, once, which spares each start half its time
KEYCLOAK_BUILD = ("build", "--db=dev-mem", "--health-enabled=false")
OLDEST_JAVA = 17


@dataclass(frozen=True)
class Programs:
    """Where the providers' programs are."""

    java: str
    keycloak: Path
    bin: Path


def set_up() -> Programs:
    """Return the programs, installing what is missing (two minutes, 540 MB)."""
    with environments.alone(CACHE):
        version = ".".join(str(number) for number in sys.version_info[:3])
        python = environments.make(CACHE, "labs", "the labs' providers", Path(sys.executable), version)
        return Programs(java(), _keycloak(), python.parent)


def java() -> str:
    """Return a Java that Keycloak runs on."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin" if home else None)
    said = subprocess.run([found, "-version"], capture_output=True, text=True).stderr if found else ""
    version = re.search(r'version "(\d+)', said)
    if found is None or version is None or int(version[1]) < OLDEST_JAVA:
        raise CannotStart(
            f"Keycloak needs Java {OLDEST_JAVA} or newer. On Debian: apt-get install openjdk-17-jre-headless."
        )
    return found


def fetch(url: str, sha256: str, folder: Path = CACHE / "downloads") -> Path:
    """Return a download, which is kept by its hash; another content than the hash says is refused."""
    target = folder / sha256
    if target.is_file() and _sha256(target) == sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    coming = target.with_suffix(".coming")
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, coming.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except OSError as error:
        raise CannotStart(f"{url} cannot be fetched: {error}") from None
    if (got := _sha256(coming)) != sha256:
        coming.unlink()
        raise CannotStart(f"{url} holds something else than it did: SHA-256 {got} instead of {sha256}.")
    return coming.rename(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _keycloak() -> Path:
    place = CACHE / f"keycloak-{environments.fingerprint(KEYCLOAK_SHA256, *KEYCLOAK_BUILD)}"
    home = place / f"keycloak-{KEYCLOAK}"
    if not environments.is_complete(place):
        with steps.step("Fetching and building Keycloak", "30 to 60 s"):
            archive = fetch(KEYCLOAK_URL, KEYCLOAK_SHA256)
            shutil.rmtree(place, ignore_errors=True)
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(place)
            steps.run(["sh", str(home / "bin" / "kc.sh"), *KEYCLOAK_BUILD])
            (place / environments.COMPLETE).touch()
        environments.forget_older(CACHE, "keycloak")
    return home


if __name__ == "__main__":
    print(set_up())
