# SPDX-License-Identifier: Apache-2.0
"""Where a service is tried: something that runs commands beside a systemd which has our units."""

import base64
import json
import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

PATIENCE_S = 60.0
_PIECE = 1 << 15  # of a command's word, which has a bound; a multiple of four


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class Host(ABC):
    """A systemd and its shell.

    Attributes:
        ckptree: the command line, as a shell finds it.
        python: an interpreter that has the package.
        units: folder of units and their drop-ins, read again at a daemon-reload.
        manager: which of its managers systemctl and systemd-run are to ask.
        watchdog_s: the least patience that is fair to a daemon there.
    """

    ckptree: ClassVar[str]
    python: ClassVar[str]
    units: ClassVar[str]
    manager: ClassVar[str]
    watchdog_s: ClassVar[int]

    @abstractmethod
    def run(self, command: str) -> Ran:
        """A shell's command, as root."""

    def systemctl(self, *words: str) -> Ran:
        """Ask the manager."""
        return self.run(shlex.join(["systemctl", self.manager, "--no-pager", *words]))

    def do(self, *words: str) -> None:
        """Ask the manager for what it has to grant."""
        ran = self.systemctl(*words)
        assert ran.code == 0, f"{ran.err}{self.systemctl('status', '--lines=30', 'ckptree.service').out}{self.log()}"

    def property(self, name: str, unit: str = "ckptree.service") -> str:
        """What the manager has to say of a unit."""
        return self.systemctl("show", "--property", name, "--value", unit).out.strip()

    def main_pid(self, unit: str = "ckptree.service") -> int:
        """Of a service that runs; 0: it does not."""
        return int(self.property("MainPID", unit))

    def status_of(self, pid: int) -> dict[str, list[str]]:
        """/proc/PID/status, by key, in words."""
        lines = (line.split(":", 1) for line in self.run(f"cat /proc/{pid}/status").out.splitlines())
        return {key: value.split() for key, value in lines}

    def tree(self, script: str = "sleep 999 & setsid sleep 999 & systemd-notify --ready; wait") -> int:
        """The root of a small tree that is born now, once it says that it is ready; a service that ends with the
        host."""
        unit = f"tree-{time.monotonic_ns()}"
        words = ["systemd-run", self.manager, "--quiet", f"--unit={unit}", "--property=Type=notify"]
        ran = self.run(shlex.join([*words, "--property=NotifyAccess=all", "sh", "-c", script]))
        assert ran.code == 0, ran.err
        return self.main_pid(f"{unit}.service")

    def put(self, data: bytes, path: str) -> None:
        """Write a file that everybody may read and run."""
        text = base64.b64encode(data).decode()
        written = self.run(f"rm -f {path}; touch {path}; chmod 755 {path}")
        assert written.code == 0, written.err
        for start in range(0, len(text), _PIECE):
            self.run(f"echo {text[start : start + _PIECE]} | base64 -d >> {path}")

    def births(self, root: int) -> list[Any]:
        """Of each task of a tree, what its snapshot knows of its birth."""
        ran = self.run(f"{self.ckptree} snapshot {root} -f json --source daemon")
        assert ran.code == 0, ran.err + self.log()
        return [task["birth"] for task in json.loads(ran.out)["tasks"]]

    def log(self) -> str:
        """What the daemon has said."""
        return self.run("cat /run/ckptree.log").out

    def wait(self, reached: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Until it is so."""
        deadline = time.monotonic() + patience_s
        while not reached():
            assert time.monotonic() < deadline, self.systemctl("status", "ckptree.service").out + self.log()
            time.sleep(0.02)
