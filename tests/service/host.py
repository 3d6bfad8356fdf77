# SPDX-License-Identifier: Apache-2.0
"""A host for the service: it runs commands beside a systemd that has our units."""

import base64
import json
import shlex
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NamedTuple

PATIENCE_S = 60.0
_PIECE = 1 << 15  # bytes of one word of a command, whose length is bounded; a multiple of four


class Ran(NamedTuple):
    """The exit of a command."""

    code: int
    out: str
    err: str


class Host(ABC):
    """A systemd and its shell.

    Attributes:
        ckptree: the command as a shell finds it.
        python: an interpreter that has the package.
        units: folder of units and their drop-ins, read again at a daemon-reload.
        manager: the option by which systemctl and systemd-run choose the manager.
        watchdog_s: the shortest watchdog time that is fair to a daemon there, in seconds.
    """

    ckptree: ClassVar[str]
    python: ClassVar[str]
    units: ClassVar[str]
    manager: ClassVar[str]
    watchdog_s: ClassVar[int]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _come_up(self, answers: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
        """Wait until systemd answers; where it does not, end the host and show its log."""
        deadline = time.monotonic() + PATIENCE_S
        try:
            while not answers():
                assert process.poll() is None, f"systemd ended: {log.read_text()}"
                assert time.monotonic() < deadline, f"systemd is not there: {log.read_text()}"
                time.sleep(0.05)
        except BaseException:
            self._end()
            raise

    @abstractmethod
    def _end(self) -> None:
        """End the host and all that runs on it."""

    @abstractmethod
    def run(self, command: str) -> Ran:
        """Run a shell command as root."""

    def systemctl(self, *words: str) -> Ran:
        """Run systemctl."""
        return self.run(shlex.join(["systemctl", self.manager, "--no-pager", *words]))

    def do(self, *words: str) -> None:
        """Run systemctl; fail if the manager refuses."""
        ran = self.systemctl(*words)
        assert ran.code == 0, f"{ran.err}{self.systemctl('status', '--lines=30', 'ckptree.service').out}{self.log()}"

    def property(self, name: str, unit: str = "ckptree.service") -> str:
        """Return a property of a unit."""
        return self.systemctl("show", "--property", name, "--value", unit).out.strip()

    def main_pid(self, unit: str = "ckptree.service") -> int:
        """Return the main pid of a running service; 0: the service does not run."""
        return int(self.property("MainPID", unit))

    def status_of(self, pid: int) -> dict[str, list[str]]:
        """Return /proc/PID/status by key, each value split into words."""
        lines = (line.split(":", 1) for line in self.run(f"cat /proc/{pid}/status").out.splitlines())
        return {key: value.split() for key, value in lines}

    def tree(self, script: str = "sleep 999 & setsid sleep 999 & systemd-notify --ready; wait") -> int:
        """Start a small tree as a service and return the pid of its root when the tree is ready; it ends with
        the host.
        """
        unit = f"tree-{time.monotonic_ns()}"
        words = ["systemd-run", self.manager, "--quiet", f"--unit={unit}", "--property=Type=notify"]
        ran = self.run(shlex.join([*words, "--property=NotifyAccess=all", "sh", "-c", script]))
        assert ran.code == 0, ran.err
        return self.main_pid(f"{unit}.service")

    def put(self, data: bytes, path: str) -> None:
        """Write a file that every user may read and run."""
        text = base64.b64encode(data).decode()
        written = self.run(f"rm -f {path}; touch {path}; chmod 755 {path}")
        assert written.code == 0, written.err
        for start in range(0, len(text), _PIECE):
            self.run(f"echo {text[start : start + _PIECE]} | base64 -d >> {path}")

    def births(self, root: int) -> list[Any]:
        """Return, for each task of a tree, the birth in its snapshot."""
        ran = self.run(f"{self.ckptree} snapshot {root} -f json --source daemon")
        assert ran.code == 0, ran.err + self.log()
        return [task["birth"] for task in json.loads(ran.out)["tasks"]]

    def log(self) -> str:
        """Return the daemon's log."""
        return self.run("cat /run/ckptree.log").out

    def wait(self, reached: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Wait until the condition holds."""
        deadline = time.monotonic() + patience_s
        while not reached():
            assert time.monotonic() < deadline, self.systemctl("status", "ckptree.service").out + self.log()
            time.sleep(0.02)
