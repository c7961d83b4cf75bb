"""An operator's file that describes one provider, with its images, flavours and plans: docs/operate/offers.md.

Read as a whole, without a look at the database or the network; `offers.apply` does the rest.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from django.conf import settings

from instances import clouds
from instances.providers.base import Options, ProviderUnavailable
from portal.lib import readers
from portal.lib.readers import GIB, MIB, Faults, flag, size, table, text, whole, wrong

#: what an image serves that says nothing else
JUPYTER: Final = [{"name": "jupyter", "port": 8888, "probe": "/api/status", "required": True}]
_PIB = 2**50
_NAME_OF_SERVICE = r"[a-z][a-z0-9-]{0,39}"

Fields = dict[str, Any]


@dataclass(frozen=True)
class Offer:
    """What a file says, with every default. Images and flavours by name, plans by slug; plans name theirs by name."""

    name: str
    kind: str
    facility: str
    enabled: bool
    options: Fields
    images: dict[str, Fields]
    flavours: dict[str, Fields]
    plans: dict[str, Fields]


def read(path: Path) -> Offer:
    """Return what the file says; Faults with all that is wrong in it."""
    try:
        data = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise wrong(f"cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise wrong("is no text in UTF-8.") from error
    except ValueError as error:  # also a number with more digits than Python reads
        raise wrong(f"is no TOML: {error}.") from error
    except RecursionError as error:
        raise wrong("is nested too deeply.") from error
    return parse(data)


def parse(data: Fields) -> Offer:
    rules = _rules(data.get("kind"))
    known = _offer(rules)({"options": {}} | data)
    plans = {
        plan.pop("slug"): {"position": at, "enabled": True} | plan for at, plan in enumerate(known.get("plans", []))
    }
    return Offer(
        name=known["name"],
        kind=known["kind"],
        facility=known.get("facility", ""),
        enabled=known.get("enabled", True),
        options=known["options"],
        images={
            image.pop("name"): {"description": "", "services": JUPYTER, "options": {}} | image
            for image in known.get("images", [])
        },
        flavours={
            flavour.pop("name"): {"reference": "", "disk": 0, "gpus": 0, "gpu_kind": ""} | flavour
            for flavour in known.get("flavours", [])
        },
        plans=plans,
    )


def _rules(kind: object) -> Options | None:
    """Return the rules of the kind that the file names; None where it names none that is offered."""
    if not isinstance(kind, str) or kind not in settings.PROVIDER_KINDS:
        return None
    try:
        return clouds.rules_of(kind)
    except ProviderUnavailable as error:
        raise Faults((("kind",), f"{error}: what it needs is not installed (requirements/{kind}.txt).")) from error


def _offer(rules: Options | None) -> readers.Reader:
    rules = rules or Options(readers.plain, readers.plain)
    return table(
        {
            "name": text(40, r"[A-Za-z0-9_-]+", "letters, digits, - and _"),
            "kind": readers.one_of(*sorted(settings.PROVIDER_KINDS)),
            "facility": text(40),
            "enabled": flag,
            "options": rules.provider,
            "images": readers.each(_image(rules), once=["name"]),
            "flavours": readers.each(_FLAVOUR, once=["name"]),
            "plans": readers.each(_PLAN, once=["slug"]),
        },
        needed=("name", "kind"),
    )


def _image(rules: Options) -> readers.Reader:
    return table(
        {
            "name": text(100),
            "reference": rules.reference,
            "description": text(2000, least=0, lines=True),
            "services": readers.each(_service, once=["name", "port"], most=20),
            "options": rules.image,
        },
        needed=("name", "reference"),
    )


def _service(value: Any) -> Fields:
    return {"probe": "/", "required": True} | _SERVICE(value)


_SERVICE = table(
    {
        "name": text(40, _NAME_OF_SERVICE, "a-z, 0-9 and -, a letter first"),
        "port": whole(1, 65535),
        "probe": text(200, r"/\S*", "a path that begins with /"),
        "required": flag,
    },
    needed=("name", "port"),
)
_FLAVOUR = table(
    {
        "name": text(100),
        "reference": text(200, least=0),
        "cores": readers.hundredths(9999),
        "memory": size(MIB, _PIB, number=GIB),
        "disk": size(0, _PIB, number=GIB),
        "gpus": whole(0, 1000),
        "gpu_kind": text(50, least=0),
    },
    needed=("name", "cores", "memory"),
)
_PLAN = table(
    {
        "slug": text(60, r"[A-Za-z0-9_-]+", "letters, digits, - and _"),
        "name": text(100),
        "image": text(100),
        "flavour": text(100),
        "position": whole(0, 2**31 - 1),
        "enabled": flag,
    },
    needed=("slug", "name", "image", "flavour"),
)
