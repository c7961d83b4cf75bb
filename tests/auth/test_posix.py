"""Who somebody is on a file system: plain numbers of people, from a provider that says so or a facility's list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from auth import posix
from auth.models import Facility, PosixIdentity, User
from portal.audit import AuditEvent
from tests.auth.conftest import Browser
from tests.auth.hostile_op import HostileOP
from tests.factories.auth import FacilityFactory, PersonFactory, UserFactory


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (1000, 1000), ("1000", 1000), ([5001], 5001), (["5001"], 5001), (2**31 - 1, 2**31 - 1),
        (0, None), ("0", None), (999, None), (65534, None), (65535, None), (2**31, None), (-1, None), ("-5001", None),
        (True, None), (5001.0, None), ("5001.0", None), ("0x1389", None), (" 5001", None), ("5001\n", None),
        ("５００１", None), ("", None), (None, None), ([], None), ([5001, 5002], None), ({"uid": 5001}, None),
        ("9" * 5000, None),
    ],
)  # fmt: skip
def test_a_number_is_one_of_people(value: Any, found: int | None) -> None:
    assert posix.number(value) == found


@pytest.mark.parametrize(
    ("home", "kept"),
    [
        ("/home/jana", "/home/jana"), ("/", ""), ("home/jana", ""), ("/home/../root", ""), ("/home/./x", ""),
        ("/home//jana", ""), ("/home/jana/", ""), ("/home/ja na", ""), ("/home/jana\n", ""), ("/home/$(id)", ""),
        (None, ""), (7, ""), ("/" + "a" * 300, ""), ("/.ssh", ""),
    ],
)  # fmt: skip
def test_a_home_is_a_plain_path(home: Any, kept: str) -> None:
    found = posix.read(5001, 5000, [], home)
    assert found is not None
    assert found.home == kept


def test_groups_are_sorted_distinct_and_bounded() -> None:
    found = posix.read(5001, 5000, [6000, "6001", 6000, 5000, 0, "wheel", None])
    assert found == posix.Posix(5001, 5000, [6000, 6001], "")
    many = posix.read(5001, 5000, range(10_000, 20_000))
    assert many is not None
    assert len(many.groups) == posix.MOST_GROUPS == 256


@pytest.mark.parametrize(("uid", "gid"), [(0, 5000), (5001, 0), (None, 5000), (5001, None)])
def test_without_uid_or_gid_there_is_nobody(uid: Any, gid: Any) -> None:
    assert posix.read(uid, gid) is None


NAMES = {"uid": "uidNumber", "gid": "posix.gid", "groups": "gids", "home": "homeDirectory"}
SAID = {"uidNumber": "5001", "posix": {"gid": 5000}, "gids": [6000, 6001], "homeDirectory": "/home/jana"}


@pytest.fixture
def facility(op: HostileOP) -> Facility:
    op.configure(posix_claims={"xfel": NAMES, "not-there": NAMES})
    op.userinfo = SAID
    return FacilityFactory(slug="xfel")


@pytest.mark.django_db
def test_a_sign_in_brings_them_and_takes_them_back(op: HostileOP, facility: Facility) -> None:
    for _ in range(2):
        assert Browser().sign_in(op).status_code == 200
        row = PosixIdentity.objects.get()
        assert (row.user, row.facility, row.uid, row.gid) == (User.objects.get(), facility, 5001, 5000)
        assert (row.groups, row.home, row.source) == ([6000, 6001], "/home/jana", "claim")
    assert AuditEvent.objects.filter(action="posix_identity").count() == 1
    op.userinfo = SAID | {"gids": 6002}
    Browser().sign_in(op)
    assert PosixIdentity.objects.get().groups == [6002]
    op.userinfo = SAID | {"uidNumber": 0}
    Browser().sign_in(op)
    assert not PosixIdentity.objects.exists()


@pytest.mark.django_db
def test_a_uid_of_somebody_else_is_not_taken(op: HostileOP, facility: Facility) -> None:
    theirs = PosixIdentity.objects.create(user=UserFactory(), facility=facility, uid=5001, gid=1)
    assert Browser().sign_in(op).status_code == 200
    assert PosixIdentity.objects.get() == theirs
    event = AuditEvent.objects.get(action="posix_identity")
    assert (event.result, event.reason) == ("refused", "uid-of-another")


@pytest.mark.django_db
def test_a_facilitys_list_outdoes_a_claim(op: HostileOP, facility: Facility) -> None:
    Browser().sign_in(op)
    PosixIdentity.objects.update(uid=7000, source="import")
    Browser().sign_in(op)
    assert PosixIdentity.objects.get().uid == 7000
    op.userinfo = {}
    Browser().sign_in(op)
    assert PosixIdentity.objects.get().uid == 7000


# ---- a facility's list ----
HEAD = "person,uid,gid,groups,home\n"


def load(tmp_path: Path, text: str) -> None:
    file = tmp_path / "people.csv"
    file.write_text(text)
    call_command("import_posix", "xfel", str(file))


@pytest.mark.django_db
def test_a_list_is_noted_and_twice_is_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facility, user = FacilityFactory(slug="xfel"), UserFactory()
    PersonFactory(facility=facility, external_id="X-1", user=user)
    PersonFactory(facility=facility, external_id="X-2")
    PersonFactory(external_id="X-3", user=UserFactory())
    for _ in range(2):
        load(tmp_path, HEAD + "X-1,5001,5000,6000 6001,/home/jana\nX-2,5002,5000,,\nX-3,5003,5000,,\n")
        assert "1 of 3 noted; 2 have no user yet." in capsys.readouterr().out
    row = PosixIdentity.objects.get()
    assert (row.user, row.uid, row.gid, row.groups, row.home) == (user, 5001, 5000, [6000, 6001], "/home/jana")
    assert row.source == "import"
    assert AuditEvent.objects.count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize("line", ["X-1,0,5000,,", ",5001,5000,,", "X-0,5001,5000,,", "X-1,5001", "X-1,uid,gid,,"])
def test_a_list_with_a_wrong_line_changes_nothing(tmp_path: Path, line: str) -> None:
    facility = FacilityFactory(slug="xfel")
    PersonFactory(facility=facility, external_id="X-0", user=UserFactory())
    with pytest.raises(CommandError, match="Line 3"):
        load(tmp_path, f"{HEAD}X-0,5009,5000,,\n{line}\n")
    assert not PosixIdentity.objects.exists()


@pytest.mark.django_db
def test_a_list_of_something_else_is_refused(tmp_path: Path) -> None:
    FacilityFactory(slug="xfel")
    with pytest.raises(CommandError, match="first line"):
        load(tmp_path, "a,b\n1,2\n")
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("import_posix", "xfel", str(tmp_path / "none"))
    with pytest.raises(CommandError, match="no facility"):
        call_command("import_posix", "nowhere", "-")


@pytest.mark.django_db
def test_a_uid_that_is_taken_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facility = FacilityFactory(slug="xfel")
    PosixIdentity.objects.create(user=UserFactory(), facility=facility, uid=5001, gid=1)
    PersonFactory(facility=facility, external_id="X-1", user=UserFactory())
    load(tmp_path, HEAD + "X-1,5001,5000,,\n")
    told = capsys.readouterr()
    assert "X-1: the uid 5001 is another user's" in told.err
    assert "0 of 1 noted" in told.out
