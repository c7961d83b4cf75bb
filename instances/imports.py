"""What a provider has becomes images and flavours; plans of them come by `manage.py offer`, as they are a choice.

What has the name already is left as it is: an operator may have changed it.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db import transaction

from auth.models import User
from instances import clouds
from instances.errors import ProviderAway
from instances.models import Flavour, Image, Provider
from instances.offer_file import JUPYTER
from instances.providers.base import FlavourSpec, ImageSpec, ProviderError, Surveyed
from portal import audit
from portal.lib.readers import GIB


@dataclass(frozen=True)
class Found:
    """What is new, and what else there is to choose from."""

    images: list[ImageSpec]
    flavours: list[FlavourSpec]
    survey: list[tuple[str, str]]

    def lines(self) -> list[tuple[str, str]]:
        return [
            *(("new image", f"{one.name}: {one.reference}") for one in self.images),
            *(("new flavour", _words(one)) for one in self.flavours),
            *self.survey,
        ]


def find(provider: Provider, begins: str) -> Found:
    """Ask a provider what it offers; of its images those whose reference begins so (none named: no image)."""
    try:
        cloud = clouds.cloud_of(provider)
        images = [one for one in cloud.images() if begins and one.reference.startswith(begins)]
        flavours = list(cloud.flavours())
        survey = cloud.survey() if isinstance(cloud, Surveyed) else []
    except ProviderError as error:
        raise ProviderAway(f"{provider} gives no usable answer: {error}") from error
    has_image = set(Image.objects.filter(provider=provider).values_list("reference", flat=True))
    has_flavour = set(Flavour.objects.filter(provider=provider).values_list("name", flat=True))
    fits = Image._meta.get_field("reference").max_length or 0
    new = [one for one in images if one.reference not in has_image and len(one.reference) <= fits]
    return Found(new, [one for one in flavours if one.name not in has_flavour], survey)


def take(provider: Provider, begins: str, *, by: User) -> Found:
    """Make rows of what is new."""
    found = find(provider, begins)
    with transaction.atomic():
        for image in found.images:
            Image.objects.get_or_create(
                provider=provider, name=image.name[:100], defaults={"reference": image.reference, "services": JUPYTER}
            )
        for one in found.flavours:
            sizes = {"cores": one.cores, "memory": one.memory, "disk": one.disk, "gpus": one.gpus}
            Flavour.objects.get_or_create(
                provider=provider,
                name=one.name[:100],
                defaults=sizes | {"gpu_kind": one.gpu_kind[:50], "reference": one.reference},
            )
        audit.record(
            "provider.import",
            actor=by,
            about=("provider", provider.name),
            images=len(found.images),
            flavours=len(found.flavours),
        )
    return found


def _words(flavour: FlavourSpec) -> str:
    gpus = f", {flavour.gpus} GPU {flavour.gpu_kind}".rstrip() if flavour.gpus else ""
    return f"{flavour.name}: {flavour.cores:g} cores, {flavour.memory / GIB:g} GiB{gpus}"
