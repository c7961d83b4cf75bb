"""What providers offer, brought to what an operator's file says; and what this host offers by itself."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from django.db import IntegrityError, models, transaction

from auth.models import Facility
from instances import clouds
from instances.models import Flavour, Home, Image, Instance, Plan, Provider, Quota
from instances.offer_file import JUPYTER, Fields, Offer
from instances.providers.base import Options
from portal import audit
from portal.lib.readers import GIB, Faults, meant

#: name, cores, GiB of memory
_SIZES = (("small", 1, 1), ("medium", 2, 2), ("large", 2, 4))
_ANEW = "keep their machine, and get this when it is made anew"


@dataclass
class Report:
    """What an offer changes, a line each, and what an operator should know besides."""

    changes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    #: what was made, and which fields of what were changed: no values, as the audit log keeps them for years
    made: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def note_made(self, what: str, fields: Mapping[str, Any]) -> None:
        said = "; ".join(f"{name} {_said(name, value)}" for name, value in fields.items() if value or name == "enabled")
        self.changes.append(f"new {what}: {said}")
        self.made.append(what)

    def note_change(self, what: str, changes: Mapping[str, tuple[Any, Any]]) -> None:
        self.changes += [f"{what}: {line}" for name, change in changes.items() for line in _steps(name, *change)]
        self.changed.append(f"{what}: {', '.join(changes)}")


def apply(offer: Offer, *, dry_run: bool = False) -> Report:
    """Bring the rows of one provider to what a file says, all or nothing; Faults where it does not fit the portal.

    Nothing is deleted, and what the file does not name stays. A dry run does all of it and takes it back.
    """
    try:
        with transaction.atomic():
            report = Report()
            row = _provider(offer, report)
            _bring(row, offer.images, offer.flavours, offer.plans, report)
            report.notes += _left_out(row, offer)
            if report.changes:
                audit.record(
                    "provider.offer", actor=None, about=("provider", row.name), made=report.made, changed=report.changed
                )
            transaction.set_rollback(dry_run)
    except IntegrityError as error:
        raise Faults(((), "somebody else wrote the same rows at this moment. Run it again.")) from error
    return report


@transaction.atomic
def offer_local(facility: Facility) -> None:
    """Make the rows or bring them up to date; what an operator has added stays."""
    provider, _ = Provider.objects.select_for_update(of=("self",)).get_or_create(
        name="local", defaults={"kind": "local", "facility": facility}
    )
    text = "JupyterLab with EXtra-data, h5py, NumPy and Matplotlib"
    _bring(
        provider,
        images={"JupyterLab": {"reference": "jupyter", "description": text, "services": JUPYTER}},
        flavours={name: {"cores": Decimal(cores), "memory": memory * GIB} for name, cores, memory in _SIZES},
        plans={
            f"jupyter-{name}": {
                "name": f"JupyterLab {name}",
                "image": "JupyterLab",
                "flavour": name,
                "position": position,
            }
            for position, (name, *_) in enumerate(_SIZES)
        },
        report=Report(),
    )
    Quota.objects.get_or_create(
        scope=Quota.Scope.EVERYBODY, subject="", resource=Quota.Resource.INSTANCES, window=None, defaults={"limit": 2}
    )


# ---- the provider ----
def _provider(offer: Offer, report: Report) -> Provider:
    """Return the row of the offer's provider, locked: offers of one provider wait for each other."""
    rules = clouds.rules_of(offer.kind)
    fields = {"kind": offer.kind, "facility": _facility(offer), "enabled": offer.enabled}
    row, is_new = Provider.objects.select_for_update(of=("self",)).get_or_create(
        name=offer.name, defaults=fields | {"options": offer.options}
    )
    what = f"provider {row}"
    if is_new:
        report.note_made(what, fields | {"options": offer.options})
    else:
        options, is_elsewhere = _options(rules, offer.options, row.options)
        _see_that_the_kind_stays(row, offer)
        there = _there(row)
        if there and row.enabled and not offer.enabled:
            report.notes.append(f"nobody looks after {there} of {row} while it is disabled. Drained, it stays in care")
        if there and is_elsewhere:
            report.notes.append(f"{there} of {row} are where it was, and are not found from where it is now")
        _change(row, fields | {"options": options}, what, report)
    if missing := [name for name in rules.kept if name not in row.options]:
        report.notes.append(f"not known yet: {', '.join(missing)}. Run: manage.py check_provider {row} --confirm")
    return row


def _facility(offer: Offer) -> Facility | None:
    if not offer.facility:
        return None
    known = {facility.slug: facility for facility in Facility.objects.all()}
    if offer.facility not in known:
        raise Faults((("facility",), f"there is no {offer.facility}. {meant(offer.facility, known)}"))
    return known[offer.facility]


def _options(rules: Options, given: Fields, held: Fields) -> tuple[Fields, bool]:
    """Return the file's options with what a check has kept of the same place, and whether the place is another."""
    found = dict(given)
    is_elsewhere = any((given.get(name) or "") != (held.get(name) or "") for name in rules.place)
    is_known = not is_elsewhere
    for name in rules.kept:
        if name in given:
            is_known = is_known and held.get(name, given[name]) == given[name]
        elif name in held and is_known:
            found[name] = held[name]
    return found, is_elsewhere


