# SPDX-License-Identifier: Apache-2.0
"""A simulated kernel with a table that watches it, and comparisons of the two."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from agent.capture.sweepdiff import SweepDiff
from agent.table import departure, history
from agent.table.handlers import Handlers
from agent.table.objects import EXITED, MOVING_NOWHERE, UNDER_SUBREAPER, Pid, TaskStruct
from agent.table.processtable import ProcessTable
from agent.table.stream import Stream
from tests.support.kernelobjects import Thread
from tests.support.kernelsim import Kernel

_ROUNDS = 50

Picture = dict[int, dict[str, Any]]


class Watched:
    """Kernel and table, connected by a stream.

    Args:
        via: takes each record on its way; None: the stream's feed.
        options: those of the kernel.
    """

    def __init__(self, via: Callable[[bytes], None] | None = None, **options: Any) -> None:
        self.table = ProcessTable()
        self.stream = Stream(Handlers(self.table).by_kind)
        self.kernel = Kernel(via or self.feed, **options)

    def feed(self, record: bytes) -> None:
        """Feed one record to the stream."""
        self.stream.feed(record, 0)

    @contextmanager
    def losing(self) -> Iterator[list[bytes]]:
        """Lose all records that are emitted in the block, and give up their numbers; yield the records."""
        records: list[bytes] = []
        self.kernel.emit = records.append
        yield records
        self.kernel.emit = self.feed
        self.stream.give_up_below(self.kernel.writer.seq)

    def task(self, thread: Thread) -> TaskStruct:
        """Return the table's task for a thread."""
        task = self.table.task(thread.tid)
        assert task is not None
        assert task.pid.identity == thread.pid.identity
        return task

    def ask(self) -> None:
        """Put the table's questions, and those that follow, as the watch does."""
        for _ in range(_ROUNDS):
            questions = self.table.take_questions()
            if not questions:
                return
            self.put(questions)
        raise AssertionError("the table has new questions after every round of answers")

    def ask_as_a_snapshot_does(self) -> None:
        """Put the questions, after adding one about each zombie that may have been reaped without a record."""
        self.doubt_as_a_snapshot_does()
        self.ask()

    def doubt_as_a_snapshot_does(self) -> None:
        """Add a question about each zombie that may have been reaped without a record."""
        if not self.kernel.tells_release:
            self.table.doubts.update((task, None) for task in self.table.tasks() if departure.may_vanish(task))

    def put(self, questions: list[tuple[int, int]]) -> None:
        """Let the kernel answer."""
        for address, start_ns in questions:
            self.kernel.answer(address, start_ns)

    def sweep(self) -> None:
        """Sweep, as the watch does at the start and after loss."""
        self.stream.suspect = False
        self.put(SweepDiff(self.table).differing(self.kernel.rows()))
        self.ask()
        self.table.reunite()

    def agree(self) -> None:
        """Assert that table and kernel show the same tasks, numbers and tree, and that the table is consistent in
        itself.
        """
        of_table, of_kernel = picture_of_table(self.table), picture_of_kernel(self.kernel)
        assert of_table == of_kernel
        assert numbers_of_table(self.table) == numbers_of_kernel(self.kernel)
        check_links(self.table)
        check_users(self.table)
        check_births(self.table)
        check_pending(self.table)

    def agree_on_pending(self) -> None:
        """Assert that both agree on the namespace of each task's next child; no event tells it, so only after a
        sweep.
        """
        for thread in self.kernel.threads:
            task, space = self.task(thread), thread.pending
            assert task.child_namespace == ((space.identity, space.inum) if space is not None else None)
            assert bool(task.flags & MOVING_NOWHERE) == (space is not None and space.closed)


def watched(**options: Any) -> Watched:
    """Return a pair whose table knows the kernel's init."""
    pair = Watched(**options)
    pair.sweep()
    return pair


