"""Counting and removing folders that sessions wrote, by the system's own programs: off the loop, safe against links."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path

log = logging.getLogger("beamport.supervisor.disk")

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


async def _run(*argv: str, seconds: float, uid: int | None = None) -> tuple[int, str]:
    """Run a program gently, as `uid` if given; a return code of -1 says that it took too long."""
    ids = {"user": uid, "group": uid, "extra_groups": []} if uid is not None and os.geteuid() == 0 else {}
    process = await asyncio.create_subprocess_exec(
        *("nice", "-n", "10", *argv),
        env=_ENVIRONMENT,
        cwd="/",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        **ids,  # type: ignore[arg-type]
    )
    try:
        async with asyncio.timeout(seconds):
            out, _ = await process.communicate()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        return -1, ""
    return process.returncode or 0, out.decode(errors="replace")


async def used(folder: Path, uid: int) -> int | None:
    """Return the bytes that a folder takes on its file system; None when they cannot be counted in time."""
    _, text = await _run("du", "--summarize", "--block-size=1", "--one-file-system", str(folder), seconds=30, uid=uid)
    first = text.split("\t")[0].strip()
    return int(first) if first.isdigit() else None


def size(folder: Path) -> int:
    """Return the bytes that a folder's file system holds for its users."""
    state = os.statvfs(folder)
    return (state.f_blocks - state.f_bfree + state.f_bavail) * state.f_frsize


async def remove(folder: Path) -> None:
    """Remove a folder that was set aside; what fails is tried again at the next start."""
    code, _ = await _run("rm", "-rf", "--one-file-system", "--", str(folder), seconds=3600)
    if code != 0:
        log.warning("%s was not removed; it will be tried again at the next start", folder)


async def empty(folder: Path) -> None:
    """Remove what is in a folder, not the folder."""
    await _run("find", str(folder), "-mindepth", "1", "-delete", seconds=600)
