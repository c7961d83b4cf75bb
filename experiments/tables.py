"""A folder of CSV files in the columns of VISA's ETL tables, read as the import format: `FOLDER/<table>.csv`.

Ids only tie the files together where the table has a better key: a proposal is known by its identifier. Nothing is
passed over: what a file says and cannot be used is a fault, or a note when the table is known and not kept here.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.records import FACILITY, Place, Placed

WHOLE = frozenset({"run_number", "size", "file_count"})
FLAGS = {"true": True, "false": False}


@dataclass(frozen=True)
class Table:
    """The columns of one file, theirs → ours (empty: known and not kept); `needed` ones must be in its first line."""

    columns: Mapping[str, str]
    needed: tuple[str, ...]
    key: tuple[str, ...]
    #: columns that name rows of another file
    ties: Mapping[str, str] = field(default_factory=dict)
    optional: bool = False
    kept: bool = True


def _role() -> Table:
    return Table({"user_id": ""}, ("user_id",), ("user_id",), {"user_id": "user"}, optional=True, kept=False)


_PUBLISHED = {"title": "title", "doi": "pid", "url": "url"}
TABLES: dict[str, Table] = {
    "facility": Table({name: name for name in FACILITY}, ("slug",), ("slug",)),
    "employer": Table(dict.fromkeys(("id", "name", "town", "country_code"), ""), ("id",), ("id",), {}, True, False),
    "user": Table(
        {"id": "id", "first_name": "", "last_name": "name"}
        | dict.fromkeys(("email", "instance_quota", "affiliation_id", "activated_at", "last_seen_at"), ""),
        ("id", "last_name"),
        ("id",),
        {"affiliation_id": "employer"},
    ),
    "staff_user": _role(),
    "instrument_control_user": _role(),
    "it_support_user": _role(),
    "scientific_computing_user": _role(),
    "instrument": Table({"id": "", "code": "code", "name": "name"}, ("id", "name"), ("id",)),
    "instrument_scientist": Table(
        {"instrument_id": "", "user_id": ""},
        ("instrument_id", "user_id"),
        ("instrument_id", "user_id"),
        {"instrument_id": "instrument", "user_id": "user"},
        optional=True,
    ),
    "cycle": Table(
        {"id": "", "name": "name", "start_date": "start_at", "end_date": "end_at"},
        ("id", "name"),
        ("id",),
        optional=True,
    ),
    "proposal": Table(
        {"id": "", "identifier": "identifier", "public_at": "embargo_until", "summary": "abstract"}
        | {name: name for name in ("license", "contact")}
        | _PUBLISHED,
        ("id", "identifier", "public_at"),
        ("id",),
    ),
    "experiment": Table(
        {"id": "id", "instrument_id": "instrument", "proposal_id": "", "cycle_id": "cycle"}
        | {"start_date": "start_at", "end_date": "end_at"}
        | {name: name for name in ("run_number", "sample", "technique")}
        | _PUBLISHED,
        ("id", "instrument_id", "proposal_id"),
        ("id",),
        {"instrument_id": "instrument", "proposal_id": "proposal", "cycle_id": "cycle"},
    ),
    "experiment_user": Table(
        {"experiment_id": "", "user_id": ""},
        ("experiment_id", "user_id"),
        ("experiment_id", "user_id"),
        {"experiment_id": "experiment", "user_id": "user"},
    ),
    "dataset": Table(
        {"experiment_id": ""} | {name: name for name in ("name", "path", "format", "size", "file_count")},
        ("experiment_id",),
        ("experiment_id", "name"),
        {"experiment_id": "experiment"},
        optional=True,
    ),
}


class Line(Place):
    """A line of one of the files; its values are named by the file's own columns."""

    names: Mapping[str, str]

    def __new__(cls, table: str, number: int) -> Line:
        line = super().__new__(cls, f"{table}.csv, line {number}")
        line.names = {ours: theirs for theirs, ours in TABLES[table].columns.items() if ours}
        return line

    def column(self, name: str) -> str:
        return f"{self}, {self.names.get(name, name)}"


@dataclass
class Source:
    """What a folder says, in the import format, and what is wrong with it before a value was looked at."""

    data: dict[str, Any]
    problems: list[str]
    warnings: list[str]


