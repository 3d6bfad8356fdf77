# SPDX-License-Identifier: Apache-2.0
"""Inits that wait within their exit, and keepers: how the kernel shows them, and that their trees end like any
others."""

import ctypes
import os
import signal
import threading
import time
from dataclasses import replace
from errno import ENOMEM
from pathlib import Path

import pytest

from agent.model import Namespace, PidObject, Snapshot, TaskState
from agent.restart.planning.plan import Role
from agent.restart.planning.search import make_plan
from agent.restart.rebuild.coordinator import Rebuild
from agent.restart.rebuild.failure import RebuildError
from agent.restart.rebuild.taskanswers import read_status
from agent.restart.rebuild.verify import Standing, verify, verify_active
from exporters import registry
from tests.live.rebuilds import active, assert_gone, eventually, exit_code, free_number, rebuilt, status
from tests.live.restartverb import ran, running, soon
from tests.live.scenario import CONTAINER
from tests.live.treeprog import Tree
from tests.support.builders import a_snapshot, a_task

OUTER, INNER, HOLDER = 1, 2, 3
INIT, THREAD = 2, 3
_PF_EXITING = 4
_PTRACE_SEIZE, _PTRACE_DETACH, _PTRACE_O_TRACEEXIT, _WALL = 0x4206, 17, 0x40, 0x40000000


def a_tree_with_dead_inits() -> Snapshot:
    """Two of them, one within the other, because of a zombie of the holder; and a member of a namespace without an
    init."""
    first = free_number()
    numbers = [(0,), (1, 1), (2, 2, 1), (3,), (4, 3, 2), (5, 2)]
    spaces = [(0,), (0, 1), (0, 1, 2), (0,), (0, 1, 2), (0, 3)]
    pids = [PidObject((first + own[0], *own[1:]), space) for own, space in zip(numbers, spaces, strict=True)]
    tasks = [
        a_task(1, 0),
        a_task(2, 1, depth=1, state=TaskState.ZOMBIE, exit_code=5 << 8),
        a_task(3, 2, depth=2, state=TaskState.ZOMBIE, exit_code=9),
        a_task(4, 1),
        a_task(5, 4, depth=2, state=TaskState.ZOMBIE, exit_code=7 << 8),
        a_task(6, 1, depth=1),
    ]
    levels = [(0, None), (1, 0), (2, 1), (1, 0)]
    namespaces = tuple(Namespace(n, 4026531836 + n, level, above) for n, (level, above) in enumerate(levels))
    return replace(a_snapshot(tasks=tasks), pids=tuple(pids), namespaces=namespaces)


def flags(pid: int) -> int:
    """PF_ flags, as /proc has them."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[6])


@pytest.mark.parametrize("any_numbers", [False, True], ids=["same numbers", "any numbers"])
@pytest.mark.parametrize("pidns", [True, False], ids=["own namespace", "caller's namespace"])
def test_dead_inits_wait_within_their_exit_and_the_tree_ends_all_the_same(pidns: bool, any_numbers: bool) -> None:  # noqa: FBT001
    """They are no zombies, cannot be killed, and have the status they had; they go with the zombie's parent."""
    snapshot = a_tree_with_dead_inits()
    plan = make_plan(snapshot, pidns=pidns)
    with rebuilt(plan, any_numbers=any_numbers) as made:
        standing = Standing(snapshot, plan, made.pids, made.numbers, made.guard)
        assert verify(standing) == []
        active(made)
        assert verify_active(standing, stopped=True) == []
        pids = [made.pids[actor] for actor in plan.tasks]
        for init, code in ((OUTER, 5 << 8), (INNER, 9)):
            os.kill(pids[init], signal.SIGKILL)
            assert status(pids[init]).state not in "ZX"
            assert flags(pids[init]) & _PF_EXITING
            assert exit_code(pids[init]) == code
        keeper = next(actor for actor, each in enumerate(plan.actors) if each.role is Role.KEEPER)
        assert status(made.pids[keeper]).ppid == made.pids[0]
        assert made.numbers[keeper][-1] == 1
        os.kill(pids[HOLDER], signal.SIGKILL)
        eventually(pids[OUTER], "Z")


