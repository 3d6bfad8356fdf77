# SPDX-License-Identifier: Apache-2.0
"""The work of a relay's host, without a daemon: every tree is that of one image.

``python -m tests.support.imagework --config FILE [FOLDER]`` runs a relay with it. The folder has a recording, and
the file ``next`` beside it the number of the next record.
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from agent.daemon.journal import Journal
from agent.errors import CkptreeError, NoSuchRootError
from agent.fleet import relaysettings
from agent.fleet.hostwork import Cut, HostAbout, RecordingState, Wish
from agent.fleet.relay import HostRelay

IMAGE = Path(__file__).parents[2] / "docs" / "example" / "web.ckpt"


class ImageWork:
    """The work of a host that has one tree. The root `none` is not there, and `crash` is a fault of the relay.

    Args:
        data: the image.
        took_s: time that a snapshot takes.
    """

    def __init__(self, data: bytes, took_s: float = 0.0) -> None:
        self._data = data
        self._took_s = took_s

    def host(self) -> HostAbout:
        """Tell of the host."""
        return HostAbout("0.0.0", "6.1.0", "boot")

    def tasks(self) -> int | None:
        """Count its tasks."""
        return 1

    def check(self, root: str, timeout_s: float, *, past: bool) -> None:  # noqa: ARG002 - a real host's is called so
        """Refuse the roots that are not there."""
        if root == "none":
            raise NoSuchRootError("there is no process none")
        if root == "crash":
            raise ZeroDivisionError

    def cut(self, wish: Wish, at_ns: int, timeout_s: float) -> Cut:  # noqa: ARG002 - as above
        """Wait for the instant, and return the image."""
        time.sleep(max(0.0, (at_ns - time.time_ns()) / 1e9))
        before_ns = time.time_ns()
        time.sleep(self._took_s)
        if wish.root == "late":
            raise CkptreeError("it is gone meanwhile")
        return Cut(self._data, before_ns, time.time_ns(), 1, complete=True, reasons=())

    def taken(self, numbers: Sequence[int]) -> dict[int, str]:
        """Say that the number 7 is taken."""
        return {number: "init" for number in numbers if number == 7}


def recording_in(folder: Path) -> RecordingState:
    """Return what the daemon of a recording would say of it."""
    return RecordingState(folder, int(folder.with_name("next").read_text()))


async def serve(config: Path, folder: Path | None) -> None:
    """Run a relay."""
    work = ImageWork(IMAGE.read_bytes())
    recording = None if folder is None else partial(recording_in, folder)
    await HostRelay(relaysettings.load(config), work, Journal(), recording=recording).run()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[2]), Path(sys.argv[3]) if sys.argv[3:] else None))
