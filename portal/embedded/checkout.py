"""Where the children import from: the checkout, or a copy that their users can read (standard library only)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from portal.embedded.people import Person
from portal.embedded.state import ROOT, State


def code_folder(state: State) -> Path:
    """Return where the children import from: the checkout, or a copy when their users cannot read it."""
    people = {person.uid: person for person in (state.portal, state.gateway)}.values()
    if os.geteuid() != 0 or all(_can_import(person) for person in people):
        return ROOT
    target, fresh = state.folder / "code", state.folder / "code.new"
    shutil.rmtree(fresh, ignore_errors=True)
    left_out = shutil.ignore_patterns(".*", "var", "node_modules", "__pycache__", "tests", "docs")
    shutil.copytree(ROOT, fresh, ignore=left_out)
    for folder, _, names in os.walk(fresh):
        os.chmod(folder, 0o755)  # noqa: S103  (code that is published anyway)
        for name in names:
            os.chmod(os.path.join(folder, name), 0o644)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    return target


def _can_import(person: Person) -> bool:
    """Whether this person can read the code; asked by doing it, as rights have more layers than modes."""
    done = subprocess.run(
        [sys.executable, "-c", "import portal.env, instances.lifecycle, auth, experiments"],
        cwd="/",
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        timeout=30,
        **person.ids(),
    )
    return done.returncode == 0
