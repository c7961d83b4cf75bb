"""`python -m instances.gateway`: the front door, as one process or as several below a parent."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal
import socket
import sys
from typing import Any

import uvloop

from instances.gateway import metrics, workers
from instances.gateway.config import CannotStart, Config, read
from instances.gateway.log import Log
from instances.gateway.server import Gateway

#: how long a process waits for the portal's word before it serves without
_LINK_PATIENCE = 3.0


def _settle() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)  # what a request makes dies with it, without cycles


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    return stop


async def _alone(config: Config) -> None:
    gateway = Gateway(config)
    stop = _stop_on_signals()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, gateway.reception.reload_certificates)
    await gateway.start()
    await metrics.serve(config, metrics.of_one(gateway))
    _settle()
    await stop.wait()
    await gateway.stop()


async def _below(config: Config, given: argparse.Namespace) -> None:
    """One of several processes, until a signal comes or it has served and drained."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the parent's affair
    stop, told = _stop_on_signals(), asyncio.Event()
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=given.control))
    gateway = Gateway(config, Log(shared=True), workers.inherited(given.doors), leads=given.lead)
    hearing = asyncio.create_task(_hear(gateway, reader, writer, told))
    serving = asyncio.create_task(_serve(gateway, writer, told, None if given.successor else _LINK_PATIENCE))
    stopping = asyncio.create_task(stop.wait())
    await _first(serving, stopping)
    hearing.cancel()
    await gateway.stop()
    _tell(gateway, writer)


async def _serve(gateway: Gateway, writer: asyncio.StreamWriter, told: asyncio.Event, patience: float | None) -> None:
    """Accept when it is known what the portal says; a successor has time for it, as those before it serve meanwhile."""
    gateway.follow()
    leaving = asyncio.create_task(told.wait())
    await _first(leaving, asyncio.create_task(gateway.link.up.wait()), seconds=patience)
    if not told.is_set():
        gateway.open()
        _settle()
        writer.write(b"ready\n")
        await told.wait()
    await gateway.drain()


async def _first(*tasks: asyncio.Task[Any], seconds: float | None = None) -> None:
    """Wait for one of them, at most so long; the others are cancelled."""
    done, others = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    for task in done:
        task.result()


def _tell(gateway: Gateway, writer: asyncio.StreamWriter) -> None:
    writer.write(json.dumps(gateway.metrics.figures(gateway)).encode() + b"\n")


async def _hear(
    gateway: Gateway, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, told: asyncio.Event
) -> None:
    """Give figures as often as asked; any other word means to drain, and so does a parent that is no more."""
    while word := await reader.readline():
        if word == b"figures\n":
            _tell(gateway, writer)
        else:
            told.set()
    told.set()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The front door; everything else is set by the environment.")
    # what a parent tells its processes
    parser.add_argument("--control", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--doors", default="", help=argparse.SUPPRESS)
    parser.add_argument("--lead", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--successor", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    try:
        config = read()
        if given.control is not None:
            uvloop.run(_below(config, given))
        elif config.processes:
            return workers.run(config)
        else:
            uvloop.run(_alone(config))
    except CannotStart as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
