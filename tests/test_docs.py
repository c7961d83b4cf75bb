"""The documentation cannot rot: codes, settings and links are compared with the code."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("portal", "auth", "experiments", "instances")


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (path for path in (ROOT / package).rglob("*.py") if "migrations" not in path.parts)


def error_codes() -> set[str]:
    """Codes of all PortalError subclasses, found by importing the modules that define one."""
    from portal.lib.errors import PortalError

    for path in sources():
        if re.search(r"^class \w+\(.*(Error|NotFound|Conflict|Forbidden|BadRequest)\)", path.read_text(), re.M):
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))

    def family(kind: type[PortalError]) -> Iterator[type[PortalError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from family(child)

    return {kind.code for kind in family(PortalError)}


def settings_read() -> set[str]:
    """Names of the variables that settings.py and the gateway read through `env.*` or os.environ."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / "portal" / "settings.py").read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == "env" and isinstance(node.args[0], ast.Constant):
                found.add(str(node.args[0].value))
    return found


def test_every_error_code_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text()
    documented = set(re.findall(r"^- `([a-z0-9-]+)`", page, re.M))
    missing = error_codes() - documented
    assert not missing, f"add to docs/reference/errors.md: {sorted(missing)}"


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    missing = {name for name in settings_read() if f"`{name}`" not in page}
    assert not missing, f"add to docs/reference/settings.md: {sorted(missing)}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_no_page_names_an_address_of_a_development_machine() -> None:
    for path in [*sources(), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]:
        assert not re.search(rf"{re.escape(str(ROOT))}/|/root/", path.read_text()), path
