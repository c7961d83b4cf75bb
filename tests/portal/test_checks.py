"""Unsafe settings stop the start with a sentence."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from portal.checks import refuse_unsafe

ROOT = Path(__file__).resolve().parent.parent.parent
POSTGRES = {"ENGINE": "django.db.backends.postgresql", "NAME": "beamport", "OPTIONS": {}}
PROVIDERS = ROOT / "deploy" / "providers" / "keycloak.toml"
SAFE: dict[str, Any] = {
    "DEMO": False,
    "PORTAL_URL": "https://portal.example",
    "APPS_DOMAIN": "apps-example.net",
    "ALLOWED_HOSTS": ["portal.example"],
    "PROVIDERS_FILE": str(PROVIDERS),
    "SECRET_KEY": secrets.token_urlsafe(48),
    "INSTANCE_KEY": secrets.token_urlsafe(48).encode(),
    "GATEWAY_TOKEN": secrets.token_urlsafe(48),
    "DEPLOYMENT_ID": "d1",
    "DEBUG": False,
    "ADMIN_NETWORKS": ["10.1.0.0/16", "2001:db8::/32"],
    "ADMIN_ACR": ["https://refeds.org/profile/mfa"],
    "PROVIDER_KINDS": {"local": "instances.providers.local.LocalProvider"},
    "REDIS_URL": "rediss://:secret@redis.example:6380/0",
}


@pytest.fixture(autouse=True)
def credentials(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where systemd lays the secrets that the file of providers names."""
    folder = tmp_path_factory.mktemp("credentials")
    (folder / "client_secret_sso").write_text("from the provider")
    (folder / "client_secret_sso").chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return folder


def ids(**changes: object) -> list[str]:
    with override_settings(**{**SAFE, **changes}):
        return [str(problem.id) for problem in refuse_unsafe(None)]


def with_database(**changes: object) -> dict[str, Any]:
    return {"default": {**POSTGRES, **changes}}


def test_safe_production_settings_pass() -> None:
    assert ids() == []
    assert ids(UNUSED_LAPSE=timedelta(), UNUSED_FORGET=timedelta()) == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"SECRET_KEY": "short"}, "portal.E001"),
        ({"SECRET_KEY": "django-insecure-" + secrets.token_urlsafe(48)}, "portal.E001"),
        ({"SECRET_KEY": "change me " * 8}, "portal.E001"),
        ({"INSTANCE_KEY": b"short"}, "portal.E002"),
        ({"ALLOWED_HOSTS": ["*"]}, "portal.E003"),
        ({"PORTAL_URL": "https://"}, "portal.E003"),
        ({"APPS_DOMAIN": "portal.example"}, "portal.E004"),
        ({"APPS_DOMAIN": "portal.example:8443"}, "portal.E004"),
        ({"APPS_DOMAIN": "example"}, "portal.E004"),
        ({"APPS_DOMAIN": "apps.portal.example"}, "portal.E018"),
        ({"APPS_DOMAIN": "a.b.portal.example:8443"}, "portal.E018"),
        ({"DEMO": True}, "portal.E005"),
        ({"DEBUG": True}, "portal.E006"),
        ({"PORTAL_URL": "http://portal.example"}, "portal.E007"),
        ({"PROVIDERS_FILE": ""}, "portal.E009"),
        ({"ADMIN_NETWORKS": ["10.1.0.1/16"]}, "portal.E022"),
        ({"ADMIN_NETWORKS": []}, "portal.W020"),
        ({"ADMIN_ACR": []}, "portal.W021"),
        ({"PROVIDERS_FILE": "/nowhere/providers.toml"}, "portal.E018"),
        ({"GATEWAY_TOKEN": "short"}, "portal.E010"),
        ({"INSTANCE_KEY": SAFE["SECRET_KEY"].encode()}, "portal.E011"),
        ({"GATEWAY_TOKEN": SAFE["SECRET_KEY"]}, "portal.E011"),
        ({"DEPLOYMENT_ID": ""}, "portal.E012"),
        ({"UNUSED_LAPSE": timedelta(days=30)}, "portal.E024"),
        ({"UNUSED_FORGET": timedelta(days=-1)}, "portal.E024"),
        ({"REDIS_URL": "redis://redis.example:6379/0"}, "portal.E016"),
        ({"REDIS_URL": "redis://127.0.0.1:6379/0"}, "portal.E016"),
        ({"PROVIDER_KINDS": {"memory": "instances.providers.memory.MemoryProvider"}}, "portal.E017"),
    ],
)
def test_each_unsafe_setting_is_refused(changes: dict[str, object], code: str) -> None:
    assert code in ids(**changes)


def test_each_fault_of_the_providers_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "providers.toml"
    path.write_text('[sso]\ntitle = "x"\nissuer = "http://login.example"\n\n[Egi]\n')
    with override_settings(**SAFE | {"PROVIDERS_FILE": str(path)}):
        told = [str(problem.msg) for problem in refuse_unsafe(None) if problem.id == "portal.E018"]
    assert [text.removeprefix(f"{path}, ").partition(": ")[0] for text in told] == [
        *("line 1, [sso]", "line 1, [sso]", "line 3, [sso] issuer", "line 5, [Egi]")
    ]


def test_a_variable_of_a_portal_with_one_provider_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ids() == []
    monkeypatch.setenv("OIDC_ISSUER", "https://login.example")
    assert ids() == ["portal.E008"]


def test_roles_that_only_the_demo_gives_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSON_ROLES", "xfel/X-1003=operator")
    assert ids() == ["portal.W023"]
    assert ids(DEMO=True, PORTAL_URL="http://localhost:8000") == []


