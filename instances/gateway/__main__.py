"""`python -m instances.gateway`: the front door, as one process or as several below a parent."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import signal
import socket
import sys

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
    """One of several processes: accepts when it knows what the portal says, drains when the parent says or ends."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the parent's affair
    stop = _stop_on_signals()
    control = socket.socket(fileno=given.control)
    reader, writer = await asyncio.open_connection(sock=control)
    gateway = Gateway(config, Log(shared=True), workers.inherited(given.doors), leads=given.lead)
    gateway.follow()
    with contextlib.suppress(TimeoutError):  # a successor has time: those before it serve meanwhile
        async with asyncio.timeout(None if given.successor else _LINK_PATIENCE):
            await gateway.link.up.wait()
    gateway.open()
    _settle()
    writer.write(b"ready\n")
    told = asyncio.Event()
    hearing = asyncio.create_task(_hear(gateway, reader, writer, told))
    leaving = asyncio.create_task(_leave(gateway, told))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((leaving, stopping), return_when=asyncio.FIRST_COMPLETED)
    for task in (hearing, leaving, stopping):
        task.cancel()
    await gateway.stop()
    _tell(gateway, writer)


def _tell(gateway: Gateway, writer: asyncio.StreamWriter) -> None:
    writer.write(json.dumps(gateway.metrics.figures(gateway)).encode() + b"\n")


async def _hear(
    gateway: Gateway, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, told: asyncio.Event
) -> None:
    """Give figures as often as asked. A parent that is no more means draining, too."""
    while word := await reader.readline():
        if word == b"figures\n":
            _tell(gateway, writer)
        else:
            told.set()
    told.set()


async def _leave(gateway: Gateway, told: asyncio.Event) -> None:
    await told.wait()
    await gateway.drain()


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
