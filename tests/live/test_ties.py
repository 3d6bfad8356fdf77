# SPDX-License-Identifier: Apache-2.0
"""Terminals and owners of files beyond what the scenarios have: those that go, those there are many of, those
unseen."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.capture.probes import Probes
from agent.capture.snapshots import Snapshots
from agent.capture.watch import Watch
from agent.config import Config
from agent.model import CKPT_PID_NULL, FileOwner, OutsidePid, Shares, Tag, Terminal
from agent.protocol.client import Client
from agent.rootname import parse
from agent.selection.ties import Ties
from agent.table.wire import TIES_OWNED
from exporters import registry
from tests.live.compare import Capture, assert_matches
from tests.live.treeprog import Tree

_PATIENCE = 1000  # snapshots to wait for: the kernel hangs up a moment after the other end was closed


@pytest.fixture(scope="module")
def watch() -> Iterator[Watch]:
    """One of this process, so that what it keeps can be looked at."""
    made = Watch.begin(Probes(Config().ring_bytes))
    yield made
    made.close()


@pytest.fixture(scope="module")
def snapshots(watch: Watch) -> Snapshots:
    """Snapshots of that watch."""
    return Snapshots(watch)


def test_a_file_says_what_it_was_looked_for(capture: Capture) -> None:
    """A null of a field that is named there means: it has none."""
    snapshot = capture(os.getpid(), "subtree")

    assert snapshot.as_of_read == ("tty", "fown", "shares")


def test_a_leader_whose_terminal_hung_up_remembers_the_group_in_its_foreground(capture: Capture) -> None:
    """tty_old_pgrp is left to the leader; the session's other processes have no terminal any more."""
    with Tree() as tree:
        tree.run("fork 0 1; setsid 1; ignore 1 SIGHUP; terminal 1; fork 1 2; setpgid 1 2 2; fork 2 3; foreground 1 2")
        before = capture(tree.number(1), "subtree")
        tree.hangup(1)
        for _ in range(_PATIENCE):
            if capture(tree.number(1), "subtree").tasks[0].tty != before.tasks[0].tty:
                break
        after = capture(tree.number(1), "subtree")

    assert [task.tty for task in before.tasks] == [Terminal(before.tasks[0].tty.name, Tag(2), CKPT_PID_NULL)] * 3  # type: ignore[union-attr]  # it has one
    assert [task.tty for task in after.tasks] == [Terminal(None, CKPT_PID_NULL, Tag(2)), None, None]


def test_a_foreground_group_that_nobody_is_in_any_more_keeps_its_number(capture: Capture) -> None:
    """As tcgetpgrp has it."""
    with Tree() as tree:
        tree.run("fork 0 1; setsid 1; terminal 1; fork 1 2; setpgid 1 2 2; foreground 1 2; exit 2; wait 1 2")
        group = tree.task(2).pid.numbers
        snapshot = capture(tree.number(1), "subtree")
        answer = os.tcgetpgrp(tree._masters[1])

    assert snapshot.tasks[0].tty is not None
    assert snapshot.tasks[0].tty.pgrp == OutsidePid(group, (0,))
    assert answer == group[0]


def test_what_many_have_is_read_in_one_go_and_is_as_right(capture: Capture, snapshots: Snapshots) -> None:
    """Each of them has a terminal, and files with owners: in the daemon, and where everything is looked through."""
    with Tree() as tree:
        tree.run("fork 0 1; setsid 1; own 1 pid 1")
        for node in range(2, 42):
            tree.run(f"fork 1 {node}; setsid {node}; terminal {node}; own {node} pgrp {node}")
        assert_matches(capture(tree.number(1), "subtree"), tree, 1)
        snapshot = snapshots.take(snapshots.find(parse(str(tree.number(1)))))
        assert snapshots.take(snapshots.find(parse(str(tree.number(1))))).tasks is snapshot.tasks


def test_an_owner_that_is_taken_away_is_no_owner(snapshots: Snapshots) -> None:
    """And what has not changed is the very same rows, which spares the writer its work."""
    me = snapshots.find(parse(str(os.getpid())))
    reader, writer = os.pipe()
    try:
        plain = snapshots.take(me).tasks
        fcntl.fcntl(reader, fcntl.F_SETOWN, -os.getpgrp())
        owned = snapshots.take(me)
        again = snapshots.take(me)
        fcntl.fcntl(reader, fcntl.F_SETOWN, 0)
        after = snapshots.take(me).tasks
    finally:
        os.close(reader)
        os.close(writer)

    pgrp = owned.tasks[0].pgid
    assert owned.tasks[0].fown == (FileOwner(reader, pgrp, "pgrp"),)
    assert again.tasks is owned.tasks
    assert plain[0].fown is None
    assert after[0].fown is None


OWNER = """
import fcntl, os, signal, sys
place, others = map(int, sys.argv[1:])
fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
os.dup2(0, place)
os.close(0)
for _ in range(others):
    os.dup(2)
os.write(2, b".")
signal.pause()
"""


