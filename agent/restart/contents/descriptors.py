# SPDX-License-Identifier: Apache-2.0
"""The descriptors of all processes: open files made once, then handed to all that have them.

An open file that several descriptors refer to is one object. One of its processes, its owner, creates it at a number above
all that the images have. When every process has created its own, each fetches those of others with pidfd_getfd(2), and
puts each at its descriptors' numbers. When every process has fetched, the high numbers are closed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agent.restart.contents.fillprogram import About, Argument, FillScript, ProcessProgram
from agent.restart.contents.images import ProcessImage

FD_CLOEXEC: Final = 1
O_CLOEXEC: Final = 0o2000000
AT_FDCWD: Final = -100
_LOWEST_SERVICE: Final = 32

# enum fd_types of CRIU's fdinfo.proto.
KINDS: Final = {
    1: "file",
    2: "pipe",
    3: "fifo",
    4: "inet-socket",
    5: "unix-socket",
    6: "eventfd",
    7: "epoll",
    8: "inotify",
    9: "signalfd",
    10: "packet-socket",
    11: "tty",
    12: "fanotify",
    13: "netlink-socket",
    14: "namespace",
    15: "tun",
    16: "external-file",
    17: "timerfd",
    18: "memfd",
    19: "bpf-map",
    20: "pidfd",
}


@dataclass(slots=True)
class Holder:
    """A process that is filled.

    Attributes:
        actor: its index in the plan.
        depth: of its pid namespace, the root's being 0.
        numbers: its numbers, from the root's namespace inward.
        image: its messages.
        program: its operations.
        service: the first number above those of its descriptors and mapped files.
    """

    actor: int
    depth: int
    numbers: tuple[int, ...]
    image: ProcessImage
    program: ProcessProgram
    service: int = _LOWEST_SERVICE
    _next: int = field(default=0)

    @property
    def leader(self) -> FillScript:
        """The script of its first thread."""
        return self.program.scripts[0]

    def number(self) -> int:
        """Return a new number above all descriptors of all processes."""
        self._next += 1
        return self.service + self._next - 1


def keep_high(holder: Holder, made: Argument) -> int:
    """Move a new descriptor to a high number, close it where it was, and return the number."""
    number = holder.number()
    holder.leader.call("dup3", made, number, O_CLOEXEC)
    holder.leader.call("close", made)
    return number


def open_high(holder: Holder, path: bytes, flags: int) -> int:
    """Open a file at a high number, and return the number."""
    name = holder.program.data(path + b"\0")
    return keep_high(holder, holder.leader.kept("openat", AT_FDCWD, name, flags | O_CLOEXEC, 0))


Create = Callable[[Holder, Any, "Descriptors"], int]
"""Adds the operations that create an open file in its owner, and returns the high number that it gets there."""


class Descriptors:
    """The open files of a tree.

    Args:
        holders: its processes, in tree order.
        files: the file_entry of each open file.
        together: for an open file those that one process must create with it, as the two ends of a pipe.

    Attributes:
        holders: the processes.
        owned: the owner of each object and its high number there, by the object's key.
    """

    def __init__(
        self, holders: Iterable[Holder], files: Mapping[int, Any], together: Callable[[int], Iterable[int]]
    ) -> None:
        self._together = together
        self.holders = list(holders)
        self.files = files
        self.owned: dict[tuple[str, int], tuple[Holder, int]] = {}
        highest = max((int(info.fd) for each in self.holders for info in each.image.fds), default=-1)
        for each in self.holders:
            each.service = max(highest + 1, _LOWEST_SERVICE)
        self.holders_of: dict[int, list[Holder]] = {}
        for each in self.holders:
            for info in each.image.fds:
                having = self.holders_of.setdefault(int(info.id), [])
                if not having or having[-1] is not each:
                    having.append(each)

    def owner(self, files: Iterable[int]) -> Holder:
        """Return the process that creates these files: of those that have one, the deepest, as the others see it."""
        having = [each for one in files for each in self.holders_of.get(one, ())]
        return max(having, key=lambda each: each.depth)

    def create(self, creators: Mapping[int, Create]) -> None:
        """Create every open file that a descriptor refers to, in its owner."""
        for identity in self.holders_of:
            if ("file", identity) in self.owned:
                continue
            entry = self.files[identity]
            holder = self.owner(self._together(identity))
            holder.leader.about = About(KINDS[entry.type], str(identity))
            number = creators[int(entry.type)](holder, entry, self)
            self.owned["file", identity] = holder, number

    def hand_over(self, created: int, fetched: int) -> None:
        """Have each process fetch the files of others, place all at their numbers, and close the rest.

        Args:
            created, fetched: words that all processes post and wait for.
        """
        count = len(self.holders)
        for holder in self.holders:
            script = holder.leader
            script.about = About("descriptors", "")
            script.post(created)
            script.wait(created, count)
            pidfds: dict[int, int] = {}
            high: dict[int, int] = {}
            for info in holder.image.fds:
                identity = int(info.id)
                script.about = About(KINDS[int(info.type)], str(identity))
                if identity not in high:
                    high[identity] = self._fetched(holder, identity, pidfds)
                script.call("dup3", high[identity], int(info.fd), O_CLOEXEC if info.flags & FD_CLOEXEC else 0)
            script.about = About("descriptors", "")
            script.post(fetched)
            script.wait(fetched, count)
            script.call("close_range", holder.service, 0xFFFFFFFF, 0)

    def _fetched(self, holder: Holder, identity: int, pidfds: dict[int, int]) -> int:
        """Return the high number of a file in a process, fetched if it is another's."""
        owner, number = self.owned["file", identity]
        if owner is holder:
            return number
        script = holder.leader
        if owner.actor not in pidfds:
            pidfds[owner.actor] = keep_high(holder, script.kept("pidfd_open", owner.numbers[holder.depth], 0))
        return keep_high(holder, script.kept("pidfd_getfd", pidfds[owner.actor], number, 0))
