# SPDX-License-Identifier: Apache-2.0
"""Command lines of live processes, as /proc shows them."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.model import Snapshot, TaskState
from agent.proc import proctable
from agent.proc.commands import FRESH_S, Commands, Outer, from_outside, words
from tests.support.builders import a_family, a_snapshot, a_task


@pytest.fixture
def shell() -> Iterator["subprocess.Popen[bytes]"]:
    """Run a shell that waits for a line, and then runs another program."""
    with subprocess.Popen(
        ["sh", "-c", "read line; exec sleep 1000", "a name"], stdin=subprocess.PIPE, start_new_session=True
    ) as shell:
        yield shell
        shell.kill()


class Clock:
    """A clock that stands still by itself."""

    now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def taken(pid: int) -> tuple[Snapshot, Outer]:
    """Return the tree below a process, as this process counts."""
    snapshot = proctable.snapshot(str(pid), "subtree")
    return snapshot, [()] * len(snapshot.pids)


def argv_of(commands: Commands, of: tuple[Snapshot, Outer]) -> tuple[bytes, ...] | None:
    """Return the arguments of a tree's root."""
    return commands.added([of])[0].tasks[0].argv


def test_a_process_has_the_arguments_that_proc_shows(shell: "subprocess.Popen[bytes]") -> None:
    """Its numbers are those of this process's pid namespace."""
    assert argv_of(Commands(), taken(shell.pid)) == (b"sh", b"-c", b"read line; exec sleep 1000", b"a name")


def test_it_is_read_again_after_an_exec_under_another_name_and_when_time_has_passed(
    shell: "subprocess.Popen[bytes]",
) -> None:
    """Between them it is not read: a host has many processes."""
    clock = Clock()
    by_time, by_event, by_name = (Commands(clock=clock) for _ in range(3))
    before = taken(shell.pid)
    (first,) = {argv_of(commands, before) for commands in (by_time, by_event, by_name)}
    assert shell.stdin is not None
    shell.stdin.write(b"\n")
    shell.stdin.flush()
    # An exec sets the name before the arguments: between the two the line is empty.
    while not Path(f"/proc/{shell.pid}/cmdline").read_bytes().startswith(b"sleep"):
        pass

    assert [argv_of(commands, before) for commands in (by_time, by_event)] == [first, first]
    by_event.forget(shell.pid)
    assert argv_of(by_event, before) == (b"sleep", b"1000")
    assert argv_of(by_name, taken(shell.pid)) == (b"sleep", b"1000")
    clock.now += FRESH_S + 1
    assert argv_of(by_time, before) == (b"sleep", b"1000")


def test_nothing_is_told_of_a_process_that_is_gone_or_another_one(shell: "subprocess.Popen[bytes]") -> None:
    """The start tells one from the other; a zombie has no arguments any more."""
    snapshot, outer = taken(shell.pid)
    (task,) = snapshot.tasks
    start = task.start_ns or 0
    for other in (task._replace(start_ns=start - 10**9), task._replace(start_ns=None)):
        assert argv_of(Commands(), (Snapshot("subtree", 0, snapshot.pids, (other,)), outer)) is None
    zombie = task._replace(state=TaskState.ZOMBIE)
    assert argv_of(Commands(), (Snapshot("subtree", 0, snapshot.pids, (zombie,)), outer)) is None
    shell.kill()
    shell.wait()
    assert argv_of(Commands(), (snapshot, outer)) is None


def test_without_the_numbers_that_this_process_counts_nothing_is_read() -> None:
    """The root of a container has the number 1 there, and here another process has it."""
    image = a_snapshot([(os.getpid(),)], [a_task(1, 0)])

    assert Commands().added([(image, ())]) == [image]


def test_a_proc_of_another_pid_namespace_is_not_asked(tmp_path: Path) -> None:
    """Its numbers are those of other processes."""
    (tmp_path / "self").symlink_to("1")
    image = a_snapshot([(1,)], [a_task(1, 0)])

    assert Commands(tmp_path).added([(image, [()])]) == [image]


def test_outer_numbers_stand_before_those_of_the_root() -> None:
    """Nothing else of the snapshot changes."""
    family = a_family()
    outer = [(8000 + n,) for n in range(len(family.pids))]
    seen = from_outside(family, outer)

    assert [pid.numbers for pid in seen.pids] == [(8000 + n, *pid.numbers) for n, pid in enumerate(family.pids)]
    assert (seen.tasks, seen.namespaces) == (family.tasks, family.namespaces)
    assert [each.numbers for each in seen.ancestors] == [(0, *each.numbers) for each in family.ancestors]
    assert from_outside(family, [()] * len(family.pids)) is family


@pytest.mark.parametrize(
    ("shown", "argv"),
    [
        (b"sh\0-c\0true\0", (b"sh", b"-c", b"true")),
        (b"sh\0\0x\0", (b"sh", b"", b"x")),
        (b"nginx: worker process\0\0\0\0", (b"nginx: worker process",)),
        (b"sshd: jane@pts/0        ", (b"sshd: jane@pts/0",)),
        (b"", None),
        (b"\0\0", None),
    ],
)
def test_a_command_line_is_cut_at_its_nuls(shown: bytes, argv: tuple[bytes, ...] | None) -> None:
    """A title has the place of all arguments."""
    assert words(shown) == argv
