# SPDX-License-Identifier: Apache-2.0
"""The ties of processes: the choice of processes to read, the number of reads, and the use of the answers."""

from collections.abc import Sequence

import pytest

from agent.capture.sweepdiff import SweepDiff
from agent.model import CKPT_PID_NULL, CKPT_PID_ROOT, FileOwner, OutsidePid, Shares, Tag, Terminal
from agent.selection import select
from agent.selection.select import Selection
from agent.selection.ties import Ties
from agent.table import wire
from agent.table.objects import CLONE_NEWPID, TaskStruct
from agent.table.wire import TIES_OWNED, TIES_SHARED, Tie
from tests.support.kernelobjects import Number, Thread
from tests.support.watched import Watched, watched

TTY, OTHER_TTY, TABLE = 0xFFFF8000, 0xFFFF9000, 0xFFFFA000


def _numbers(*pids: Number | None) -> bytes:
    return b"".join(wire.NUMBER.pack(*row) for pid in pids if pid for row in zip(*pid.state, strict=True))


def terminal_row(
    thread: Thread, address: int, pgrp: Number | None, old: Number | None = None, name: bytes = b"pts7", held: int = 1
) -> bytes:
    """Return struct terminal_row and its numbers."""
    levels = bytes(len(pid.state.numbers) if pid else 0 for pid in (pgrp, old))
    ids = [pid.identity if pid else 0 for pid in (pgrp, old)]
    fields = (thread.address, thread.start_ns, address, *ids, thread.tid, levels, int(pgrp is None), 0, name)
    return wire.reader(wire.TERMINAL_ROW).pack(*fields) + _numbers(pgrp, old) + held.to_bytes(8, "little")


def owner_row(thread: Thread, fd: int, owner: Number | None, pid_type: int, files: int = TABLE, held: int = 1) -> bytes:
    """Return struct owner_row and its numbers."""
    levels = len(owner.state.numbers) if owner else 0
    fields = (thread.start_ns, files, owner.identity if owner else 0, thread.tid, fd, pid_type, levels)
    return wire.OWNER.pack(*fields) + _numbers(owner) + held.to_bytes(8, "little")


def sharing_row(thread: Thread, vm: int, fs: int, files: int, held: int = 1) -> bytes:
    """Return struct sharing_row and its words."""
    return wire.reader(wire.SHARING_ROW).pack(thread.start_ns, vm, fs, files, thread.tid, 0) + held.to_bytes(
        8, "little"
    )


class Host:
    """A simulated kernel whose tasks have ties.

    Args:
        filters: True if the kernel can read the ties of one process.
    """

    def __init__(self, *, filters: bool = True) -> None:
        self.pair: Watched = watched()
        self.kernel = self.pair.kernel
        self.root = self.kernel.fork(self.kernel.init)
        self.kernel.setsid(self.root)
        self.rows: dict[Tie, dict[int, list[bytes]]] = {"terminals": {}, "owners": {}, "sharing": {}}
        self.unsteady: list[bytes] = []
        self.asked: list[tuple[Tie, int]] = []
        self.noted: dict[TaskStruct, int] = {}
        self._filters = filters
        self.ties = Ties(self.read, ("terminals", "owners", "sharing"), self.pair.table.pids, filters=filters)

    def read(self, tie: Tie, process: int) -> bytes:
        """Read once; take each of `unsteady` as one answer."""
        self.asked.append((tie, process))
        if self.unsteady:
            return self.unsteady.pop(0)
        rows = self.rows[tie]
        assert self._filters or not process
        wanted = [process] if process else sorted(rows)
        return b"".join(row for tid in wanted for row in rows.get(tid, ()))

    def note(self, tie: Tie, thread: Thread, word: int, *rows: bytes) -> None:
        """Give ties to a thread."""
        task = self.pair.task(thread)
        self.noted[task] = self.noted.get(task, 0) | word
        self.rows[tie].setdefault(thread.group.leader.tid, []).extend(rows)

    def crowd(self, count: int) -> None:
        """Add this many other processes to the host."""
        for _ in range(count):
            self.kernel.fork(self.kernel.init)

    def selected(self, root: Thread | None = None) -> Selection:
        """Return the subtree of the root."""
        return select.select(self.pair.task(root or self.root), "subtree")


