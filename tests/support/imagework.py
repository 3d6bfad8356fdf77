# SPDX-License-Identifier: Apache-2.0
"""The work of a relay's host, without a daemon: every tree is that of one image.

``python -m tests.support.imagework --config FILE [FOLDER]`` runs a relay with it. The folder has a recording, and
the file ``next`` beside it the number of the next record.
"""

import asyncio
import itertools
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from agent.daemon.journal import Journal
from agent.errors import CkptreeError, NoSuchRootError
from agent.fleet import relaysettings
from agent.fleet.hostwork import Cut, HostAbout, RecordingState, Wish
from agent.fleet.relay import HostRelay
from agent.protocol.replies import Event, EventTask

IMAGE = Path(__file__).parents[2] / "docs" / "example" / "web.ckpt"


class MadeEvents:
    """Births, and then the end of the root.

    Args:
        count: of births; None: one every tenth of a second, without end.
        comm: the name of each process.
    """

    def __init__(self, count: int | None, comm: str) -> None:
        self._numbers = iter(range(1, count + 1)) if count is not None else itertools.count(1)
        self._pause_s = 0.0 if count is not None else 0.1
        self._comm = comm.encode()

    def next_within(self, timeout_s: float | None) -> Event | None:  # noqa: ARG002 - a subscription is called so
        """Return the next event."""
        time.sleep(self._pause_s)
        number = next(self._numbers, None)
        if number is None:
            return Event("end", 1 << 40, None, {}, 7)
        task = EventTask(number, number, (number, 1), 5, 0, 0, self._comm)
        return Event("birth", number, task, {"parent": 1, "creator": 1, "pgid": 1, "sid": None, "flags": []}, 7)


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

    @contextmanager
    def follow(self, root: str | None, kinds: Sequence[str] | None) -> Iterator["MadeEvents"]:
        """Tell of so many births as the root has as a number; `none` is not there. Without one there is one a while."""
        if root == "none":
            raise NoSuchRootError("there is no process none")
        yield MadeEvents(int(root) if root is not None else None, "" if kinds is None else ",".join(kinds))

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
    relay = HostRelay(relaysettings.load(config), work, Journal(), recording=recording)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, relay.end)
    await relay.run()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[2]), Path(sys.argv[3]) if sys.argv[3:] else None))
