# SPDX-License-Identifier: Apache-2.0
"""Open files of /proc/PID/ns: a namespace of the tree, which the task that opens the file is in."""

import os
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any, Final

from agent.restart.contents.descriptors import FileKind, OpenFile
from agent.restart.contents.holder import AT_FDCWD, O_CLOEXEC
from agent.restart.contents.images import ProcessImage
from agent.restart.contents.refusals import Refused

_NAMES: Final = {
    0x80: "time",
    0x20000: "mnt",
    0x2000000: "cgroup",
    0x4000000: "uts",
    0x8000000: "ipc",
    0x10000000: "user",
    0x20000000: "pid",
    0x40000000: "net",
}
"""The file of each kind of namespace, by its flag of clone(2)."""


class NamespaceFiles(FileKind):
    """Open files of namespaces.

    Args:
        processes: of the images.
    """

    def __init__(self, processes: Iterable[ProcessImage]) -> None:
        self._ids = [process.ids for process in processes if process.lives]

    def check(self, entry: Any, _numbers: AbstractSet[int]) -> None:
        """Refuse a namespace in which not all processes of the tree are."""
        name = _NAMES.get(int(entry.nsf.ns_cflag))
        if name is None or {int(getattr(ids, f"{name}_ns_id")) for ids in self._ids} != {int(entry.nsf.ns_id)}:
            text = (
                f"the {name or 'unknown'} namespace is not that of all processes of the tree: close it before the dump"
            )
            raise Refused("namespace", str(entry.id), "namespace", text)

    def create(self, file: OpenFile) -> int:
        """Open the file of the owner's own namespace."""
        path = f"/proc/self/ns/{_NAMES[int(file.entry.nsf.ns_cflag)]}\0".encode()
        return file.high(file.script.kept("openat", AT_FDCWD, file.data(path), os.O_RDONLY | O_CLOEXEC, 0))