@pytest.fixture
def host() -> Host:
    """Return a host on which a read of one process is cheaper than a read of all."""
    made = Host()
    made.crowd(40)
    return made


def terminals(tasks: Sequence[object]) -> list[object]:
    """Return the terminal of each row."""
    return [task.tty for task in tasks]  # type: ignore[attr-defined]  # rows of a snapshot


def test_who_has_no_ties_is_not_read_and_the_rows_are_those_of_the_selection(host: Host) -> None:
    """A task of another tree is not read either."""
    stranger = host.kernel.fork(host.kernel.init)
    host.note("owners", stranger, TIES_OWNED)
    chosen = host.selected()

    assert host.ties.add(chosen, host.noted) is chosen.tasks
    assert host.asked == []


def test_one_is_asked_for_all_that_have_the_same_terminal(host: Host) -> None:
    """Each of them gets the answer."""
    child = host.kernel.fork(host.root)
    host.kernel.setpgid(host.root, child.group, child.pid)
    other = host.kernel.fork(host.root)
    for thread in (host.root, child):
        host.note("terminals", thread, TTY, terminal_row(thread, TTY, child.pid))
    host.note("terminals", other, OTHER_TTY, terminal_row(other, OTHER_TTY, host.root.pid, name=b"ttyS0"))

    told = host.ties.add(host.selected(), host.noted)

    mine = Terminal(b"pts/7", Tag(2), CKPT_PID_NULL)
    assert terminals(told) == [mine, mine, Terminal(b"ttyS0", Tag(1), CKPT_PID_NULL)]
    assert host.asked == [("terminals", host.root.tid), ("terminals", other.tid)]


def test_where_that_one_is_gone_the_others_are_asked(host: Host) -> None:
    """It lost its terminal between the choice and the reading."""
    child = host.kernel.fork(host.root)
    host.note("terminals", host.root, TTY)
    host.note("terminals", child, TTY, terminal_row(child, TTY, host.root.pid))

    told = host.ties.add(host.selected(), host.noted)

    assert terminals(told)[1] == Terminal(b"pts/7", Tag(1), CKPT_PID_NULL)


def test_a_terminal_that_hung_up_leaves_its_leader_the_group(host: Host) -> None:
    """The terminal has no name and no foreground group."""
    host.note("terminals", host.root, TTY, terminal_row(host.root, TTY, None, host.root.pid))

    told = host.ties.add(host.selected(), host.noted)

    assert terminals(told) == [Terminal(None, CKPT_PID_NULL, Tag(1))]


def test_what_has_no_tag_is_told_by_its_numbers_and_what_cannot_be_seen_is_0(host: Host) -> None:
    """Examples are a group outside the subtree, one without members, the root's own, and those that an inner root
    cannot see.
    """
    outside = host.kernel.fork(host.kernel.init)
    dead = host.kernel.fork(host.kernel.init)
    host.kernel.setpgid(host.kernel.init, dead.group, dead.pid)
    host.kernel.exit_group(dead)
    host.kernel.wait(host.kernel.init, dead)
    inner = host.kernel.fork(host.root, CLONE_NEWPID)
    below = host.kernel.fork(inner)
    rows = [
        owner_row(below, fd, pid, 2)
        for fd, pid in enumerate((outside.pid, dead.pid, host.root.pid, inner.pid, below.pid, None))
    ]
    host.note("owners", below, TIES_OWNED, *rows)

    of_the_root = host.ties.add(host.selected(host.root), host.noted)[2].fown
    of_a_job = host.ties.add(host.selected(inner), host.noted)[1].fown

    assert of_the_root is not None
    assert of_a_job is not None
    assert [owner.pid for owner in of_the_root] == [
        OutsidePid((outside.tid,), (0,)),
        OutsidePid((dead.tid,), (0,)),
        1,
        2,
        3,
        0,
    ]
    assert [owner.pid for owner in of_a_job] == [0, 0, 0, 1, 2, 0]


