# SPDX-License-Identifier: Apache-2.0
"""The descriptors of all processes: open files made once, then handed to all that have them.

An open file that several descriptors refer to is one object. One of its processes, its owner, creates it at a number above
all that the images have. When every process has created its own, each fetches those of others with pidfd_getfd(2), and
puts each at its descriptors' numbers. When every process has fetched, the high numbers are closed.
"""

from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final, TypeVar

from agent.record import NamedTuple
from agent.restart.contents import fileowners
from agent.restart.contents.fillprogram import About, Argument, Data, FillScript
from agent.restart.contents.holder import LOWEST_SERVICE, O_CLOEXEC, Holder, keep_high

FD_CLOEXEC: Final = 1
_Holder = TypeVar("_Holder")

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


class OpenFile(NamedTuple):
    """An open file in a process that restores it.

    Attributes:
        holder: the process.
        entry: its file_entry.
        number: its descriptor there; -1 before it is created.
        everything: all open files.
    """

    holder: Holder
    entry: Any
    number: int
    everything: "Descriptors"

    @property
    def script(self) -> FillScript:
        """The script that restores it."""
        return self.holder.leader

    def data(self, content: bytes) -> Data:
        """Put bytes into the data of the process."""
        return self.holder.program.data(content)

    def high(self, made: Argument) -> int:
        """Move a new descriptor to a high number, and return the number."""
        return keep_high(self.holder, made)

    def name(self, text: str) -> None:
        """Name what the next operations restore, within this file."""
        self.script.about = About(KINDS[int(self.entry.type)], f"{self.entry.id}, {text}")


class FileKind(metaclass=ABCMeta):
    """A kind of open file. Operations come in five steps; processes wait for each other after the third one.

    1. `create` makes each open file in its owner.
    2. `load` puts content into it, in the owner, once this has made all that it owns.
    3. `settle` sets what would have been in the way, once all has its content.
    4. `join` does what a process needs of the files of the kind, wherever they were made.
    5. `complete` does what needs the descriptors at their numbers, in one process that has it.
    """

    def check(self, entry: Any, numbers: AbstractSet[int]) -> None:  # noqa: B027 - most kinds have nothing to do there
        """Refuse a file that cannot be restored.

        Args:
            entry: its file_entry.
            numbers: the descriptors of the first process that has it.

        Raises:
            Refused: the reason.
        """

    def together(self, entry: Any) -> Iterable[int]:
        """Return the files that one process must create with this one, as the two ends of a pipe."""
        return [int(entry.id)]

    @abstractmethod
    def create(self, file: OpenFile) -> int:
        """Add the operations that create an open file in its owner; return the high number that it gets there."""

    def awaits_all(self) -> bool:
        """Return True if `load` needs what other processes create."""
        return False

    def load(self, file: OpenFile) -> None:  # noqa: B027 - most kinds have nothing to do there
        """Add the operations that put content into a file at its high number in its owner."""

    def settle(self, file: OpenFile) -> None:  # noqa: B027 - most kinds have nothing to do there
        """Add the operations that set options which would have been in the way of `load`."""

    def join(self, holder: Holder, everything: "Descriptors") -> None:  # noqa: B027 - most kinds have nothing to do there
        """Add the operations of any process that need the files of this kind, wherever they were made."""

    def complete(self, file: OpenFile) -> None:  # noqa: B027 - most kinds have nothing to do there
        """Add the operations that need all descriptors of a process at their numbers."""