def read_folder(folder: Path) -> Source:
    """Read every file of the folder; all faults are collected, none raised."""
    reader = _Reader(folder)
    reader.read_all()
    return Source(_join(reader.rows, reader.problems), reader.problems, reader.warnings)


@dataclass(frozen=True)
class Cells:
    """One line's texts by their column; an empty one is not there."""

    place: Line
    texts: dict[str, str]

    def ours(self, table: str) -> dict[str, Any]:
        columns = TABLES[table].columns
        return {ours: _value(ours, self.texts[theirs]) for theirs in self.texts if (ours := columns[theirs])}


def _value(name: str, text: str) -> Any:
    """The text, or the number or flag that it stands for; what it does not stand for is a fault of the reader's."""
    if name in WHOLE and text.isascii() and text.isdigit():
        return int(text)
    return FLAGS.get(text, text) if name == "open_data_enabled" else text


class _Reader:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.rows: dict[str, list[Cells]] = {}
        self.known: dict[str, dict[tuple[str, ...], Line]] = {}
        #: could not be read: what is tied to it cannot be judged
        self.unread: set[str] = set()

    def read_all(self) -> None:
        try:
            names = {path.name for path in self.folder.iterdir()}
        except OSError as error:
            self.problems.append(f"{self.folder}: {error.strerror}")
            return
        for name in sorted(names):
            if name.endswith(".csv") and name.removesuffix(".csv") not in TABLES:
                self.problems.append(f"{name}: is no table of the import")
        for name, table in TABLES.items():
            if f"{name}.csv" in names:
                self.rows[name] = list(self.read(name, table))
                if self.rows[name] and not table.kept:
                    self.warnings.append(f"{name}.csv: is known and not kept here")
            elif not table.optional:
                self.unread.add(name)
                self.problems.append(f"{name}.csv: is missing")
        for name, rows in self.rows.items():
            for row in rows:
                self.check_ties(name, row)

    def read(self, name: str, table: Table) -> Iterator[Cells]:
        """Yield the good lines of a file and note the others."""
        self.known[name] = {}
        text = self.text(name)
        if text is None:
            self.unread.add(name)
            return
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            header = [column.strip() for column in next(lines, [])]
            if not self.fits(name, table, header):
                self.unread.add(name)
                return
            number = lines.line_num + 1
            for fields in lines:
                if fields and (cells := self.cells(name, table, Line(name, number), header, fields)):
                    yield cells
                number = lines.line_num + 1
        except csv.Error as error:
            self.unread.add(name)
            self.problems.append(f"{name}.csv, line {lines.line_num}: {error}")

    def text(self, name: str) -> str | None:
        try:
            content = (self.folder / f"{name}.csv").read_bytes()
            return content.decode("utf-8-sig")
        except OSError as error:
            self.problems.append(f"{name}.csv: {error.strerror}")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            wrong = f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
            self.problems.append(f"{name}.csv, line {line}: {wrong}")
        return None

    def fits(self, name: str, table: Table, header: list[str]) -> bool:
        """Whether the first line names all that is needed, each once, and nothing else."""
        wrong = [f"the column {column[:60]!r} is not known" for column in header if column not in table.columns]
        wrong += [f"the column {column!r} is named twice" for column in table.columns if header.count(column) > 1]
        wrong += [f"the column {column!r} is missing" for column in table.needed if column not in header]
        if not header:
            wrong = ["must name the columns"]
        elif len(header) == 1 and any(separator in header[0] for separator in ";\t|"):
            wrong = ["columns are separated by commas"]
        self.problems += [f"{name}.csv, line 1: {reason}" for reason in wrong]
        return not wrong

    def cells(self, name: str, table: Table, place: Line, header: list[str], fields: list[str]) -> Cells | None:
        texts = {column: text for column, text in zip(header, fields, strict=False) if text.strip()}
        key = tuple(texts.get(column, "").strip() for column in table.key)
        first = self.known[name].setdefault(key, place)
        missing = [column for column in table.key if column in table.needed and column not in texts]
        if len(fields) != len(header):
            fault = f": has {len(fields)} values, line 1 names {len(header)} columns"
        elif missing:
            fault = f", {missing[0]}: is missing"
        elif first is not place:
            fault = f", {table.key[0]}: {' '.join(key)!r} is also in {first}"
        else:
            return Cells(place, texts)
        self.problems.append(f"{place}{fault}")
        return None

    def check_ties(self, name: str, row: Cells) -> None:
        """Note what is tied to a row that is nowhere, or to nothing where it must be."""
        for column, other in TABLES[name].ties.items():
            text = row.texts.get(column, "").strip()
            if not text:
                if column in TABLES[name].needed and TABLES[name].columns[column] == "":
                    self.problems.append(f"{row.place}, {column}: is missing")
            elif other not in self.unread and (text,) not in self.known.get(other, {}):
                self.problems.append(f"{row.place}, {column}: {text!r} is not in {other}.csv")


