# SPDX-License-Identifier: Apache-2.0
"""Folders of CRIU images in memory: two that CRIU 4.1.1 wrote, and ones made by hand.

The archive beside this module has the folders ``container`` and ``subtree``: dumps of one program, once as the init of
a pid namespace and of an IPC namespace, once as a session of its own. It has a thread, a stopped child in a group of
its own, a child that exited with status 3, an orphan whose session leader is gone, and is a subreaper. It holds a pipe
with data, a pair of sockets with a packet, eventfd, epoll, signalfd, timerfd, inotify, a memory file, a removed file,
and in the container a message, semaphores and shared memory. The pages are zeros.
"""

import io
import tarfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Final

from exporters.criu import imagefile, imagefolder

DUMPS: Final = Path(__file__).parent / "criu-4.1.1.tar.xz"


class Files:
    """Files in memory, by name.

    Args:
        data: their contents.
    """

    def __init__(self, data: Mapping[str, bytes]) -> None:
        self.data = dict(data)

    def open(self, name: str) -> BinaryIO | None:
        """Open a file for reading; None where there is none."""
        return io.BytesIO(self.data[name]) if name in self.data else None

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""
        return sorted(self.data)


@cache
def _dumps() -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(DUMPS) as archive:
        for member in archive:
            folder, _, name = member.name.partition("/")
            opened = archive.extractfile(member)
            if opened is not None:
                found.setdefault(folder, {})[name] = opened.read()
    return found


def dump(name: str) -> Files:
    """Return a folder that CRIU wrote: ``container`` or ``subtree``."""
    return Files(_dumps()[name])


def written(name: str, folder: Path) -> Path:
    """Write the files of such a folder into another one, made where there is none; return that one."""
    folder.mkdir(exist_ok=True)
    for each, data in dump(name).data.items():
        (folder / each).write_bytes(data)
    return folder


def changed(folder: Path, name: str, change: Callable[[Any], None]) -> None:
    """Change the first message of a file without payloads."""
    kind = imagefile.kind_of(name)
    assert kind is not None
    found = [entry.message for entry in imagefolder.entries(imagefolder.ImageFolder(folder), name)]
    change(found[0])
    (folder / name).write_bytes(imagefile.image(kind.stem, found))
