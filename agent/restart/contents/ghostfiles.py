# SPDX-License-Identifier: Apache-2.0
"""Files that were deleted while processes had them: they are made again, opened by all that had them, and deleted again.

CRIU writes what it cannot find by a path into its images (a ghost file), or gives it a second name on the disk (a link).
Tasks open either by a path, so the messages get the path that it has for the time of the restart.
"""

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple

from agent.errors import CkptreeError
from agent.restart.contents.holder import AT_FDCWD
from agent.restart.contents.images import Images
from agent.restart.contents.refusals import Refused
from agent.restart.contents.syscalls import CALLS
from exporters.criu.filemessages import REMAP_GHOST, REMAP_LINKED

_OLD_GHOST: Final = 1 << 31
"""The bit by which old images mark a ghost file."""
_KINDS: Final = (stat.S_ISREG, stat.S_ISDIR, stat.S_ISFIFO, stat.S_ISLNK, stat.S_ISCHR, stat.S_ISBLK)
_NO_SYMLINKS: Final = 4
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
        self._made: list[tuple[int, bytes, bool]] = []
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
        found = next(iter(self._content(deleted.ghost)), None)
        if found is None or not any(is_kind(int(found[0].mode)) for is_kind in _KINDS):
            raise Refused(
                "file", str(identity), "deleted", f"{deleted.ghost} has no file that can be made: dump it again"
            )
        return True

    def create(self) -> None:
        """Make the files for the time in which tasks open them.

        A user may change some of the folders meanwhile. So a folder is opened without following a link, and all that is
        done to a file is done by descriptors of the two.

        Raises:
            CkptreeError: one cannot be made.
        """
        for deleted in sorted(set(self._files.values()), key=lambda each: each.path):
            if deleted.ghost is None:
                continue
            try:
                folder = self._folder(os.path.dirname(deleted.path))
                self._make(folder, os.path.basename(deleted.path), deleted.ghost)
            except OSError as error:
                name = os.fsdecode(deleted.path)
                raise CkptreeError(f"the deleted file {name} cannot be made for its programs: {error}") from error

    def remove(self, *, links: bool) -> None:
        """Delete the files that were made, and with `links` the second names that CRIU gave to others."""
        while self._made:
            folder, name, is_folder = self._made.pop()
            with suppress(OSError):
                (os.rmdir if is_folder else os.unlink)(name, dir_fd=folder)
            os.close(folder)
        for deleted in self._files.values() if links else ():
            if deleted.ghost is None:
                with suppress(OSError):
                    folder = _opened_folder(os.path.dirname(deleted.path))
                    with suppress(OSError):
                        os.unlink(os.path.basename(deleted.path), dir_fd=folder)
                    os.close(folder)

    def _folder(self, path: bytes) -> int:
        """Open a folder; make it, and those above it, if it is gone."""
        with suppress(FileNotFoundError):
            return _opened_folder(path)
        above = self._folder(os.path.dirname(path))
        os.mkdir(os.path.basename(path), 0o700, dir_fd=above)
        self._made.append((above, os.path.basename(path), True))
        return _opened_folder(path)

    def _make(self, folder: int, name: bytes, image: str) -> None:
        """Make a file in an open folder, which stays open until the file is removed."""
        content = self._content(image)
        about, first = next(content)
        mode = int(about.mode)
        flags = os.O_CLOEXEC | os.O_NOFOLLOW
        if stat.S_ISREG(mode):
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags, 0o600, dir_fd=folder)
            self._made.append((folder, name, False))
        elif stat.S_ISDIR(mode):
            os.mkdir(name, 0o700, dir_fd=folder)
            self._made.append((folder, name, True))
            file = os.open(name, os.O_RDONLY | os.O_DIRECTORY | flags, dir_fd=folder)
        else:
            if stat.S_ISLNK(mode):
                os.symlink(bytes(about.symlnk_target), name, dir_fd=folder)
            else:
                os.mknod(name, stat.S_IFMT(mode) | 0o600, int(about.rdev), dir_fd=folder)
            self._made.append((folder, name, False))
            file = _opened_as_made(folder, name, mode, int(about.rdev))
        try:
            if stat.S_ISREG(mode):
                _write(file, 0, first)
                for chunk, data in content:
                    _write(file, int(chunk.off), data)
                if about.HasField("size"):
                    os.ftruncate(file, int(about.size))
            itself = f"/proc/self/fd/{file}"
            os.chown(itself, int(about.uid), int(about.gid))
            if not stat.S_ISLNK(mode):
                os.chmod(itself, stat.S_IMODE(mode))
            if about.HasField("atim") and about.HasField("mtim"):
                os.utime(itself, ns=(_nanoseconds(about.atim), _nanoseconds(about.mtim)))
        finally:
            os.close(file)

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


def _nanoseconds(time: Any) -> int:
    return int(time.tv_sec) * _NS_PER_S + int(time.tv_usec) * _NS_PER_US


def _opened_folder(path: bytes) -> int:
    """Open a folder whose path has no link. OSError: it cannot be opened so."""
    how = struct.pack("<3Q", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, 0, _NO_SYMLINKS)
    libc = ctypes.CDLL(None, use_errno=True)
    found = int(libc.syscall(CALLS["openat2"], AT_FDCWD, path or b"/", how, len(how)))
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), os.fsdecode(path))
    return found


def _opened_as_made(folder: int, name: bytes, mode: int, device: int) -> int:
    """Open a file that this process has just made, without any right to read or write it.

    A user who may change the folder can put no other file of this kind, device and owner in its place that is not as good.

    Raises:
        OSError: another file is there by now.
    """
    file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    found = os.fstat(file)
    if (stat.S_IFMT(found.st_mode), found.st_rdev, found.st_uid, found.st_nlink) != (
        *(stat.S_IFMT(mode), device, os.geteuid(), 1),
    ):
        os.close(file)
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), os.fsdecode(name))
    return file


def _write(file: int, offset: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        count = os.pwrite(file, view, offset)
        view, offset = view[count:], offset + count
