"""A wrong variable stops the start with a sentence; secrets may come from files, by one rule for every process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from instances.gateway import config
from portal import env, stores
from portal.lib.variables import BadVariable, read

ROOT = Path(__file__).resolve().parents[2]
NAME = "SOME_KEY"


def hold(path: Path, text: str, mode: int = 0o600) -> dict[str, str]:
    """Return an environment whose SOME_KEY lies in this file."""
    path.write_text(text)
    path.chmod(mode)
    return {f"{NAME}_FILE": str(path)}


def test_a_secret_may_lie_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in hold(tmp_path / "key", "deep\n").items():
        monkeypatch.setenv(name, value)
    assert env.text(NAME) == "deep"


def test_what_up_made_is_taken_when_nothing_else_is_said(tmp_path: Path) -> None:
    hold(tmp_path / "some_key", "made\n")
    assert read(NAME, {}, tmp_path) == "made"
    assert read(NAME, {NAME: "given"}, tmp_path) == "given"
    assert read(NAME, {}, tmp_path / "elsewhere") is None


def missing(folder: Path) -> dict[str, str]:
    return {f"{NAME}_FILE": str(folder / "nothing")}


def empty(folder: Path) -> dict[str, str]:
    return hold(folder / "key", " \n")


def open_to_all(folder: Path) -> dict[str, str]:
    return hold(folder / "key", "deep", 0o604)


def no_text(folder: Path) -> dict[str, str]:
    found = hold(folder / "key", "")
    (folder / "key").write_bytes(b"\xff\xfe")
    return found


def twice(folder: Path) -> dict[str, str]:
    return hold(folder / "key", "deep") | {NAME: "other"}


def no_path(folder: Path) -> dict[str, str]:
    return {f"{NAME}_FILE": ""}


BAD = [
    (missing, "which cannot be read: No such file"),
    (empty, "which is empty"),
    (open_to_all, "which everybody on this machine can read: chmod o-r"),
    (no_text, "which is no text"),
    (twice, "SOME_KEY and SOME_KEY_FILE are both set"),
    (no_path, "which cannot be read"),
]


@pytest.mark.parametrize(("made", "words"), BAD, ids=[made.__name__ for made, _ in BAD])
def test_a_bad_file_is_refused_by_name(made: Callable[[Path], dict[str, str]], words: str, tmp_path: Path) -> None:
    with pytest.raises(BadVariable, match=words) as caught:
        read(NAME, made(tmp_path))
    assert f"{NAME}_FILE" in str(caught.value)
    assert "deep" not in str(caught.value)


@pytest.mark.root
def test_a_file_of_somebody_else_is_refused_by_name(tmp_path: Path) -> None:
    found = hold(tmp_path / "key", "deep")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o711)
    code = "from portal.lib.variables import read; read('SOME_KEY')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **found},
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
    )
    assert "SOME_KEY_FILE names" in done.stderr
    assert "Permission denied" in done.stderr


@pytest.mark.parametrize(
    "argv",
    [
        [sys.executable, "-m", "instances.gateway"],
        [sys.executable, "-m", "instances.providers.local.supervisor"],
        [sys.executable, "manage.py", "check"],
    ],
    ids=["gateway", "supervisor", "django"],
)
def test_every_process_refuses_a_secret_that_is_none(argv: list[str], tmp_path: Path) -> None:
    key = tmp_path / "key"
    hold(key, "x" * 48, 0o644)
    gateway = {"PORTAL_URL": "https://portal.example", "GATEWAY_LISTEN": "127.0.0.1:0", "GATEWAY_TOKEN": "t" * 48}
    stores_ = {"WEB_UPSTREAM": "unix:/nowhere", "INTERNAL_URL": "unix:/nowhere", "SECRET_KEY": "s" * 48}
    given = {"PATH": os.environ["PATH"], "BEAMPORT_STATE": str(tmp_path), "INSTANCE_KEY_FILE": str(key)}
    done = subprocess.run(argv, env=given | gateway | stores_, capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert done.returncode == 1
    assert f"INSTANCE_KEY_FILE names {key}, which everybody on this machine can read" in done.stderr


@pytest.mark.root
def test_a_supervisor_without_root_is_refused_outside_the_demo(tmp_path: Path) -> None:
    uid, given = 64201, {"PATH": os.environ["PATH"], "BEAMPORT_STATE": str(tmp_path), "INSTANCE_KEY": "k" * 48}
    done = subprocess.run(
        [sys.executable, "-m", "instances.providers.local.supervisor"],
        env=given, user=uid, group=uid, extra_groups=[], cwd=ROOT, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert "outside the demo it runs as root" in done.stderr


def test_the_gateway_reads_by_the_same_rule(tmp_path: Path) -> None:
    with pytest.raises(config.CannotStart, match="both set"):
        config.read({"PORTAL_URL": "https://portal.example", **{"PORTAL_URL_FILE": str(tmp_path)}})


def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    with pytest.raises(ImproperlyConfigured, match="SOME_KEY is not set"):
        env.text(NAME)


def test_a_flag_that_is_neither_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_FLAG", "perhaps")
    with pytest.raises(ImproperlyConfigured, match="SOME_FLAG must be 1 or 0"):
        env.flag("SOME_FLAG")


def test_a_number_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_NUMBER", "many")
    with pytest.raises(ImproperlyConfigured, match="SOME_NUMBER must be a whole number"):
        env.number("SOME_NUMBER", 1)


# ---- the stores' addresses ----
def test_a_database_address_is_taken_apart() -> None:
    url = "postgresql://portal:p%2Fw@db.example:5433/beam?sslmode=verify-full&sslrootcert=/etc/ssl/site.pem"
    found = stores.database(url, Path("/run/back"))
    assert [found[name] for name in ("NAME", "USER", "PASSWORD", "HOST", "PORT")] == [
        *("beam", "portal", "p/w", "db.example", "5433")
    ]
    assert found["OPTIONS"] == {**stores.OPTIONS, "sslmode": "verify-full", "sslrootcert": "/etc/ssl/site.pem"}


def test_a_database_may_be_a_unix_socket() -> None:
    found = stores.database("postgresql://beamport@/beamport?host=/run/postgresql", Path("/run/back"))
    assert (found["HOST"], found["PASSWORD"], found["OPTIONS"]) == ("/run/postgresql", "", stores.OPTIONS)
    assert stores.database("", Path("/run/back"))["HOST"] == "/run/back"


@pytest.mark.parametrize("url", ["mysql://host/name", "postgresql://host:port/name", "postgresql://host/name?sslmod=x"])
def test_a_database_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="DATABASE_URL"):
        stores.database(url, Path("/run/back"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("unix:///run/redis.sock", "redis+socket:///run/redis.sock?virtual_host=0"),
        ("unix:///run/redis.sock?password=x", "redis+socket:///run/redis.sock?password=x&virtual_host=0"),
        ("redis://:x@host:6379/0", "redis://:x@host:6379/0"),
        ("rediss://:x@host:6380/0", "rediss://:x@host:6380/0?ssl_cert_reqs=CERT_REQUIRED"),
    ],
)
def test_the_broker_is_the_same_redis(url: str, expected: str) -> None:
    assert stores.broker(url) == expected


def test_a_redis_address_that_is_none_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="REDIS_URL must look like"):
        stores.broker("host:6379")
