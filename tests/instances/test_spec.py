"""What a machine is made from: only what its owner may see, mounted read-only where the notebook says."""

from __future__ import annotations

import json

import pytest
from django.utils import timezone

from instances.models import Instance
from instances.providers.base import MountKind
from instances.spec import spec_of
from tests.factories.experiments import DatasetFactory, ExperimentFactory
from tests.factories.instances import InstanceFactory

pytestmark = pytest.mark.django_db


def data_of(instance: Instance) -> dict[str, str]:
    return {m.target: m.source for m in spec_of(instance).mounts if m.kind is MountKind.DATA}


@pytest.fixture
def instance() -> Instance:
    instance: Instance = InstanceFactory()
    for number, lies_here in ((1, True), (2, True), (3, False)):
        experiment = ExperimentFactory(
            proposal__identifier="p1" if number == 1 else f"p{number}",
            proposal__facility=instance.facility,
            proposal__released_at=timezone.now(),
            run_number=number,
        )
        if lies_here:
            DatasetFactory(experiment=experiment, path=f"/data/run{number}")
        instance.experiments.add(experiment)
    return instance


def test_data_are_mounted_read_only_under_their_runs_name(instance: Instance) -> None:
    assert data_of(instance) == {"/work/data/p1/r0001": "/data/run1", "/work/data/p2/r0002": "/data/run2"}
    assert all(mount.read_only for mount in spec_of(instance).mounts if mount.kind is MountKind.DATA)


def test_what_was_closed_again_is_not_mounted(instance: Instance) -> None:
    proposal = instance.experiments.get(run_number=2).proposal
    proposal.withdrawn_at = timezone.now()
    proposal.save()
    assert list(data_of(instance)) == ["/work/data/p1/r0001"]


def test_the_notebook_opens_the_newest_run_that_has_files(instance: Instance) -> None:
    cells = json.loads(spec_of(instance).welcome["Welcome.ipynb"])["cells"]
    text = "\n".join(cell["source"] for cell in cells)
    assert "RunDirectory('/work/data/p2/r0002')" in text
    assert "no files here" in text
