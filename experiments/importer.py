"""Load an import file or folder: all of it or nothing, again without change, vanished rows kept as removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.db import DatabaseError, transaction
from django.db.models import Model, Q, QuerySet

from auth.models import Facility, Person
from experiments import folders, tables
from experiments.errors import ImportRefused
from experiments.models import Cycle, Dataset, Experiment, Instrument, Proposal, TeamMember
from experiments.records import Place, Records, Row, parse, read_file
from portal.lib import clock

#: a file that lacks more than this share of the known experiments is taken for a broken export
MOST_REMOVED = 0.5
FEW = 10
BATCH = 500


@dataclass
class Report:
    """What changed, table by table, and what was passed over."""

    created: dict[str, int] = field(default_factory=dict)
    updated: dict[str, int] = field(default_factory=dict)
    removed: int = 0
    #: what the source no longer names, and what becomes of it
    vanished: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{count} {table} created" for table, count in self.created.items() if count]
        parts += [f"{count} {table} updated" for table, count in self.updated.items() if count]
        if self.removed:
            parts.append(f"{self.removed} experiments removed")
        return ", ".join(parts) or "nothing changed"


def import_path(path: Path, **options: Any) -> Report:
    """Import a JSON file, or a folder of CSV files."""
    if not path.is_dir():
        return load(read_file(path), **options)
    source = tables.read_folder(path)
    return load(source.data, problems=source.problems, warnings=source.warnings, **options)


def load(
    data: Any,
    *,
    problems: Sequence[str] = (),
    warnings: Sequence[str] = (),
    look_at_folders: bool = True,
    remove_many: bool = False,
    dry_run: bool = False,
) -> Report:
    """Check everything, then write it in one transaction; raises ImportRefused with every bad row.

    `problems` and `warnings` are what the reader of the source has found. A dry run does all of it and takes it back.
    """
    records = parse(data, _known_zone(data))
    records.problems[:0], records.warnings[:0] = problems, warnings
    records.refuse_if_bad()
    folders.check(records, look_at_folders, open_runs=not dry_run)
    records.refuse_if_bad()
    try:
        with transaction.atomic():
            report = _Import(records, remove_many).run()
            transaction.set_rollback(dry_run)
    except DatabaseError as error:
        raise ImportRefused([f"the database refused a row: {str(error).splitlines()[0]}"]) from error
    report.warnings = records.warnings
    return report


def _known_zone(data: Any) -> str:
    """The zone of the facility as it is stored, for a file that names none."""
    facility = data.get("facility") if isinstance(data, dict) else None
    slug = facility.get("slug") if isinstance(facility, dict) else None
    stored = Facility.objects.filter(slug=slug).first() if isinstance(slug, str) and slug.isprintable() else None
    return stored.time_zone if stored else "Europe/Berlin"


class _Import:
    """One run of the importer, inside its transaction; imports of one facility wait for each other."""

    def __init__(self, records: Records, remove_many: bool) -> None:
        self.records, self.remove_many, self.report = records, remove_many, Report()
        self.now = clock.now()

    def run(self) -> Report:
        self.facility = self._facility()
        self.instruments = self._table(Instrument, self.records.instruments, "code", ["name"])
        self.cycles = self._table(Cycle, self.records.cycles, "name", ["start_at", "end_at"])
        self.persons = self._table(Person, self.records.persons, "external_id", ["name"], key="id")
        self._check_references()
        self._check_identifiers()
        self.records.refuse_if_bad()
        proposals = self._proposals()
        experiments = self._experiments(proposals)
        self._remove(proposals, experiments)
        self._teams(experiments)
        self._scientists()
        self._datasets(experiments)
        return self.report

    def _facility(self) -> Facility:
        given = dict(self.records.facility)
        slug = given.pop("slug")
        facility, made = Facility.objects.select_for_update().get_or_create(slug=slug, defaults={"name": slug} | given)
        changed = [name for name, value in given.items() if getattr(facility, name) != value]
        if changed:
            for name in changed:
                setattr(facility, name, given[name])
            facility.save(update_fields=changed)
        self._count("facilities", int(made), 0 if made else int(bool(changed)))
        return facility

    def _count(self, table: str, created: int, updated: int) -> None:
        self.report.created[table] = self.report.created.get(table, 0) + created
        self.report.updated[table] = self.report.updated.get(table, 0) + updated

    def _table(
        self, model: type[Model], rows: list[Row], column: str, names: list[str], key: str = ""
    ) -> dict[str, Any]:
        """Bring a small table of the facility up to date; what the file does not name stays."""
        known = {getattr(row, column): row for row in model._default_manager.filter(facility=self.facility)}
        wanted = {row[key or column]: {name: row[name] for name in names} for row in rows}
        self._write(
            model,
            known,
            wanted,
            lambda value: {"facility": self.facility, column: value},
        )
        return known

    def _write(
        self,
        model: type[Model],
        known: dict[Any, Any],
        wanted: dict[Any, dict[str, Any]],
        identity: Callable[[Any], dict[str, Any]],
    ) -> None:
        """Create what is new and update what differs; `known` then holds all."""
        new, changed, columns = {}, [], set()
        for key, values in wanted.items():
            row = known.get(key)
            if row is None:
                new[key] = model(**identity(key), **values)
                continue
            differing = [name for name, value in values.items() if getattr(row, name) != value]
            for name in differing:
                setattr(row, name, values[name])
            if differing:
                changed.append(row)
                columns |= set(differing)
        if changed and hasattr(model, "updated_at"):
            columns.add("updated_at")
            for row in changed:
                row.updated_at = self.now
        manager = model._default_manager
        if changed:
            manager.bulk_update(changed, sorted(columns), batch_size=BATCH)
        if new:
            manager.bulk_create(new.values(), batch_size=BATCH)
            known.update(new)
        self._count(str(model._meta.verbose_name_plural), len(new), len(changed))

    def _check_references(self) -> None:
        problems = self.records.problems
        for instrument in self.records.instruments:
            self._check_persons(instrument.where.column("scientists"), instrument.scientists or ())
        for _, experiment in self.records.experiments():
            place = experiment.where
            if experiment["instrument"] not in self.instruments:
                problems.append(f"{place.column('instrument')}: {experiment['instrument']!r} is no known instrument")
            if experiment["cycle"] is not None and experiment["cycle"] not in self.cycles:
                problems.append(f"{place.column('cycle')}: {experiment['cycle']!r} is no known cycle")
            self._check_persons(place.column("team"), experiment.team)
        for proposal in self.records.proposals:
            if not proposal.inner:
                self._check_persons(proposal.where.column("team"), proposal.team)

    def _check_persons(self, where: str, names: Iterable[str]) -> None:
        unknown = [name for name in names if name not in self.persons]
        self.records.problems += [f"{where}: {name!r} is no known person" for name in unknown]

    def _check_identifiers(self) -> None:
        """An identifier that another row of the database carries would make its landing page ambiguous."""
        proposals = {row["pid_norm"]: row for row in self.records.proposals if row["pid_norm"]}
        runs = {run["pid_norm"]: (proposal, run) for proposal, run in self.records.experiments() if run["pid_norm"]}
        every = [*proposals, *runs]
        for found in Proposal.objects.filter(pid_norm__in=every).select_related("facility"):
            row = proposals.get(found.pid_norm)
            same = row and found.facility_id == self.facility.pk and row["identifier"] == found.identifier
            if not same and not self._moves(found.facility_id, found.identifier):
                self._taken((row or runs[found.pid_norm][1]).where, found)
        for run in Experiment.objects.filter(pid_norm__in=every).select_related("proposal__facility"):
            pair = runs.get(run.pid_norm)
            same = (
                pair is not None
                and run.proposal.facility_id == self.facility.pk
                and (pair[0]["identifier"], pair[1]["id"]) == (run.proposal.identifier, run.external_id)
            )
            if not same:
                self._taken((pair[1] if pair else proposals[run.pid_norm]).where, run)

    def _moves(self, facility: int, identifier: str) -> bool:
        """Tell whether this very file gives that proposal another identifier."""
        return facility == self.facility.pk and any(row["identifier"] == identifier for row in self.records.proposals)

    def _taken(self, where: Place, by: Proposal | Experiment) -> None:
        self.records.problems.append(f"{where.column('pid')}: {by.pid!r} belongs to another record already")

    def _proposals(self) -> dict[str, Proposal]:
        known = {row.identifier: row for row in Proposal.objects.filter(facility=self.facility)}
        wanted = {
            row["identifier"]: {name: value for name, value in row.values.items() if name != "identifier"}
            for row in self.records.proposals
        }
        self._write(Proposal, known, wanted, lambda identifier: {"facility": self.facility, "identifier": identifier})
        return known

    def _experiments(self, proposals: dict[str, Proposal]) -> dict[tuple[int, str], Experiment]:
        stored = Experiment.objects.filter(proposal__facility=self.facility)
        known = {(row.proposal_id, row.external_id): row for row in stored}
        wanted: dict[tuple[int, str], dict[str, Any]] = {}
        for proposal, row in self.records.experiments():
            values = {name: value for name, value in row.values.items() if name not in ("id", "instrument", "cycle")}
            values["instrument_id"] = self.instruments[row["instrument"]].pk
            values["cycle_id"] = self.cycles[row["cycle"]].pk if row["cycle"] is not None else None
            values["removed_at"] = None
            wanted[(proposals[proposal["identifier"]].pk, row["id"])] = values
        self._write(
            Experiment,
            known,
            wanted,
            lambda key: {"proposal_id": key[0], "external_id": key[1]},
        )
        return {key: known[key] for key in wanted} | {key: row for key, row in known.items() if key not in wanted}

    def _remove(self, proposals: dict[str, Proposal], experiments: dict[tuple[int, str], Experiment]) -> None:
        """Hide what vanished from the source: never deleted, an instance may hang on it."""
        named = {(proposals[p["identifier"]].pk, e["id"]) for p, e in self.records.experiments()}
        alive = [row for row in experiments.values() if row.removed_at is None]
        gone = [row for row in alive if (row.proposal_id, row.external_id) not in named]
        if len(gone) > FEW and len(gone) > MOST_REMOVED * len(alive) and not self.remove_many:
            raise ImportRefused(
                [
                    f"the file lacks {len(gone)} of {len(alive)} known experiments. If they are really gone, "
                    "import it with --remove-many"
                ]
            )
        Experiment.objects.filter(pk__in=[row.pk for row in gone]).update(removed_at=self.now, updated_at=self.now)
        present = {row["identifier"] for row in self.records.proposals}
        lost = [row for identifier, row in proposals.items() if identifier not in present and row.withdrawn_at is None]
        Proposal.objects.filter(pk__in=[row.pk for row in lost]).update(withdrawn_at=self.now, updated_at=self.now)
        self.report.removed = len(gone)
        self.report.vanished = [f"experiment {row.external_id} is not there any more: hidden" for row in gone]
        self.report.vanished += [f"proposal {row.identifier} is not there any more: withdrawn" for row in lost]

    def _named(self, experiments: dict[tuple[int, str], Experiment]) -> Iterable[tuple[Row, Experiment]]:
        by_number = {row.pk: row.identifier for row in Proposal.objects.filter(facility=self.facility)}
        by_name = {(by_number[key[0]], key[1]): row for key, row in experiments.items()}
        for proposal, row in self.records.experiments():
            yield row, by_name[(proposal["identifier"], row["id"])]

    def _teams(self, experiments: dict[tuple[int, str], Experiment]) -> None:
        """Make teams exactly what the file says; who is not in it any more loses access with this commit."""
        wanted = {
            (experiment.pk, self.persons[person].pk)
            for row, experiment in self._named(experiments)
            for person in row.team
        }
        here = Q(experiment__proposal__facility=self.facility)
        self._tie(TeamMember.objects.filter(here), "experiment_id", wanted, "team members")

    def _scientists(self) -> None:
        """Make instruments' scientists exactly what the file says; one of which it says nothing keeps its own."""
        said = {
            self.instruments[row["code"]].pk: row.scientists
            for row in self.records.instruments
            if row.scientists is not None
        }
        wanted = {(instrument, self.persons[person].pk) for instrument, names in said.items() for person in names}
        ties = Instrument.scientists.through.objects.filter(instrument__in=said)
        self._tie(ties, "instrument_id", wanted, "instrument scientists")

    def _tie(self, ties: QuerySet[Any], column: str, wanted: set[tuple[int, int]], table: str) -> None:
        """Have exactly the wanted persons (each the second of a pair) tied to what stands in the column."""
        known = {(what, person): pk for pk, what, person in ties.values_list("pk", column, "person_id")}
        rows = ties.model._default_manager  # not the joins again: PostgreSQL joins badly before it has counted a table
        rows.filter(pk__in=[pk for key, pk in known.items() if key not in wanted]).delete()
        new = [ties.model(**{column: key[0], "person_id": key[1]}) for key in sorted(wanted - set(known))]
        rows.bulk_create(new, batch_size=BATCH)
        self._count(table, len(new), 0)

    def _datasets(self, experiments: dict[tuple[int, str], Experiment]) -> None:
        wanted: dict[tuple[int, str], dict[str, Any]] = {}
        for row, experiment in self._named(experiments):
            for dataset in row.inner:
                values = {name: value for name, value in dataset.values.items() if name != "name"}
                wanted[(experiment.pk, dataset["name"])] = values
        stored = Dataset.objects.filter(experiment__proposal__facility=self.facility)
        known = {(row.experiment_id, row.name): row for row in stored}
        Dataset.objects.filter(pk__in=[row.pk for key, row in known.items() if key not in wanted]).delete()
        self._write(Dataset, known, wanted, lambda key: {"experiment_id": key[0], "name": key[1]})
