# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.support.skewedrelay SECONDS --config FILE``: a relay whose host's clock is so far ahead."""

import asyncio
import sys
import time
from pathlib import Path

from agent.daemon.journal import Journal
from agent.fleet import relaysettings
from agent.fleet.hostwork import DaemonWork
from agent.fleet.relay import HostRelay

if __name__ == "__main__":
    AHEAD_NS = int(float(sys.argv[1]) * 1e9)

    def clock() -> int:
        """Return the time of that host."""
        return time.time_ns() + AHEAD_NS

    async def serve() -> None:
        """Run the relay."""
        settings = relaysettings.load(Path(sys.argv[3]))
        await HostRelay(settings, DaemonWork(settings.socket, clock), Journal(), clock).run()

    asyncio.run(serve())
