"""Values of an operator's file: a reader returns what was meant, or raises Faults with each place and the reason.

What was written is never repeated in a reason: it may be a secret in the wrong place.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import Any

#: the keys that lead to a value; numbers count lists from 0
Place = tuple[str | int, ...]
Reader = Callable[[Any], Any]

MIB, GIB = 2**20, 2**30
_UNITS = {"MiB": MIB, "GiB": GIB, "TiB": 2**40}
_SIZE = re.compile(rf"(\d{{1,9}}(?:\.\d{{1,6}})?) ?({'|'.join(_UNITS)})", re.ASCII)
_DEEPEST = 10


class Faults(ValueError):
    """All that is wrong, each with its place."""

    def __init__(self, *found: tuple[Place, str]) -> None:
        super().__init__(*found)
        self.found = found

    def below(self, *keys: str | int) -> list[tuple[Place, str]]:
        return [((*keys, *place), why) for place, why in self.found]

    def lines(self) -> list[str]:
        """Return a line each: `plans no. 2, image: …`."""
        return [f"{words}: {why}" if (words := _words(place)) else why for place, why in self.found]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def wrong(why: str) -> Faults:
    return Faults(((), why))


def meant(name: str, known: Collection[str]) -> str:
    """Return the sentence that helps whoever wrote a name that is not known."""
    near = difflib.get_close_matches(name, known)
    return f"Is {near[0]} meant?" if near else f"There are: {', '.join(sorted(known)) or 'none'}."


# ---- tables and lists ----
def table(readers: Mapping[str, Reader], needed: Collection[str] = ()) -> Reader:
    """Read a table of these keys and no other."""

    def read(value: Any) -> dict[str, Any]:
        entries = _table(value)
        faults: list[tuple[Place, str]] = [((name,), "is missing.") for name in needed if name not in entries]
        unknown = [name for name in entries if name not in readers]
        faults += [((name,), f"no such key. {meant(name, readers)}") for name in unknown]
        known = {name: entry for name, entry in entries.items() if name in readers}
        return _gathered({name: readers[name] for name in known}, known, faults)

    return read


def mapping(reader: Reader, keys: Reader | None = None) -> Reader:
    """Read a table whose keys are the operator's own."""

    def read(value: Any) -> dict[str, Any]:
        entries = _table(value)
        faults: list[tuple[Place, str]] = []
        for name in entries:
            try:
                (keys or text(253))(name)
            except Faults as error:
                faults += [((name,), f"its name {why}") for _, why in error.found]
        return _gathered(dict.fromkeys(entries, reader), entries, faults)

    return read


def each(reader: Reader, *, once: Collection[str] = (), most: int = 1000) -> Reader:
    """Read a list. Keys in `once` say which entry it is: no two of them are the same."""

    def read(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > most:
            raise wrong(f"must be a list of at most {most}.")
        faults: list[tuple[Place, str]] = []
        found = _gathered(dict.fromkeys(range(len(value)), reader), dict(enumerate(value)), faults, partly=True)
        for key in once:
            first: dict[Any, int] = {}
            for at, entry in found.items():
                if (before := first.setdefault(entry.get(key, at), at)) != at:
                    faults.append(((at, key), f"no. {before + 1} has it already."))
        if faults:
            raise Faults(*faults)
        return list(found.values())

    return read


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise wrong("must be a table.")
    return dict(value)


def _gathered(
    readers: Mapping[Any, Reader], entries: Mapping[Any, Any], faults: list[tuple[Place, str]], *, partly: bool = False
) -> dict[Any, Any]:
    """Read every entry and raise all faults; `partly`: only note them."""
    found = {}
    for name, entry in entries.items():
        try:
            found[name] = readers[name](entry)
        except Faults as error:
            faults += error.below(name)
    if faults and not partly:
        raise Faults(*faults)
    return found


# ---- one value each ----
def text(longest: int, pattern: str = "", what: str = "", *, least: int = 1, lines: bool = False) -> Reader:
    """Read a text of one line (or of several); `what` says what a text like `pattern` is."""
    shape = re.compile(pattern, re.ASCII) if pattern else None

    def read(value: Any) -> str:
        bare = value.replace("\n", " ").replace("\t", " ") if lines and isinstance(value, str) else value
        if not isinstance(bare, str) or not bare.isprintable() or not least <= len(bare) <= longest:
            raise wrong(f"must be a text of {'' if lines else 'one line and '}{least} to {longest} characters.")
        if value and shape and not shape.fullmatch(value):
            raise wrong(f"must be {what}.")
        if not lines and value != value.strip():
            raise wrong("must have no spaces around it.")
        return str(value)

    return read


def whole(least: int, most: int) -> Reader:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise wrong(f"must be a whole number from {least} to {most}.")
        return value

    return read


def hundredths(most: int) -> Reader:
    """Read a number above 0 with at most two decimals."""

    def read(value: Any) -> Decimal:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
            raise wrong(f"must be a number above 0, at most {most}.")
        found = Decimal(str(value))
        if found != round(found, 2):
            raise wrong("must have at most two decimals.")
        return found

    return read


def size(least: int, most: int, *, number: int = 1) -> Reader:
    """Read a size as bytes: "4 GiB", or a bare number of `number` bytes each."""

    def read(value: Any) -> int:
        found = math.nan
        if isinstance(value, str) and (parts := _SIZE.fullmatch(value)):
            found = float(parts[1]) * _UNITS[parts[2]]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found = value * number
        if not least <= found <= most:
            bare = "GiB" if number == GIB else "bytes"
            raise wrong(f'must be a size like "4 GiB" or a number of {bare}, from {_said(least)} to {_said(most)}.')
        return int(found)

    return read


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise wrong("must be true or false.")
    return value


def one_of(*choices: str) -> Reader:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise wrong(f"must be one of: {', '.join(choices)}.")
        return value

    return read


def plain(value: Any, depth: int = 0) -> Any:
    """Read what JSON can say, as it stands."""
    if isinstance(value, Mapping) and depth < _DEEPEST:
        return {text(253)(name): plain(entry, depth + 1) for name, entry in value.items()}
    if isinstance(value, list) and depth < _DEEPEST:
        return [plain(entry, depth + 1) for entry in value]
    if isinstance(value, str):
        return text(10_000, least=0, lines=True)(value)
    if isinstance(value, bool) or (isinstance(value, int | float) and abs(value) < 2**63):
        return value
    raise wrong("must be text, numbers, true, false, lists and tables.")


def _said(size: int) -> str:
    return f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB"


def _words(place: Place) -> str:
    words = ""
    for key in place:
        if isinstance(key, int):
            words += f" no. {key + 1}"
        else:
            words += (words and ", ") + (key[:60] if key.isprintable() else ascii(key[:60]))
    return words.strip()
