# SPDX-License-Identifier: Apache-2.0
"""The helper makes what a plan says, with the kernel as the witness; and whatever goes wrong, nothing stays."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.restart.control import Program
from agent.restart.plan import CloneBits, Op, Phase, Plan, Role
from agent.restart.rebuild import HELPER, Rebuild, RebuildError
from agent.restart.verify import Status, read_status
from tests.plans import PlanWriter

pytestmark = pytest.mark.live
TOP = Path(__file__).parents[2]


def status(pid: int) -> Status:
    """Of somebody who is there."""
    found = read_status(pid)
    assert found is not None, f"{pid} is not there"
    return found


def eventually(pid: int, state: str) -> None:
    """Whom a signal has reached changes a moment later."""
    deadline = time.monotonic() + 5
    while status(pid).state != state:
        assert time.monotonic() < deadline, f"{pid} is in state {status(pid).state}, not {state}"
        time.sleep(0.005)


def exit_code(pid: int) -> int:
    """The raw wait status of a zombie, without the core bit."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[49]) & ~0x80


def is_gone(pid: int) -> bool:
    """No process, and no zombie but one that its new parent has yet to see."""
    found = read_status(pid)
    return found is None or found.state in "ZX"


def assert_gone(pids: list[int], *, within: float = 5) -> None:
    """All of them, soon."""
    deadline = time.monotonic() + within
    while left := [pid for pid in pids if pid and not is_gone(pid)]:
        assert time.monotonic() < deadline, f"{left} are still there"
        time.sleep(0.005)


@contextmanager
def rebuilt(plan: Plan, *, any_numbers: bool = False) -> Iterator[Rebuild]:
    """It stands; afterwards nobody is left of it, each time."""
    with Rebuild(plan, any_numbers=any_numbers, no_stdio=True) as made:
        made.build()
        yield made
    assert_gone([*made.pids, made.guard])


def active(made: Rebuild) -> None:
    """Everybody has had its turn and holds."""
    made.activate()
    made.release()


