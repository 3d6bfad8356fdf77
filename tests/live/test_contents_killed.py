# SPDX-License-Identifier: Apache-2.0
"""A restart with contents of which any process is killed at any moment leaves nothing behind.

CKPTREE_MOMENTS=100 tries that many moments for each process.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.restart.contents.resumer import PROGRAM as RESUMER
from agent.restart.rebuild.coordinator import HELPER
from tests.live.dumps import dump, eventually, program, restarting
from tests.live.guardprocesses import kill_session, running

MOMENTS = int(os.environ.get("CKPTREE_MOMENTS", "2"))
OWN_FAILURE = 125
ENDS = (-signal.SIGKILL, OWN_FAILURE, 128 + signal.SIGKILL, 128 + signal.SIGINT)
FAMILY = """
import os, sys, threading, time
made = []
for child in range(4):
    if os.fork() == 0:
        made = [threading.Thread(target=time.sleep, args=(1000,), daemon=True) for _ in range(3)]
        break
else:
    open("ready", "w").close()
for one in made:
    one.start()
block = bytearray(20_000_000)
time.sleep(1000)
"""
"""A process with four children of four threads each, and some memory."""


class Dumped(NamedTuple):
    """A dump, and the program that its tasks run."""

    images: Path
    program: Path


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory, daemon_socket: Path) -> Dumped:
    """Dump a family; its program is a copy of Python's, by which all its processes are found."""
    folder = tmp_path_factory.mktemp("killed")
    python = folder / "python"
    python.write_bytes(Path(sys.executable).resolve().read_bytes())
    python.chmod(0o755)
    with program([python, "-c", FAMILY], folder, env={**os.environ, "PYTHONHOME": sys.base_prefix}) as pid:
        eventually((folder / "ready").exists, f"it is ready: {(folder / 'out').read_text()}")
        time.sleep(0.3)
        return Dumped(dump(pid, folder / "images", daemon_socket), python)


def restart(dumped: Dumped, option: str = "--pidns") -> "subprocess.Popen[str]":
    """Begin a restart with an option, in a session of its own."""
    os.truncate(dumped.program.with_name("out"), 0)  # an interrupted program writes to it, and it must be as it was
    return restarting(dumped.images, option)


def children(pid: int, path: Path) -> Iterator[int]:
    """Yield the children of a process that run a program."""
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(OSError):
                if os.readlink(f"/proc/{child}/exe") == os.fspath(path):
                    yield int(child)


def await_child(pid: int, path: Path) -> None:
    """Wait until a process has a child that runs a program."""
    deadline = time.monotonic() + 20
    while not any(children(pid, path)):
        assert time.monotonic() < deadline, f"no {path.name} after 20 s"
        time.sleep(0.001)


def tasks(coordinator: int, dumped: Dumped, others: set[int]) -> list[int]:
    """Return the tasks of the tree, helpers and keepers among them, without the guard."""
    return sorted(running(HELPER, dumped.program) - others - {*children(coordinator, HELPER)})


def kill(victim: str, coordinator: int, dumped: Dumped, others: set[int], chance: random.Random) -> None:
    """Kill a process of a kind, if there is one yet."""
    found = {
        "coordinator": lambda: [coordinator],
        "guard": lambda: [*children(coordinator, HELPER)],
        "resumer": lambda: [*children(coordinator, RESUMER)],
        "task": lambda: tasks(coordinator, dumped, others),
    }
    if victim == "session":
        kill_session(coordinator)
    elif victim == "interrupted":
        os.kill(coordinator, signal.SIGINT)
    elif pids := found[victim]():
        with suppress(ProcessLookupError):
            os.kill(chance.choice(pids), signal.SIGKILL)


def seconds(dumped: Dumped) -> tuple[float, float]:
    """Return the time until the guard is there, and from there until all run."""
    begin = time.monotonic()
    process = restart(dumped)
    try:
        await_child(process.pid, HELPER)
        born = time.monotonic()
        assert process.stdout is not None
        assert process.stdout.readline()
        return born - begin, time.monotonic() - born
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("victim", ["coordinator", "guard", "resumer", "task", "session", "interrupted"])
@pytest.mark.parametrize("option", ["--pidns", "--no-pidns"])
def test_nothing_is_left_whichever_process_is_killed(option: str, victim: str, dumped: Dumped) -> None:
    """From the birth of the guard to the time when all run. The process that fails says why, and with which code."""
    others = running(HELPER, RESUMER, dumped.program)
    _, whole = seconds(dumped)
    eventually(lambda: running(HELPER, RESUMER, dumped.program) == others, "nothing is left")
    chance = random.Random(victim)
    for _ in range(MOMENTS):
        process = restart(dumped, option)
        await_child(process.pid, HELPER)
        time.sleep(chance.uniform(0, 1.2 * whole))
        kill(victim, process.pid, dumped, others, chance)
        try:
            _, said = process.communicate(timeout=2 + whole)
        except subprocess.TimeoutExpired:  # it was killed after all ran, or there was none to kill: the others run on
            assert victim in ("task", "resumer", "guard")
            process.kill()
            process.communicate()
        else:
            assert process.returncode in ENDS, said
            assert said or process.returncode != OWN_FAILURE
            assert "Traceback" not in said
        eventually(lambda: running(HELPER, RESUMER, dumped.program) == others, f"{victim}: nothing is left")


def _field(pid: int, number: int) -> str:
    """Return a field of /proc/PID/stat behind the name: 0 is the state, 1 the parent, 3 the session."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[number]


def test_a_file_that_goes_after_the_check_is_named(dumped: Dumped, tmp_path: Path) -> None:
    """The pages of a process go while the tree is made: the message names them, and nothing is left."""
    others = running(HELPER, RESUMER, dumped.program)
    copy = tmp_path / "images"
    subprocess.run(["cp", "-r", dumped.images, copy], check=True)
    process = restart(Dumped(copy, dumped.program))
    await_child(process.pid, HELPER)
    for pages in copy.glob("pages-*.img"):
        pages.unlink()
    _, said = process.communicate(timeout=20)

    assert process.returncode == OWN_FAILURE
    assert "pages" in said
    assert "No such file or directory" in said
    eventually(lambda: running(HELPER, RESUMER, dumped.program) == others, "nothing is left")


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTERM])
def test_signals_from_outside_during_the_fill_act_when_it_is_done(dumped: Dumped, number: signal.Signals) -> None:
    """The fill itself takes no notice: each child is stopped, or ends, when all are let run."""
    others = running(HELPER, RESUMER, dumped.program)
    process = restart(dumped)
    state = {signal.SIGSTOP: "T", signal.SIGTERM: "Z"}[number]
    try:
        await_child(process.pid, RESUMER)
        found = tasks(process.pid, dumped, others)
        assert len(found) >= 5
        children_of_root = [pid for pid in found if _field(pid, 1) in map(str, found) and _field(pid, 3) != str(pid)]
        for pid in children_of_root:
            os.kill(pid, number)
        assert process.stdout is not None
        assert process.stdout.readline(), process.stderr.read() if process.stderr else ""
        for pid in children_of_root:
            eventually(lambda pid=pid: _field(pid, 0) == state, f"it is in state {state}")  # type: ignore[misc]
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    eventually(lambda: running(HELPER, RESUMER, dumped.program) == others, "nothing is left")
