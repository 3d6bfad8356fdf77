# SPDX-License-Identifier: Apache-2.0
"""Snapshots from /proc: of invented rows, and of a tree whose numbers are all known."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import HostError, NoSuchRootError, RefusedError
from agent.model import OUTSIDE, OutsidePid, Snapshot, Tag, TaskState, Terminal, WaitStatus
from agent.proc import proctable
from agent.proc.procfs import ProcRow
from agent.proc.proctable import ProcTable
from agent.selection import select

HARDTREE = Path(__file__).parents[2] / "demo" / "hardtree.py"
HOST = 4026531836


def a_row(tid: int, ppid: int, *inner: int, pgid: tuple[int, ...] = (), sid: tuple[int, ...] = ()) -> ProcRow:
    """Return a running process; it leads its group and session by default, and has a namespace for each inner
    number.
    """
    numbers = (tid, *inner)
    return ProcRow(
        tid=tid,
        tgid=tid,
        ppid=ppid,
        numbers=numbers,
        tgid_numbers=numbers,
        pgid_numbers=pgid or numbers,
        sid_numbers=sid or numbers,
        start_ns=10_000_000 * tid,
        state="S",
        exit_code=None,
        exit_signal=17,
        comm=b"sh",
        uid=1000,
        gid=100,
        kernel_thread=False,
        pid_ns=HOST + 300 * len(inner),
        pid_ns_for_children=HOST + 300 * len(inner),
    )


def a_thread(tid: int, of: ProcRow) -> ProcRow:
    """Return one more thread of a process."""
    numbers = (tid, *(number + 1 for number in of.numbers[1:]))
    return replace(of, tid=tid, numbers=numbers, exit_signal=-1)


def taken(root: int, *rows: ProcRow, mode: str = "subtree") -> select.Selection:
    """Return the selection below a root among these rows."""
    task = ProcTable(rows).find(str(root))
    return select.select(task, select.resolve_mode(task, mode))


INIT = a_row(1, 0)
PTS_7 = 136 << 8 | 7


def test_parents_groups_and_sessions_are_those_of_the_rows() -> None:
    """They are tags: 1 is the root, the others follow in the order of discovery."""
    chosen = taken(5, INIT, a_row(5, 1), a_row(6, 5, pgid=(5,), sid=(5,)), a_row(7, 6, sid=(5,)))

    assert [task[:5] for task in chosen.tasks] == [(1, 0, 1, 1, 1), (2, 1, 2, 1, 1), (3, 2, 3, 3, 1)]
    assert [pid.numbers for pid in chosen.pids] == [(5,), (6,), (7,)]


def test_threads_stand_under_their_leader_and_share_its_parent() -> None:
    """The order of the scan does not matter."""
    leader = a_row(6, 5)
    for rows in ([leader, a_thread(7, leader)], [a_thread(4, leader), leader]):
        chosen = taken(5, INIT, a_row(5, 1), *rows)
        assert [task[:3] for task in chosen.tasks] == [(1, 0, 1), (2, 1, 2), (3, 1, 2)]


def test_a_dead_leader_of_group_and_session_is_a_pid_without_a_task() -> None:
    """Its numbers are those that the members see."""
    chosen = taken(5, INIT, a_row(5, 1), a_row(8, 5, pgid=(6,), sid=(7,)), a_row(9, 5, pgid=(6,), sid=(7,)))

    assert [pid.numbers for pid in chosen.pids] == [(5,), (8,), (6,), (7,), (9,)]
    assert [task[3:5] for task in chosen.tasks[1:]] == [(3, 4), (3, 4)]


def test_a_dead_leader_of_a_deeper_namespace_has_all_its_numbers() -> None:
    """A member further up, which sees fewer of the numbers, may come first."""
    above = a_row(6, 5, pgid=(20,), sid=(5,))
    inside = a_row(9, 7, 2, pgid=(20, 3), sid=(5, 0))
    chosen = taken(5, INIT, a_row(5, 1), above, a_row(7, 5, 1, pgid=(5, 0), sid=(5, 0)), inside)

    assert (20, 3) in [pid.numbers for pid in chosen.pids]


def test_sibling_namespaces_with_the_same_numbers_are_two() -> None:
    """The inode numbers differ."""
    first, second = a_row(6, 5, 1), replace(a_row(7, 5, 1), pid_ns=99)
    chosen = taken(5, INIT, a_row(5, 1), first, second, a_row(8, 6, 2), replace(a_row(9, 7, 2), pid_ns=99))
    namespaces = {pid.numbers: pid.namespaces for pid in chosen.pids}

    assert [(row.level, row.parent) for row in chosen.namespaces] == [(0, None), (1, 0), (1, 0)]
    assert namespaces[6, 1] == namespaces[8, 2]
    assert namespaces[7, 1] == namespaces[9, 2] != namespaces[6, 1]


def test_a_namespace_whose_inode_may_not_be_read_is_still_its_parents() -> None:
    """The reader is a plain user: root's init is closed to it, the user's own worker in the container is not."""
    closed = replace(a_row(6, 5, 1), pid_ns=None, pid_ns_for_children=None)
    for rows in ([closed, a_row(7, 6, 2, sid=(6, 1))], [replace(closed, tid=6), replace(a_row(7, 6, 2), pid_ns=None)]):
        chosen = taken(6, INIT, a_row(5, 1), *rows, mode="container")
        assert [task.pid for task in chosen.tasks] == [1, 2]
        assert len(chosen.namespaces) == 1


def test_a_namespace_without_a_living_init_between_is_kept_as_a_level() -> None:
    """The tasks have numbers at three levels, and no task is left at the second."""
    chosen = taken(5, INIT, a_row(5, 1), a_row(6, 5, 3, 1))

    assert [(row.level, row.parent) for row in chosen.namespaces] == [(0, None), (1, 0), (2, 1)]
    assert chosen.tasks[1].depth == 2


def test_what_the_next_child_will_be_born_into_is_told() -> None:
    """The source is /proc/PID/ns/pid_for_children, after unshare(CLONE_NEWPID)."""
    maker = replace(a_row(6, 5), pid_ns_for_children=99)
    chosen = taken(5, INIT, a_row(5, 1), maker, replace(a_row(7, 6, 1), pid_ns=99, pid_ns_for_children=99))

    assert [task.child_namespace for task in chosen.tasks] == [None, 1, None]


@pytest.mark.parametrize(
    ("leader", "thread", "state"),
    [
        *(("T", "T", TaskState.STOPPED), ("T", "t", TaskState.STOPPED), ("t", "T", TaskState.STOPPED)),
        *(("t", "t", TaskState.RUNNING), ("T", "D", TaskState.RUNNING), ("t", "S", TaskState.RUNNING)),
    ],
)
def test_what_is_stopped_is_a_group_and_not_what_a_tracer_holds(leader: str, thread: str, state: TaskState) -> None:
    """Only the letters count: t is of one task, and T of a group if none of its threads runs."""
    first = replace(a_row(7, 5), state=leader)
    chosen = taken(5, INIT, a_row(5, 1), first, replace(a_thread(8, first), state=thread))

    assert [task.state for task in chosen.tasks[1:]] == [state, state]


def test_states_are_those_of_the_model() -> None:
    """A leader that is a zombie while threads live is no zombie process."""
    leader = replace(a_row(8, 5), state="Z", exit_code=WaitStatus(0))
    rows = [
        replace(a_row(6, 5), state="Z", exit_code=WaitStatus(0x300)),
        replace(a_row(7, 5), state="T"),
        *(leader, replace(a_thread(9, leader), state="S", exit_code=None)),
        replace(a_row(10, 5), state="D"),
    ]
    chosen = taken(5, INIT, a_row(5, 1), *rows)

    assert [(task.state, task.exit_code) for task in chosen.tasks[1:]] == [
        (TaskState.ZOMBIE, 0x300),
        (TaskState.STOPPED, None),
        (TaskState.DEAD_LEADER, 0),
        (TaskState.RUNNING, None),
        (TaskState.RUNNING, None),
    ]


def test_kernel_threads_are_left_out_and_counted() -> None:
    """The daemon does the same; a kernel thread is refused as a root."""
    worker = replace(a_row(7, 5), kernel_thread=True)

    assert taken(5, INIT, a_row(5, 1), a_row(6, 5), worker).kernel_workers == 1
    with pytest.raises(HostError, match=r"7 .* is a kernel thread"):
        taken(7, INIT, a_row(5, 1), worker)


@pytest.mark.parametrize("root", ["9", "pidns:99", "7"])
def test_a_root_that_is_not_there_is_no_such_root(root: str) -> None:
    """Examples are an unused number, a namespace without tasks, and the number of a thread."""
    leader = a_row(6, 1)
    with pytest.raises(NoSuchRootError):
        ProcTable([INIT, leader, a_thread(7, leader)]).find(root)


def test_a_namespace_is_found_by_its_inode_number() -> None:
    """The init of the namespace is the root."""
    table = ProcTable([INIT, a_row(5, 1, 1), a_row(6, 5, 2)])

    assert table.find(f"pidns:{HOST + 300}").pid.numbers == (5, 1)


def test_a_container_with_a_session_from_outside_is_refused() -> None:
    """The message names every task that leaks."""
    with pytest.raises(RefusedError, match="leaks") as caught:
        taken(5, INIT, a_row(5, 1, 1, pgid=(1, 0), sid=(1, 0)), a_row(6, 5, 2, sid=(1, 0)), mode="container")

    assert [line.split(":")[0] for line in caught.value.leaks] == ["5/1 (sh)", "5/1 (sh)", "6/2 (sh)"]


def test_nothing_read_from_proc_is_ever_verified() -> None:
    """Births and the subreaper flag are null, because /proc does not show them."""
    snapshot = proctable.snapshot(str(os.getpid()), "auto")
    root = snapshot.tasks[0]

    assert (snapshot.completeness.verified, snapshot.completeness.complete) == ("no", False)
    assert snapshot.completeness.reasons[0].startswith("source procfs")
    assert root.birth is not None
    assert (root.subreaper, root.birth.observed, root.birth.creator) == (None, False, None)
    assert (snapshot.number(root.pid), root.comm, root.uid) == (os.getpid(), root.comm, os.getuid())


@pytest.fixture
def hard_tree() -> Iterator[int]:
    """Run tests/demo/hardtree.py and yield the number of its root."""
    command = [sys.executable, os.fspath(HARDTREE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as keeper:
        assert keeper.stdin
        assert keeper.stdout
        assert keeper.stderr
        line = keeper.stdout.readline()
        if not line and os.geteuid():
            pytest.skip(f"no pid namespace for a plain user here: {keeper.stderr.read().decode().strip()}")
        yield int(line)
        keeper.stdin.close()


# The tree of hardtree.py in a namespace that begins at 1: for each task name, own numbers, group, session, the number
# of the thread that is its parent, and its state.
RUNNING, ZOMBIE = TaskState.RUNNING, TaskState.ZOMBIE
KNOWN = [
    ("init", (1,), (1,), (1,), 0, RUNNING),
    ("threads", (2,), (1,), (1,), 1, RUNNING),
    ("thread-1", (3,), (1,), (1,), 1, RUNNING),
    ("thread-2", (4,), (1,), (1,), 1, RUNNING),
    ("of-thread-2", (5,), (1,), (1,), 4, RUNNING),
    ("no-leader", (6,), (1,), (1,), 1, TaskState.DEAD_LEADER),
    ("survivor", (7,), (1,), (1,), 1, RUNNING),
    ("exited-3", (8,), (1,), (1,), 1, ZOMBIE),
    ("killed-9", (9,), (1,), (1,), 1, ZOMBIE),
    ("stopped", (10,), (1,), (1,), 1, TaskState.STOPPED),
    ("in-session", (12,), (11,), (11,), 1, RUNNING),
    ("in-group", (14,), (13,), (1,), 1, RUNNING),
    ("subreaper", (15,), (1,), (1,), 1, RUNNING),
    ("adopted", (17,), (17,), (17,), 15, RUNNING),
    ("parent", (18,), (1,), (1,), 1, RUNNING),
    ("sibling", (19,), (1,), (1,), 1, RUNNING),
    ("west", (20,), (1,), (1,), 1, RUNNING),
    ("west-init", (21, 1), (21, 1), (21, 1), 20, RUNNING),
    ("second", (22, 2), (21, 1), (21, 1), 21, RUNNING),
    ("east", (23,), (1,), (1,), 1, RUNNING),
    ("east-init", (24, 1), (24, 1), (24, 1), 23, RUNNING),
    ("second", (25, 2), (24, 1), (24, 1), 24, RUNNING),
    ("deep", (26, 3), (24, 1), (24, 1), 24, RUNNING),
    ("deep-init", (27, 4, 1), (27, 4, 1), (27, 4, 1), 26, RUNNING),
    ("second", (28, 5, 2), (27, 4, 1), (27, 4, 1), 27, RUNNING),
]


def described(snapshot: Snapshot) -> list[tuple[object, ...]]:
    """Return the tasks in the form of KNOWN, by number."""
    tasks = sorted(snapshot.tasks, key=lambda task: snapshot.number(task.pid))
    return [
        (
            (task.comm or b"").decode(),
            *((pid.numbers if (pid := snapshot.pid(tag)) else ()) for tag in (task.pid, task.pgid, task.sid)),
            snapshot.number(task.ppid),
            task.state,
        )
        for task in tasks
    ]


def test_a_hard_tree_that_holds_still_is_read_from_proc_as_it_was_made(hard_tree: int) -> None:
    """The tree has threads, zombies, dead leaders, adopted tasks, and namespaces beside and below each other."""
    snapshot = proctable.snapshot(str(hard_tree), "auto")
    status = {(task.comm or b"").decode(): task.exit_code for task in snapshot.tasks if task.exit_code is not None}

    assert snapshot.mode == "container"
    assert described(snapshot) == KNOWN
    assert status == {"no-leader": 0, "exited-3": 3 << 8, "killed-9": signal.SIGKILL}
    assert [(row.level, row.parent) for row in snapshot.namespaces] == [(0, None), (1, 0), (1, 0), (2, 2)]
    assert len({row.inum for row in snapshot.namespaces}) == 4


def test_errors_from_proc_say_how_far_they_can_be_trusted() -> None:
    """A leak in a torn scan may not exist."""
    rows = [INIT, a_row(5, 1, 1, sid=(1, 0))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agent.proc.procfs.scan", lambda _: rows)
        with pytest.raises(RefusedError, match="as far as /proc tells"):
            proctable.snapshot("5", "auto")


# ---- terminals -----------------------------------------------------------------------------------------------------


def terminals(root: int, *rows: ProcRow) -> list[Terminal | None]:
    """Return the terminal of each selected task."""
    table = ProcTable(rows)
    chosen = select.select(table.find(str(root)), "subtree")
    return [table.terminal(task, chosen) for task in chosen.inside]


def test_a_terminal_is_named_with_the_group_in_its_foreground() -> None:
    """The group is a tag; a thread has its leader's terminal, and a task may have none."""
    shell = replace(a_row(5, 1), terminal=PTS_7, foreground=6)
    job = replace(a_row(6, 5, sid=(5,)), terminal=PTS_7, foreground=6)

    mine = Terminal(b"pts/7", Tag(2), None)
    assert terminals(5, INIT, shell, job, a_thread(7, job), a_row(8, 5)) == [mine, mine, None, None]


