# SPDX-License-Identifier: Apache-2.0
"""A context that runs the fork storm (storm.c); its log is read at the end."""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.bench.compiled import compiled
from tests.bench.stormlog import StormLog, read_log
from tests.support.dying import die_with_parent


class Storm:
    """A running storm.

    Args:
        idle: tasks that sleep beside it.
        rate: lives per second, 0 for all the machine can do.
        workers: processes that make the storm, 0 for two per CPU.
        pid_max: 0, or the storm is in a pid namespace that has no more numbers than this, each used again and again.

    Attributes:
        root: number of its root process in the initial namespace, once entered.
        top: number of the process that it was started as: the root itself, or its parent, outside the namespace.
        counts: the storm's own counts, after the end.
        log: the true course of the storm, after the end.
    """

    def __init__(self, *, idle: int = 1000, rate: int = 0, workers: int = 0, pid_max: int = 0) -> None:
        # Memory, not a disk: writing back would stall the tasks that stamp.
        home = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 a file system, no fixed file name
        self._directory = tempfile.TemporaryDirectory(prefix="ckptree-storm-", dir=home)
        self._path = Path(self._directory.name) / "log"
        workers = workers or 2 * (os.cpu_count() or 1)
        self._options = ("--idle", str(idle), "--rate", str(rate), "--workers", str(workers), "--pid-max", str(pid_max))
        self._process: subprocess.Popen[str] | None = None
        self.root = self.top = 0
        self.counts: dict[str, float] = {}
        self.log = StormLog((), 0)

    def __enter__(self) -> Self:
        program = compiled("storm", "-static")  # so that its exec is cheap
        command = [str(program), str(self._path), *self._options]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=die_with_parent
        )
        self.root = self.top = self._process.pid
        line = self._line()
        if line.startswith("init"):
            self.root = int(line.split()[1])
            line = self._line()
        if not line.startswith("ready"):
            raise RuntimeError("the storm did not begin")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        self._process.terminate()
        rest = self._line()
        self._process.communicate()
        if error is None:
            self.counts = json.loads(rest)
            self.log = read_log(self._path)
        self._directory.cleanup()

    def _line(self) -> str:
        if self._process is None or self._process.stdout is None:
            raise RuntimeError("the storm is not running")
        return self._process.stdout.readline()
