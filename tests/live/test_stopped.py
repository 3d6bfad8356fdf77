# SPDX-License-Identifier: Apache-2.0
"""Stopped means a stopped group, whatever traces it: what a parent learns from wait4() with WUNTRACED.

A tracer holds single tasks, as debuggers and checkpointers do. That is no state of the tree: it ends with the tracer.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.model import TaskState
from agent.proc import proctable
from tests.live.conftest import Capture

RUNNING, STOPPED = TaskState.RUNNING, TaskState.STOPPED
_CONT, _ATTACH, _DETACH, _SEIZE, _INTERRUPT, _LISTEN = 7, 16, 17, 0x4206, 0x4207, 0x4208

# A thread whose child has not called exec yet: it waits for a writer of the fifo, and the thread, in D, for it.
_VFORKER = """
import os, sys, threading
how = [(os.POSIX_SPAWN_OPEN, 0, sys.argv[1], os.O_RDONLY, 0)]
threading.Thread(target=lambda: os.posix_spawn("/bin/sleep", ["sleep", "60"], {}, file_actions=how), daemon=True).start()
os.read(0, 1)
"""


def trace(request: int, pid: int, data: int = 0) -> None:
    """Call ptrace()."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(request, pid, None, data):
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x}")


@pytest.fixture
def child() -> Iterator[int]:
    """A process that sleeps."""
    process = subprocess.Popen(["sleep", "60"])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def stop(pid: int) -> None:
    """Stop a child and wait until it is."""
    os.kill(pid, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])


def awaited(pid: int) -> int:
    """Wait for the next stop of a traced child; its wait status without the low byte."""
    status = os.waitpid(pid, os.WUNTRACED)[1]
    assert status & 0xFF == 0x7F
    return status >> 8


def states(capture: Capture, pid: int) -> list[TaskState | None]:
    """The states in a snapshot."""
    return [task.state for task in capture(pid, "subtree").tasks]


def test_a_task_that_its_tracer_interrupts_runs(capture: Capture, child: int) -> None:
    """PTRACE_SEIZE and PTRACE_INTERRUPT, as checkpointers do."""
    trace(_SEIZE, child)
    trace(_INTERRUPT, child)
    awaited(child)

    assert states(capture, child) == [RUNNING]
    assert proctable.snapshot(str(child), "subtree").tasks[0].state is RUNNING


def test_a_task_that_a_tracer_attached_to_runs(capture: Capture, child: int) -> None:
    """PTRACE_ATTACH sends a SIGSTOP, which the tracer gets and the group does not."""
    trace(_ATTACH, child)
    awaited(child)

    assert states(capture, child) == [RUNNING]


@pytest.mark.parametrize("request_", [_SEIZE, _ATTACH], ids=["seize", "attach"])
def test_a_stopped_group_that_is_then_traced_is_stopped(capture: Capture, child: int, request_: int) -> None:
    """Its task is in a tracing stop then, and its group as stopped as before."""
    stop(child)
    trace(request_, child)
    awaited(child)

    assert states(capture, child) == [STOPPED]


def test_a_signal_that_the_tracer_has_not_passed_on_stops_nobody(capture: Capture, child: int) -> None:
    """And one that it has does, though the task listens to its tracer."""
    trace(_SEIZE, child)
    os.kill(child, signal.SIGSTOP)
    assert awaited(child) == signal.SIGSTOP

    assert states(capture, child) == [RUNNING]

    trace(_CONT, child, signal.SIGSTOP)
    assert awaited(child) & 0xFF == signal.SIGSTOP  # PTRACE_EVENT_STOP: the group stop
    assert states(capture, child) == [STOPPED]
    trace(_LISTEN, child)
    assert states(capture, child) == [STOPPED]


def test_a_task_that_its_tracer_lets_run_in_a_stopped_group_is_stopped_as_it_is_without_the_tracer(
    capture: Capture, child: int
) -> None:
    """The group stays stopped, and the task stops again when the tracer goes: a rebuilt tree has no tracer."""
    trace(_SEIZE, child)
    os.kill(child, signal.SIGSTOP)
    assert awaited(child) == signal.SIGSTOP
    trace(_CONT, child, signal.SIGSTOP)
    assert awaited(child) & 0xFF == signal.SIGSTOP
    trace(_CONT, child)
    _until(child, "S")

    assert states(capture, child) == [STOPPED]

    trace(_INTERRUPT, child)  # for only who is in a stop can be let go
    awaited(child)
    trace(_DETACH, child)
    _until(child, "T")
    assert states(capture, child) == [STOPPED]
    assert proctable.snapshot(str(child), "subtree").tasks[0].state is STOPPED


def test_a_group_is_stopped_once_its_last_thread_is(capture: Capture, tmp_path: Path) -> None:
    """Until then its parent is told nothing, whatever single threads do."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = subprocess.Popen([sys.executable, "-c", _VFORKER, os.fspath(fifo)], stdin=subprocess.PIPE)
    try:
        _until(process.pid, "SD")
        os.kill(process.pid, signal.SIGSTOP)
        _until(process.pid, "TD")

        assert states(capture, process.pid)[:2] == [RUNNING, RUNNING]
        assert proctable.snapshot(str(process.pid), "subtree").tasks[0].state is RUNNING

        os.close(os.open(fifo, os.O_WRONLY))
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        assert states(capture, process.pid) == [STOPPED, STOPPED, RUNNING]
        of_proc = proctable.snapshot(str(process.pid), "subtree").tasks
        assert [task.state for task in of_proc] == [STOPPED, STOPPED, RUNNING]
    finally:
        for each in (*_children(process.pid), process.pid):
            os.kill(each, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def _until(pid: int, letters: str) -> None:
    """Wait until the threads of a process are in these states."""
    deadline = time.monotonic() + 10
    while True:
        folders = sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda path: int(path.name))
        found = "".join((each / "stat").read_text().rpartition(")")[2].split()[0] for each in folders)
        if found == letters:
            return
        assert time.monotonic() < deadline, f"threads are in {found}, not {letters}"
        time.sleep(0.01)
