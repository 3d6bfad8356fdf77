# SPDX-License-Identifier: Apache-2.0
"""The assignment of details to the tasks of a snapshot: invented processes, found from the same namespace, above and
below.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from agent.model import Namespace, ProcessDetails, Snapshot, TaskState
from agent.proc.arguments import HELD
from agent.proc.enrich import Enriched, unknown, with_details
from tests.support.builders import a_snapshot, a_task

TICK_NS = 10_000_000
OUTER, INNER = 4026531836, 4026532000


def a_process(root: Path, tid: int, numbers: tuple[int, ...], *, ticks: int, inum: int | None) -> None:
    """Make a process in an invented /proc; without `inum` its namespace cannot be read."""
    for folder in (root / f"{tid}", root / f"{tid}/task/{tid}"):
        (folder / "ns").mkdir(parents=True, exist_ok=True)
        stat = f"{tid} (x) S 1 1 1 0 -1 0 " + "0 " * 12 + f"{ticks} " + "0 " * 15 + "17 " + "0 " * 14
        (folder / "stat").write_text(stat)
        ids = " ".join(map(str, numbers))
        (folder / "status").write_text(
            f"Name:\tx\nTgid:\t{tid}\nUid:\t{tid} 0 0 0\nGid:\t0 0 0 0\nNStgid:\t{ids}\nNSpid:\t{ids}\n"
            f"NSpgid:\t{ids}\nNSsid:\t{ids}\n"
        )
        (folder / "cmdline").write_bytes(b"x-%d\0" % tid)
        (folder / "environ").write_bytes(b"")
        if inum is not None:
            (folder / "ns/pid").symlink_to(f"pid:[{inum}]")


def a_container() -> Snapshot:
    """Return a snapshot of an init, a process in a child namespace, a zombie, and a thread."""
    tasks = [
        a_task(1, 0, start_ns=5 * TICK_NS + 3),
        a_task(2, 1, depth=1, start_ns=6 * TICK_NS),
        a_task(3, 1, start_ns=7 * TICK_NS, state=TaskState.ZOMBIE),
        a_task(4, 0, tgid=1, start_ns=8 * TICK_NS),
    ]
    namespaces = (Namespace(0, OUTER, 0, None), Namespace(1, INNER, 1, 0))
    return a_snapshot([(1,), (2, 1), (3,), (4,)], tasks, namespaces=namespaces, as_of_read=("tty",))


def found(snapshot: Snapshot) -> list[tuple[bytes, ...] | None]:
    """Return the arguments of each task."""
    return [task.argv for task in snapshot.tasks]


def test_processes_of_child_namespaces_are_found_from_above(tmp_path: Path) -> None:
    """The host's /proc has one more number for each; a thread has no details of its own."""
    a_process(tmp_path, 71, (71, 1), ticks=5, inum=OUTER)
    a_process(tmp_path, 72, (72, 2, 1), ticks=6, inum=INNER)
    a_process(tmp_path, 73, (73, 3), ticks=7, inum=None)
    told = with_details(a_container(), tmp_path)

    assert found(told) == [(b"x-71",), (b"x-72",), (b"x-73",), None]
    assert [task.details.uids[0] if task.details and task.details.uids else 0 for task in told.tasks] == [71, 72, 73, 0]
    assert told.as_of_read == ("tty", "argv", "cwd", "env", "details")


def test_processes_are_found_from_a_namespace_below(tmp_path: Path) -> None:
    """Only processes in that namespace are found, by their numbers in it."""
    a_process(tmp_path, 1, (1,), ticks=6, inum=INNER)

    assert found(with_details(a_container(), tmp_path)) == [None, (b"x-1",), None, None]


@pytest.mark.parametrize(
    ("numbers", "ticks", "inum"),
    [((71, 2), 5, OUTER), ((71, 1), 4, OUTER), ((71, 1), 5, INNER)],
    ids=["number", "start", "namespace"],
)
def test_somebody_else_is_not_taken_for_it(tmp_path: Path, numbers: tuple[int, ...], ticks: int, inum: int) -> None:
    """One difference of three is enough."""
    a_process(tmp_path, 71, numbers, ticks=ticks, inum=inum)

    assert found(with_details(a_container(), tmp_path)) == [None] * 4


