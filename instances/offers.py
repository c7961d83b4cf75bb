"""What this host offers: the local provider with JupyterLab in three sizes, and two instances for everybody."""

from __future__ import annotations

from django.db import transaction

from auth.models import Facility
from instances.models import Flavour, Image, Plan, Provider, Quota

_GIB = 2**30
#: name, cores, GiB of memory
_SIZES = (("small", 1, 1), ("medium", 2, 2), ("large", 2, 4))
_JUPYTER = [{"name": "jupyter", "port": 8888, "probe": "/api/status", "required": True}]


@transaction.atomic
def offer_local(facility: Facility) -> None:
    """Make the rows or bring them up to date; what an operator has added stays."""
    provider, _ = Provider.objects.get_or_create(name="local", defaults={"kind": "local", "facility": facility})
    image, _ = Image.objects.update_or_create(
        provider=provider,
        name="JupyterLab",
        defaults={
            "reference": "jupyter",
            "description": "JupyterLab with EXtra-data, h5py, NumPy and Matplotlib",
            "services": _JUPYTER,
        },
    )
    for position, (name, cores, memory) in enumerate(_SIZES):
        flavour, _ = Flavour.objects.update_or_create(
            provider=provider, name=name, defaults={"cores": cores, "memory": memory * _GIB}
        )
        Plan.objects.update_or_create(
            slug=f"jupyter-{name}",
            defaults={"name": f"JupyterLab {name}", "image": image, "flavour": flavour, "position": position},
        )
    Quota.objects.get_or_create(
        scope=Quota.Scope.EVERYBODY, subject="", resource=Quota.Resource.INSTANCES, window=None, defaults={"limit": 2}
    )