def test_an_init_that_waits_within_its_exit_is_of_its_user(tmp_path: Path) -> None:
    """One that a signal has ended, too."""
    snapshot = a_tree_with_dead_inits()
    tasks = [task._replace(uid=65534, gid=65534) if task.state is TaskState.ZOMBIE else task for task in snapshot.tasks]
    file = tmp_path / "dying.ckpt"
    file.write_bytes(registry.image(replace(snapshot, tasks=tuple(tasks)), "ckpt"))
    with running(file) as (_, ready):
        pids = [task["pid"] for task in ready["tasks"] if task["tag"] in (OUTER + 1, INNER + 1)]

        assert soon(lambda: all(flags(pid) & _PF_EXITING for pid in pids))
        assert [exit_code(pid) for pid in pids] == [5 << 8, 9]
        users = [Path(f"/proc/{pid}/status").read_text().partition("\nUid:")[2].split()[:4] for pid in pids]
        assert users == [["65534"] * 4] * 2


def test_what_the_kernel_was_about_to_end_is_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    """Refused without, and the refusal names the option; one that entered is a zombie, for which the init waits."""
    first = free_number()
    numbers = [(0,), (1, 1), (2, 2), (3, 3), (4, 4)]
    rows = [
        a_task(1, 0),
        a_task(2, 1, depth=1, state=TaskState.ZOMBIE, exit_code=5 << 8),
        a_task(3, 2, depth=1),
        a_task(4, 1, depth=1),
        a_task(5, 4, depth=1),
    ]
    pids = tuple(PidObject((first + own[0], *own[1:]), (0,) if len(own) == 1 else (0, 1)) for own in numbers)
    spaces = (Namespace(0, 4026531836, 0, None), Namespace(1, 4026531837, 1, 0))
    file = tmp_path / "dying.ckpt"
    file.write_bytes(registry.image(replace(a_snapshot(tasks=rows), pids=pids, namespaces=spaces), "ckpt"))
    refused = ran(file)
    assert (refused.returncode, "--drop-dying" in refused.stderr) == (7, True)

    with running(file, "--drop-dying") as (process, ready):
        made = {each["tag"]: each["pid"] for each in ready["tasks"]}
        assert sorted(made) == [1, 2, 4]
        eventually(made[4], "Z")  # the line is out before the tree is active
        assert (exit_code(made[4]), status(made[4]).ppid) == (signal.SIGKILL, made[1])
        assert soon(lambda: flags(made[2]) & _PF_EXITING)
        assert status(made[2]).state not in "ZX"
        process.terminate()
        _, said = process.communicate(timeout=30)
    assert "task 3 (" in said
    assert "was in a pid namespace that was ending, and is left out" in said
    assert "is made as a zombie, killed by SIGKILL" in said
    assert process.returncode == 0
    assert_gone(list(made.values()))


def test_a_kernel_leaves_nothing_but_others_zombies_where_an_init_has_exited() -> None:
    """Its children are gone, alive or zombies before; a task that entered is a zombie; no task can be born there."""
    with Tree(strict=False) as tree:
        tree.run(
            CONTAINER + "fork 1 2 newpid; fork 2 3; fork 2 4; exit 4; fork 1 5; setns 5 2; fork 5 6; setns 1 2; kill 2"
        )
        found = {node: read_status(tree.number(node)) for node in (2, 3, 4, 6)}

        assert (found[3], found[4]) == (None, None)
        assert [each.state == "Z" for each in (found[2], found[6]) if each is not None] == [False, True]
        assert tree.fork(1, 7).errno == ENOMEM