def test_of_two_that_it_could_be_it_is_neither(tmp_path: Path) -> None:
    """They are siblings with the same numbers and the same start tick, and the reader may not read their namespaces."""
    for tid in (71, 72):
        a_process(tmp_path, tid, (tid, 1), ticks=5, inum=None)

    assert found(with_details(a_container(), tmp_path)) == [None] * 4


def test_this_process_is_found_on_this_host() -> None:
    """The numbers are the kernel's own."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    snapshot = a_snapshot([(os.getpid(),)], [a_task(1, 0, start_ns=int(fields[19]) * TICK_NS)], namespaces=())
    told = with_details(snapshot).tasks[0]

    assert told.cwd == os.fsencode(Path.cwd())
    assert told.details is not None
    assert told.details.uids == (*os.getresuid(), os.geteuid())


def in_a_time_namespace(proc: Path, days: int) -> None:
    """Make an invented /proc whose reader is in a time namespace."""
    (proc / "self/ns").mkdir(parents=True)
    for name in ("time", "time_for_children"):
        (proc / "self/ns" / name).symlink_to("time:[4026532001]")
    (proc / "self/timens_offsets").write_text(f"monotonic 0 0\nboottime {days * 86400} 3000000\n")


def test_a_reader_in_a_time_namespace_finds_the_same(tmp_path: Path) -> None:
    """Its /proc shifts all starts by the offset, and rounds afterwards."""
    in_a_time_namespace(tmp_path, 1)
    start_ns = 5 * TICK_NS + 8_000_000
    a_process(tmp_path, 71, (71, 1), ticks=8640000 + 6, inum=OUTER)
    snapshot = a_container()
    tasks = (snapshot.tasks[0]._replace(start_ns=start_ns), *snapshot.tasks[1:])

    assert found(with_details(replace(snapshot, tasks=tasks), tmp_path))[0] == (b"x-71",)


def test_what_was_read_of_nobody_is_not_called_read_and_is_said(tmp_path: Path) -> None:
    """This /proc belongs to another host."""
    a_process(tmp_path, 5, (5,), ticks=1, inum=INNER)
    enriched = Enriched(a_container(), tmp_path)

    assert enriched.snapshot.as_of_read == ("tty",)
    assert [line.partition(",")[0] for line in enriched.messages()] == [
        f"--with-argv: {tmp_path} shows none of these processes"
    ]


def test_who_was_not_found_is_named(tmp_path: Path) -> None:
    """The other tasks have their details; a zombie without details is not named."""
    a_process(tmp_path, 71, (71, 1), ticks=5, inum=OUTER)

    assert list(Enriched(a_container(), tmp_path).messages()) == [
        f"--with-argv: {tmp_path} does not show 2/1 (task-2): nothing is known of their programs"
    ]


def test_a_title_is_said_with_whom_it_is_of_and_what_to_do(tmp_path: Path) -> None:
    """The advice helps while the original process lives."""
    for tid, numbers, ticks in ((71, (71, 1), 5), (72, (72, 2, 1), 6)):
        a_process(tmp_path, tid, numbers, ticks=ticks, inum=None)
    (tmp_path / "71/cmdline").write_bytes(b"x: a title")
    lines = list(Enriched(a_container(), tmp_path).messages())

    assert [line.partition(". A daemon")[0] for line in lines] == [
        "1 (task-1): its arguments: not known: its end has been written over, as by a title",
        "1 (task-1): its environment: not known: it has been written over, as by a title",
    ]


def test_those_that_a_restart_holds_are_told_of_in_one_line_with_advice_that_holds_for_them() -> None:
    """No daemon has strings for them, because they never ran the program."""
    held, written = [ProcessDetails(argv_unknown=why) for why in (HELD, "it has been written over since exec")]
    tasks = [a_task(1, 0, details=written), *[a_task(tag, 1, comm=b"sh", details=held) for tag in range(2, 15)]]
    first, second = unknown(a_snapshot([(100 + tag,) for tag in range(14)], tasks))

    assert first.startswith("100 (")
    assert first.endswith("A daemon that runs with keep_arguments = true when it is started keeps them")
    assert second.startswith("101 (sh), 102 (sh), ")
    assert second.endswith(f"and 3 more: their arguments: not known: {HELD}")
