# SPDX-License-Identifier: Apache-2.0
"""The work of a relay on its host: it asks the daemon, with the rights of the relay's own user."""

import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, TypeAlias

from agent import rootname
from agent.errors import CkptreeError, HostError, NoSuchRootError, UsageError
from agent.proc import topmost
from agent.proc.host import boot_id
from agent.protocol.client import Answer, Client, Event, Subscription
from agent.protocol.codec import Message
from agent.record import NamedTuple

_COUNT_S = 2.0
_ANSWER_S = 10.0

Clock: TypeAlias = Callable[[], int]


class HostAbout(NamedTuple):
    """Facts about a host, as its relay tells them.

    Attributes:
        version: of ckptree.
        kernel: its release.
        boot_id: of the running kernel.
    """

    version: str
    kernel: str
    boot_id: str


class Cut(NamedTuple):
    """A snapshot that was taken.

    Attributes:
        data: the image.
        before_ns, after_ns: CLOCK_REALTIME of the host around it.
        tasks: count of tasks in it.
        complete, reasons: as of `agent.protocol.replies.Answer`.
        contents: of the programs, as the manifest of a set has them; None: none were asked for.
    """

    data: bytes
    before_ns: int
    after_ns: int
    tasks: int
    complete: bool
    reasons: tuple[str, ...]
    contents: Message | None = None


class RecordingState(NamedTuple):
    """The state of a recording, as its daemon tells it.

    Attributes:
        folder: where it is.
        next: number of the daemon's next record; None: it is not known.
    """

    folder: Path
    next: int | None


class Wish(NamedTuple):
    """A snapshot that is asked for.

    Attributes:
        root: as the caller has named it.
        mode: as ``ckptree snapshot`` has it.
        with_argv: add arguments and environments, as far as this process may read them.
        past: take it from the daemon's recording.
        requester: the one who asks for contents, too; empty: they are not asked for.
        end: with contents, the programs end.
    """

    root: str
    mode: str
    with_argv: bool
    past: bool
    requester: str = ""
    end: bool = False


class LiveEvents(Protocol):
    """Events as they come: agent.protocol.client.Subscription."""

    def next_within(self, timeout_s: float | None) -> Event | None:
        """Return the next event; None where none came in time. CkptreeError: the daemon went away."""


class Work(Protocol):
    """The work that a relay has done on its host. All but `host` may take a while, and are called in threads."""

    def host(self) -> HostAbout:
        """Tell of the host."""

    def tasks(self) -> int | None:
        """Count the tasks that the daemon watches; None: it does not answer."""

    def check(self, root: str, timeout_s: float, *, past: bool) -> None:
        """Find the process that a ROOT means; CkptreeError: there is none, or several, or no daemon."""

    def cut(self, wish: Wish, at_ns: int, timeout_s: float) -> Cut:
        """Take a snapshot at a time of the host's CLOCK_REALTIME; one that is over means now, if not the past is meant."""

    def taken(self, numbers: Sequence[int]) -> dict[int, str]:
        """Return which numbers are in use in this process's pid namespace, each with its holder."""

    def follow(self, root: str | None, kinds: Sequence[str] | None) -> AbstractContextManager[LiveEvents]:
        """Subscribe to live events below a ROOT, or to all; of some kinds, or of all."""


