"""The unit files agree with one another, with the code that they start and with the page that installs them."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.layout import init
from tests.layout.machine import ROOT, blocks

FOLDER = ROOT / "deploy" / "systemd"
SERVICES = ("beamport-gateway", "beamport-supervisor", "beamport-web@1", "beamport-worker@1")


@pytest.fixture(autouse=True)
def units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "UNITS", FOLDER)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_guarded_and_comes_back(name: str) -> None:
    unit = init.Unit(f"{name}.service")
    for key, value in {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "Restart": "always"}.items():
        assert unit.one(key) == value
    assert int(unit.one("LimitNOFILE")) >= 65536
    assert unit.all("PartOf") == ["beamport.target"]
    may = set(unit.all("CapabilityBoundingSet"))
    assert may <= {"gateway": {"CAP_NET_BIND_SERVICE"}, "supervisor": may}.get(name.removeprefix("beamport-"), set())
    assert "CapabilityBoundingSet" in unit.values


@pytest.mark.parametrize("name", SERVICES)
def test_each_credential_is_named_by_a_variable_and_made_by_the_page(name: str) -> None:
    unit = init.Unit(f"{name}.service")
    given = dict(word.split("=", 1) for value in unit.values["Environment"] for word in shlex.split(value))
    named = {variable: Path(path).name for variable, path in given.items() if variable.endswith("_FILE")}
    loaded = [word.partition(":")[0] for word in unit.all("LoadCredential")]
    # a folder with a secret for each sign-in provider, which the file of providers names one by one
    assert named == {f"{name.upper()}_FILE": name for name in loaded if name != "client_secret"}
    assert all(Path(path).parent == unit.credentials for variable, path in given.items() if variable in named)
    page = "\n".join(block.text for block in blocks())
    for word in unit.all("LoadCredential"):
        secret = Path(word.partition(":")[2])
        assert secret.parent == Path("/etc/beamport/secrets")
        assert re.search(rf"\b{secret.name}\b", page)


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_starts_is_there(name: str) -> None:
    words = shlex.split(init.Unit(f"{name}.service").one("ExecStart"))
    assert words[:2] == ["/opt/beamport/env/bin/python", "-m"]
    assert importlib.util.find_spec(words[2]) is not None


def test_only_the_supervisor_is_root_and_its_sessions_are_nobody_elses() -> None:
    made = re.findall(r"^u (\S+)", (FOLDER / "sysusers.conf").read_text(), re.M)
    users = {name: init.Unit(f"{name}.service").one("User", "root") for name in SERVICES}
    assert [name for name, user in users.items() if user == "root"] == ["beamport-supervisor"]
    assert {*users.values()} - {"root"} == {*made}
    supervisor = init.Unit("beamport-supervisor.service")
    assert (supervisor.one("Delegate"), supervisor.one("KillMode")) == ("yes", "mixed")
    others = [init.Unit(f"{name}.service") for name in SERVICES if name != "beamport-supervisor"]
    assert not [
        unit.name for unit in others if "beamport-supervisor.service" in unit.all("Requires") + unit.all("BindsTo")
    ]


def test_the_web_takes_the_sockets_that_systemd_holds_and_the_gateway_knows() -> None:
    web, gateway = init.Unit("beamport-web@1.service"), init.Unit("beamport-gateway.service")
    held = {unit.one("FileDescriptorName"): unit for unit in map(init.Unit, web.all("Sockets"))}
    assert re.findall(r"fd:(\w+)", web.one("ExecStart")) == [*held] == ["web", "internal"]
    known = " ".join(gateway.values["Environment"])
    for unit in held.values():
        assert unit.one("ListenStream") in known
        assert (unit.one("SocketGroup"), unit.one("SocketMode")) == (gateway.one("Group"), "0660")


def test_the_target_wants_every_part() -> None:
    wanted = {name.partition("@")[0].removesuffix(".service") for name in init.Unit("beamport.target").all("Wants")}
    assert wanted == {name.partition("@")[0] for name in SERVICES}


def test_the_example_of_settings_names_known_ones() -> None:
    known = (ROOT / "docs" / "reference" / "settings.md").read_text()
    names = re.findall(r"^#?([A-Z_]+)=", (FOLDER / "beamport.env").read_text(), re.M)
    assert len(names) >= 8
    assert [name for name in names if f"`{name}`" not in known] == []


@pytest.mark.skipif(not shutil.which("systemd-analyze") and not os.environ.get("CI"), reason="needs systemd-analyze")
def test_systemd_reads_them_without_a_complaint(tmp_path: Path) -> None:
    for path in FOLDER.glob("beamport*.*"):
        text = path.read_text().replace("/opt/beamport/env/bin/python", "/bin/true")
        (tmp_path / path.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.glob("*.[st]*")))],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
    )
    assert [line for line in done.stderr.splitlines() if "beamport" in line] == []