# ---- from tables to the import format ----
def _join(rows: Mapping[str, list[Cells]], problems: list[str]) -> dict[str, Any]:
    """Put scientists to their instruments, teams and datasets into their experiments, and those into proposals."""
    codes = {_id(row): row.texts.get("code") or _id(row) for row in rows.get("instrument", ())}
    cycles = {_id(row): row.texts.get("name", "") for row in rows.get("cycle", ())}
    teams, datasets = _below(rows, "experiment_user", "experiment_id"), _below(rows, "dataset", "experiment_id")
    known_scientists = _below(rows, "instrument_scientist", "instrument_id")

    def scientists(instrument: str) -> list[str] | None:
        """None without their file: the instrument keeps those it has."""
        return _users(known_scientists.get(instrument, ())) if "instrument_scientist" in rows else None

    experiments: dict[str, list[Placed]] = {}
    for row in rows.get("experiment", ()):
        values = row.ours("experiment")
        for name, names in (("instrument", codes), ("cycle", cycles)):
            if name in values:
                values[name] = names.get(values[name].strip(), values[name])
        values["team"] = _users(teams.get(_id(row), ()))
        values["datasets"] = [_placed("dataset", each) for each in datasets.get(_id(row), ())]
        experiments.setdefault(row.texts.get("proposal_id", "").strip(), []).append(Placed(row.place, values))
    proposals = [
        _placed("proposal", row, experiments=experiments.pop(_id(row), [])) for row in rows.get("proposal", ())
    ]
    if experiments:  # of no proposal, which was noted: nothing will be loaded, but their values are checked
        orphans = [each for rest in experiments.values() for each in rest]
        proposals.append(Placed(Place("proposal"), {"identifier": "?", "experiments": orphans}))
    return {
        "facility": _facility(rows.get("facility", []), problems),
        "instruments": [
            _placed("instrument", row, code=codes[_id(row)], scientists=scientists(_id(row)))
            for row in rows.get("instrument", ())
        ],
        "cycles": [_placed("cycle", row) for row in rows.get("cycle", ())],
        "persons": [_placed("user", row, name=_name(row)) for row in rows.get("user", ())],
        "proposals": proposals,
    }


def _id(row: Cells) -> str:
    return row.texts.get("id", "").strip()


def _placed(table: str, row: Cells, **more: Any) -> Placed:
    return Placed(row.place, row.ours(table) | more)


def _below(rows: Mapping[str, list[Cells]], table: str, column: str) -> dict[str, list[Cells]]:
    found: dict[str, list[Cells]] = {}
    for row in rows.get(table, ()):
        found.setdefault(row.texts.get(column, "").strip(), []).append(row)
    return found


def _users(rows: Iterable[Cells]) -> list[str]:
    return [row.texts["user_id"] for row in rows if "user_id" in row.texts]


def _name(row: Cells) -> str:
    return " ".join(row.texts[part].strip() for part in ("first_name", "last_name") if part in row.texts)


def _facility(rows: list[Cells], problems: list[str]) -> Placed:
    if len(rows) == 1:
        return _placed("facility", rows[0])
    if not any(problem.startswith("facility.csv") for problem in problems):
        problems.append("facility.csv: must hold one line beside the names of its columns")
    return Placed(Place("facility.csv"), {"slug": "unknown"})