class DaemonWork:
    """The work as the host's daemon does it.

    Args:
        socket: of the daemon; None: the default one.
        clock: returns CLOCK_REALTIME in nanoseconds.
    """

    def __init__(self, socket: Path | None, clock: Clock = time.time_ns) -> None:
        self._socket = socket
        self._clock = clock

    def host(self) -> HostAbout:
        """Tell of the host."""
        return HostAbout(version("ckptree"), platform.release(), boot_id())

    def tasks(self) -> int | None:
        """Count the tasks that the daemon watches; None: it does not answer."""
        try:
            with Client(self._socket, _COUNT_S) as client:
                return int(sum(client.metrics()["table"]["tasks"].values()))
        except CkptreeError:
            return None

    def recording(self) -> RecordingState | None:
        """Ask for the daemon's recording; None: the daemon does not answer.

        Raises:
            HostError: it has none.
        """
        try:
            with Client(self._socket, _COUNT_S) as client:
                said = client.status().get("recording")
        except CkptreeError:
            return None
        if said is None:
            raise HostError("the daemon has no recording: see [record] in its configuration")
        return RecordingState(Path(said["folder"]), said.get("next"))

    def check(self, root: str, timeout_s: float, *, past: bool) -> None:
        """Find the process that a ROOT means.

        Args:
            root: as the caller has named it.
            timeout_s: for the daemon's answer.
            past: the process was there at another time: it is not looked for.

        Raises:
            CkptreeError: there is none, or several, or the daemon does not answer, or has no recording.
        """
        meant = rootname.parse_target(root)
        with Client(self._socket, timeout_s) as client:
            features = client.hello().features
        if not past:
            topmost.answered(meant, is_there)
        elif "past" not in features:
            raise HostError("the daemon has no recording: see [record] in its configuration")
        elif not isinstance(meant, rootname.RootName):
            raise UsageError(
                f"{meant}: a recording has no cgroups: name the root by the pid that it had, or pidns:INUM"
            )

    def cut(self, wish: Wish, at_ns: int, timeout_s: float) -> Cut:
        """Take a snapshot.

        Args:
            wish: the snapshot.
            at_ns: when, by the host's CLOCK_REALTIME; a time that is over means now, or the past where that is wished.
            timeout_s: for the daemon's answer.

        Raises:
            CkptreeError: it cannot be taken.
        """
        meant = rootname.parse_target(wish.root)
        with Client(self._socket, timeout_s) as client:
            client.hello()
            if wish.past:
                return _past(client.snapshot(str(wish.root), mode=wish.mode, at={"time_ns": at_ns}))
            if (left_ns := at_ns - self._clock()) > 0:
                time.sleep(left_ns / 1e9)

            def ask(pid: str) -> tuple[int, Answer, int]:
                before_ns = self._clock()
                answer = client.snapshot(pid, mode=wish.mode)
                return before_ns, answer, self._clock()

            before_ns, answer, after_ns = topmost.answered(meant, ask)
            data = _with_strings(answer.data, client) if wish.with_argv else answer.data
        return Cut(data, before_ns, after_ns, answer.tasks, answer.complete, answer.reasons)

    def follow(self, root: str | None, kinds: Sequence[str] | None) -> AbstractContextManager[LiveEvents]:
        """Subscribe to live events, without the arguments of execs.

        Args:
            root: as the caller has named it; None: all tasks that this process may see.
            kinds: of events; None: all.

        Raises:
            CkptreeError: there is no such root, or the daemon does not answer.
        """

        def subscribed(to: list[str] | None) -> Subscription:
            return Client(self._socket, _ANSWER_S).subscribe(to, kinds=kinds, snapshot=False)

        return subscribed(None) if root is None else topmost.answered_of_all(rootname.parse_target(root), subscribed)

    def taken(self, numbers: Sequence[int]) -> dict[int, str]:
        """Return which numbers are in use in this process's pid namespace, each with its holder."""
        from agent.restart.rebuild.preflight import holders_of

        return holders_of(numbers)


def _past(answer: Answer) -> Cut:
    """Return a snapshot from a recording, whose image says when it is true.

    Raises:
        CkptreeError: the image does not say so.
    """
    from exporters import registry

    at = registry.load(answer.data).at
    if at is None:
        raise CkptreeError("the daemon's answer has no instant of its recording: it is of another version")
    before_ns, after_ns = at.time_ns - at.uncertain_ns, at.time_ns + at.uncertain_ns
    return Cut(answer.data, before_ns, after_ns, answer.tasks, answer.complete, answer.reasons)


def is_there(root: str) -> None:
    """Refuse a pid that no process has; the daemon will look for a namespace."""
    if not root.isdecimal():
        return
    try:
        os.kill(int(root), 0)
    except (ProcessLookupError, OverflowError):
        raise NoSuchRootError(f"there is no process {root}") from None
    except PermissionError:
        return


def _with_strings(data: bytes, client: Client) -> bytes:
    """Add arguments and environments to an image, as far as this process may read them."""
    from agent.proc.enrich import Enriched
    from exporters import registry

    snapshot = registry.load(data)
    return registry.image(Enriched(snapshot, ask=client.strings).snapshot, "ckpt")