def test_a_foreground_group_from_elsewhere_has_the_number_that_proc_tells() -> None:
    """All numbers of a group in another tree are known, only the outermost one of a group without members; 0 is
    invisible.
    """
    other = a_row(9, 1)
    root, inner = a_row(5, 1), a_row(6, 5, 1)
    for foreground, seen, seen_inside in (
        (9, OutsidePid((9,), (0,)), OUTSIDE),
        (70, OutsidePid((70,), (0,)), None),
        (0, OUTSIDE, OUTSIDE),
    ):
        rows = [replace(row, terminal=PTS_7, foreground=foreground) for row in (root, inner)]

        assert terminals(5, INIT, other, *rows)[0] == Terminal(b"pts/7", seen, None)
        assert terminals(6, INIT, other, *rows)[0] == Terminal(b"pts/7", seen_inside, None)


def test_a_snapshot_out_of_proc_says_that_it_looked_for_terminals_and_for_no_owners() -> None:
    """The process has a terminal of its own, with the name of its standard input."""
    child, master = pty.fork()
    if not child:
        os.write(1, b".")
        signal.pause()
    try:
        os.read(master, 1)
        snapshot = proctable.snapshot(str(child), "subtree")
        name = os.fsencode(os.readlink(f"/proc/{child}/fd/0")).removeprefix(b"/dev/")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(master)

    assert snapshot.as_of_read == ("tty",)
    assert snapshot.tasks[0].tty == Terminal(name, Tag(1), None)
