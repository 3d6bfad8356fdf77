# SPDX-License-Identifier: Apache-2.0
"""The pidfile of a detached tree: it has the pid of the guard, to which a SIGTERM ends the tree.

The guard removes the file at its end, if the file still has its pid. A guard that was killed leaves the file behind;
such a file may be overwritten.
"""

import os
from pathlib import Path

from agent.errors import CkptreeError
from agent.proc.statfile import stat_fields
from agent.restart.rebuild.coordinator import HELPER
from exporters import store


def check(path: Path) -> None:
    """Check, before a rebuild, that a pidfile can be written and belongs to no tree that stands.

    Raises:
        CkptreeError: it cannot, or it does; the message has the reason.
    """
    if not path.exists():
        folder = path.parent
        if not folder.is_dir():
            raise CkptreeError(f"cannot write {path}: {folder} is no folder")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise CkptreeError(f"cannot write {path}: not permitted in {folder}")
        return
    if path.is_dir():
        raise CkptreeError(f"cannot write {path}: it is a folder")
    if not os.access(path, os.W_OK):
        raise CkptreeError(f"cannot write {path}: not permitted")
    guard = _living_guard(path)
    if guard is not None:
        raise CkptreeError(
            f"{path} names the guard {guard} of a tree that stands: end that with SIGTERM, or name another file"
        )


def write(path: Path, pid: int) -> None:
    """Write a pid, whole or not at all; a device or pipe stays one."""
    store.write(path, f"{pid}\n".encode())


def _living_guard(path: Path) -> int | None:
    """Return the pid of the guard that a pidfile names; None if there is no such guard, or if it is a zombie."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            pid = int(file.read(16))
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (OSError, ValueError):
        return None
    comm = stat.partition(b"(")[2].rpartition(b")")[0]
    lives = stat_fields(stat)[0] not in (b"Z", b"X")
    return pid if lives and comm == HELPER.name[:15].encode() else None
