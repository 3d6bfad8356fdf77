# SPDX-License-Identifier: Apache-2.0
"""The helper makes what a plan says, with the kernel as the witness; and whatever goes wrong, nothing stays."""

import ctypes
import os
import signal
import socket
import struct
from itertools import takewhile
from pathlib import Path

from agent.restart.planning.plan import CloneBits, Op, Phase, Role
from agent.restart.rebuild.taskanswers import read_status
from tests.live.rebuilds import active, eventually, exit_code, free_number, rebuilt, status
from tests.support.plans import PlanWriter

TOP = Path(__file__).parents[2]
FD_REPORT = 6
"""The descriptor by which an actor tells the guard that it is there; see state.h."""
PIDFD_GETFD = 438
"""The number of the system call, on all machines."""


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


def test_the_channel_to_the_guard_takes_the_reports_of_all_actors_at_once() -> None:
    """Where it is full, actors sleep until the guard has read, and each report that it reads wakes all of them."""
    writer = PlanWriter()
    root = writer.actor(1)
    for n in range(600):
        writer.born(root, 1000 + n)
    with rebuilt(writer.activated().plan()) as made:
        process = os.pidfd_open(made.pids[0])
        channel = socket.socket(fileno=ctypes.CDLL(None).syscall(PIDFD_GETFD, process, FD_REPORT, 0))
        os.close(process)
        of_nobody = struct.pack("=I", len(made.pids))
        os.kill(made.guard, signal.SIGSTOP)
        try:
            eventually(made.guard, "T")
            taken = sum(1 for _ in takewhile(lambda _: _sent(channel, of_nobody), made.pids))
        finally:
            os.kill(made.guard, signal.SIGCONT)
            channel.close()
        active(made)

        assert taken == len(made.pids)


def _sent(channel: socket.socket, report: bytes) -> bool:
    try:
        return channel.send(report, socket.MSG_DONTWAIT) == len(report)
    except BlockingIOError:
        return False


def test_a_chain_twice_as_long_takes_about_twice_as_long() -> None:
    """No task has private memory, for which the kernel would keep a list of all its forefathers."""

    def took(length: int) -> int:
        writer = PlanWriter()
        last = writer.actor(1)
        for n in range(length):
            last = writer.born(last, 1000 + n)
        with rebuilt(writer.activated().plan()) as made:
            return made.building_ns

    assert min(took(2000) for _ in range(2)) < 6 * min(took(500) for _ in range(4)) + 500_000_000


def test_who_holds_has_an_empty_mask_default_signals_and_no_descriptor_but_three() -> None:
    """Tasks do not inherit the signals that the coordinator ignores or blocks."""
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


def test_who_holds_says_so_in_its_command_line() -> None:
    """With its tag and name, where ps and pgrep -f look; the reaper too, and who is stopped."""
    writer = PlanWriter()
    reaper = writer.actor(1, role=Role.REAPER, tag=0)
    root = writer.born(reaper, 30)
    child = writer.born(root, 31, comm=b"a name of 15 by")
    writer.born(child, 32, bits=CloneBits.THREAD)
    stopped = writer.born(root, 33)
    writer.activated()
    writer.step(Op.STOP, stopped, phase=Phase.STOP)
    with rebuilt(writer.plan()) as made:
        active(made)
        lines = [Path(f"/proc/{made.pids[actor]}/cmdline").read_bytes() for actor in (reaper, root, child, stopped)]

        assert lines[:2] == [b"ckptree: reaper\0", b"ckptree: held 2 actor-1\0"]
        assert lines[2:] == [b"ckptree: held 3 a name of 15 by\0", b"ckptree: held 5 actor-4\0"]


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
    """The member stays in the ghost's group."""
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
    faults = [signal.SIGKILL, signal.SIGSEGV, signal.SIGILL, signal.SIGBUS, signal.SIGTRAP]
    faults += [signal.SIGFPE] if os.uname().machine == "x86_64" else []  # elsewhere no division traps
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
