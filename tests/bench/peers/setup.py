"""The peers, installed once from locked versions below ~/.cache/beamport: `python -m tests.bench.peers.setup`."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from portal.embedded import environments, steps
from portal.embedded.setup import CERTIFICATES, node_of

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "beamport"


@dataclass(frozen=True)
class Peers:
    """Where the peers' programs are."""

    bin: Path
    node: Path
    proxy: Path

    @property
    def python(self) -> Path:
        return self.bin / "python"

    @property
    def proxy_command(self) -> list[str]:
        """Start configurable-http-proxy with this."""
        return [str(self.node), str(self.proxy)]

    def environment(self, **more: str) -> dict[str, str]:
        """What a peer gets: nothing of the portal's own variables."""
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        return kept | {"PATH": f"{self.bin}:{self.node.parent}:{os.environ.get('PATH', '')}"} | more


def set_up() -> Peers:
    """Return the peers, installing what is missing (a minute, 700 MB)."""
    with environments.alone(CACHE):
        version = ".".join(str(number) for number in sys.version_info[:3])
        python = environments.make(CACHE, "peers", "what Beamport is measured against", Path(sys.executable), version)
        node, npm = node_of(Path(sys.executable))
        return Peers(python.parent, Path(node), _proxy(node, npm) / "bin" / "configurable-http-proxy")


def _proxy(node: str, npm: str) -> Path:
    """JupyterHub's proxy, whose versions package-lock.json names."""
    lock = (HERE / "package-lock.json").read_bytes()
    place = CACHE / f"chp-{environments.fingerprint(lock)}"
    if not environments.is_complete(place):
        with steps.step("Fetching configurable-http-proxy", "5 s"):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            for name in ("package.json", "package-lock.json", ".npmrc"):
                shutil.copy(HERE / name, place)
            path = f"{Path(node).parent}:{os.environ.get('PATH', '')}"
            steps.run(
                [node, npm, "ci", "--ignore-scripts", "--prefix", str(place)],
                environment=dict(os.environ) | CERTIFICATES | {"PATH": path},
            )
            (place / environments.COMPLETE).touch()
    return place / "node_modules" / "configurable-http-proxy"


if __name__ == "__main__":
    print(set_up())
