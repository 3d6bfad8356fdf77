# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.bench.fleetrelays URL FIRST COUNT IMAGE``: so many relays in one process, to measure fleets.

Each has a connection and a host's name of its own, and an image that differs from those of the others. The process
prints a line when all are connected.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from agent.daemon.journal import Journal
from agent.fleet.relay import HostRelay
from agent.fleet.relaysettings import RelaySettings
from exporters import registry
from tests.support.imagework import ImageWork


def host(number: int) -> str:
    """Return the name of a host."""
    return f"n{number:04}"


class CountingJournal(Journal):
    """A log that says nothing, and counts the relays that are connected."""

    connected = 0

    def notice(self, text: str) -> None:
        """Count."""
        self.connected += "listening on" in text

    def info(self, text: str) -> None:
        """Say nothing."""


async def serve(url: str, first: int, count: int, image: Path) -> None:
    """Run the relays until this process is killed."""
    snapshot = registry.load(image.read_bytes())
    journal = CountingJournal()
    threads = ThreadPoolExecutor(count)  # each waits for the instant as on a host of its own
    running = []
    for number in range(first, first + count):
        data = registry.image(replace(snapshot, time_ns=snapshot.time_ns + number * 1_000_000_000), "ckpt")
        settings = RelaySettings(host(number), nats=url, allow=frozenset(["snapshot"]))
        running.append(asyncio.create_task(HostRelay(settings, ImageWork(data), journal, threads=threads).run()))
    while journal.connected < count:
        await asyncio.sleep(0.05)
    print("ready", flush=True)
    await asyncio.gather(*running)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])))
