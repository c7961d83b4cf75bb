"""`manage.py check_provider`, and the sentence about a home that another machine has."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from instances.explain import explain
from instances.models import Instance, Plan, Provider
from instances.providers.base import Finding, ProviderUnavailable, Service, Spec
from instances.providers.memory import MemoryProvider
from tests.factories.instances import FlavourFactory, ImageFactory, PlanFactory
from tests.instances.conftest import bring_up, use_cloud


class Checked(MemoryProvider):
    """A cloud whose set-up lacks something until it is confirmed."""

    said: list[str] = ["the account may not get pods in n"]

    def problems(self):
        return self.said

    def confirm(self):
        return {"namespace_uid": "u-1"}


def check(*arguments):
    out = StringIO()
    call_command("check_provider", *arguments, stdout=out)
    return out.getvalue()


def test_what_is_missing_is_said(provider):
    use_cloud(provider, Checked({}))
    out = StringIO()
    with pytest.raises(CommandError, match="1 to mend"):
        call_command("check_provider", provider.name, stdout=out)
    assert "may not get pods" in out.getvalue()


def test_a_confirmed_cloud_is_kept(provider, monkeypatch, settings):
    """Confirmed, the row leads to a cloud that is made anew."""
    settings.PROVIDER_KINDS = settings.PROVIDER_KINDS | {provider.kind: f"{__name__}.Checked"}
    monkeypatch.setattr(Checked, "said", [])
    assert "nothing to mend" in check(provider.name, "--confirm")
    provider.refresh_from_db()
    assert provider.options == {"namespace_uid": "u-1"}


def test_what_was_found_of_one_cloud_is_not_kept_of_another(provider, monkeypatch, settings):
    """An operator's file that leads the row elsewhere while it is looked at."""
    settings.PROVIDER_KINDS = settings.PROVIDER_KINDS | {provider.kind: f"{__name__}.Checked"}

    def confirm(self):
        Provider.objects.filter(pk=provider.pk).update(options={"serve": True})
        return {"namespace_uid": "u-1"}

    monkeypatch.setattr(Checked, "confirm", confirm)
    with pytest.raises(CommandError, match="changed meanwhile"):
        check(provider.name, "--confirm")
    provider.refresh_from_db()
    assert provider.options == {"serve": True}


def test_no_answer_is_an_error(provider, monkeypatch):
    def problems(self):
        raise ProviderUnavailable("nobody there")

    monkeypatch.setattr(Checked, "problems", problems)
    use_cloud(provider, Checked({}))
    with pytest.raises(CommandError, match="nobody there"):
        check(provider.name)


def test_a_cloud_without_a_set_up_and_one_that_is_not_there(provider, cloud):
    with pytest.raises(CommandError, match="nothing to check"):
        check(provider.name)
    with pytest.raises(CommandError, match=provider.name):
        check("elsewhere")


class Tried(Checked):
    """A cloud that can be tried out."""

    said = []
    found: tuple[Finding, ...] = ()
    specs: list[Spec] = []
    cleared = 0

    def trial(self, spec):
        Tried.specs.append(spec)
        try:
            for finding in self.found:
                if finding.what == "ctrl-c":
                    raise KeyboardInterrupt
                yield finding
        finally:
            Tried.cleared += 1


@pytest.fixture
def tried(provider, monkeypatch):
    monkeypatch.setattr(Tried, "specs", [])
    monkeypatch.setattr(Tried, "cleared", 0)
    use_cloud(provider, Tried({}))
    image = ImageFactory(provider=provider, services=[{"name": "jupyter", "port": 8888}])
    return PlanFactory(image=image, flavour=FlavourFactory(provider=provider))


def finds(monkeypatch, *found):
    monkeypatch.setattr(Tried, "found", found)


def test_a_cloud_is_tried_with_a_machine_that_is_nobodys(provider, tried, monkeypatch):
    finds(monkeypatch, Finding("image and start", True, "ran"))
    said = check(provider.name, "--plan", tried.slug)
    assert "+ image and start: ran" in said
    assert "nothing to mend" in said
    [spec] = Tried.specs
    assert (spec.image.reference, spec.home, spec.mounts, spec.identity) == (tried.image.reference, None, (), None)
    assert spec.services == (Service("jupyter", 8888),)
    assert Tried.cleared == 1


def test_what_is_bad_or_was_not_seen_is_not_passed(provider, tried, monkeypatch):
    finds(monkeypatch, Finding("a", True, "yes"), Finding("b", None, "not seen"), Finding("c", False, "no"))
    out = StringIO()
    with pytest.raises(CommandError, match="1 to mend, 1 not seen"):
        call_command("check_provider", provider.name, stdout=out)
    assert out.getvalue().splitlines()[-3:] == ["+ a: yes", "? b: not seen", "- c: no"]


def test_what_was_found_is_kept_with_the_provider(provider, tried, monkeypatch):
    finds(monkeypatch, Finding("network policy", True, "enforced", {"isolation": "seen"}))
    check(provider.name)
    provider.refresh_from_db()
    assert provider.options["isolation"] == "seen"


def test_a_check_that_is_broken_off_says_so_and_cleans_up(provider, tried, monkeypatch):
    finds(monkeypatch, Finding("a", True, "yes"), Finding("ctrl-c", True, ""))
    with pytest.raises(CommandError, match="broken off"):
        check(provider.name)
    assert Tried.cleared == 1


def test_looking_alone_makes_nothing(provider, tried):
    assert "nothing to mend" in check(provider.name, "--only-look")
    assert Tried.specs == []


def test_without_a_plan_it_is_said_what_was_not_tried(provider, tried):
    for arguments in (["--plan", "elsewhere"], []):
        Plan.objects.all().update(enabled=False)
        with pytest.raises(CommandError, match="were not tried"):
            check(provider.name, *arguments)


def test_who_waits_for_the_home_reads_which_machine_has_it(request_one, cloud):
    holder, second = bring_up(request_one(name="first look")), request_one(name="second look")
    assert "first look" in explain(second, "home-held")
    Instance.objects.filter(pk=holder.pk).update(state="stopped", target="stopped")
    assert "“" not in explain(second, "home-held")