def picture_of_kernel(kernel: Kernel) -> Picture:
    """Return every task of the kernel, by number."""
    return {
        thread.tid: {
            "identity": thread.pid.identity,
            "numbers": thread.pid.numbers,
            "namespace": thread.space.identity if thread.space.parent else 0,
            "start": thread.start_ns,
            "address": thread.address,
            "leader": thread.group.leader.tid,
            "parent": thread.group.parent.tid if thread.group.parent else 0,
            "pgid": thread.group.pgid.identity,
            "sid": thread.group.sid.identity,
            "exited": thread.exited or thread.lingering,
            "exit_signal": thread.group.exit_signal if thread.leads else -1,
            "under": thread.group.under,
        }
        for thread in kernel.threads
    }


def picture_of_table(table: ProcessTable) -> Picture:
    """Return every task of the table, by number."""
    return {
        task.pid.numbers[0]: {
            "identity": task.pid.identity,
            "numbers": task.pid.numbers,
            "namespace": task.pid.namespace.identity,
            "start": task.start_ns,
            "address": task.address,
            "leader": task.leader.pid.numbers[0],
            "parent": task.leader.parent.pid.numbers[0] if task.leader.parent else 0,
            "pgid": task.leader.pgid.identity if task.leader.pgid else None,
            "sid": task.leader.sid.identity if task.leader.sid else None,
            "exited": bool(task.flags & EXITED),
            "exit_signal": task.exit_signal,
            "under": bool(task.leader.flags & UNDER_SUBREAPER),
        }
        for task in table.tasks()
    }


def numbers_of_kernel(kernel: Kernel) -> dict[int, dict[int, int]]:
    """Return the identities of the kernel's pid objects, by namespace and number."""
    held = {pid for t in kernel.threads for pid in (t.pid, t.group.pgid, t.group.sid)}
    spaces = {space for pid in held for space in pid.spaces}
    return {
        space.identity if space.parent else 0: {number: pid.identity for number, pid in space.used.items()}
        for space in spaces
    }


def numbers_of_table(table: ProcessTable) -> dict[int, dict[int, int]]:
    """Return the identities of the table's pid objects, by namespace and number."""
    return {
        space.identity: {number: pid.identity for number, pid in space.numbers.items()} for space in table.pids.living()
    }


def check_links(table: ProcessTable) -> None:
    """Assert that links run both ways, and to no task that is gone."""
    for task in table.tasks():
        assert not history.is_gone(task)
        assert table.task(task.pid.numbers[0]) is task
        assert not history.is_gone(task.leader)
        assert task in set(task.group())
        if task.leader is task:
            assert task.parent is None or task in set(task.parent.children())
        previous = None
        for child in task.children():
            assert child.parent is task
            assert child.previous is previous
            assert not history.is_gone(child)
            previous = child


def check_users(table: ProcessTable) -> None:
    """Assert that each pid object counts its users, and that it has some."""
    users: dict[Pid | None, int] = {}
    for task in table.tasks():
        for pid in (task.pid, *((task.pgid, task.sid) if task.leader is task else ())):
            users[pid] = users.get(pid, 0) + 1
    assert {pid: pid.users for pid in table.pids.numbers.values()} == users


def check_pending(table: ProcessTable) -> None:
    """Assert that a dead pending namespace is a known one."""
    for task in table.tasks():
        assert task.child_namespace is not None or not task.flags & MOVING_NOWHERE


def check_births(table: ProcessTable) -> None:
    """Assert that the pid objects of births and deeds are those that live, if they live."""
    known: set[TaskStruct] = set()
    for start in table.tasks():
        task: TaskStruct | None = start
        while task is not None and task not in known:
            known.add(task)
            for pid in (task.birth_sid, task.birth_pgid, *(value for _, _, value in task.deeds or ())):
                if isinstance(pid, Pid):
                    living = table.pids.numbers.get(pid.numbers[0])
                    assert living is pid or living is None or living.identity != pid.identity
            task = task.creator
