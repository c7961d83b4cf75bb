"""`python -m instances.gateway`: the front door as its own process."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys

import uvloop

from instances.gateway.config import CannotStart, read
from instances.gateway.server import Gateway


async def _serve() -> None:
    gateway = Gateway(read())
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    loop.add_signal_handler(signal.SIGHUP, gateway.reception.reload_certificates)
    await gateway.start()
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)  # what a request makes dies with it, without cycles
    await stop.wait()
    await gateway.stop()


def main() -> int:
    try:
        uvloop.run(_serve())
    except CannotStart as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
