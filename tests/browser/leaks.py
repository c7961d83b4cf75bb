"""Looks for the credentials of one browser's visit in all that a running portal has written, sent or shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import redis
from psycopg import sql

from portal.lib.hashing import instance_secret

#: what stands in an address by design, once: the ticket onto an instance, the provider's code and our state
ONCE = {"t": "ticket", "code": "code", "state": "login state"}
#: a value is looked for by its first characters
KNOWN_BY = 24


def of_files(state: Path) -> dict[str, str]:
    """The secrets that the portal was started with."""
    named = ("secret_key", "instance_key", "gateway_token", "oidc_client_secret")
    return {(state / "secrets" / name).read_text().strip(): name for name in named}


def of_browser(cookies: Sequence[Any]) -> dict[str, str]:
    """What the browser holds: of an instance's cookie the seal, as what stands before it are ids."""
    ours = [cookie for cookie in cookies if cookie["name"].startswith("__Host-")]
    return {cookie["value"].rpartition(".")[2]: cookie["name"] for cookie in ours}


def of_addresses(urls: list[str]) -> dict[str, str]:
    """What stood in an address for a moment."""
    queries = [parse_qs(urlsplit(url).query) for url in urls]
    return {value: ONCE[name] for query in queries for name in ONCE for value in query.get(name, [])}


def of_instances(state: Path) -> dict[str, str]:
    """The tokens of all JupyterLabs that there have been."""
    key = (state / "secrets" / "instance_key").read_text().strip().encode()
    with _database(state) as connection:
        rows = connection.execute("SELECT uid, secret_epoch FROM instances_instance").fetchall()
    return {instance_secret(key, str(uid), epoch, "jupyter"): "JUPYTER_TOKEN" for uid, epoch in rows}


def places(state: Path) -> Iterator[tuple[str, str]]:
    """Logs, both stores, and what one process shows to others: (where, text)."""
    for path in (state / "log").iterdir():
        yield f"log of {path.name}", path.read_text(errors="replace")
    yield from _redis(state / "run" / "back" / "redis.sock")
    yield from _tables(state)
    for process in Path("/proc").glob("[0-9]*"):
        command = _read(process / "cmdline").replace("\0", " ")
        yield f"command line of {command[:60]}", command
        yield f"environment of {command[:60]}", _read(process / "environ")


def found(known: dict[str, str], state: Path) -> list[str]:
    """Every secret that stands where it does not belong."""
    marks = {value[:KNOWN_BY]: name for value, name in known.items() if len(value) >= KNOWN_BY}
    return [f"{name} in {where}" for where, text in places(state) for mark, name in marks.items() if mark in text]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _redis(socket: Path) -> Iterator[tuple[str, str]]:
    client = redis.Redis(unix_socket_path=str(socket))
    for number in range(16):
        client.execute_command("SELECT", number)
        for key in client.scan_iter():
            yield f"Redis {number}, {key!r}", repr(key) + repr(client.dump(key))


def _database(state: Path) -> psycopg.Connection[Any]:
    return psycopg.connect(host=str(state / "run" / "back"), dbname="beamport", user="beamport")


def _tables(state: Path) -> Iterator[tuple[str, str]]:
    with _database(state) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (name,) in names:
            rows = connection.execute(sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(name))).fetchall()
            yield f"table {name}", "\n".join(row[0] for row in rows)
