# SPDX-License-Identifier: Apache-2.0
"""Cgroups that tests make, and shells in them."""

import contextlib
import errno
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.proc.cgroups import Hierarchy, processes
from tests.live.daemons import PATIENCE_S

# A parent that stays in the shell's cgroup would be another topmost process, so the shell goes in itself, first.
SLEEPER = "sleep 100 & until grep -q sleep /proc/$!/comm; do :; done; echo ready"
ENTER = "echo $$ > {}/cgroup.procs && {}"


@contextmanager
def a_cgroup(hierarchy: Hierarchy, name: str) -> Iterator[Path]:
    """Make a cgroup and the missing ones above it; its processes must be gone at the end."""
    folder = hierarchy.mount / name
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        for each in made:
            _remove(each)


def _remove(folder: Path) -> None:
    """Once the last of those who were killed is reaped."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


@contextmanager
def running(folder: Path, script: str) -> Iterator[int]:
    """A shell in that cgroup, once it has said that it is ready."""
    command = ["sh", "-c", ENTER.format(folder, script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        assert shell.stdout
        assert shell.stdout.readline() == b"ready\n"
        try:
            yield shell.pid
        finally:
            for pid in processes(folder):
                with contextlib.suppress(ProcessLookupError):  # its parent may have ended it
                    os.kill(pid, 9)
            shell.wait(20)
