# SPDX-License-Identifier: Apache-2.0
"""Folders that imitate the mounts of cgroup hierarchies, and the /proc that tells of them."""

import os
from pathlib import Path


class Host:
    """A /proc with mounts, and folders with the files of cgroups.

    Args:
        folder: the folder of both.
    """

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.top = folder / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        self._lines = ["22 1 0:20 / /proc rw - proc proc rw"]
        self._write()

    def _write(self) -> None:
        (self.proc / "self/mountinfo").write_text("\n".join(self._lines) + "\n")

    def mount(self, name: str, options: str = "", shown: str = "/") -> Path:
        """Add a hierarchy of version 1 with these options, or that of version 2."""
        place = self.top / name
        kind = f"cgroup cgroup rw,{options}" if options else "cgroup2 cgroup2 rw,nsdelegate"
        spelled = os.fspath(place).replace(" ", "\\040")
        self._lines.append(f"30 22 0:28 {shown} {spelled} rw,relatime shared:9 - {kind}")
        self._write()
        self.cgroup(place)
        return place

    def cgroup(self, folder: Path, *pids: int) -> Path:
        """Add a cgroup with these processes."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
        return folder

    def environ(self, pid: int, **variables: str) -> None:
        """Add a process's environment to /proc."""
        (self.proc / str(pid)).mkdir(exist_ok=True)
        text = "".join(f"{name}={value}\0" for name, value in variables.items())
        (self.proc / str(pid) / "environ").write_text(text)