def test_a_kernel_does_not_reap_a_leader_before_its_threads() -> None:
    """It has exited, and there is nothing to wait for."""
    with Tree(strict=False) as tree:
        tree.run(CONTAINER + "fork 1 2; thread 2 3; leave 2")

        assert (status(tree.number(2)).state, tree.wait(1, 2).value) == ("Z", 0)


def test_nothing_is_left_of_dead_inits_when_their_guard_is_killed() -> None:
    """In the caller's namespace: nothing goes by itself there."""
    plan = make_plan(a_tree_with_dead_inits(), pidns=False)
    with Rebuild(plan, no_stdio=True) as made:
        made.build()
        made.activate()
        made.release()
        pids = [*made.pids]
        os.kill(made.guard, signal.SIGKILL)
        with pytest.raises(RebuildError, match="guard"):
            made.wait()

    assert_gone(pids)


def test_an_init_that_does_not_wait_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tree is another one if the zombie is reaped before the comparison."""
    monkeypatch.setattr("agent.restart.rebuild.verify._SETTLING", 0.1)
    snapshot = a_tree_with_dead_inits()
    plan = make_plan(snapshot)
    with rebuilt(plan) as made:
        standing = Standing(snapshot, plan, made.pids, made.numbers, made.guard)
        active(made)
        pids = [made.pids[actor] for actor in plan.tasks]
        os.kill(pids[HOLDER], signal.SIGKILL)
        eventually(pids[OUTER], "Z")

        assert any("is to wait within its exit" in each for each in verify_active(standing, stopped=True))


def a_tree_with_a_dead_init_of_two_threads() -> Snapshot:
    """A container's init: its leader is dead, and its thread waits within its exit, because of a zombie of the
    holder."""
    first = free_number()
    numbers = [(0,), (1, 1), (2, 2), (3,), (4, 3)]
    spaces = [(0,), (0, 1), (0, 1), (0,), (0, 1)]
    pids = [PidObject((first + own[0], *own[1:]), space) for own, space in zip(numbers, spaces, strict=True)]
    tasks = [
        a_task(1, 0),
        a_task(INIT, 1, depth=1, state=TaskState.DEAD_LEADER, exit_code=0),
        a_task(THREAD, 1, tgid=INIT, depth=1, state=TaskState.ZOMBIE, exit_code=0),
        a_task(4, 1),
        a_task(5, 4, depth=1, state=TaskState.ZOMBIE, exit_code=7 << 8),
    ]
    namespaces = (Namespace(0, 4026531836, 0, None), Namespace(1, 4026531837, 1, 0))
    return replace(a_snapshot(tasks=tasks), pids=tuple(pids), namespaces=namespaces)


def test_the_last_thread_of_a_dying_init_is_the_last_however_long_the_others_take() -> None:
    """A tracer holds the leader at the beginning of its exit; its thread waits before its own."""
    snapshot = a_tree_with_a_dead_init_of_two_threads()
    plan = make_plan(snapshot)
    with rebuilt(plan) as made:
        standing = Standing(snapshot, plan, made.pids, made.numbers, made.guard)
        assert verify(standing) == []
        leader, thread = (made.pids[plan.tasks[tag - 1]] for tag in (INIT, THREAD))
        ptrace(_PTRACE_SEIZE, leader, _PTRACE_O_TRACEEXIT)
        activation = threading.Thread(target=active, args=(made,), daemon=True)
        activation.start()
        os.waitpid(leader, _WALL)  # it is stopped within its exit
        time.sleep(0.2)
        meanwhile = read_status(thread)
        ptrace(_PTRACE_DETACH, leader, 0)
        activation.join(5)

        assert meanwhile is not None
        assert not activation.is_alive()
        assert verify_active(standing, stopped=True) == []


def ptrace(request: int, pid: int, data: int) -> None:
    """The system call."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    if libc.ptrace(request, pid, None, data) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")