def test_the_session_that_the_root_inherited_has_its_special_value(host: Host) -> None:
    """The group has it too."""
    job = host.kernel.fork(host.root)
    host.kernel.setpgid(host.root, job.group, job.pid)
    host.note("terminals", job, TTY, terminal_row(job, TTY, host.root.pid))

    assert terminals(host.ties.add(host.selected(job), host.noted)) == [
        Terminal(b"pts/7", CKPT_PID_ROOT, CKPT_PID_NULL)
    ]


def test_a_table_of_files_is_told_once_for_each_process_and_once_more_where_a_thread_has_its_own(host: Host) -> None:
    """A dead leader has no table of files, so the first of its threads gives the answer."""
    first, second, third = (host.kernel.thread(host.root) for _ in range(3))
    for thread, files in ((first, 1), (second, 1), (third, 2)):
        host.note("owners", thread, TIES_OWNED, owner_row(thread, 5, host.root.pid, 1, files))

    told = host.ties.add(host.selected(), host.noted)

    mine = (FileOwner(5, Tag(1), "pid"),)
    assert [task.fown for task in told] == [None, mine, None, mine]


def test_where_many_have_ties_all_are_read_at_once() -> None:
    """One read is cheaper than one for each."""
    host = Host()
    stranger = host.kernel.fork(host.kernel.init)
    host.rows["owners"][stranger.tid] = [owner_row(stranger, 9, stranger.pid, 0)]
    for kind in range(3):
        child = host.kernel.fork(host.root)
        host.note("owners", child, TIES_OWNED, owner_row(child, kind, child.pid, kind))

    told = host.ties.add(host.selected(), host.noted)

    assert [task.fown for task in told] == [
        None,
        (FileOwner(0, Tag(2), "tid"),),
        (FileOwner(1, Tag(3), "pid"),),
        (FileOwner(2, Tag(4), "pgrp"),),
    ]
    assert host.asked == [("owners", 0)]


def test_where_the_kernel_cannot_be_asked_for_one_all_are_read() -> None:
    """They are read once more if one of them changed meanwhile."""
    host = Host(filters=False)
    host.crowd(40)
    host.note("owners", host.root, TIES_OWNED, owner_row(host.root, 5, host.root.pid, 1))
    host.unsteady = [owner_row(host.root, 4, host.root.pid, 1, held=0)]

    assert host.ties.add(host.selected(), host.noted)[0].fown == (FileOwner(5, Tag(1), "pid"),)
    assert host.asked == [("owners", 0)] * 2


def test_what_changed_while_it_was_read_is_read_again(host: Host) -> None:
    """After a few reads the last one is taken."""
    row = owner_row(host.root, 5, host.root.pid, 1)
    host.note("owners", host.root, TIES_OWNED, row)
    host.unsteady = [owner_row(host.root, 4, host.root.pid, 1, held=0)]
    steady = host.ties.add(host.selected(), host.noted)
    host.unsteady = [owner_row(host.root, 4, host.root.pid, 1, held=0)] * 9
    given_up = host.ties.add(host.selected(), host.noted)

    assert steady[0].fown == (FileOwner(5, Tag(1), "pid"),)
    assert given_up[0].fown == (FileOwner(4, Tag(1), "pid"),)
    assert len(host.asked) < 9


def test_another_task_under_the_same_number_is_not_believed(host: Host) -> None:
    """Its start differs, because the task of the question is gone."""
    row = owner_row(host.root, 5, host.root.pid, 1)
    other = wire.OWNER.pack(host.root.start_ns + 1, *wire.OWNER.unpack_from(row)[1:]) + row[wire.OWNER.size :]
    host.note("owners", host.root, TIES_OWNED, other)

    assert host.ties.add(host.selected(), host.noted)[0].fown is None


