"""From an instance's rows to the Spec that a provider makes a machine from."""

from __future__ import annotations

import re
from pathlib import Path

from django.conf import settings

from auth.models import PosixIdentity
from experiments.errors import BadDataPath
from experiments.models import Experiment
from experiments.paths import data_paths
from instances import clouds, welcome
from instances.models import Flavour, Image, Instance
from instances.providers.base import FlavourSpec, ImageSpec, Mount, MountKind, MountMissing, PosixId, Service, Spec

DATA_ROOT = "/work/data"
HOME = "/work/home"


def spec_of(instance: Instance) -> Spec:
    """Return all that makes the machine of the instance's present attempt.

    What the owner may not see any more (closed again, left the team) is not mounted.
    """
    plan = instance.plan
    experiments = _experiments(instance)
    return Spec(
        name=instance.machine_name,
        deployment=settings.DEPLOYMENT_ID,
        instance=str(instance.uid),
        attempt=instance.attempt,
        image=ImageSpec(plan.image.name, plan.image.reference, dict(plan.image.options)),
        flavour=flavour_of(plan.flavour),
        services=services_of(instance),
        mounts=(*_data(experiments), *_home(instance)),
        home=clouds.home_of(instance.home) if instance.home else None,
        identity=_identity(instance),
        network="none",
        secret_epoch=instance.secret_epoch,
        host=f"{instance.slug}.{settings.APPS_DOMAIN}",
        welcome={"Welcome.ipynb": welcome.notebook(instance.name, [_run(e) for e in experiments])},
    )


def data_mounts(instance: Instance) -> list[Mount]:
    """Return the data that the owner may see now: for each start, as a right may have gone since the last one."""
    return _data(_experiments(instance))


def _experiments(instance: Instance) -> list[Experiment]:
    visible = Experiment.objects.visible_to(instance.owner).filter(instances=instance)
    return list(
        visible.select_related("proposal__facility", "instrument", "cycle")
        .prefetch_related("datasets")
        .order_by("proposal__identifier", "run_number", "id")
    )


def services_of(instance: Instance) -> tuple[Service, ...]:
    """Return what the instance's image serves."""
    return services_of_image(instance.plan.image)


def services_of_image(image: Image) -> tuple[Service, ...]:
    return tuple(
        Service(s["name"], int(s["port"]), s.get("probe", "/"), bool(s.get("required", True))) for s in image.services
    )


def flavour_of(flavour: Flavour) -> FlavourSpec:
    return FlavourSpec(
        name=flavour.name,
        cores=float(flavour.cores),
        memory=flavour.memory,
        disk=flavour.disk,
        gpus=flavour.gpus,
        gpu_kind=flavour.gpu_kind,
        reference=flavour.reference,
    )


def _data(experiments: list[Experiment]) -> list[Mount]:
    """Mount each dataset where it lies, read-only; the first of a run under the run's own name."""
    mounts: dict[str, Mount] = {}
    for experiment in experiments:
        for position, (name, path) in enumerate(_paths(experiment)):
            target = data_target(experiment) + (f"-{_component(name)}" if position else "")
            mounts.setdefault(target, Mount(MountKind.DATA, str(path), target, read_only=True))
    return list(mounts.values())


def _paths(experiment: Experiment) -> list[tuple[str, Path]]:
    try:
        return data_paths(experiment)
    except BadDataPath as error:
        raise MountMissing(f"{experiment}: {error}") from error


def data_target(experiment: Experiment) -> str:
    """Return where an experiment's data are inside the machine: `/work/data/<proposal>/r<run>`."""
    run = experiment.run_number
    folder = f"r{run:04d}" if run is not None else _component(experiment.external_id)
    return f"{DATA_ROOT}/{_component(experiment.proposal.identifier)}/{folder}"


def _component(text: str) -> str:
    """Return text as one safe folder name: it comes from a catalogue, and `..` must not climb."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip(".") or "_"


def _home(instance: Instance) -> list[Mount]:
    if instance.home is None:
        return []
    return [Mount(MountKind.HOME, instance.home.key, HOME, read_only=False)]


def _identity(instance: Instance) -> PosixId | None:
    row = PosixIdentity.objects.filter(user=instance.owner_id, facility=instance.facility_id).first()
    return PosixId(row.uid, row.gid, tuple(row.groups)) if row else None


def _run(experiment: Experiment) -> welcome.RunInfo:
    return welcome.RunInfo(
        proposal=experiment.proposal.identifier,
        run=experiment.run_number,
        title=str(experiment),
        path=data_target(experiment) if _paths(experiment) else "",
        format=min(((dataset.pk, dataset.format) for dataset in experiment.datasets.all()), default=(0, ""))[1],
    )
