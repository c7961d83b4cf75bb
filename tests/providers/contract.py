"""What every provider keeps. Subclass `ProviderContract`, give it the two fixtures, and all of it runs.

`provider` is a fresh provider object; `spec` makes a Spec that this provider can really make (see `plain_spec`);
`run` is the source of a run that it can mount, and `mounted` says which data a machine has.
`wait` may be raised for clouds that are slow.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import replace

import pytest

from instances.lifecycle import Phase
from instances.providers.base import (
    FlavourSpec,
    Home,
    ImageMissing,
    ImageSpec,
    Mount,
    MountKind,
    Observation,
    PosixId,
    Provider,
    Rejected,
    Service,
    Spec,
    Usage,
)

UP = frozenset({Phase.RUNNING})


def plain_spec(*, deployment: str, image: ImageSpec, host: str = "box.apps.localhost:8000", **more: object) -> Spec:
    """Return a Spec of an instance of its own with a home of its own and no data."""
    instance = uuid.uuid4()
    spec = Spec(
        name=f"bp-{instance.hex}-1",
        deployment=deployment,
        instance=str(instance),
        attempt=1,
        image=image,
        flavour=FlavourSpec("small", 1, 2**30, 0),
        services=(Service("jupyter", 8888, "/api/status"),),
        mounts=(),
        home=Home(key=f"home-{instance.hex[:12]}", limit=2**30),
        identity=None,
        network="none",
        secret_epoch=1,
        host=host,
        welcome={"Welcome.ipynb": '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'},
    )
    return replace(spec, **more)  # type: ignore[arg-type]


class ProviderContract:
    """The suite. Every test makes machines of its own and removes them."""

    wait = 20.0

    @pytest.fixture
    def provider(self) -> Provider:
        raise NotImplementedError

    @pytest.fixture
    def spec(self) -> Callable[..., Spec]:
        raise NotImplementedError

    @pytest.fixture
    def run(self) -> str:
        raise NotImplementedError

    def mounted(self, provider: Provider, ref: str) -> list[str]:
        """Return where data are mounted in a machine that runs."""
        raise NotImplementedError

    @pytest.fixture
    def made(self, provider: Provider, spec: Callable[..., Spec]):
        """Make machines; all are removed at the end."""
        refs: list[str] = []

        def make(wanted: Spec | None = None) -> tuple[Spec, str]:
            wanted = wanted or spec()
            ref = provider.create(wanted)
            refs.append(ref)
            return wanted, ref

        yield make
        for ref in refs:
            provider.delete(ref)

    def until(self, provider: Provider, ref: str, *phases: Phase) -> Observation:
        """Look until the machine is in one of the phases."""
        end = time.monotonic() + self.wait
        while True:
            seen = provider.look(ref)
            if seen.phase in phases:
                return seen
            assert time.monotonic() < end, f"still {seen.phase} ({seen.reason} {seen.detail}), not {phases}"
            time.sleep(0.05)

    def running(self, provider: Provider, made: Callable[..., tuple[Spec, str]]) -> tuple[Spec, str]:
        """Make a machine and bring it up, as reconcile does: create may leave it stopped."""
        wanted, ref = made()
        if self.until(provider, ref, Phase.RUNNING, Phase.STOPPED).phase is Phase.STOPPED:
            provider.start(ref)
            self.until(provider, ref, *UP)
        return wanted, ref

    # ---- create ----
    def test_a_created_machine_is_seen_with_name_instance_and_tag(self, provider, made):
        wanted, ref = self.running(provider, made)
        seen = provider.look(ref)
        assert (seen.ref, seen.name, seen.instance) == (ref, wanted.name, wanted.instance)
        assert seen.deployment == wanted.deployment

    def test_create_twice_makes_one(self, provider, made):
        wanted, ref = made()
        assert provider.create(wanted) == ref
        assert [seen.ref for seen in provider.observe() if seen.name == wanted.name] == [ref]

    def test_a_machine_whose_ref_was_lost_is_found_by_its_name(self, provider, made):
        wanted, ref = made()
        assert provider.look(wanted.name).ref == ref

    def test_an_unknown_image_is_said_to_be_missing(self, provider, spec):
        wanted = spec()
        wanted = replace(wanted, image=replace(wanted.image, reference="no-such-image"))
        with pytest.raises(ImageMissing):
            provider.create(wanted)
        assert provider.look(wanted.name).phase is Phase.MISSING

    # ---- look and list ----
    def test_what_never_was_is_missing(self, provider):
        assert provider.look(f"bp-{uuid.uuid4().hex}-1").phase is Phase.MISSING

    def test_the_list_says_what_a_look_says(self, provider, made):
        _, ref = self.running(provider, made)
        listed = next(seen for seen in provider.observe() if seen.ref == ref)
        looked = provider.look(ref)
        assert (listed.phase, listed.name, listed.endpoints) == (looked.phase, looked.name, looked.endpoints)

    def test_a_provider_never_says_ready(self, provider, made):
        _, ref = self.running(provider, made)
        assert provider.look(ref).phase is Phase.RUNNING

    # ---- stop, start, reboot ----
    def test_stop_keeps_it_and_start_brings_it_back(self, provider, made):
        _, ref = self.running(provider, made)
        provider.stop(ref)
        self.until(provider, ref, Phase.STOPPED)
        provider.start(ref)
        assert provider.look(ref).phase is not Phase.STOPPED, "after start, stopped means that it ended again"
        assert self.until(provider, ref, *UP).ref == ref

    def test_a_machine_that_we_stopped_has_no_reason(self, provider, made):
        _, ref = self.running(provider, made)
        provider.stop(ref)
        assert self.until(provider, ref, Phase.STOPPED).reason == ""

    def test_start_and_stop_twice_are_once(self, provider, made):
        _, ref = self.running(provider, made)
        provider.start(ref)
        assert provider.look(ref).phase is Phase.RUNNING
        provider.stop(ref)
        self.until(provider, ref, Phase.STOPPED)
        provider.stop(ref)
        assert provider.look(ref).phase is Phase.STOPPED

    def test_what_is_stopped_while_it_starts_does_not_come_up(self, provider, made):
        """A build that took too long is given up: nobody waits for it any more."""
        _, ref = made()
        provider.stop(ref)
        self.until(provider, ref, Phase.STOPPED)
        for _ in range(5):
            time.sleep(0.1)
            assert provider.look(ref).phase is Phase.STOPPED

    def test_a_reboot_ends_running(self, provider, made):
        _, ref = self.running(provider, made)
        provider.reboot(ref)
        self.until(provider, ref, *UP)

    # ---- data ----
    def data(self, source: str, *folders: str) -> tuple[Mount, ...]:
        return tuple(Mount(MountKind.DATA, source, f"/work/data/{folder}") for folder in folders)

    @pytest.fixture
    def with_data(self, provider: Provider, made: Callable[..., tuple[Spec, str]], spec: Callable[..., Spec], run: str):
        """A running machine with two runs."""
        _, ref = self.running(provider, lambda: made(spec(mounts=self.data(run, "p1/r0001", "p1/r0002"))))
        assert self.mounted(provider, ref) == ["/work/data/p1/r0001", "/work/data/p1/r0002"]
        return ref

    def stop_and_start(self, provider: Provider, ref: str, *data: object) -> list[str]:
        provider.stop(ref)
        self.until(provider, ref, Phase.STOPPED)
        provider.start(ref, *data)
        self.until(provider, ref, *UP)
        return self.mounted(provider, ref)

    def test_a_start_has_exactly_the_data_that_it_names(self, provider, with_data, run):
        assert self.stop_and_start(provider, with_data, self.data(run, "p1/r0002")) == ["/work/data/p1/r0002"]
        assert self.stop_and_start(provider, with_data, []) == []

    def test_data_that_a_start_dropped_do_not_come_back(self, provider, with_data):
        self.stop_and_start(provider, with_data, [])
        assert self.stop_and_start(provider, with_data) == []

    def test_a_start_that_names_no_data_has_them_as_they_were(self, provider, with_data):
        assert len(self.stop_and_start(provider, with_data)) == 2

    def test_a_reboot_has_exactly_the_data_that_it_names(self, provider, with_data):
        provider.reboot(with_data)
        self.until(provider, with_data, *UP)
        assert len(self.mounted(provider, with_data)) == 2
        provider.reboot(with_data, [])
        self.until(provider, with_data, *UP)
        assert self.mounted(provider, with_data) == []

    # ---- delete ----
    def test_delete_removes_it_and_a_missing_one_is_fine(self, provider, made):
        _, ref = self.running(provider, made)
        provider.delete(ref)
        self.until(provider, ref, Phase.MISSING)
        assert ref not in [seen.ref for seen in provider.observe()]
        provider.delete(ref)

    def test_delete_of_one_leaves_the_other(self, provider, made):
        _, first = self.running(provider, made)
        _, second = self.running(provider, made)
        provider.delete(first)
        assert provider.look(second).phase is Phase.RUNNING

    # ---- homes ----
    def test_a_home_outlives_its_machines(self, provider, made, spec):
        wanted, ref = self.running(provider, made)
        provider.delete(ref)
        usage = provider.home_usage(wanted.home)
        assert isinstance(usage, Usage)
        again = spec(home=wanted.home)
        _, ref = made(again)
        self.until(provider, ref, Phase.RUNNING, Phase.STOPPED)

    def test_a_home_in_use_is_not_deleted(self, provider, made):
        wanted, ref = self.running(provider, made)
        with pytest.raises(Rejected):
            provider.delete_home(wanted.home)
        provider.delete(ref)
        self.until(provider, ref, Phase.MISSING)
        provider.delete_home(wanted.home)
        provider.delete_home(wanted.home)

    # ---- the rest ----
    def test_console_is_text_and_empty_for_what_is_not_there(self, provider, made):
        _, ref = self.running(provider, made)
        assert isinstance(provider.console(ref), str)
        assert provider.console(f"bp-{uuid.uuid4().hex}-1") == ""

    def test_capacity_images_and_flavours_can_be_listed(self, provider):
        list(provider.capacity())
        list(provider.images())
        list(provider.flavours())

    def test_an_identity_may_be_given(self, provider, made, spec):
        wanted = spec(identity=PosixId(54321, 54321))
        _, ref = made(wanted)
        self.until(provider, ref, Phase.RUNNING, Phase.STOPPED)