def test_as_long_as_nothing_changes_the_rows_are_the_same_ones(host: Host) -> None:
    """The writer recognises rows that it has written by identity; a change makes new rows."""
    host.note("terminals", host.root, TTY, terminal_row(host.root, TTY, host.root.pid))
    chosen = host.selected()
    first = host.ties.add(chosen, host.noted)
    host.note("owners", host.kernel.fork(host.kernel.init), TIES_OWNED)
    second = host.ties.add(chosen, host.noted)
    host.rows["terminals"][host.root.tid] = [terminal_row(host.root, TTY, None)]
    third = host.ties.add(chosen, host.noted)
    host.ties.forget()

    assert second is first
    assert third[0].tty != first[0].tty
    assert host.ties.add(chosen, host.noted) == third
    assert len(host.asked) == 4


def test_what_cannot_be_read_here_is_not_asked_for(host: Host) -> None:
    """The snapshot does not claim a reading either."""
    host.note("owners", host.root, TIES_OWNED)
    kinds: tuple[Tie, ...] = ("terminals",)
    ties = Ties(host.read, kinds, host.pair.table.pids)

    assert ties.fields == ("tty",)
    assert ties.add(host.selected(), host.noted)[0].fown is None
    assert host.asked == []


def test_an_answer_tells_who_has_ties_and_who_has_them_no_more() -> None:
    """A sweep tells it of all tasks, a question of one."""
    pair = watched()
    thread = pair.kernel.fork(pair.kernel.init)
    task = pair.task(thread)
    fields = {name: place for place, (name, _) in enumerate(wire.SWEEP_ROW)}
    rows = [list(row) for row in wire.ROW.iter_unpack(pair.kernel.rows())]
    for row in rows:
        row[fields["ties"]] = TTY if row[fields["tid"]] == thread.tid else 0
    pair.put(SweepDiff(pair.table).differing(b"".join(wire.ROW.pack(*row) for row in rows)))
    swept = dict(pair.table.noted)
    pair.put([pair.table.question(task)])

    assert swept == {task: TTY}
    assert pair.table.noted == {}


def test_what_several_processes_have_is_shared_and_what_a_thread_has_alone_is_its_own(host: Host) -> None:
    """Ids count from 1 in each field, in the order of the tasks, and no address is shown."""
    child, other = host.kernel.fork(host.root), host.kernel.fork(host.root)
    thread, apart = host.kernel.thread(child), host.kernel.thread(child)
    host.note("sharing", host.root, TIES_SHARED, sharing_row(host.root, 10, 20, 30))
    host.note("sharing", child, TIES_SHARED, sharing_row(child, 11, 20, 31))
    host.note("sharing", apart, TIES_SHARED, sharing_row(thread, 11, 20, 31), sharing_row(apart, 11, 21, 32))
    host.note("sharing", other, TIES_SHARED, sharing_row(other, 12, 22, 31))
    chosen = host.selected()
    shares = {chosen.pids[task.pid - 1].numbers[0]: task.shares for task in host.ties.add(chosen, host.noted)}

    assert shares == {
        host.root.tid: Shares(fs=1),
        child.tid: Shares(fs=1, files=1),
        thread.tid: Shares(fs=1, files=1),
        apart.tid: Shares(fs=2, files=2),
        other.tid: Shares(files=1),
    }
    assert [kind for kind, _ in host.asked] == ["sharing"] * 3


def test_where_a_leader_has_exited_its_threads_share_with_one_another(host: Host) -> None:
    """The leader shares nothing any more, so each thread seems to have its own."""
    thread, second = host.kernel.thread(host.root), host.kernel.thread(host.root)
    rows = [sharing_row(host.root, 0, 0, 0), *[sharing_row(each, 10, 20, 30) for each in (thread, second)]]
    host.note("sharing", thread, TIES_SHARED, *rows)

    assert [task.shares for task in host.ties.add(host.selected(), host.noted)] == [None] * 3


def test_a_word_of_a_terminal_may_say_that_something_is_shared_too(host: Host) -> None:
    """Bits that no address uses are flags."""
    host.note("terminals", host.root, TTY, terminal_row(host.root, TTY, host.root.pid))
    host.note("sharing", host.root, TIES_SHARED | TIES_OWNED, sharing_row(host.root, 10, 20, 30))
    (task,) = host.ties.add(host.selected(), host.noted)

    assert task.tty is not None
    assert task.tty.name == b"pts/7"
    assert task.shares is None
