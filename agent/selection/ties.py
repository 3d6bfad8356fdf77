# SPDX-License-Identifier: Apache-2.0
"""Ties beside the tree: controlling terminals, owners of open files, and objects shared beyond a thread group.

Theory
------
No event announces a tie, so ties are read after the cut, and a snapshot says so (Snapshot.as_of_read). Reading costs a
few microseconds for a process and a fraction of one for each open file, and hardly any process has a tie. So the
answers that verify a snapshot also tell which tasks have any (ProcessTable.noted), and only those are read. One task is
read for all that have the same terminal.

A tie refers to a pid object as a birth does, without giving it a tag. A terminal keeps the group in its foreground when
that has no members any more, with the numbers it had; an owner that is gone is 0, as in fcntl(2).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from agent.model import CKPT_PID_NULL, OUTSIDE, FileOwner, OwnerType, PidRef, Shares, Task, Terminal
from agent.selection.select import Selection
from agent.table import wire
from agent.table.objects import TaskStruct
from agent.table.pidspace import PidSpace
from agent.table.wire import TIES_OWNED, TIES_SHARED, Tie

FIELDS: dict[Tie, str] = {"terminals": "tty", "owners": "fown", "sharing": "shares"}
"""The field of a task that has each kind of tie."""

# To make a link for one process takes as long as to walk over so many tasks.
_TASKS_PER_LINK = 12
_ATTEMPTS = 4  # at a row that does not change while it is read
_TYPES: dict[int, OwnerType] = {0: "tid", 1: "pid", 2: "pgrp"}  # enum pid_type
_HELD_BYTES = 8
_FLAGS = TIES_OWNED | TIES_SHARED  # in the bits that no address has

Found = dict[TaskStruct, tuple[bytes, ...]]
"""The rows of each task that has some."""


class Ties:
    """The reader of ties, which adds them to the rows of a selection.

    Args:
        read: gives the rows of a process, by its number in the initial namespace, or (0) of all.
        kinds: the kinds that can be read on this kernel.
        pids: the pid objects of the host.
        filters: False where only the rows of all processes can be read.

    Attributes:
        fields: names of the fields that are read, for Snapshot.as_of_read.
    """

    def __init__(
        self, read: Callable[[Tie, int], bytes], kinds: Collection[Tie], pids: PidSpace, *, filters: bool = True
    ) -> None:
        self._read = read
        self._filters = filters
        self._kinds = kinds
        self._pids = pids
        self.fields = tuple(FIELDS[kind] for kind in kinds)
        self._noted: dict[TaskStruct, int] = {}
        self._plan: _Plan | None = None
        self._answers: dict[Tie, tuple[_Plan, bytes, Found]] = {}
        self._last: tuple[_Plan, tuple[Found, Found, Found], tuple[Task, ...]] | None = None

    def forget(self) -> None:
        """Free the caches."""
        self._plan = self._last = None
        self._answers.clear()
        self._noted.clear()

    def add(self, chosen: Selection, noted: Mapping[TaskStruct, int]) -> tuple[Task, ...]:
        """Return the rows of a selection with their ties: the same tuple as the last time, if no tie has changed.

        Args:
            chosen: the selection.
            noted: by task, of this tree or another, the word that tells its ties (bpf/events.h).
        """
        plan = self._plan
        if plan is None or plan.chosen is not chosen or self._noted != noted:
            new = _plan(chosen, noted)
            # Ties of other trees do not change the plan.
            if plan is None or plan.chosen is not chosen or plan[1:] != new[1:]:
                plan = self._plan = new
            self._noted = dict(noted)
        if not (plan.having or plan.owning or plan.sharing):  # nearly always
            return chosen.tasks
        found = (
            self._terminals(plan),
            self._rows("owners", plan, plan.owning),
            self._rows("sharing", plan, plan.sharing),
        )
        last = self._last
        if last is None or last[0] is not plan or last[1] != found:
            self._last = last = plan, found, self._written(plan, *found)
        return last[2]

    # ---- reading ---------------------------------------------------------------------------------------------------

    def _terminals(self, plan: "_Plan") -> Found:
        """Read one task of each terminal, and all its tasks where that one is gone."""
        found = self._rows("terminals", plan, [tasks[0] for tasks in plan.having.values()])
        told = {_address(rows[0]) for rows in found.values()}
        silent = [task for address, tasks in plan.having.items() if address not in told for task in tasks[1:]]
        return found | self._rows("terminals", plan, silent) if silent else found

    def _rows(self, kind: Tie, plan: "_Plan", wanted: Iterable[TaskStruct]) -> Found:
        """Read the rows of these tasks; rows of other tasks of the tree may be among them."""
        processes = dict.fromkeys([task.leader.pid.numbers[0] for task in wanted]) if kind in self._kinds else {}
        found: Found = {}
        if not processes:
            return found
        whole = not self._filters or len(processes) * _TASKS_PER_LINK > len(self._pids.numbers)
        for attempt in range(_ATTEMPTS):
            data = self._read(kind, 0) if whole else b"".join([self._read(kind, number) for number in processes])
            answer = self._answers.get(kind)
            if answer is not None and answer[0] is plan and answer[1] == data:
                return answer[2]
            rows = self._by_task(kind, plan, data)
            found |= {task: tuple(told) for task, told in rows.items()}
            unsteady = [task for task, told in rows.items() if not all(map(_is_held, told))]
            if not unsteady:
                if not attempt:
                    self._answers[kind] = plan, data, found
                break
            processes = dict.fromkeys([task.leader.pid.numbers[0] for task in unsteady])
            whole = not self._filters
        return found

    def _by_task(self, kind: Tie, plan: "_Plan", data: bytes) -> dict[TaskStruct, list[bytes]]:
        rows: dict[TaskStruct, list[bytes]] = {}
        for tid, start_ns, row in _split(kind, data):
            pid = self._pids.numbers.get(tid)
            task = pid.task if pid is not None else None
            if task is not None and task.start_ns == start_ns and task in plan.chosen.inside:
                rows.setdefault(task, []).append(row)
        return rows

    # ---- writing ---------------------------------------------------------------------------------------------------

    def _written(self, plan: "_Plan", terminals: Found, owners: Found, sharing: Found) -> tuple[Task, ...]:
        chosen = plan.chosen
        if not terminals and not owners and not sharing:
            return chosen.tasks
        places = {task: place for place, task in enumerate(chosen.inside)}
        rows = list(chosen.tasks)
        by_address = {_address(told[0]): self._terminal(chosen, told[0]) for told in terminals.values()}
        for address, tasks in plan.having.items():
            for task in tasks:
                terminal = by_address.get(_address(terminals[task][0]) if task in terminals else address)
                if terminal is not None:
                    rows[places[task]] = rows[places[task]]._replace(tty=terminal)
        for task, told in self._unshared(owners, places):
            owned = tuple([self._owner(chosen, row) for row in told])
            rows[places[task]] = rows[places[task]]._replace(fown=owned)
        for task, shares in _shares({task: sharing[task][0] for task in sorted(sharing, key=places.__getitem__)}):
            rows[places[task]] = rows[places[task]]._replace(shares=shares)
        return tuple(rows)

    @staticmethod
    def _unshared(owners: Found, places: Mapping[TaskStruct, int]) -> Iterator[tuple[TaskStruct, Sequence[bytes]]]:
        """Yield the rows of each table of files once for each process, with the first of the threads that share it."""
        told: set[tuple[TaskStruct, int]] = set()
        for task in sorted(owners, key=places.__getitem__):
            table = task.leader, wire.OWNER.unpack_from(owners[task][0])[1]
            if table not in told:
                told.add(table)
                yield task, owners[task]

    def _terminal(self, chosen: Selection, row: bytes) -> Terminal:
        _, _, pgrp, old_pgrp, _, levels, hung_up, name = wire.TERMINAL.unpack_from(row)
        at = wire.TERMINAL.size
        return Terminal(
            None if hung_up else _device(name.rstrip(b"\0")),
            self._ref(chosen, pgrp, row, at, levels[0]) if levels[0] else CKPT_PID_NULL,
            self._ref(chosen, old_pgrp, row, at + levels[0] * wire.NUMBER.size, levels[1])
            if levels[1]
            else CKPT_PID_NULL,
        )

    def _owner(self, chosen: Selection, row: bytes) -> FileOwner:
        _, _, identity, _, fd, pid_type, levels = wire.OWNER.unpack_from(row)
        pid = self._ref(chosen, identity, row, wire.OWNER.size, levels) if levels else OUTSIDE
        return FileOwner(fd, pid, _TYPES.get(pid_type, "pgrp"))

    def _ref(self, chosen: Selection, identity: int, row: bytes, at: int, levels: int) -> PidRef:
        return chosen.refs(self._pids.told(identity, wire.numbers(row, at, levels)))


class _Plan(NamedTuple):
    """The tasks whose ties are to be read.

    Attributes:
        chosen: their selection.
        having: the tasks that have each terminal, by its address.
        owning: tasks that may have files with owners.
        sharing: tasks that may share memory, folders or descriptors beyond their thread group.
    """

    chosen: Selection
    having: dict[int, list[TaskStruct]]
    owning: list[TaskStruct]
    sharing: list[TaskStruct]


def _plan(chosen: Selection, noted: Mapping[TaskStruct, int]) -> _Plan:
    having: dict[int, list[TaskStruct]] = {}
    owning, sharing = [], []
    for task, word in noted.items():
        if task in chosen.inside:
            if word > _FLAGS:
                having.setdefault(word & ~_FLAGS, []).append(task)
            if word & TIES_OWNED:
                owning.append(task)
            if word & TIES_SHARED:
                sharing.append(task)
    return _Plan(chosen, having, owning, sharing)


def _shares(rows: Mapping[TaskStruct, bytes]) -> Iterator[tuple[TaskStruct, Shares]]:
    """Yield the tasks that share objects, with the ids of those.

    Args:
        rows: of whole thread groups, in the order of the snapshot's tasks.
    """
    found: dict[TaskStruct, list[int | None]] = {}
    for kind in range(len(Shares._fields)):
        users: dict[int, list[TaskStruct]] = {}
        first: dict[TaskStruct, int] = {}  # the leader's object; where the leader has exited, that of its first thread
        for task, row in rows.items():
            address = wire.SHARING.unpack_from(row)[1 + kind]
            if address:
                users.setdefault(address, []).append(task)
                first.setdefault(task.leader, address)
        ids = 0
        for address, tasks in users.items():
            if len({task.leader for task in tasks}) > 1 or first[tasks[0].leader] != address:
                ids += 1
                for task in tasks:
                    found.setdefault(task, [None] * len(Shares._fields))[kind] = ids
    yield from [(task, Shares(*ids)) for task, ids in found.items()]


class _Shape(NamedTuple):
    """The size of a row, and the function that reads the fields which all kinds have."""

    size: int
    key: Callable[[bytes, int], tuple[int, int, int]]


def _terminal_key(data: bytes, at: int) -> tuple[int, int, int]:
    start_ns, _, _, _, tid, levels, _, _ = wire.TERMINAL.unpack_from(data, at)
    return tid, start_ns, sum(levels)


def _owner_key(data: bytes, at: int) -> tuple[int, int, int]:
    start_ns, _, _, tid, _, _, levels = wire.OWNER.unpack_from(data, at)
    return tid, start_ns, levels


def _sharing_key(data: bytes, at: int) -> tuple[int, int, int]:
    start_ns, _, _, _, tid = wire.SHARING.unpack_from(data, at)
    return tid, start_ns, 0


_SHAPES: dict[Tie, _Shape] = {
    "terminals": _Shape(wire.TERMINAL.size, _terminal_key),
    "owners": _Shape(wire.OWNER.size, _owner_key),
    "sharing": _Shape(wire.SHARING.size, _sharing_key),
}


def _split(kind: Tie, data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield number and start of each row's task, and the row."""
    size, key = _SHAPES[kind]
    at = 0
    while at < len(data):
        tid, start_ns, levels = key(data, at)
        end = at + size + levels * wire.NUMBER.size + _HELD_BYTES
        yield tid, start_ns, data[at:end]
        at = end


def _address(row: bytes) -> int:
    """Return the address of a row's terminal."""
    address: int = wire.TERMINAL.unpack_from(row)[1]
    return address


def _is_held(row: bytes) -> bool:
    return any(row[-_HELD_BYTES:])


def _device(name: bytes) -> bytes:
    """Return the name below /dev: devpts has the pseudo-terminals in a folder of their own."""
    number = name.removeprefix(b"pts")
    return b"pts/" + number if number != name and number.isdigit() else name