def _see_that_the_kind_stays(row: Provider, offer: Offer) -> None:
    if row.kind != offer.kind and (there := _there(row)):
        raise Faults(
            (("kind",), f"{row} is of kind {row.kind} and has {there}. Give the new provider a name of its own.")
        )


def _there(row: Provider) -> str:
    instances, homes = Instance.objects.alive().filter(provider=row).count(), Home.objects.filter(provider=row).count()
    return f"{instances} instances and {homes} homes" if instances or homes else ""


# ---- its images, flavours and plans ----
def _bring(
    row: Provider,
    images: Mapping[str, Fields],
    flavours: Mapping[str, Fields],
    plans: Mapping[str, Fields],
    report: Report,
) -> None:
    """Make a provider's rows or change them; only the fields that are given."""
    for name, fields in images.items():
        _bring_one(Image.objects.filter(provider=row), {"provider": row, "name": name}, fields, f"image {name}", report)
    for name, fields in flavours.items():
        key = {"provider": row, "name": name}
        _bring_one(Flavour.objects.filter(provider=row), key, fields, f"flavour {name}", report)
    faults: list[tuple[Any, str]] = []
    wanted = {slug: fields | _parts(row, at, fields, faults) for at, (slug, fields) in enumerate(plans.items())}
    others = Plan.objects.filter(slug__in=plans).exclude(image__provider=row).select_related("image__provider")
    taken = {plan.slug: plan.image.provider for plan in others}
    for at, slug in enumerate(plans):
        if slug in taken:
            faults.append((("plans", at, "slug"), f"{slug} is a plan of the provider {taken[slug]}. Slugs are unique."))
    if faults:
        raise Faults(*faults)
    own = Plan.objects.filter(image__provider=row).select_related("image", "flavour")
    for slug in sorted(wanted):  # in one order, or two offers could wait for each other's slugs
        _bring_one(own, {"slug": slug}, wanted[slug], f"plan {slug}", report)


def _parts(row: Provider, at: int, fields: Fields, faults: list[tuple[Any, str]]) -> Fields:
    """Return the image and flavour that a plan names: of this file, or made elsewhere."""
    found: Fields = {}
    for part, model in (("image", Image), ("flavour", Flavour)):
        known = {one.name: one for one in model._default_manager.filter(provider=row)}
        if fields[part] in known:
            found[part] = known[fields[part]]
        else:
            faults.append((("plans", at, part), f"{row} has no {part} {fields[part]}. {meant(fields[part], known)}"))
    return found


def _bring_one(rows: models.QuerySet[Any], key: Fields, fields: Fields, what: str, report: Report) -> None:
    row, is_new = rows.get_or_create(**key, defaults=fields)
    if is_new:
        report.note_made(what, fields)
    else:
        _change(row, fields, what, report)


def _change(row: Any, fields: Fields, what: str, report: Report) -> None:
    changes = {name: (old, new) for name, new in fields.items() if (old := getattr(row, name)) != new}
    if not changes:
        return
    for name, (_, new) in changes.items():
        setattr(row, name, new)
    row.save(update_fields=list(changes))
    report.note_change(what, changes)
    report.notes += _made_by(row, what, changes)


def _made_by(row: Any, what: str, changed: Collection[str]) -> Iterator[str]:
    """Say how many instances a change is about: what is there stays as it is until it is made anew."""
    roads = {Plan: "plan", Image: "plan__image", Flavour: "plan__flavour"}
    if type(row) not in roads or not set(changed) - {"name", "position", "enabled", "description"}:
        return
    if count := Instance.objects.alive().filter(**{roads[type(row)]: row}).count():
        yield f"{what}: new instances get what it is now; {count} made by it {_ANEW}"
        if "services" in changed:
            yield f"{what}: these {count} are asked for the new services from now on"


def _left_out(row: Provider, offer: Offer) -> Iterator[str]:
    """Say what else the provider has, which stays as it is."""
    for plan in Plan.objects.filter(image__provider=row, enabled=True).exclude(slug__in=offer.plans):
        yield (
            f"plan {plan.slug} is not in this file and stays on offer. To end that, name it (name {plan.name}, "
            f"image {plan.image}, flavour {plan.flavour}) with enabled = false"
        )
    counts = {
        "images": Image.objects.filter(provider=row).exclude(name__in=offer.images).count(),
        "flavours": Flavour.objects.filter(provider=row).exclude(name__in=offer.flavours).count(),
    }
    if any(counts.values()):
        yield f"not in this file, and left alone: {', '.join(f'{n} {what}' for what, n in counts.items() if n)}"


# ---- words ----
def _steps(name: str, old: Any, new: Any) -> Iterator[str]:
    """Say a change: options one by one, of lists and tables only that they are others."""
    if name == "options":
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                yield from _steps(f"options, {key}", old.get(key), new.get(key))
    elif isinstance(old, dict | list) or isinstance(new, dict | list):
        yield f"{name} changed"
    else:
        yield f"{name} {_said(name, old)} → {_said(name, new)}"


def _said(name: str, value: Any) -> str:
    if name in ("memory", "disk"):
        return f"{value / GIB:g} GiB"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list):
        return ", ".join(one["name"] if isinstance(one, dict) else str(one) for one in value)
    if isinstance(value, Decimal):
        return f"{float(value):g}"
    return str(value) if value not in (None, "") else "none"
