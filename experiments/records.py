"""The import format: from what a file says to rows, with every fault named by its place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from auth.models import Facility
from experiments import fields
from experiments.errors import BadDataPath, ImportRefused
from experiments.fields import Reader
from experiments.models import Dataset, Proposal
from experiments.paths import checked
from experiments.pids import canonical

MOST_PROBLEMS = 1000


class Place(str):
    """Where a row stands, in the words that find it again."""

    def column(self, name: str) -> str:
        """Return the place of one of the row's values."""
        return f"{self}.{name}"


class Placed(dict[str, Any]):
    """A row that brings its place along, because it comes from a line of a file of its own."""

    def __init__(self, place: Place, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.place = place


@dataclass
class Row:
    """One row: where it stood, and what it says; `inner` holds the rows below it."""

    where: Place
    values: dict[str, Any]
    team: list[str] = field(default_factory=list)
    #: of an instrument; None: the file does not say
    scientists: list[str] | None = None
    inner: list[Row] = field(default_factory=list)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


@dataclass
class Records:
    """A file that was read whole. With problems in it nothing may be loaded."""

    facility: dict[str, Any] = field(default_factory=dict)
    instruments: list[Row] = field(default_factory=list)
    cycles: list[Row] = field(default_factory=list)
    persons: list[Row] = field(default_factory=list)
    proposals: list[Row] = field(default_factory=list)
    zone: str = "Europe/Berlin"
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def experiments(self) -> Iterator[tuple[Row, Row]]:
        for proposal in self.proposals:
            for experiment in proposal.inner:
                yield proposal, experiment

    def refuse_if_bad(self) -> None:
        if self.problems:
            more = len(self.problems) - MOST_PROBLEMS
            shown = self.problems[:MOST_PROBLEMS] + ([f"… and {more} more"] if more > 0 else [])
            raise ImportRefused(shown)


@dataclass(frozen=True)
class Column:
    """How a value is read; `empty` is what stands for absent, null and the empty text."""

    read: Reader
    required: bool = False
    empty: Any = ""


def read_file(path: Path) -> Any:
    """Return what the JSON file holds, or refuse with the line and the reason."""
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=_constant)
    except OSError as error:
        raise ImportRefused([f"{path}: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ImportRefused([f"{path}: byte {error.start} is not UTF-8"]) from error
    except json.JSONDecodeError as error:
        raise ImportRefused([f"{path}, line {error.lineno}, column {error.colno}: {error.msg}"]) from error
    except (ValueError, RecursionError) as error:
        raise ImportRefused([f"{path}: {error}"]) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object names {twice!r} twice")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _columns(zone: str) -> dict[str, dict[str, Column]]:
    moment = Column(fields.moment(zone), empty=None)
    policies = Column(fields.one_of(*Proposal.ReleasePolicy.values), empty=Proposal.ReleasePolicy.AUTO.value)
    formats = Column(fields.one_of(*Dataset.Format.values), empty=Dataset.Format.OTHER.value)
    shared = {
        "title": Column(fields.text(2000)),
        "pid": Column(fields.pid),
        "url": Column(fields.url),
        "start_at": moment,
        "end_at": moment,
        "released_at": moment,
    }
    return {
        "instruments": {
            "code": Column(fields.text(50), required=True),
            "name": Column(fields.text(250)),
        },
        "cycles": {"name": Column(fields.text(50), required=True), "start_at": moment, "end_at": moment},
        "persons": {"id": Column(fields.text(100), required=True), "name": Column(fields.text(200))},
        "proposals": shared
        | {
            "identifier": Column(fields.text(100), required=True),
            "abstract": Column(fields.text(50_000)),
            "license": Column(fields.text(100)),
            "contact": Column(fields.email),
            "embargo_until": moment,
            "withdrawn_at": moment,
            "release_policy": policies,
            "proprietary": Column(fields.flag, empty=False),
        },
        "experiments": shared
        | {
            "id": Column(fields.text(32), required=True),
            "run_number": Column(fields.whole(2**31 - 1), empty=None),
            "instrument": Column(fields.text(50), required=True),
            "cycle": Column(fields.text(50), empty=None),
            "sample": Column(fields.text(500)),
            "technique": Column(fields.text(200)),
        },
        "datasets": {
            "name": Column(fields.text(200), empty="raw"),
            "path": Column(_path),
            "format": formats,
            "size": Column(fields.whole(2**63 - 1), empty=None),
            "file_count": Column(fields.whole(2**31 - 1), empty=None),
        },
    }


def _path(value: Any) -> str:
    try:
        return str(checked(fields.text(1000)(value)))
    except BadDataPath as error:
        raise ValueError(error.message) from error


FACILITY = {
    "slug": Column(fields.slug, required=True),
    "name": Column(fields.text(200)),
    "time_zone": Column(fields.zone),
    "data_path_template": Column(fields.text(500)),
    "embargoed_metadata": Column(fields.one_of(*Facility.EmbargoedMetadata.values)),
    "open_data_enabled": Column(fields.flag),
    "contact": Column(fields.email),
}
CREATOR = {
    "name": Column(fields.text(200), required=True),
    "orcid": Column(fields.orcid),
    "affiliation": Column(fields.text(300)),
    "role": Column(fields.text(100)),
}
#: what a row may hold beside its columns
BELOW = {
    "instruments": ("scientists",),
    "proposals": ("creators", "team", "experiments"),
    "experiments": ("team", "datasets"),
}
TABLES = ("instruments", "cycles", "persons", "proposals")


def parse(data: Any, zone: str = "Europe/Berlin") -> Records:
    """Read all rows and collect all faults; `zone` is what times mean when the file names none."""
    records = Records(zone=zone)
    if not isinstance(data, dict):
        records.problems.append("the file must hold an object with `facility` and `proposals`")
        return records
    reader = _Reader(records, {})
    facility = data.get("facility")
    place = _place(facility, "facility")
    records.facility = reader.values(facility, place, FACILITY, only_given=True)
    records.zone = records.facility.get("time_zone", zone)
    reader.columns = _columns(records.zone)
    reader.unknown(data, Place(), ("facility", *TABLES))
    for table in TABLES:
        setattr(records, table, reader.table(data.get(table), table, required=table == "proposals"))
    _check_twice(records)
    return records


def _place(row: Any, otherwise: str) -> Place:
    return row.place if isinstance(row, Placed) else Place(otherwise)


class _Reader:
    def __init__(self, records: Records, columns: dict[str, dict[str, Column]]) -> None:
        self.records, self.columns = records, columns

    def problem(self, where: str, reason: str) -> None:
        self.records.problems.append(f"{where}: {reason}")

    def unknown(self, row: Mapping[str, Any], where: Place, known: tuple[str, ...]) -> None:
        for name in row:
            if name not in known:
                place = where.column(name[:60]) if where else name[:60]
                self.records.warnings.append(f"{place}: is not known and was passed over")

    def values(self, row: Any, where: Place, columns: dict[str, Column], *, only_given: bool = False) -> dict[str, Any]:
        if not isinstance(row, dict):
            self.problem(where, "must be an object")
            return {}
        found: dict[str, Any] = {}
        for name, column in columns.items():
            given = row.get(name)
            if isinstance(given, str) and not given.strip():
                given = None
            if given is None:
                if column.required:
                    self.problem(where.column(name), "is missing")
                if not only_given:
                    found[name] = column.empty
                continue
            try:
                found[name] = column.read(given)
            except ValueError as error:
                self.problem(where.column(name), str(error))
        return found

    def table(self, rows: Any, where: str, kind: str = "", *, required: bool = False) -> list[Row]:
        kind = kind or where
        if rows is None and not required:
            return []
        if not isinstance(rows, list):
            self.problem(where, "must be a list")
            return []
        return [self.row(row, _place(row, f"{where}[{number}]"), kind) for number, row in enumerate(rows)]

    def row(self, row: Any, where: Place, kind: str) -> Row:
        columns = self.columns[kind]
        found = Row(where, self.values(row, where, columns))
        if not isinstance(row, dict):
            return found
        self.unknown(row, where, (*columns, *BELOW.get(kind, ())))
        self.rules(found, kind)
        if kind in ("proposals", "experiments"):
            found.team = self.names(row.get("team"), f"{where}.team")
        if kind == "instruments" and row.get("scientists") is not None:
            found.scientists = self.names(row["scientists"], f"{where}.scientists")
        if kind == "proposals":
            found.values["creators"] = self.creators(row.get("creators"), f"{where}.creators")
            found.inner = self.table(row.get("experiments"), f"{where}.experiments", "experiments")
            for experiment, given in zip(found.inner, row.get("experiments") or [], strict=False):
                if isinstance(given, dict) and given.get("team") is None:
                    experiment.team = list(found.team)
        if kind == "experiments":
            found.inner = self.table(row.get("datasets"), f"{where}.datasets", "datasets")
        return found

    def rules(self, row: Row, kind: str) -> None:
        """What a row must not say: an end before the start, and a release of what never opens."""
        start, end = row.values.get("start_at"), row.values.get("end_at")
        if start and end and end < start:
            self.problem(row.where.column("end_at"), "lies before start_at")
        if row.values.get("release_policy") == Proposal.ReleasePolicy.NEVER and row.values.get("released_at"):
            self.problem(row.where.column("released_at"), "is set, but release_policy is never")
        if kind in ("proposals", "experiments"):
            row.values["pid_norm"] = canonical(row.values["pid"]) if row.values.get("pid") else None

    def names(self, given: Any, where: str) -> list[str]:
        if given is None:
            return []
        if not isinstance(given, list):
            self.problem(where, "must be a list of person ids")
            return []
        read, found = fields.text(100), []
        for number, name in enumerate(given):
            try:
                found.append(read(name))
            except ValueError as error:
                self.problem(f"{where}[{number}]", str(error))
        return list(dict.fromkeys(found))

    def creators(self, given: Any, where: str) -> list[dict[str, str]]:
        if given is None:
            return []
        if not isinstance(given, list):
            self.problem(where, "must be a list of objects with a name")
            return []
        rows = [self.values(row, Place(f"{where}[{number}]"), CREATOR) for number, row in enumerate(given)]
        return [{name: value for name, value in row.items() if value} for row in rows]


def _check_twice(records: Records) -> None:
    """The same key or identifier in two rows would let the later one win in silence."""
    keys = (("instruments", "code"), ("cycles", "name"), ("persons", "id"), ("proposals", "identifier"))
    for table, key in keys:
        _twice(records, getattr(records, table), key)
    for proposal in records.proposals:
        _twice(records, proposal.inner, "id")
        for experiment in proposal.inner:
            _twice(records, experiment.inner, "name")
    owners = [*records.proposals, *(experiment for _, experiment in records.experiments())]
    _twice(records, owners, "pid_norm", shown="pid")


def _twice(records: Records, rows: list[Row], key: str, shown: str = "") -> None:
    seen: dict[Any, str] = {}
    for row in rows:
        value = row.values.get(key)
        if value and value in seen:
            records.problems.append(f"{row.where.column(shown or key)}: {value!r} is also in {seen[value]}")
        elif value:
            seen[value] = row.where
