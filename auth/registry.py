"""What the portal holds about people: where it lies, how its owner is shown it, and what is left when they are erased.

Each app registers its own models (`<app>/personal.py`, from `AppConfig.ready`). A model from which a foreign key leads
to a user, over however many others, must be held or exempt, and each key that names a user itself must be accounted
for: `unaccounted()` lists what is not, and a test wants that list empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from django.db.models import F, ForeignKey, Func, Model, QuerySet, TextField, Value
from django.db.models.functions import Cast

from auth.models import User

Rows = QuerySet[Any]


class _Json(Func):
    """A JSON object as text, in the order in which names and values are given (Django's JSONObject keeps none)."""

    function = "json_build_object"
    template = "%(function)s(%(expressions)s)::text"
    output_field = TextField()


@dataclass(frozen=True)
class Held:
    """Rows of one model about a user: a section of the export, and their end."""

    model: type[Model]
    section: str
    of: Callable[[User], Rows]
    #: name in the export → where the row has it
    fields: Mapping[str, str]
    #: what becomes of them, said to people
    fate: str
    #: None: they stay
    erase: Callable[[Rows], object] | None
    #: keys of this model that name a user, by what they are
    keys: frozenset[str]

    def lines(self, user: User) -> Iterator[str]:
        """Return each row as a JSON object. The database writes it: for many rows Python would take seconds."""
        said = [said for name, path in self.fields.items() for said in (Cast(Value(name), TextField()), F(path))]
        shown = self.of(user).order_by("pk").values_list(_Json(*said), flat=True)
        return shown.iterator(chunk_size=1000)


@dataclass(frozen=True)
class Hindrance:
    """What must be gone before its owner can be erased, and where it is ended."""

    what: str
    url: str = ""


@dataclass
class _Registry:
    held: list[Held] = field(default_factory=list)
    exempt: dict[type[Model], str] = field(default_factory=dict)
    hindrances: list[Callable[[User], list[Hindrance]]] = field(default_factory=list)
    locks: list[Callable[[User], object]] = field(default_factory=list)
    losses: list[Callable[[User], list[str]]] = field(default_factory=list)


_known = _Registry()


def hold(
    model: type[Model],
    section: str,
    fields: str,
    *,
    of: str | Callable[[User], Rows],
    fate: str,
    erase: Callable[[Rows], object] | None = None,
    also: Iterable[str] = (),
) -> None:
    """Say what a model holds: `of` is the path of keys from a row to its user, or finds the rows.

    `fields` are names of columns, or `name=column` where the export calls it otherwise or the column is another
    row's; `erase` gets the rows (none: they stay); `also` names further keys to users, who are not whom the row is
    about (who granted, who decided).
    """
    shown = {name: column or name for name, _, column in (field.partition("=") for field in fields.split())}
    keys = {of.partition("__")[0]} if isinstance(of, str) else set()
    find = _rows_by(model, of) if isinstance(of, str) else of
    _known.held.append(Held(model, section, find, shown, fate, erase, frozenset(keys | set(also))))


def exempt(model: type[Model], reason: str) -> None:
    """Say why a model with a way to a user holds nothing about them."""
    _known.exempt[model] = reason


def hindered_by(find: Callable[[User], list[Hindrance]], *, locked_by: Callable[[User], object]) -> None:
    """Have `find` asked before anybody is erased; `locked_by` keeps new hindrances out while that goes on."""
    _known.hindrances.append(find)
    _known.locks.append(locked_by)


def loses(find: Callable[[User], list[str]]) -> None:
    """Have this say, in sentences, what somebody loses with their account beyond its rows."""
    _known.losses.append(find)


def everything() -> list[Held]:
    return list(_known.held)


def exemptions() -> dict[type[Model], str]:
    return dict(_known.exempt)


def hindrances(user: User) -> list[Hindrance]:
    return [one for find in _known.hindrances for one in find(user)]


def lock(user: User) -> None:
    for one in _known.locks:
        one(user)


def losses(user: User) -> list[str]:
    return [one for find in _known.losses for one in find(user)]


def delete(rows: Rows) -> None:
    """An end that several models have."""
    rows.delete()


def _rows_by(model: type[Model], path: str) -> Callable[[User], Rows]:
    return lambda user: model._default_manager.filter(**{path: user})


# ---- nothing is forgotten ----
def unaccounted() -> list[str]:
    """Return the models, and the keys to users, that no app has said anything about."""
    models = apps.get_models(include_auto_created=True)
    held: dict[type[Model], set[str]] = {}
    for one in _known.held:
        held.setdefault(one.model, set()).update(one.keys)
    missing = [model._meta.label for model in models if _leads_to_user(model) and model not in {*held, *_known.exempt}]
    for model, keys in held.items():
        named = {key.name for key in _keys(model) if key.related_model is User}
        missing += [f"{model._meta.label}.{name}" for name in sorted(named - keys)]
    return missing


def _keys(model: type[Model]) -> list[ForeignKey[Any, Any]]:
    return [key for key in model._meta.get_fields() if isinstance(key, ForeignKey)]


def _leads_to_user(model: type[Model], seen: frozenset[type[Model]] = frozenset()) -> bool:
    if model is User:
        return True
    further = {key.related_model for key in _keys(model)} - seen
    return any(_leads_to_user(other, seen | {model}) for other in further if isinstance(other, type))