@pytest.mark.parametrize(
    ("database", "open_"),
    [
        ({"HOST": "db.example"}, True),
        ({"HOST": "127.0.0.1"}, True),
        ({"HOST": "db.example", "PASSWORD": "secret"}, False),
        ({"HOST": "db.example", "OPTIONS": {"sslcert": "/etc/beamport/client.crt"}}, False),
        ({"HOST": "/run/postgresql"}, False),
    ],
)
def test_postgresql_over_tcp_wants_a_password(
    database: dict[str, object], open_: bool, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setitem(settings.DATABASES, "default", {**POSTGRES, **database})
    assert ("portal.E015" in ids()) == open_


def test_a_state_folder_that_everybody_writes_to_is_refused(tmp_path: Path) -> None:
    state, secret = tmp_path / "state", tmp_path / "state" / "secrets"
    secret.mkdir(parents=True)
    state.chmod(0o711)
    secret.chmod(0o711)
    assert ids(STATE_DIR=state, SECRETS_DIR=secret) == []
    secret.chmod(0o755)
    assert ids(STATE_DIR=state, SECRETS_DIR=secret) == ["portal.E014"]
    state.chmod(0o713)
    assert ids(STATE_DIR=state, SECRETS_DIR=secret) == ["portal.E013", "portal.E014"]


def test_every_refusal_says_what_to_do() -> None:
    with override_settings(
        **{**SAFE, "SECRET_KEY": "short", "PORTAL_URL": "http://", "PROVIDERS_FILE": "", "DEBUG": True}
    ):
        problems = refuse_unsafe(None)
    assert len(problems) >= 4
    assert all(problem.hint and problem.msg.endswith(".") for problem in problems)


@pytest.mark.parametrize(
    ("portal", "apps", "near"),
    [
        ("portal.example.org", "apps.example.org", True),
        ("vis.portal.example.org", "apps.example.org:8443", True),
        ("portal.lab.ac.uk", "apps.lab.ac.uk", True),
        ("portal.lab.ac.uk", "apps-lab.ac.uk", False),
        ("portal.lab.fr", "apps.lab.fr", True),
        ("portal.example.org", "apps-example.org", False),
        ("notexample.org", "example.org", False),
        ("10.0.0.1", "apps-example.org", False),
    ],
)
def test_a_sibling_of_the_portal_is_warned_of(portal: str, apps: str, near: bool) -> None:
    """SameSite takes both for one site, and a page may set cookies for the domain above."""
    changes = {"PORTAL_URL": f"https://{portal}", "APPS_DOMAIN": apps, "ALLOWED_HOSTS": [portal]}
    assert ids(**changes) == ["portal.W019"] * near


def test_in_the_demo_instances_may_lie_below_the_portal() -> None:
    changes = {"PORTAL_URL": "http://localhost:8000", "APPS_DOMAIN": "apps.localhost:8000"}
    assert ids(DEMO=True, OIDC_ISSUER="http://127.0.0.1:8001", **changes) == []


def test_the_demo_on_loopback_passes() -> None:
    assert ids(DEMO=True, PORTAL_URL="http://localhost:8000", PROVIDERS_FILE="") == []


# ---- whole processes, with what an operator would set ----
def environment(state: Path, **changes: str) -> dict[str, str]:
    made = {name: secrets.token_urlsafe(48) for name in ("SECRET_KEY", "INSTANCE_KEY", "GATEWAY_TOKEN")}
    return {
        "PATH": os.environ["PATH"],
        "BEAMPORT_STATE": str(state),
        "PORTAL_URL": "https://portal.example.org",
        "APPS_DOMAIN": "apps-example.org",
        "BEAMPORT_PROVIDERS": str(PROVIDERS),
        "ADMIN_NETWORKS": "10.1.0.0/16",
        "ADMIN_ACR": "https://refeds.org/profile/mfa",
        "CREDENTIALS_DIRECTORY": os.environ["CREDENTIALS_DIRECTORY"],
        "DEPLOYMENT_ID": "d1",
        "DATABASE_URL": "postgresql://beamport:secret@127.0.0.1:1/beamport",
        "REDIS_URL": "redis://:secret@127.0.0.1:1/0",
        **made,
        **changes,
    }


def run(state: Path, *argv: str, **changes: str) -> subprocess.CompletedProcess[str]:
    command, variables = [sys.executable, *argv], environment(state, **changes)
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=50)


def test_djangos_own_deployment_checks_have_nothing_to_say(tmp_path: Path) -> None:
    done = run(tmp_path, "manage.py", "check", "--deploy", "--fail-level", "WARNING")
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


WEB = ("-m", "portal.serve", "--web", "127.0.0.1:0", "--internal", "127.0.0.1:0")
WORKER = ("-m", "celery", "-A", "portal.celery", "worker", "-P", "threads", "-c", "1")


@pytest.mark.parametrize("argv", [WEB, WORKER], ids=["web", "worker"])
def test_web_and_worker_do_not_start_with_unsafe_settings(argv: tuple[str, ...], tmp_path: Path) -> None:
    done = run(tmp_path, *argv, PORTAL_URL="http://portal.example.org")
    assert done.returncode == 1
    assert "PORTAL_URL is not https" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.root
@pytest.mark.parametrize("argv", [WEB, WORKER], ids=["web", "worker"])
def test_web_and_worker_do_not_start_as_root_in_production(argv: tuple[str, ...], tmp_path: Path) -> None:
    done = run(tmp_path, *argv)
    assert done.returncode == 1
    assert "runs as root" in done.stderr