class Descriptors:
    """The open files of a tree.

    Args:
        holders: its processes, in tree order.
        files: the file_entry of each open file.
        kinds: the kinds, by CRIU's number.
        numbers: of each task, from the root's namespace inward, by its number there in the image.
        finish: adds what a process does in the end, with no descriptors but those that it had.

    Attributes:
        holders: the processes.
        files: the file_entry of each open file.
        owned: the owner of each object and its high number there, by the object's key.
    """

    def __init__(
        self,
        holders: Iterable[Holder],
        files: Mapping[int, Any],
        kinds: Mapping[int, FileKind],
        numbers: Mapping[int, tuple[int, ...]],
        finish: Callable[[Holder], None] = lambda _: None,
    ) -> None:
        self._kinds = kinds
        self._numbers = numbers
        self._finish = finish
        self.holders = list(holders)
        self.files = files
        self.owned: dict[tuple[str, int], tuple[Holder, int]] = {}
        keepers = [each for each in self.holders if each.keeper is None]
        highest = max((int(info.fd) for each in keepers for info in each.image.fds), default=-1)
        for each in self.holders:
            each.service = max(highest + 1, LOWEST_SERVICE)
        self.holders_of: dict[int, list[Holder]] = {}
        for each in keepers:
            for info in each.image.fds:
                having = self.holders_of.setdefault(int(info.id), [])
                if not having or having[-1] is not each:
                    having.append(each)
        leaders = groups(self.holders_of, files, kinds)
        self._owners = owners(leaders, self.holders_of, lambda each: each.depth)

    def create(self, bound: int) -> None:
        """Create every open file in its owner, and then put content into each.

        Args:
            bound: a word that all processes post and wait for in between, where that is needed.
        """
        for identity in self._owners:
            self.made(identity)
        if any(kind.awaits_all() for kind in self._kinds.values()):
            for holder in self.holders:
                holder.leader.about = About("descriptors", "")
                holder.leader.post(bound, len(self.holders))
                holder.leader.wait(bound, len(self.holders))
        for identity in self._owners:
            holder, number = self.owned["file", identity]
            entry = self._about(holder, identity)
            self._kinds[entry.type].load(OpenFile(holder, entry, number, self))
        for identity in self._owners:
            holder, number = self.owned["file", identity]
            entry = self._about(holder, identity)
            self._kinds[entry.type].settle(OpenFile(holder, entry, number, self))
            fileowners.restore(holder.leader, holder.program, entry, number, self.seen_by(holder))

    def seen_by(self, holder: Holder) -> dict[int, int]:
        """Return the number of each task as a process sees it, by its number in the root's namespace of the image."""
        return {pid: each[holder.depth] for pid, each in self._numbers.items() if len(each) > holder.depth}

    def made(self, identity: int) -> int:
        """Return the high number of a file in its owner, which creates it unless it has done so."""
        if ("file", identity) not in self.owned:
            holder = self._owners[identity]
            entry = self._about(holder, identity)
            number = self._kinds[entry.type].create(OpenFile(holder, entry, -1, self))
            self.owned["file", identity] = holder, number
        return self.owned["file", identity][1]

    def hand_over(self, created: int, fetched: int) -> None:
        """Have each process fetch the files of others, place all at their numbers, and close the rest.

        Args:
            created, fetched: words that all processes post and wait for.
        """
        count = len(self.holders)
        for holder in self.holders:
            script = holder.leader
            script.about = About("descriptors", "")
            script.post(created, count)
            script.wait(created, count)
            for kind in self._kinds.values():
                kind.join(holder, self)
            turns = holder.turns
            if holder.keeper is None:
                if turns is not None:
                    script.wait(turns.joined, turns.others)
                self._place(holder)
            elif turns is not None:
                script.post(turns.joined)
            script.about = About("descriptors", "")
            script.post(fetched, count)
            script.wait(fetched, count)
            if holder.keeper is None:
                script.call("close_range", holder.service, 0xFFFFFFFF, 0)
                if turns is not None:
                    script.post(turns.closed)
            elif turns is not None:
                script.wait(turns.closed, 1)
            self._finish(holder)

    def _place(self, holder: Holder) -> None:
        """Fetch the files of others, and place all at their numbers."""
        script = holder.leader
        pidfds: dict[int, int] = {}
        high: dict[int, int] = {}
        for info in holder.image.fds:
            identity = int(info.id)
            self._about(holder, identity)
            if identity not in high:
                high[identity] = self._fetched(holder, identity, pidfds)
            script.call("dup3", high[identity], int(info.fd), O_CLOEXEC if info.flags & FD_CLOEXEC else 0)
        self._complete(holder)

    def _complete(self, holder: Holder) -> None:
        """Complete the files of which a process is the first that has them."""
        done = set()
        for info in holder.image.fds:
            identity = int(info.id)
            if self.holders_of[identity][0] is holder and identity not in done:
                done.add(identity)
                entry = self._about(holder, identity)
                self._kinds[entry.type].complete(OpenFile(holder, entry, int(info.fd), self))

    def _about(self, holder: Holder, identity: int) -> Any:
        entry = self.files[identity]
        holder.leader.about = About(KINDS[entry.type], str(identity))
        return entry

    def _fetched(self, holder: Holder, identity: int, pidfds: dict[int, int]) -> int:
        """Return the high number of a file in a process, fetched if it is another's."""
        owner, number = self.owned["file", identity]
        if owner is holder:
            return number
        script = holder.leader
        if owner.actor not in pidfds:
            pidfds[owner.actor] = keep_high(holder, script.kept("pidfd_open", owner.numbers[holder.depth], 0))
        return keep_high(holder, script.kept("pidfd_getfd", pidfds[owner.actor], number, 0))


def groups(had: Iterable[int], files: Mapping[int, Any], kinds: Mapping[int, FileKind]) -> dict[int, int]:
    """Return for each file the one that stands for its group, the files that one process must create together.

    Args:
        had: the files that have descriptors.
        files: the file_entry of each open file.
        kinds: the kinds, by CRIU's number.
    """
    leaders = {identity: identity for identity in had}

    def leader(identity: int) -> int:
        leaders.setdefault(identity, identity)
        while leaders[identity] != identity:
            leaders[identity] = identity = leaders[leaders[identity]]
        return identity

    waiting = list(leaders)
    while waiting:
        identity = waiting.pop()
        entry = files[identity]
        for other in kinds[entry.type].together(entry):
            if other not in leaders:
                waiting.append(other)
            leaders[leader(other)] = leader(identity)
    return {identity: leader(identity) for identity in list(leaders)}


def owners(
    leaders: Mapping[int, int], holders_of: Mapping[int, Iterable[_Holder]], depth: Callable[[_Holder], int]
) -> dict[int, _Holder]:
    """Return the owner of each file: of the processes that have one of its group, the deepest, for others see that one."""
    deepest: dict[int, _Holder] = {}
    for identity, having in holders_of.items():
        for each in having:
            group = leaders[identity]
            if group not in deepest or depth(each) > depth(deepest[group]):
                deepest[group] = each
    return {identity: deepest[group] for identity, group in leaders.items()}


def unseen(
    spaces: Mapping[int, tuple[int, ...]],
    having: Mapping[int, Iterable[int]],
    files: Mapping[int, Any],
    kinds: Mapping[int, FileKind],
) -> Iterator[tuple[int, int, int]]:
    """Yield process, file and owner where a process does not see the owner of its file, so that it cannot fetch it.

    Args:
        spaces: the pid namespaces of each process, from the root's inward.
        having: the processes that have each file.
        files: the file_entry of each open file.
        kinds: the kinds, by CRIU's number.
    """
    known = {identity: list(pids) for identity, pids in having.items()}
    chosen = owners(groups(known, files, kinds), known, lambda pid: len(spaces[pid]))
    for identity, pids in known.items():
        for pid in pids:
            if spaces[chosen[identity]][: len(spaces[pid])] != spaces[pid]:
                yield pid, identity, chosen[identity]
