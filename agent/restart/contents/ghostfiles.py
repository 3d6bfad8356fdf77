# SPDX-License-Identifier: Apache-2.0
"""Files that were deleted while processes had them: they are made again, opened by all that had them, and deleted again.

CRIU writes what it cannot find by a path into its images (a ghost file), or gives it a second name on the disk (a link).
Tasks open either by a path, so the messages get the path that it has for the time of the restart.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from agent.errors import CkptreeError
from agent.record import NamedTuple
from agent.restart.contents.images import Images
from agent.restart.contents.refusals import Refused
from exporters.criu.filemessages import REMAP_GHOST, REMAP_LINKED

if TYPE_CHECKING:
    from agent.restart.contents.ghostmaking import MadeFiles, Maker

_OLD_GHOST: Final = 1 << 31
"""The bit by which old images mark a ghost file."""
_KINDS: Final = (stat.S_ISREG, stat.S_ISDIR, stat.S_ISFIFO, stat.S_ISLNK, stat.S_ISCHR, stat.S_ISBLK)
_MOST_BYTES: Final = 1 << 63
_MOST_SECONDS: Final = 1 << 40
"""A bound of times of files, which is far behind that of each file system."""


class Deleted(NamedTuple):
    """A deleted file.

    Attributes:
        path: the path that it has for the time of the restart.
        ghost: the name of the image with its content; None: it has that path since the dump.
    """

    path: bytes
    ghost: str | None


class GhostFiles:
    """The deleted files of a tree. Making an object of this class gives their messages their paths.

    Args:
        images: the folder.
    """

    def __init__(self, images: Images) -> None:
        self._images = images
        self._files: dict[int, Deleted] = {}
        self._wrong: dict[int, tuple[str, str]] = {}
        self._maker: Maker | None = None
        shared: dict[int, Deleted] = {}
        taken: set[bytes] = set()
        for entry in images.all("remap-fpath.img"):
            remap, kind = _kind(entry)
            file = images.files.get(int(entry.orig_id))
            link = images.files.get(remap)
            if file is None or not file.HasField("reg"):
                continue
            if kind == REMAP_GHOST:
                if remap not in shared:
                    shared[remap] = Deleted(_free(bytes(file.reg.name), remap, taken), f"ghost-file-{remap:x}.img")
                    taken.add(shared[remap].path)
                self._files[int(file.id)] = shared[remap]
            elif kind == REMAP_LINKED and link is not None and link.HasField("reg"):
                self._files[int(file.id)] = Deleted(_absolute(bytes(link.reg.name)), None)
            else:
                self._wrong[int(file.id)] = (
                    "deleted",
                    "it belonged to a process that has ended: close it before the dump",
                )
        for identity, deleted in self._files.items():
            images.files[identity].reg.name = deleted.path

    def made_later(self, identity: int) -> bool:
        """Check a file; return True if it is not there before `create`.

        Raises:
            Refused: it cannot be made again.
        """
        if identity in self._wrong:
            raise Refused("file", str(identity), *self._wrong[identity])
        deleted = self._files.get(identity)
        if deleted is None or deleted.ghost is None:
            return False
        if not self._can_be_made(deleted.ghost):
            raise Refused(
                "file", str(identity), "deleted", f"{deleted.ghost} has no file that can be made: dump it again"
            )
        return True

    def _can_be_made(self, ghost: str) -> bool:
        """Return False for an image whose values no file can have."""
        entries: Iterator[Any] = (entry.message for entry, _ in self._images.payloads(ghost, wanted=False))
        about = next(entries, None)
        if about is None or not any(is_kind(int(about.mode)) for is_kind in _KINDS):
            return False
        ends = [int(about.size), *(int(chunk.off) + int(chunk.len) for chunk in entries)]
        seconds = max(int(about.atim.tv_sec), int(about.mtim.tv_sec))
        return max(ends) < _MOST_BYTES and seconds < _MOST_SECONDS and b"\0" not in about.symlnk_target

    def create(self) -> None:
        """Make the files for the time in which tasks open them.

        Raises:
            CkptreeError: one cannot be made.
        """
        if any(deleted.ghost is not None for deleted in self._files.values()):
            from agent.restart.contents.ghostmaking import Maker  # few trees have deleted files

            self._maker = Maker(self._make)

    def remove(self, *, links: bool) -> None:
        """Delete the files that were made, and with `links` the second names that CRIU gave to others."""
        if self._maker is not None:
            self._maker.end()
            self._maker = None
        for deleted in self._files.values() if links else ():
            if deleted.ghost is None:
                from agent.restart.contents.ghostmaking import opened_folder

                with suppress(OSError):
                    folder = opened_folder(os.path.dirname(deleted.path))
                    with suppress(OSError):
                        os.unlink(os.path.basename(deleted.path), dir_fd=folder)
                    os.close(folder)

    def _make(self, made: "MadeFiles") -> None:
        for deleted in sorted(set(self._files.values()), key=lambda each: each.path):
            if deleted.ghost is None:
                continue
            try:
                made.make(deleted.path, self._content(deleted.ghost))
            except (OSError, MemoryError) as error:
                text = f"the deleted file {os.fsdecode(deleted.path)} cannot be made for its programs: {_reason(error)}"
                raise CkptreeError(text) from error

    def _content(self, name: str) -> Iterator[tuple[Any, bytes]]:
        for entry, content in self._images.payloads(name):
            yield entry.message, content


def _reason(error: OSError | MemoryError) -> str:
    """Return the reason why a file cannot be made, and what to do where that is known."""
    if isinstance(error, MemoryError):
        return "no memory is left"
    if isinstance(error, FileExistsError):
        return (
            "another file has had its path since the images were read: wait until another restart of this dump has "
            "made its own, or move that file away"
        )
    return str(error.strerror)


def _kind(entry: Any) -> tuple[int, int]:
    """Return the id that a file is mapped to, and the kind of that."""
    remap = int(entry.remap_id)
    if entry.HasField("remap_type"):
        return remap, int(entry.remap_type)
    return (remap & ~_OLD_GHOST, REMAP_GHOST) if remap & _OLD_GHOST else (remap, REMAP_LINKED)


def _absolute(path: bytes) -> bytes:
    return path if path.startswith(b"/") else b"/" + path


def _free(path: bytes, remap: int, taken: set[bytes]) -> bytes:
    """Return the path of a deleted file, or one beside it if another file has that one now."""
    path = _absolute(path)
    if path in taken or os.path.lexists(path):
        return b"%b.ckptree-%d-%x" % (path, os.getpid(), remap)
    return path
