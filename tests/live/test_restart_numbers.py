# SPDX-License-Identifier: Apache-2.0
"""Numbers that change hands: a process that gets the number of a tree's process at the wrong moment is not killed."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from agent.restart.rebuild import orphans
from agent.restart.rebuild.coordinator import Rebuild
from agent.restart.rebuild.helperabi import Message, Program, Said
from tests.live.rebuilds import assert_gone, free_number, rebuilt, status
from tests.live.restartverb import soon
from tests.support.plans import PlanWriter

_kill = os.kill  # one of the tests puts another in its place
_SYSCALL, _DETACH, _SEIZE, _INTERRUPT, _TRACESYSGOOD = 24, 17, 0x4206, 0x4207, 1
_KILLS = {"62", "129", "424"}
"""kill() of x86-64 and of arm64, pidfd_send_signal(): the second argument is the signal."""

_REAPING = "sleep 1000 & echo $! > $FILE.new; mv $FILE.new $FILE; wait; exec sleep 1000"
"""A shell that reaps what is killed below it."""


def _trace(request: int, pid: int, data: int = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(request, pid, None, data):
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x}")


@contextmanager
def _traced(pid: int) -> Iterator[None]:
    """Trace a process. A failure within detaches from it, for Rebuild waits for its guard."""
    _trace(_SEIZE, pid, _TRACESYSGOOD)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            _trace(_DETACH, pid)
        raise


@contextmanager
def _recycled(number: int) -> Iterator[int]:
    """Kill the process with a number, and give that to another, which is of another tree; yields its pid."""
    _kill(number, signal.SIGKILL)
    assert soon(lambda: not Path(f"/proc/{number}").exists())
    writer = PlanWriter(pidns=False)
    writer.actor(number)
    with rebuilt(writer.activated().plan()) as made:
        yield made.pids[0]


def _child_in(file: Path) -> int:
    assert soon(file.exists)
    return int(file.read_text())


def test_a_guard_that_takes_its_tree_down_kills_nobody_who_has_a_number_of_it_now(tmp_path: Path) -> None:
    """Held just before its first SIGKILL, which is for the process furthest down."""
    file = tmp_path / "child"
    writer = PlanWriter(pidns=False)
    root = writer.actor(free_number())
    with Rebuild(writer.activated().plan(), no_stdio=True) as made:
        made.build()
        made.activate()
        made.release({root: Program(b"/bin/sh", [b"sh", b"-c", _REAPING.encode()], [f"FILE={file}".encode()])})
        child = _child_in(file)
        with _traced(made.guard):
            _trace(_INTERRUPT, made.guard)
            assert os.WIFSTOPPED(os.waitpid(made.guard, 0)[1])  # before it can have killed anything
            made._send(Message(Said.KILL))  # kill() would wait for the guard
            _trace(_SYSCALL, made.guard)
            while True:
                assert os.WIFSTOPPED(os.waitpid(made.guard, 0)[1])
                call = Path(f"/proc/{made.guard}/syscall").read_text().split()
                if call[0] in _KILLS and int(call[2], 16) == signal.SIGKILL:
                    break
                _trace(_SYSCALL, made.guard)
            with _recycled(child) as victim:
                _trace(_DETACH, made.guard)
                made.kill()

                assert victim == child
                assert status(victim).state in "SR"


def test_a_coordinator_that_takes_down_what_a_guard_left_kills_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number changes hands in the moment before the call."""
    file = tmp_path / "child"
    left = subprocess.Popen(["sh", "-c", _REAPING], env=os.environ | {"FILE": os.fspath(file)})
    child = _child_in(file)
    victims: list[tuple[int, str]] = []
    changing: list[bool] = []

    def recycling(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(target: int, number: int) -> None:
            if number != signal.SIGKILL or changing or (call is _kill and target != child):
                call(target, number)
                return
            changing.append(True)
            with _recycled(child) as victim:
                try:
                    call(target, number)
                finally:
                    victims.append((victim, status(victim).state))

        return called

    kept = orphans.children() - {left.pid}
    for module, name in ((os, "kill"), (signal, "pidfd_send_signal")):
        monkeypatch.setattr(module, name, recycling(getattr(module, name)))
    orphans.kill_all_but(kept)

    left.wait()
    assert victims in ([(child, "S")], [(child, "R")])  # alive
    assert_gone([left.pid])
