# SPDX-License-Identifier: Apache-2.0
"""A coordinator that is killed or interrupted at any moment leaves nothing of its tree behind.

CKPTREE_MOMENTS=100 tries that many moments in each way.
"""

import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from agent.cli import restartverb
from agent.model import Snapshot
from agent.restart.planning import search
from agent.restart.planning.plan import Plan
from agent.restart.planning.search import make_plan
from agent.restart.rebuild import commands, pidfile, preflight, verify
from agent.restart.rebuild.coordinator import Rebuild
from exporters import registry
from tests.live.guardprocesses import guards, kill_session, left_over
from tests.live.restartverb import soon
from tests.support.builders import a_snapshot, a_task

MOMENTS = os.environ.get("CKPTREE_MOMENTS")
IMPORTED = (pidfile, preflight, commands, verify)
"""Modules that the verb imports when it is called; imported once here, and not in each process again."""


def a_large_tree() -> Snapshot:
    """Three hundred processes."""
    tasks = [a_task(1, 0), *[a_task(tag, tag // 3 + 1) for tag in range(2, 301)]]
    return a_snapshot([(1,), *[(tag + 400,) for tag in range(2, 301)]], tasks, mode="container")


def forked(body: Callable[[], None]) -> int:
    """Run a function in a process with a session of its own, and return its pid; its output is dropped."""
    begun, begins = os.pipe()
    # Python forgets, in a child, a signal that comes before os.fork() has returned there.
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        raise
    if pid:
        os.close(begins)
        os.read(begun, 1)
        os.close(begun)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        return pid
    try:
        os.setsid()
        os.close(begun)
        os.close(begins)
        gc.callbacks.clear()  # what a signal raises in one of them, and other tests leave some, is dropped
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        body()
    finally:
        os._exit(0)


def assert_nothing_is_left(begin: Callable[[], None], end: Callable[[int], None], whole: float, moments: int) -> None:
    """Begin a tree and end its coordinator some time later, again and again; no process may be left, each time.

    Every other time counts from the birth of the first task, however busy the machine is.
    """
    others = left_over(set())
    chance = random.Random(7)
    for moment in range(int(MOMENTS or moments)):
        coordinator = forked(begin)
        if moment % 2:
            assert soon(lambda: left_over(others), within=20)
        time.sleep(chance.uniform(0, whole * 1.3))
        end(coordinator)
        os.waitpid(coordinator, 0)
        assert soon(lambda: not left_over(others), within=20), f"{left_over(others)} are still there"


def made(plan: Plan) -> Rebuild:
    """All of the tree, released; it is for the caller to end it."""
    rebuild = Rebuild(plan, no_stdio=True, any_numbers=not plan.pidns)
    rebuild.build()
    rebuild.activate()
    rebuild.release()
    return rebuild


def hold(plan: Plan) -> None:
    """Sleep for longer than any test waits."""
    with made(plan):
        time.sleep(100)


def seconds_to_make(pidns: bool) -> tuple[float, float]:  # noqa: FBT001
    """For a plan, and for the tree."""
    begin = time.monotonic()
    plan = make_plan(a_large_tree(), pidns=pidns)
    planned = time.monotonic()
    with made(plan):
        return planned - begin, time.monotonic() - planned


@pytest.mark.parametrize(("pidns", "moments"), [(True, 100), (False, 25)], ids=["pidns", "here"])
def test_nothing_is_left_of_a_coordinator_that_is_killed(*, pidns: bool, moments: int) -> None:
    """From before the guard's start to after the release."""
    plan = make_plan(a_large_tree(), pidns=pidns)

    _, whole = seconds_to_make(pidns)
    assert_nothing_is_left(lambda: hold(plan), lambda pid: os.kill(pid, signal.SIGKILL), whole, moments)


def kill_with_guard(coordinator: int) -> None:
    """Both, so that neither can do anything about the other's end."""
    os.kill(coordinator, signal.SIGSTOP)
    for guard in guards(coordinator):
        os.kill(guard, signal.SIGKILL)
    os.kill(coordinator, signal.SIGKILL)


def kill_guard_at_its_work(coordinator: int) -> None:
    """While it takes the tree down."""
    found = guards(coordinator)
    os.kill(coordinator, signal.SIGKILL)
    time.sleep(random.uniform(0, 0.004))
    for guard in found:
        with suppress(ProcessLookupError):
            os.kill(guard, signal.SIGKILL)


@pytest.mark.parametrize("end", [kill_with_guard, kill_guard_at_its_work])
@pytest.mark.parametrize("pidns", [True, False], ids=["pidns", "here"])
def test_nothing_is_left_where_the_guard_is_killed_as_well(*, pidns: bool, end: Callable[[int], None]) -> None:
    """It falls to the tree's init, or to its reaper."""
    plan = make_plan(a_large_tree(), pidns=pidns)
    _, whole = seconds_to_make(pidns)
    assert_nothing_is_left(lambda: hold(plan), end, whole, 10)


def kill_group(coordinator: int) -> None:
    """As a shell, timeout or a terminal does: nothing of that group can do anything about it."""
    os.killpg(coordinator, signal.SIGKILL)


def kill_guard(coordinator: int) -> None:
    """Only that: the coordinator ends by itself."""
    for guard in guards(coordinator):
        with suppress(ProcessLookupError):
            os.kill(guard, signal.SIGKILL)
    _end_of_one_that_has_none(coordinator)


def kill_first(coordinator: int) -> None:
    """The tree's init, or its root."""
    for guard in guards(coordinator):
        with suppress(OSError):
            for first in guards(guard):
                os.kill(first, signal.SIGKILL)
    _end_of_one_that_has_none(coordinator)


def _end_of_one_that_has_none(coordinator: int) -> None:
    """Kill the coordinator if it goes on, since there was no process to kill yet."""
    if not soon(lambda: os.waitid(os.P_PID, coordinator, os.WEXITED | os.WNOHANG | os.WNOWAIT), within=1):
        os.kill(coordinator, signal.SIGKILL)


@pytest.mark.parametrize("end", [kill_group, kill_session, kill_guard, kill_first])
@pytest.mark.parametrize("pidns", [True, False], ids=["pidns", "here"])
def test_nothing_is_left_whoever_is_killed(*, pidns: bool, end: Callable[[int], None]) -> None:
    """Group and session of the coordinator are the tree's, too; the guard is in neither."""
    plan = make_plan(a_large_tree(), pidns=pidns)
    _, whole = seconds_to_make(pidns)
    assert_nothing_is_left(lambda: hold(plan), end, whole, 10)


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["alone", "with its group"])
@pytest.mark.parametrize("pidns", [True, False], ids=["pidns", "here"])
def test_nothing_is_left_of_a_restart_that_is_interrupted(
    *, pidns: bool, send: Callable[[int, int], None], tmp_path: Path
) -> None:
    """The verb, from its beginning. A terminal interrupts the tasks with it, for they are in its group."""
    image = tmp_path / "tree.ckpt"
    image.write_bytes(registry.image(a_large_tree(), "ckpt"))
    assert_nothing_is_left(
        lambda: restartverb.restart(os.fspath(image), pids=pidns, pidns=pidns),
        lambda pid: send(pid, signal.SIGINT),
        2 * sum(seconds_to_make(pidns)),
        10,
    )


def assert_it_ends(body: Callable[[], None]) -> None:
    """In a process of its own, and soon."""
    coordinator = forked(body)
    try:
        assert soon(lambda: os.waitpid(coordinator, os.WNOHANG) != (0, 0), within=20)
    except AssertionError:
        os.kill(coordinator, signal.SIGKILL)
        os.waitpid(coordinator, 0)
        raise


def test_an_interrupt_that_python_drops_ends_a_restart_all_the_same(tmp_path: Path) -> None:
    """Python drops an exception that is raised within a callback of the garbage collector."""
    image = tmp_path / "tree.ckpt"
    image.write_bytes(registry.image(a_large_tree(), "ckpt"))
    release = Rebuild.release

    def interrupted(phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            os.kill(os.getpid(), signal.SIGINT)

    def released(rebuild: Rebuild) -> None:
        release(rebuild)
        gc.callbacks.append(interrupted)
        gc.collect()
        gc.callbacks.clear()

    def restart() -> None:
        setattr(Rebuild, "release", released)  # noqa: B010 - in a process of its own, which ends with this
        restartverb.restart(os.fspath(image))

    assert_it_ends(restart)


@pytest.mark.parametrize("where", ["before the tree is made", "while it holds"])
def test_a_signal_that_python_hears_of_and_no_call_does_ends_a_restart(where: str, tmp_path: Path) -> None:
    """It came to another thread, or in the moment before a call; or what it raised in the planning was dropped."""
    image = tmp_path / "tree.ckpt"
    image.write_bytes(registry.image(a_large_tree(), "ckpt"))
    make, release = search.make_plan, Rebuild.release

    def interrupt() -> None:
        time.sleep(0.2)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    def released(rebuild: Rebuild) -> None:
        release(rebuild)
        threading.Thread(target=interrupt, daemon=True).start()

    def planned(snapshot: Snapshot, *, pidns: bool = True, with_contents: bool = False) -> Plan:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        except BaseException:  # noqa: BLE001, S110 - so does Python, within some callbacks
            pass
        return make(snapshot, pidns=pidns, with_contents=with_contents)

    def restart() -> None:
        if where == "while it holds":
            setattr(Rebuild, "release", released)  # noqa: B010 - in a process of its own, which ends with this
        else:
            search.make_plan = planned
        restartverb.restart(os.fspath(image))

    assert_it_ends(restart)