@pytest.mark.parametrize("others", [0, 7, 40, 120])
@pytest.mark.parametrize("place", [1, 63, 64, 255, 1023, 2000])
def test_a_file_is_found_wherever_it_stands_in_the_table(
    client: Client, watch: Watch, snapshots: Snapshots, place: int, others: int
) -> None:
    """In small tables and large ones, among few files and many; by a question, and by a walk over all tasks."""
    command = [sys.executable, "-c", OWNER, str(place), str(others)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as it:
        assert it.stderr is not None
        assert it.stderr.read(1) == b"."
        asked = registry.load(client.snapshot(str(it.pid)).data)
        watch.sweep()
        task = snapshots.find(parse(str(it.pid)))
        noted = watch.table.noted.get(task)
        it.send_signal(signal.SIGKILL)

    assert asked.tasks[0].fown == (FileOwner(place, Tag(1), "pid"),)
    assert noted == TIES_OWNED


def test_without_a_filter_all_is_as_right(watch: Watch, snapshots: Snapshots) -> None:
    """As on Linux before 6.1."""
    ties = Ties(watch.probes.tied, watch.probes.ties, watch.table.pids, filters=False)
    with Tree() as tree:
        tree.run("fork 0 1; setsid 1; terminal 1; own 1 pid 1; fork 1 2; setpgid 1 2 2; own 2 pgrp 2; foreground 1 2")
        chosen: list[Any] = []
        snapshot = snapshots.take(snapshots.find(parse(str(tree.number(1)))), at_cut=chosen.append)
        told = ties.add(chosen[0], watch.table.noted)

    assert watch.probes.filters
    assert told == snapshot.tasks
    assert all(task.tty and task.fown for task in told)


@pytest.mark.parametrize("place", [1, 40, 63, 64, 255, 1023])
def test_who_owns_nothing_is_not_noted(watch: Watch, snapshots: Snapshots, place: int) -> None:
    """Also where a file stands high up, as shells have one: it need not be read."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER.replace("fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())", ""), str(place), "5"],
        stderr=subprocess.PIPE,
    ) as it:
        assert it.stderr is not None
        assert it.stderr.read(1) == b"."
        task = snapshots.find(parse(str(it.pid)))
        noted = []
        for look in (watch.sweep, lambda: snapshots.take(task)):
            look()
            noted.append(watch.table.noted.get(task))
        it.send_signal(signal.SIGKILL)

    assert noted == [None, None]


@pytest.mark.parametrize(
    ("without", "fields"),
    [
        (("terminals",), ("fown", "shares")),
        (("owners",), ("tty", "shares")),
        (("sharing",), ("tty", "fown")),
        (("terminals", "owners", "sharing"), ()),
    ],
)
def test_a_kernel_that_does_not_tell_makes_a_snapshot_that_says_so(
    without: tuple[str, ...], fields: tuple[str, ...]
) -> None:
    """A field that the kernel does not tell is null, and not named; all other fields have their values."""
    watch = Watch.begin(Probes(Config().ring_bytes, without))
    snapshots = Snapshots(watch)
    try:
        with Tree() as tree:
            tree.run("fork 0 1; setsid 1; terminal 1; own 1 pid 1; fork 1 2; setsid 2; own 2 pgrp 2")
            snapshot = snapshots.take(snapshots.find(parse(str(tree.number(1)))))
        assert (snapshot.as_of_read, set(without) <= set(watch.probes.missing)) == (fields, True)
        assert [task.tty is not None for task in snapshot.tasks] == ["tty" in fields, False]
        assert [task.fown is not None for task in snapshot.tasks] == ["fown" in fields] * 2
        assert snapshot.completeness.complete
    finally:
        watch.close()


_DEAD_END = """
import ctypes, os, sys
unshare = ctypes.CDLL(None).unshare
for alive in (True, False):
    if os.fork() == 0:
        assert unshare(0x20000000) == 0
        init = None if alive else os.fork()
        if init == 0:
            os._exit(0)
        if init:
            os.waitpid(init, 0)
        os.write(1, b"x")
        sys.stdin.read()
        os._exit(0)
sys.stdin.read()
"""


def test_a_namespace_that_waits_for_a_child_and_is_dead_is_told_from_a_new_one(capture: Capture) -> None:
    """Its init was reaped: the next fork would fail."""
    with subprocess.Popen([sys.executable, "-c", _DEAD_END], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.read(2) == b"xx"
        snapshot = capture(process.pid, "subtree")
        process.stdin.close()

    assert [(task.child_namespace, task.child_namespace_dead) for task in snapshot.tasks] == [
        (None, None),
        (-1, None),
        (-1, True),
    ]


_NAMES = 12  # that tests/live/sharer.c tells


@pytest.fixture(scope="module")
def sharer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, dict[int, str]]]:
    """Start a program whose threads share tables; yield the pid of its root, and a name by tid."""
    program = tmp_path_factory.mktemp("sharer") / "sharer"
    source = Path(__file__).parent / "sharer.c"
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", program, source], check=True)
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout
        told = dict(process.stdout.readline().decode().split() for _ in range(_NAMES))
        yield process.pid, {int(tid): name for name, tid in told.items()}
        os.killpg(process.pid, signal.SIGKILL)  # its children, too


@pytest.mark.parametrize("source", ["daemon", "own"])
def test_what_is_shared_without_being_a_thread_is_told_of_all_who_share_it(
    capture: Capture, snapshots: Snapshots, sharer: tuple[int, dict[int, str]], source: str
) -> None:
    """Of threads that share nothing of it with their leader, too; of all others nothing is told."""
    root, names = sharer
    snapshot = capture(root, "subtree") if source == "daemon" else snapshots.take(snapshots.find(parse(str(root))))
    sharing: dict[tuple[str, int], set[str]] = {}
    for task in snapshot.tasks:
        for kind, id_ in (task.shares or Shares())._asdict().items():
            if id_ is not None:
                sharing.setdefault((kind, id_), set()).add(names[snapshot.number(task.pid)])

    assert len(snapshot.tasks) == _NAMES
    assert sorted((kind, sorted(group)) for (kind, _), group in sharing.items()) == [
        ("files", ["files", "root", "thread"]),
        ("files", ["thread-apart"]),
        ("fs", ["fs", "root", "thread"]),
        ("fs", ["of-dead-leader", "outlives"]),
        ("fs", ["thread-apart"]),
        ("vm", ["vfork", "vforked"]),
    ]
    assert registry.load(registry.image(snapshot)).tasks == snapshot.tasks
