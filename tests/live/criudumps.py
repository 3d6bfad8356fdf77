# SPDX-License-Identifier: Apache-2.0
"""Programs in sessions of their own, dumps of them by a real criu, and what the images say of the tree."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from agent.model import Snapshot, TaskState
from exporters.criu import criuschema, imagefolder
from tests.live.daemons import PATIENCE_S
from tests.support.suitepackages import criu

STATES = {
    TaskState.RUNNING: criuschema.ALIVE,
    TaskState.STOPPED: criuschema.STOPPED,
    TaskState.ZOMBIE: criuschema.DEAD,
}


class Process(NamedTuple):
    """A process as CRIU has it in its images: numbers of the root's pid namespace.

    Attributes:
        ppid: 0 for the root's parent.
        threads: numbers of all threads, sorted.
        state: CRIU's number.
    """

    ppid: int
    pgid: int
    sid: int
    threads: tuple[int, ...]
    state: int


class Dumped(NamedTuple):
    """A run of criu.

    Attributes:
        log: what criu, and the action script, wrote.
    """

    code: int
    folder: Path
    log: str


@contextmanager
def a_program(folder: Path, *command: str) -> Iterator[int]:
    """Run a program in a folder, in a session of its own, and yield its pid once it has made the file `ready`; in the
    end kill it and all that descends from it.
    """
    program = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: (folder / "ready").exists() or program.poll() is not None)
        assert program.poll() is None, f"{command[0]} has ended"
        yield program.pid
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(program.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        program.kill()
        program.wait(PATIENCE_S)


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it does not become true"
        time.sleep(0.01)


def dump(
    pid: int,
    folder: Path,
    *options: str | Path,
    verb: str = "dump",
    env: Mapping[str, str | Path] | None = None,
    before: Sequence[str] = (),
) -> Dumped:
    """Dump a tree into a new folder.

    Args:
        pid: as criu counts.
        options: of criu.
        verb: ``dump`` or ``pre-dump``.
        env: variables that criu gets beside this process's.
        before: words in front of criu's command.
    """
    folder.mkdir(exist_ok=True)
    command = [*before, criu(), verb, "-t", str(pid), "-D", folder, *options]
    ran = subprocess.run(
        command,
        env={**os.environ, **{name: str(value) for name, value in (env or {}).items()}},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    return Dumped(ran.returncode, folder, ran.stdout)


def dumped_tree(folder: Path) -> dict[int, Process]:
    """Return the tree of a folder of images, by pid."""
    found = {}
    files = imagefolder.ImageFolder(folder)
    for each in imagefolder.entries(files, "pstree.img"):
        entry: Any = each.message
        core: Any = imagefolder.one(files, f"core-{entry.pid}.img")
        state = core.tc.task_state
        # For a zombie criu writes a number of a thread that it never set.
        threads = (entry.pid,) if state == criuschema.DEAD else tuple(sorted(entry.threads))
        found[entry.pid] = Process(entry.ppid, entry.pgid, entry.sid, threads, state)
    return found


def snapshot_tree(snapshot: Snapshot) -> dict[int, Process]:
    """Return the tree of a snapshot in the same words."""
    tasks, number = {task.pid: task for task in snapshot.tasks}, snapshot.number
    threads: dict[int, list[int]] = {}
    for task in snapshot.tasks:
        threads.setdefault(number(task.tgid), []).append(number(task.pid))
    found = {}
    for task in snapshot.tasks:
        if task.pid == task.tgid:
            ppid = number(tasks[task.ppid].tgid) if task.ppid in tasks else 0
            assert task.state is not None
            pid = number(task.pid)
            found[pid] = Process(
                ppid, number(task.pgid), number(task.sid), tuple(sorted(threads[pid])), STATES[task.state]
            )
    return found
