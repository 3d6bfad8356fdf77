# SPDX-License-Identifier: Apache-2.0
"""Quiet trees of any shape as real processes (shaped_tree.c), dumped by CRIU with the tree beside its images; and
``criu restore`` of them.
"""

import os
import struct
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from agent.model import Snapshot
from tests.bench.compiled import compiled
from tests.live.daemons import a_daemon
from tests.live.dumps import dump, eventually, program
from tests.support.suitepackages import criu

_ROW: Final = struct.Struct("=ci")  # as shaped_tree.c reads them
_LAST_LINES: Final = 3


def rows(snapshot: Snapshot) -> bytes:
    """Return the rows of a tree of processes, as shaped_tree.c reads them."""
    place = {task.pid: index for index, task in enumerate(snapshot.tasks)}
    kinds = (b"s" if task.sid == task.pid else b"g" if task.pgid == task.pid else b"-" for task in snapshot.tasks)
    parents = (place.get(task.ppid, -1) for task in snapshot.tasks)
    return b"".join(map(_ROW.pack, kinds, parents))


def dumped(folder: Path, trees: Iterable[tuple[str, Snapshot]]) -> dict[str, Path]:
    """Make each tree out of processes, and have CRIU dump it; return the folder of its images by its name."""
    found = {}
    with a_daemon(folder) as daemon:
        for name, snapshot in trees:
            place = folder / name
            place.mkdir()
            (place / "rows").write_bytes(rows(snapshot))
            command = [compiled("shaped_tree", "-static"), place / "rows", place / "ready"]
            with program(command, place) as pid:
                eventually((place / "ready").exists, "all processes stand")
                found[name] = dump(pid, place / "images", daemon.socket, "-o", "dump.log")
    return found


def criu_restored(images: Path) -> int:
    """Restore a dump by criu, in a pid namespace in which all numbers are free, and take the tree down.

    Returns:
        The time from its exec until it has returned and all run, in ns.

    Raises:
        SystemExit: criu failed; the message has its errors.
    """
    words = [os.fspath(criu()), "restore", "-d", "-v1", "-o", "restore.log", "-D", os.fspath(images)]
    shell = 'echo begins; "$@"; echo $?; read end'  # as the init, whose end is that of the tree
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", shell, "sh", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ran:
        assert ran.stdout
        ran.stdout.readline()
        begun = time.monotonic_ns()
        code = ran.stdout.readline().strip()
        took = time.monotonic_ns() - begun
        _, said = ran.communicate()
    if code == b"0":
        return took
    log = images / "restore.log"
    lines = [line for line in (log.read_text() if log.exists() else said.decode()).splitlines() if "Error" in line]
    raise SystemExit(f"{' '.join(words)}: exit code {code.decode()}: {'; '.join(lines[-_LAST_LINES:])}")
