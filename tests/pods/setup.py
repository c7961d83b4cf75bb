"""What the story in real pods runs on, built once: the lab's programs, a real node's too, and the pods' image."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from instances.providers.kubernetes import build as images
from portal.embedded import steps
from portal.embedded.people import CannotStart
from tests.labs import green
from tests.labs.kubernetes import build, node

#: a program → the Debian package that it is in
NEEDED = {
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "nft": "nftables",
    str(node.RUNC): "runc",
    str(node.PLUGINS / "bridge"): "containernetworking-plugins",
    "chromium": "chromium",
}


def set_up() -> None:
    """Build what is missing; CannotStart says what this machine lacks."""
    if os.geteuid() != 0:
        raise CannotStart("Real pods need root: a kubelet makes mounts, control groups and networks.")
    missing = [package for program, package in NEEDED.items() if not shutil.which(program)]
    if missing:
        raise CannotStart(f"Real pods need more of this system: apt-get install {' '.join(missing)}")
    try:
        if not all(made.is_built for made in (build.CLUSTER, *build.NODE)):
            with steps.step("Building a Kubernetes node", "minutes"):
                build.build_node()
        if not images.archive("jupyter").is_file():
            with steps.step("Building the pods' image", "1 to 3 min"):
                images.build("jupyter")
    except (build.CannotBuild, images.CannotBuild) as error:
        raise CannotStart(str(error)) from error


def marker() -> Path:
    """Return the file that exists once the story has passed for exactly these files, programs and packages."""
    told = [subprocess.run([program, "--version"], capture_output=True).stdout for program in (str(node.RUNC), "nft")]
    return green.marker_of((*green.DEPENDS_ON, "deploy/images", "deploy/kubernetes"), *told)
