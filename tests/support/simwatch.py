# SPDX-License-Identifier: Apache-2.0
"""A real watch over a simulated kernel, and a service that answers from it: all except probes, sockets and clock."""

import os
import struct
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from agent.access import Viewer
from agent.capture.ring import LostNumbers
from agent.capture.watch import Watch
from agent.daemon.asker import Asker
from agent.daemon.journal import Journal
from agent.daemon.service import Service
from agent.model import Header
from agent.protocol import codec
from agent.recorder import tape
from agent.table import wire
from bpf.syscall import Usage
from tests.support.kernelobjects import Thread
from tests.support.kernelsim import Kernel
from tests.support.records import KEY

ROOT = Viewer(1, 0, 0, privileged=True)
"""Root, as the init of the simulated kernel."""
_RING_HEAD = struct.Struct("<II")


def part_of(records: list[bytes]) -> bytes:
    """Return records as the ring holds them."""
    return b"".join(
        _RING_HEAD.pack(len(each), 0) + each + bytes(tape.padded(len(each)) - len(each)) for each in records
    )


class SimRing:
    """A ring of waiting records, without a limit."""

    size = 1 << 22
    most_pending = 0

    def __init__(self) -> None:
        self.records: deque[bytes] = deque()
        self.position = 0
        self.tap: Callable[[memoryview], None] | None = None

    @property
    def pending(self) -> int:
        """Return the number of waiting bytes."""
        return sum(map(len, self.records))

    def first(self) -> int | None:
        """Return the number of the record that is to be consumed next, as agent.capture.ring does."""
        return wire.HEAD.unpack_from(self.records[0])[0] if self.records else None

    def drain(self, feed: Callable[[bytes, int], None], limit: int = 1 << 62) -> int:
        """Read records, as agent.capture.ring does."""
        used = 0
        taken = []
        while self.records and used < limit:
            record = self.records.popleft()
            used += len(record)
            self.position += len(record)
            feed(record, 0)
            taken.append(record)
        if self.tap is not None and taken:
            self.tap(memoryview(part_of(taken)))
        return used


class SimPage:
    """The counters of the kernel's side."""

    nested = 0
    withheld = 0

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._numbers: set[int] = set()
        self._overflow = False
        self.lost = 0
        self.known = LostNumbers(0, (0,) * wire.LOST_NUMBERS)

    def lose(self, record: bytes, *, told: bool) -> None:
        """Count a record that had no room; its number is in the list of lost ones, or has been overwritten there by
        another.
        """
        self.lost += 1
        if told:
            self._numbers.add(wire.HEAD.unpack_from(record)[0])
        else:
            self._overflow = True

    def pass_over(self) -> None:
        """Mark all numbers lost so far as known, as agent.capture.ring does."""
        self.known = LostNumbers(self.lost, self.known.slots)
        self._numbers, self._overflow = set(), False

    @property
    def issued(self) -> int:
        """Return the count of numbers issued so far."""
        return self._kernel.writer.seq

    def lost_numbers(self) -> tuple[set[int], bool]:
        """Return the numbers lost since the last call, and True if others were lost among them."""
        found = self._numbers, self._overflow
        self._numbers, self._overflow = set(), False
        return found


class SimProbes:
    """The interface of agent.capture.probes over a simulated kernel."""

    tried: dict[str, str] = {}  # noqa: RUF012 - never changed
    missing: list[str] = []  # noqa: RUF012
    ties = ()
    filters = True
    is_taken_over = False
    string_key = KEY
    ring_name = "the simulated ring"
    keeps_strings = False
    tells_arguments = False

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.ring = SimRing()
        self.page = SimPage(kernel)
        self.hooks = {"fork": ["simulated"]}
        self.allowed = 0
        self.ask = kernel.answer
        self.rows = kernel.rows
        kernel.emit = self.ring.records.append
        kernel.writer.seq = 0  # numbers begin with the hooks: a watch would wait for those of before

    def tell_arguments(self, *, wanted: bool) -> None:
        """Note if the exec hook is to tell the text of arguments."""
        self.tells_arguments = wanted

    def allow(self, per_second: int) -> None:
        """Note the allowance of each user."""
        self.allowed = per_second

    def skipped(self) -> int:
        """Return 0: no run is skipped."""
        return 0

    def usage(self) -> dict[str, Usage]:
        """Return the usage of one program that never ran."""
        return {"on_fork": Usage(0, 0, 0)}

    def tied(self, _tie: str, _process: int = 0) -> bytes:
        """Return nothing: no task has ties."""
        return b""


def a_watch(kernel: Kernel) -> Watch:
    """Return a watch that has swept once."""
    return Watch.begin(SimProbes(kernel))  # type: ignore[arg-type]  # it has the interface


@contextmanager
def a_plain_host(boottime_ns: int = 1 << 60) -> Iterator[None]:
    """Let snapshots that are made in the block describe no host, and be cut at a time of CLOCK_BOOTTIME, ns."""
    with patch.multiple(
        "agent.proc.host",  # a compiled module looks there for them
        boot_id=lambda: "00000000-0000-0000-0000-000000000000",
        cut_clock=lambda: lambda: boottime_ns,
        header=Header,
    ):
        yield


class Scene:
    """A kernel, a watch over it, and a service.

    Args:
        boottime_ns: the time at which all snapshots are cut, CLOCK_BOOTTIME, ns.

    Attributes:
        kernel: has an init, and the tasks that a test makes.
        unsent: the bytes of answers that the clients of a user have not fetched, by user id.
        log: the lines of the service's log.
    """

    def __init__(self, boottime_ns: int = 1 << 60) -> None:
        self.kernel = Kernel(lambda _: None)
        self.watch = a_watch(self.kernel)
        self._reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.unsent = Counter[int]()
        with a_plain_host(boottime_ns):
            self.service = Service(self.watch, Journal(writer), self.unsent.__getitem__)

    def child(self, parent: Thread | None = None, ids: tuple[int, int] | None = None, flags: int = 0) -> Thread:
        """Fork a process, by default a child of the init; a change of its ids makes no record."""
        thread = self.kernel.fork(parent or self.kernel.init, flags)
        if ids is not None:
            thread.ids = ids
        return thread

    def viewer(self, thread: Thread, *groups: int, privileged: bool = False) -> Viewer:
        """Return the caller for a process."""
        return Viewer(thread.tid, *thread.ids, frozenset(groups), privileged=privileged)

    def ask(self, viewer: Viewer, verb: str, **arguments: Any) -> codec.Message:
        """Send one request on a connection of its own; return the answer."""
        return self.service.answer({"verb": verb, **arguments}, Asker(viewer))

    def log(self) -> list[str]:
        """Return the lines since the last call."""
        try:
            return os.read(self._reader, 1 << 16).decode().splitlines()
        except BlockingIOError:
            return []