def free_number() -> int:
    """One that nobody has here now; far from where the kernel is counting."""
    last = int(Path("/proc/loadavg").read_text().split()[-1])
    pid_max = int(Path("/proc/sys/kernel/pid_max").read_text())
    start = (last + pid_max // 2) % pid_max
    return next(number for number in range(max(start, 400), pid_max) if not Path(f"/proc/{number}").exists())


def test_a_chain_of_processes_has_the_numbers_and_parents_of_the_plan() -> None:
    """However long it is: no stack grows with it."""
    writer = PlanWriter()
    chain = [writer.actor(1)]
    for n in range(300):
        chain.append(writer.born(chain[-1], 20000 - n))
    with rebuilt(writer.activated().plan()) as made:
        found = [status(pid) for pid in made.pids]
        active(made)

        assert [one.pid[-1] for one in found] == [1, *range(20000, 19700, -1)]
        assert [one.ppid for one in found[1:]] == list(made.pids[:-1])
        assert [Path(f"/proc/{pid}/comm").read_text().strip() for pid in made.pids[:2]] == ["actor-0", "actor-1"]


def test_a_chain_twice_as_long_takes_about_twice_as_long() -> None:
    """Nobody has private memory, of which the kernel would keep a list of all forefathers for each of them."""

    def took(length: int) -> int:
        writer = PlanWriter()
        last = writer.actor(1)
        for n in range(length):
            last = writer.born(last, 1000 + n)
        with rebuilt(writer.activated().plan()) as made:
            return made.building_ns

    assert min(took(2000) for _ in range(2)) < 6 * min(took(500) for _ in range(4)) + 500_000_000


def test_who_holds_has_an_empty_mask_default_signals_and_no_descriptor_but_three() -> None:
    """What the coordinator ignores or blocks is its own affair."""
    writer = PlanWriter()
    root = writer.actor(1)
    writer.born(writer.born(root, 30), 31, bits=CloneBits.THREAD)
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with rebuilt(writer.activated().plan()) as made:
            active(made)
            pid = made.pids[1]
            text = Path(f"/proc/{pid}/status").read_text()
            fields = dict(line.split(":\t", 1) for line in text.splitlines())

            assert {fields[name] for name in ("SigBlk", "SigIgn", "SigCgt")} == {"0" * 16}
            assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")} == {"/dev/null"}
            assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    finally:
        signal.signal(signal.SIGHUP, old)


def test_threads_have_their_numbers_and_can_have_children() -> None:
    """The child of a thread is one of its process; /proc does not say of which thread."""
    writer = PlanWriter()
    root = writer.actor(1)
    process = writer.born(root, 50)
    threads = [writer.born(process, number, bits=CloneBits.THREAD) for number in (60, 52)]
    child = writer.born(threads[0], 55)
    with rebuilt(writer.activated().plan()) as made:
        active(made)

        assert [status(made.pids[thread]).pid[-1] for thread in threads] == [60, 52]
        assert {status(made.pids[thread]).tgid for thread in threads} == {made.pids[process]}
        assert status(made.pids[child]).ppid == made.pids[process]


def test_namespaces_nest_and_siblings_have_the_same_numbers() -> None:
    """By CLONE_NEWPID, by unshare() and by setns() into what is there."""
    writer = PlanWriter()
    root = writer.actor(1)
    first = writer.born(root, 100, 1, bits=CloneBits.NEWPID)
    below = writer.born(first, 101, 2)
    deepest = writer.born(below, 102, 3, 1, bits=CloneBits.NEWPID)
    maker = writer.born(root, 110)
    writer.step(Op.UNSHARE, maker)
    second = writer.born(maker, 111, 1)
    same = writer.born(second, 112, 2)
    writer.step(Op.ENTER, maker, maker)
    plain = writer.born(maker, 113)
    writer.step(Op.ENTER, root, first, after=(writer.birth(first),))
    entered = writer.born(root, 114, 9)
    with rebuilt(writer.activated().plan()) as made:
        active(made)
        inodes = [os.stat(f"/proc/{pid}/ns/pid").st_ino for pid in made.pids]
        base = len(status(os.getpid()).pid)

        for actor, numbers in enumerate(made.numbers):
            assert status(made.pids[actor]).pid[base:] == numbers
        assert made.numbers[deepest] == (102, 3, 1)
        assert inodes[first] == inodes[below] == inodes[entered]
        assert inodes[second] == inodes[same]
        assert inodes[plain] == inodes[root]
        assert len({inodes[root], inodes[first], inodes[second], inodes[deepest]}) == 4


def test_a_ghost_leaves_and_its_group_keeps_the_number() -> None:
    """What the ghost is there for."""
    writer = PlanWriter()
    root = writer.actor(1)
    ghost = writer.born(root, 70, role=Role.GHOST)
    founded = writer.step(Op.SETPGID, ghost, ghost, ghost)
    member = writer.born(root, 71)
    joined = writer.step(Op.SETPGID, member, member, ghost, after=(founded,))
    writer.activated()
    writer.step(Op.EXIT, ghost, phase=Phase.LEAVE, after=(joined,))
    writer.step(Op.REAP, root, ghost, phase=Phase.LEAVE)
    with rebuilt(writer.plan()) as made:
        assert status(made.pids[ghost]).pid[-1] == 70
        active(made)

        assert read_status(made.pids[ghost]) is None
        assert status(made.pids[member]).pgid[-1] == 70


def test_zombies_have_the_status_with_which_they_ended() -> None:
    """Exit codes, signals, and a namespace's init, which dies by no signal of its own."""
    writer = PlanWriter()
    root = writer.actor(1)
    plain = (0, 7 << 8, signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)
    faults = (signal.SIGKILL, signal.SIGSEGV, signal.SIGILL, signal.SIGBUS, signal.SIGTRAP, signal.SIGFPE)
    zombies = [writer.born(root, 200 + n, status=raw) for n, raw in enumerate(plain)]
    bits = CloneBits.NEWPID
    inits = [writer.born(root, 300 + n, 1, bits=bits, status=raw) for n, raw in enumerate((*faults, 9 << 8))]
    for actor in (*zombies, *inits):
        writer.step(Op.ACTIVATE, actor, phase=Phase.ACTIVATE)
        writer.step(Op.EXIT, actor, value=writer.actors[actor].status or 0, phase=Phase.ACTIVATE)
        writer.step(Op.AWAIT, root, actor, phase=Phase.ACTIVATE)
    with rebuilt(writer.plan()) as made:
        active(made)

        assert {status(made.pids[actor]).state for actor in (*zombies, *inits)} == {"Z"}
        assert [exit_code(made.pids[actor]) for actor in zombies] == list(plain)
        assert [exit_code(made.pids[actor]) for actor in inits] == [*faults, 9 << 8]


def test_a_leader_that_is_dead_has_threads_that_live() -> None:
    """Its exit is a thread's: the group stays."""
    writer = PlanWriter()
    root = writer.actor(1)
    leader = writer.born(root, 80, status=3 << 8)
    thread = writer.born(leader, 81, bits=CloneBits.THREAD)
    writer.activated()
    writer.step(Op.EXIT, leader, value=3 << 8, phase=Phase.ACTIVATE)
    with rebuilt(writer.plan()) as made:
        active(made)

        eventually(made.pids[leader], "Z")
        assert status(made.pids[thread]).state == "S"


def test_what_was_stopped_stops_when_all_others_hold() -> None:
    """A namespace's init too, which cannot stop itself."""
    writer = PlanWriter()
    root = writer.actor(1)
    plain = writer.born(root, 90)
    writer.born(plain, 91, bits=CloneBits.THREAD)
    init = writer.born(root, 92, 1, bits=CloneBits.NEWPID)
    writer.activated()
    for actor in (plain, init, root):
        writer.step(Op.STOP, actor, phase=Phase.STOP)
    with rebuilt(writer.plan()) as made:
        active(made)

        for actor in (plain, plain + 1, init, root):
            eventually(made.pids[actor], "T")


def test_a_sibling_is_made_with_clone_parent() -> None:
    """Its creator is no parent, and its session is the creator's."""
    writer = PlanWriter()
    root = writer.actor(1)
    top = writer.born(root, 40)
    leader = writer.born(top, 41)
    writer.step(Op.SETSID, leader)
    sibling = writer.born(leader, 42, bits=CloneBits.PARENT)
    with rebuilt(writer.activated().plan()) as made:
        active(made)
        found = status(made.pids[sibling])

        assert (found.ppid, found.sid[-1], found.pid[-1]) == (made.pids[top], 41, 42)


def test_an_orphan_goes_to_the_nearest_subreaper() -> None:
    """A helper whose number is any is there for a moment only."""
    writer = PlanWriter()
    root = writer.actor(1)
    subreaper = writer.born(root, 44)
    writer.step(Op.SUBREAPER, subreaper, value=1)
    helper = writer.born(subreaper, role=Role.HELPER)
    orphan = writer.born(helper, 45)
    writer.step(Op.EXIT, helper)
    writer.step(Op.REAP, subreaper, helper)
    with rebuilt(writer.activated().plan()) as made:
        active(made)

        assert status(made.pids[orphan]).ppid == made.pids[subreaper]


def test_with_any_numbers_each_is_learnt_at_every_level() -> None:
    """Groups are then named by what the kernel gave."""
    writer = PlanWriter()
    root = writer.actor(1)
    child = writer.born(root, 5000)
    inner = writer.born(child, 5001, 1, bits=CloneBits.NEWPID)
    thread = writer.born(inner, 5002, 900, bits=CloneBits.THREAD)
    joined = writer.born(root, 5003)
    founded = writer.step(Op.SETPGID, child, child, child)
    writer.step(Op.SETPGID, joined, joined, child, after=(founded,))
    with rebuilt(writer.activated().plan(), any_numbers=True) as made:
        active(made)

        assert made.numbers[inner][1] == 1
        assert 5001 not in made.numbers[inner]
        assert all(
            status(made.pids[actor]).pid[-len(numbers) :] == numbers for actor, numbers in enumerate(made.numbers)
        )
        assert made.numbers[thread] != (5002, 900)
        assert status(made.pids[joined]).pgid[-1] == made.numbers[child][0]


def test_without_a_namespace_the_numbers_are_those_of_this_one() -> None:
    """The reaper above has any that is free."""
    number = free_number()
    writer = PlanWriter(pidns=False)
    reaper = writer.actor(role=Role.REAPER, tag=0)
    root = writer.born(reaper, number)
    with rebuilt(writer.activated().plan()) as made:
        active(made)

        assert made.pids[root] == number
        assert status(number).ppid == made.pids[reaper]


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
from tests.plans import PlanWriter
from agent.restart.rebuild import Rebuild
writer = PlanWriter(pidns=sys.argv[1] == "pidns")
root = writer.actor(1) if writer.pidns else writer.actor(depth=0)
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


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_detached_tree_ends_with_its_guard(end: signal.Signals) -> None:
    """By a request, or because it was killed: actor 0 dies with its parent, and its namespace with it."""
    process, pids = coordinator("pidns", "detached")
    process.communicate()
    time.sleep(0.3)
    assert process.returncode == 0
    assert not any(is_gone(pid) for pid in pids)
    os.kill(pids[0], end)

    assert_gone(pids)


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
            with pytest.raises(RebuildError, match="the guard of the tree is gone"):
                made.activate()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_tasks_run_their_programs_and_the_end_of_the_root_is_told(tmp_path: Path) -> None:
    """A process with threads runs one, too; a group with a dead leader holds; a stopped one runs when it is continued."""
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


def test_a_program_that_cannot_run_is_an_error() -> None:
    """The whole tree goes."""
    writer = PlanWriter()
    root = writer.actor(1)
    child = writer.born(root, 10)
    with rebuilt(writer.activated().plan()) as made:
        made.activate()
        with pytest.raises(RebuildError, match=r"task 2 \(10\) cannot run its program: execve: ENOENT"):  # noqa: PT012
            made.release({child: Program(b"/nonexistent", [b"x"], [])})
            made.wait()


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may look into."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_who_is_not_root_gets_a_user_namespace_as_well(public: Path) -> None:
    """Numbers within are then free to choose."""
    for package in ("agent", "exporters", "tests"):
        shutil.copytree(TOP / package, public / package, ignore=shutil.ignore_patterns("__pycache__", "live", "bench"))
    program = COORDINATOR.replace("import sys, time", f"import sys, time\nsys.path.insert(0, {os.fspath(public)!r})")
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
    """An installation that nobody compiled."""
    writer = PlanWriter()
    writer.actor(1)
    with pytest.raises(Exception, match="make setup"):
        Rebuild(writer.plan(), helper=tmp_path / "none").build()
    assert HELPER.exists()
