# SPDX-License-Identifier: Apache-2.0
"""However a rebuild ends, the kernel is the witness that nothing of it stays."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.restart.planning.plan import CloneBits, Op, Phase, Role
from agent.restart.rebuild.coordinator import HELPER, Rebuild
from agent.restart.rebuild.failure import RebuildError
from agent.restart.rebuild.helperabi import Program
from tests.live.rebuilds import assert_gone, eventually, free_number, is_gone, rebuilt, status
from tests.live.restartverb import soon
from tests.support.plans import PlanWriter

TOP = Path(__file__).parents[2]


def test_a_number_that_is_taken_is_an_error_that_names_who_has_it_and_leaves_nothing() -> None:
    """Neither the ones made before nor those made at the same time."""
    number = free_number()
    writer = PlanWriter(pidns=False)
    root = writer.actor(number)
    for _ in range(20):
        writer.born(root, role=Role.HELPER)
    writer.born(root, os.getpid())
    with Rebuild(writer.activated().plan()) as made, pytest.raises(RebuildError) as caught:
        made.build()

    assert caught.value.error == errno.EEXIST
    assert caught.value.step == writer.steps[20]
    assert f"{os.getpid()} is now " in str(caught.value)
    assert_gone([number, made.guard])


def test_a_step_that_the_kernel_refuses_is_named_and_nothing_is_left() -> None:
    """Two levels, a chain, threads: all of it goes."""
    writer = PlanWriter()
    root = writer.actor(1)
    inner = writer.born(root, 10, 1, bits=CloneBits.NEWPID)
    writer.born(inner, 11, 2, bits=CloneBits.THREAD)
    writer.step(Op.SETSID, inner)
    writer.step(Op.SETSID, inner)
    with Rebuild(writer.activated().plan()) as made, pytest.raises(RebuildError) as caught:
        made.build()

    assert str(caught.value).startswith("step 3 failed: setsid by task 2 (10/1): EPERM")
    assert_gone([made.guard])


def test_the_death_of_one_of_them_is_noticed() -> None:
    """Here a thread's process, while it waits for its turn."""
    writer = PlanWriter()
    root = writer.actor(1)
    child = writer.born(root, 10)
    writer.born(child, 11, bits=CloneBits.THREAD)
    with rebuilt(writer.activated().plan()) as made:
        os.kill(made.pids[child], signal.SIGKILL)
        begin = time.monotonic()
        with pytest.raises(RebuildError, match="was killed from outside; its next step was: activate"):
            made.activate()
        assert time.monotonic() - begin < 2


def test_the_death_of_the_root_is_noticed() -> None:
    """And with it of all others."""
    writer = PlanWriter()
    writer.born(writer.actor(1), 10)
    with rebuilt(writer.activated().plan()) as made:
        os.kill(made.pids[0], signal.SIGKILL)
        with pytest.raises(RebuildError, match="task 1 \\(1\\) was killed from outside"):
            made.activate()


COORDINATOR = """
import sys, time
from tests.support.plans import PlanWriter
from agent.restart.planning.plan import Role
from agent.restart.rebuild.coordinator import Rebuild
writer = PlanWriter(pidns=sys.argv[1] == "pidns")
root = writer.actor(1) if writer.pidns else writer.actor(role=Role.REAPER, tag=0)
for n in range(10):
    child = writer.born(writer.born(root, 100 + n), 200 + n)
plan = writer.activated().plan()
made = Rebuild(plan, no_stdio=True, any_numbers=not writer.pidns)
made.build()
if sys.argv[2] != "standing":
    made.activate()
    made.release()
print(made.guard, *made.pids, flush=True)
if sys.argv[2] == "detached":
    made.detach()
else:
    time.sleep(100)
"""


