# SPDX-License-Identifier: Apache-2.0
"""Cgroups for a test's own systemd, which counts its services by them; a test ends all processes in them."""

import contextlib
import itertools
import os
import shlex
import signal
import time
from pathlib import Path

from tests.service.host import PATIENCE_S

_NUMBERS = itertools.count(1)


class Cgroups:
    """A new cgroup in each hierarchy by which systemd knows services."""

    def __init__(self) -> None:
        name = f"ckptree-test-{os.getpid()}-{next(_NUMBERS)}"
        self._folders = [place / name for place in _hierarchies()]
        for folder in self._folders:
            folder.mkdir()

    @property
    def join(self) -> str:
        """Return the shell command that enters the cgroups, with all that the shell starts."""
        return "; ".join(f"echo $$ > {shlex.quote(f'{folder}/cgroup.procs')}" for folder in self._folders)

    def clear(self) -> None:
        """End all processes in the cgroups, and remove them."""
        deadline = time.monotonic() + PATIENCE_S
        while members := {pid for folder in self._folders for pid in _members(folder)}:
            assert time.monotonic() < deadline, f"still there: {members}"
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        for folder in self._folders:
            for below in sorted(folder.rglob("*/"), reverse=True):
                below.rmdir()
            folder.rmdir()


def _members(folder: Path) -> list[int]:
    """Return the processes, those of the cgroups below too."""
    return [int(pid) for path in folder.rglob("cgroup.procs") for pid in path.read_text().split()]


def _hierarchies() -> list[Path]:
    """Return the mount points of the hierarchies."""
    mounts = [line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    kinds = {Path(place.split()[4]): what.split() for place, what in mounts}
    return [
        place
        for place, (kind, _, options, *_) in kinds.items()
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(","))
    ]
