"""`manage.py check_provider`, and the sentence about a home that another machine has."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from instances.explain import explain
from instances.models import Instance
from instances.providers.base import ProviderUnavailable
from instances.providers.memory import MemoryProvider
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


def test_a_confirmed_cloud_is_kept(provider, monkeypatch):
    use_cloud(provider, Checked({}))
    monkeypatch.setattr(Checked, "said", [])
    provider.options = {"namespace_uid": "u-1"}
    use_cloud(provider, Checked({}))  # what the row leads to, once it is confirmed
    provider.options = {}
    assert "nothing to mend" in check(provider.name, "--confirm")
    provider.refresh_from_db()
    assert provider.options == {"namespace_uid": "u-1"}


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


def test_who_waits_for_the_home_reads_which_machine_has_it(request_one, cloud):
    holder, second = bring_up(request_one(name="first look")), request_one(name="second look")
    assert "first look" in explain(second, "home-held")
    Instance.objects.filter(pk=holder.pk).update(state="stopped", target="stopped")
    assert "“" not in explain(second, "home-held")
