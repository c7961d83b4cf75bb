"""An empty machine to install on: this one's files under an overlay, with processes, network and users of its own.

It needs root. Everything written lies in memory and is gone with process 1.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "operate" / "install.md"

#: $1 where to mount, $2 the file that becomes process 1
_BOOT = """
mount -t tmpfs -o size=6g,mode=755 machine "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
cd "$1/root"
mount --rbind /dev dev
mount --rbind /sys sys
mount -t proc proc proc
cp -L /etc/resolv.conf /etc/hosts "$1/"
mount -t tmpfs -o mode=755 run run
mkdir -p run/lock mnt/old
chmod 1777 run/lock
rm -rf etc/resolv.conf etc/beamport opt/beamport var/lib/beamport etc/systemd/system/beamport*
cp "$1/resolv.conf" etc/resolv.conf
printf '127.0.0.1 localhost %s\\n::1 localhost\\n' "$3" > etc/hosts
mkdir -p srv/install
printf '#!/bin/sh\\nexit 101\\n' > usr/sbin/policy-rc.d
chmod 755 usr/sbin/policy-rc.d
cp "$2" usr/local/lib/stand-in.py
printf '#!/bin/sh\\nexec /usr/bin/python3 /usr/local/lib/stand-in.py systemctl "$@"\\n' > usr/local/sbin/systemctl
chmod 755 usr/local/sbin/systemctl
pivot_root . mnt/old
umount -l /mnt/old
ip link set lo up 2>/dev/null || /usr/bin/python3 -c "
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh', b'lo', 1 | 64))"
exec /usr/bin/python3 /usr/local/lib/stand-in.py
"""


_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: how this host reaches package registries
_REGISTRIES = (
    *("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "npm_config_registry"),
    *("PIP_INDEX_URL", "PIP_CERT", "UV_CACHE_DIR", "UV_INDEX_URL", "UV_DEFAULT_INDEX"),
)


@dataclass(frozen=True)
class Block:
    """A block of commands of the page: its section, what it says, whether it needs the network outside."""

    section: str
    text: str
    online: bool


def blocks(page: Path = PAGE) -> list[Block]:
    """Return the page's blocks of commands, in order."""
    found, section = [], ""
    parts = r"^#+ (?P<title>[^\n]+)$|^```sh(?P<word>[^\n]*)\n(?P<text>.*?)^```$"
    for match in re.finditer(parts, page.read_text(), re.M | re.S):
        if match["title"]:
            section = match["title"]
        else:
            found.append(Block(section, match["text"], match["word"].strip() == "online"))
    return found


class Failed(AssertionError):
    """Commands ended badly; the text has what they said."""


class Machine:
    """The machine, from outside."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="bpl-", dir="/var/tmp"))
        words = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--propagation", "private"]
        stand_in = str(Path(__file__).with_name("init.py"))
        boot = ["bash", "-euc", _BOOT, "boot", str(self.place), stand_in, " ".join(names)]
        self.process = subprocess.Popen([*words, *boot], stdin=subprocess.DEVNULL)
        until = time.monotonic() + 30
        while not (self.pid and Path(f"/proc/{self.pid}/root/run/stand-in.sock").exists()):
            if self.process.poll() is not None or time.monotonic() > until:
                raise Failed("the machine did not start")
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """Process 1, as it is called outside."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    @property
    def root(self) -> Path:
        """Its files, seen from outside."""
        return Path(f"/proc/{self.pid}/root")

    def inside(self, *, online: bool = False) -> list[str]:
        """What goes before a command to run it there; `online` on the network of the host."""
        root = f"/proc/{self.pid}/root"
        words = [
            "nsenter",
            "--target",
            str(self.pid),
            "--mount",
            "--pid",
            f"--root={root}",
            f"--wd={root}/srv/install",
        ]
        return words if online else [*words, "--net"]

    def run(
        self, text: str, *, online: bool = False, seconds: float = 300, environment: Mapping[str, str] | None = None
    ) -> str:
        """Run commands as root; raises Failed with all they said."""
        given = {name: os.environ[name] for name in _REGISTRIES if online and name in os.environ}
        given |= {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8"}
        given |= {"DEBIAN_FRONTEND": "noninteractive", "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(
            [*self.inside(online=online), "bash", "-euo", "pipefail", "-c", f"umask 022\n{text}"],
            env=given | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
        if done.returncode:
            raise Failed(f"{text.strip()}\n--- ended with {done.returncode}:\n{done.stdout[-6000:]}\n{self.logs()}")
        return done.stdout

    def logs(self, lines: int = 15) -> str:
        """The last words of every unit."""
        found = sorted((self.root / "var" / "log" / "units").glob("*.log"))
        return "\n".join(f"--- {path.name}\n" + "\n".join(path.read_text().splitlines()[-lines:]) for path in found)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def close(self) -> None:
        """End process 1, and with it everything."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)
        until = time.monotonic() + 10
        while any(self.place.iterdir()) and time.monotonic() < until:
            time.sleep(0.1)
        self.place.rmdir()
