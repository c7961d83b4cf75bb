"""How to cite a proposal: one plain sentence and a BibTeX entry."""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime

from experiments.models import Proposal
from experiments.paths import local
from experiments.pids import pid_url

_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\textbraceleft{}",  # BibTeX counts braces, escaped ones too
    "}": r"\textbraceright{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def names(proposal: Proposal) -> list[str]:
    """The creators' names in their order; rows that came in without a name are passed over."""
    return [str(c["name"]) for c in proposal.creators if isinstance(c, dict) and c.get("name")]


def year(proposal: Proposal, opened: datetime | None) -> int | None:
    """The year of publication: when it opened, else when it was measured."""
    moment = opened or proposal.end_at or proposal.start_at
    return local(moment, proposal.facility.time_zone).year if moment else None


def plain(proposal: Proposal, opened: datetime | None) -> str:
    """`Lamprecht, Ada; Okafor, Ben (2022): Title. Facility. https://doi.org/…`"""
    who = "; ".join(names(proposal)) or proposal.facility.name
    when = year(proposal, opened)
    parts = [f"{who} ({when}): {proposal.title}" if when else f"{who}: {proposal.title}", proposal.facility.name]
    text = ". ".join(part.rstrip(".") for part in parts) + "."
    return f"{text} {pid_url(proposal.pid)}" if proposal.pid else text


def bibtex(proposal: Proposal, opened: datetime | None) -> str:
    when = year(proposal, opened)
    fields = {
        "author": " and ".join(_author(name) for name in names(proposal)),
        "title": f"{{{_tex(proposal.title)}}}",
        "publisher": _tex(proposal.facility.name),
        "year": str(when) if when else "",
        # doi and url are read verbatim by biblatex; a brace would end the field
        "doi": re.sub(r"[{}\\]", "", proposal.pid) if proposal.pid.startswith("10.") else "",
        "url": pid_url(proposal.pid) if proposal.pid else "",
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@misc{{{_key(proposal, when)},", *lines, "}"])


def _author(name: str) -> str:
    """Braces around a name with " and ", which would otherwise be two authors."""
    text = _tex(name)
    return f"{{{text}}}" if re.search(r"\sand\s", text) else text


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in " ".join(text.split()))


def _key(proposal: Proposal, when: int | None) -> str:
    first = (names(proposal) or [proposal.facility.slug])[0].split(",")[0]
    ascii_name = unicodedata.normalize("NFKD", first).encode("ascii", "ignore").decode()
    word = re.sub(r"[^A-Za-z]", "", ascii_name).lower() or "data"
    number = re.sub(r"[^A-Za-z0-9]", "", proposal.identifier)
    return f"{word}{when or ''}{number}"
