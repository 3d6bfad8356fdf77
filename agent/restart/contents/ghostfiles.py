# SPDX-License-Identifier: Apache-2.0
"""Files that were deleted while processes had them: they are made again, opened by all that had them, and deleted again.

CRIU writes what it cannot find by a path into its images (a ghost file), or gives it a second name on the disk (a link).
Tasks open either by a path, so the messages get the path that it has for the time of the restart.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple

from agent.errors import CkptreeError
from agent.restart.contents.images import Images
from agent.restart.contents.refusals import Refused
from exporters.criu.filemessages import REMAP_GHOST, REMAP_LINKED

_OLD_GHOST: Final = 1 << 31
"""The bit by which old images mark a ghost file."""
_KINDS: Final = (stat.S_ISREG, stat.S_ISDIR, stat.S_ISFIFO, stat.S_ISCHR, stat.S_ISBLK, stat.S_ISLNK)
_NS_PER_US: Final = 1000
_NS_PER_S: Final = 1_000_000_000


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
        self._made: list[tuple[bytes, bool]] = []
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
        folder = os.path.dirname(deleted.path)
        if not os.path.isdir(folder) and folder not in {each.path for each in self._files.values()}:
            text = f"{os.fsdecode(folder)}, the folder of a deleted file, is not there: make it"
            raise Refused("file", str(identity), "folder", text)
        found = next(iter(self._content(deleted.ghost)), None)
        if found is None or not any(is_kind(int(found[0].mode)) for is_kind in _KINDS):
            raise Refused(
                "file", str(identity), "deleted", f"{deleted.ghost} has no file that can be made: dump it again"
            )
        return True

    def create(self) -> None:
        """Make the files for the time in which tasks open them.

        Raises:
            CkptreeError: one cannot be made.
        """
        for deleted in sorted(set(self._files.values()), key=lambda each: each.path):
            if deleted.ghost is None:
                continue
            try:
                self._make(deleted.path, deleted.ghost)
            except OSError as error:
                name = os.fsdecode(deleted.path)
                raise CkptreeError(f"the deleted file {name} cannot be made for its programs: {error}") from error

    def remove(self, *, links: bool) -> None:
        """Delete the files that were made, and with `links` the second names that CRIU gave to others."""
        while self._made:
            path, is_folder = self._made.pop()
            with suppress(OSError):
                (os.rmdir if is_folder else os.unlink)(path)
        for deleted in self._files.values() if links else ():
            if deleted.ghost is None:
                with suppress(FileNotFoundError):
                    os.unlink(deleted.path)

    def _make(self, path: bytes, name: str) -> None:
        content = self._content(name)
        about, first = next(content)
        mode = int(about.mode)
        if stat.S_ISREG(mode):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            self._made.append((path, False))
            with os.fdopen(file, "wb") as opened:
                _write(opened.fileno(), 0, first)
                for chunk, data in content:
                    _write(opened.fileno(), int(chunk.off), data)
                if about.HasField("size"):
                    os.ftruncate(opened.fileno(), int(about.size))
        elif stat.S_ISLNK(mode):
            os.symlink(bytes(about.symlnk_target), path)
            self._made.append((path, False))
            os.lchown(path, int(about.uid), int(about.gid))
            return
        else:
            if stat.S_ISDIR(mode):
                os.mkdir(path, 0o700)
            else:
                os.mknod(path, stat.S_IFMT(mode) | 0o600, int(about.rdev))
            self._made.append((path, stat.S_ISDIR(mode)))
        os.chown(path, int(about.uid), int(about.gid), follow_symlinks=False)
        os.chmod(path, stat.S_IMODE(mode))
        if about.HasField("atim") and about.HasField("mtim"):
            access, change = (
                int(each.tv_sec) * _NS_PER_S + int(each.tv_usec) * _NS_PER_US for each in (about.atim, about.mtim)
            )
            os.utime(path, ns=(access, change))

    def _content(self, name: str) -> Iterator[tuple[Any, bytes]]:
        for entry, content in self._images.payloads(name):
            yield entry.message, content


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


def _write(file: int, offset: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        count = os.pwrite(file, view, offset)
        view, offset = view[count:], offset + count