def coordinator(*arguments: str) -> tuple["subprocess.Popen[str]", list[int]]:
    """A process that rebuilds a tree, and all pids that are there on account of it: the guard's first."""
    process = subprocess.Popen(
        [sys.executable, "-c", COORDINATOR, *arguments], cwd=TOP, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, list(map(int, process.stdout.readline().split()))


@pytest.mark.parametrize("space", ["pidns", "no-pidns"])
@pytest.mark.parametrize("when", ["standing", "holding"])
def test_a_coordinator_that_is_killed_leaves_nothing(space: str, when: str) -> None:
    """The guard sees the end of their socket."""
    process, pids = coordinator(space, when)
    assert len(pids) == 22
    process.kill()
    process.communicate()

    assert_gone(pids)


@pytest.mark.parametrize("space", ["pidns", "no-pidns"])
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_detached_tree_ends_with_its_guard(end: signal.Signals, space: str) -> None:
    """By a request, or because it was killed: the init dies with it, or the reaper does what is left to do."""
    process, pids = coordinator(space, "detached")
    process.communicate()
    time.sleep(0.3)
    assert process.returncode == 0
    assert not any(is_gone(pid) for pid in pids)
    os.kill(pids[0], end)

    assert_gone(pids)


@pytest.mark.parametrize("space", ["pidns", "no-pidns"])
@pytest.mark.parametrize("when", ["standing", "holding"])
def test_the_guard_and_its_watchers_are_confined_and_no_task_is(space: str, when: str) -> None:
    """A watcher that replaces a killed one is confined as the first is."""
    process, (guard, *tasks) = coordinator(space, when)

    def children() -> set[int]:
        return set(map(int, Path(f"/proc/{guard}/task/{guard}/children").read_text().split())) - set(tasks)

    def mode(pid: int) -> str:
        return Path(f"/proc/{pid}/status").read_text().partition("\nSeccomp:\t")[2][0]

    try:
        assert [mode(pid) for pid in tasks] == [mode(os.getpid())] * len(tasks)
        assert soon(lambda: mode(guard) == "2")
        first = children()
        assert len(first) == (space == "pidns")
        assert soon(lambda: all(mode(pid) == "2" for pid in first))
        for pid in first:
            os.kill(pid, signal.SIGKILL)
            assert soon(lambda: len(children() - first) == 1)
            assert {mode(pid) for pid in children()} == {"2"}
        assert (Path(f"/proc/{guard}/status").read_text().partition("\nNoNewPrivs:\t")[2])[0] == "1"
    finally:
        process.kill()
        process.communicate()
    assert_gone([guard, *tasks])


@pytest.mark.parametrize("pidns", [True, False], ids=["pidns", "here"])
def test_a_guard_that_is_killed_is_an_error_and_leaves_nothing(*, pidns: bool) -> None:
    """The tree goes with it: as a namespace, or because its orphans come to the coordinator."""
    bystander = subprocess.Popen(["sleep", "100"])
    writer = PlanWriter(pidns=pidns)
    reaper = writer.actor(1) if pidns else writer.actor(role=Role.REAPER, tag=0)
    child = writer.born(reaper, role=Role.HELPER)
    writer.born(child, role=Role.HELPER, bits=CloneBits.THREAD)
    writer.step(Op.SETSID, writer.born(child, role=Role.HELPER))
    try:
        with rebuilt(writer.activated().plan()) as made:
            os.kill(made.guard, signal.SIGKILL)
            with pytest.raises(RebuildError, match="the guard of the tree was killed"):
                made.activate()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_tasks_run_their_programs_and_the_end_of_the_root_is_told(tmp_path: Path) -> None:
    """A process with threads runs one, too; a group with a dead leader holds; a stopped one runs when it is
    continued."""
    writer = PlanWriter()
    top = writer.actor(1, role=Role.REAPER)
    root = writer.born(top, 9)
    child = writer.born(root, 10)
    writer.born(child, 11, bits=CloneBits.THREAD)
    stopped = writer.born(root, 12)
    writer.activated()
    writer.step(Op.STOP, stopped, phase=Phase.STOP)

    def shell(text: str) -> Program:
        return Program(b"/bin/sh", [b"sh", b"-c", text.encode()], [b"WHERE=%s" % os.fsencode(tmp_path)], b"/")

    programs = {
        root: shell("until [ -e $WHERE/10 ] && [ -e $WHERE/12 ]; do sleep 0.01; done; exit 5"),
        child: shell(
            "pwd > $WHERE/unfinished; echo $$ >> $WHERE/unfinished; mv $WHERE/unfinished $WHERE/10; sleep 100"
        ),
        stopped: shell(": > $WHERE/12; sleep 100"),
    }
    with rebuilt(writer.plan()) as made:
        made.activate()
        made.release(programs)
        eventually(made.pids[stopped], "T")
        assert not (tmp_path / "12").exists()
        os.kill(made.pids[stopped], signal.SIGCONT)

        assert made.wait() == 5 << 8
        assert (tmp_path / "10").read_text() == "/\n10\n"


def test_a_program_that_cannot_run_is_an_error(tmp_path: Path) -> None:
    """The whole tree goes."""
    writer = PlanWriter()
    root = writer.actor(1)
    child = writer.born(root, 10)
    with rebuilt(writer.activated().plan()) as made:
        made.activate()
        with pytest.raises(RebuildError, match=r"task 2 \(10\) cannot run its program: execve: ENOENT"):  # noqa: PT012
            made.release({child: Program(os.fsencode(tmp_path / "none"), [b"x"], [])})
            made.wait()


def test_who_is_not_root_gets_a_user_namespace_as_well(folder: Path) -> None:
    """Numbers within are then free to choose."""
    for package in ("agent", "bpf", "exporters", "tests"):
        shutil.copytree(TOP / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "live", "bench"))
    program = COORDINATOR.replace("import sys, time", f"import sys, time\nsys.path.insert(0, {os.fspath(folder)!r})")
    change = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all"]
    command = [*change, "/usr/bin/python3", "-c", program, "pidns", "holding"]
    process = subprocess.Popen(command, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            assert "a user namespace for the tree is refused" in process.communicate()[1]
            pytest.skip("this host lets nobody but root have a user namespace")
        pids = list(map(int, line.split()))

        assert [status(pid).pid[-1] for pid in pids[1:4]] == [1, 100, 200]
    finally:
        process.kill()
        process.communicate()
    assert_gone(pids)


def test_a_step_that_never_ends_is_given_up_and_named() -> None:
    """Here a wait for one that does not exit."""
    writer = PlanWriter()
    root = writer.actor(1)
    child = writer.born(root, 10)
    writer.step(Op.REAP, root, child)
    with Rebuild(writer.activated().plan()) as made, pytest.raises(RebuildError) as caught:
        made.build()

    assert "nothing was done for 10 seconds" in str(caught.value)
    assert caught.value.step == writer.steps[1]


def test_a_missing_helper_is_told_with_the_remedy(tmp_path: Path) -> None:
    """The installation has no compiled helper."""
    writer = PlanWriter()
    writer.actor(1)
    with pytest.raises(Exception, match="make setup"):
        Rebuild(writer.plan(), helper=tmp_path / "none").build()
    assert HELPER.exists()


@pytest.mark.parametrize("pidns", [True, False], ids=["pidns", "here"])
def test_the_tree_begins_in_the_coordinators_session_and_the_guard_is_in_neither(*, pidns: bool) -> None:
    """A signal to that session or group does not reach the guard."""
    writer = PlanWriter(pidns=pidns)
    root = writer.actor(1 if pidns else free_number())
    with rebuilt(writer.activated().plan()) as made:
        assert (os.getsid(made.pids[root]), os.getpgid(made.pids[root])) == (os.getsid(0), os.getpgid(0))
        assert (os.getsid(made.guard), os.getpgid(made.guard)) == (made.guard, made.guard)
