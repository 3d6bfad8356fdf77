# SPDX-License-Identifier: Apache-2.0
"""The contents that a folder of CRIU's images has for each process, by its pid in the root's namespace.

The messages are read once and kept; pages are not: each task reads its own from the file. A message of the protobuf
library has no type that a checker knows, so it is Any here.
"""

import bisect
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from agent.errors import FormatError
from agent.record import record
from agent.restart.contents.alikecores import AlikeCores
from agent.restart.contents.pageruns import PAGE, PageRun, PageRuns
from agent.restart.contents.refusals import Refused
from exporters.criu import imagefile, imagefolder
from exporters.criu.criuschema import DEAD
from exporters.criu.imagefolder import PARENT, ImageFolder, PageFolder
from exporters.criu.memorymessages import IN_PARENT, LAZY, PRESENT, page_count, page_flags

Message = Any

_LAZY: Final = "they were left to a server of pages (criu dump --lazy-pages): dump without that option"
_COMPARED: Final = 1 << 16
"""Bytes of a file, at most, that is compared with those of other processes."""
_ADDRESSES: Final = 1 << 64
_MOST_PARENTS: Final = 64
"""Folders of a chain of dumps; a link that leads back to its own folder ends there."""


@record
class ProcessImage:
    """The messages about one process.

    Attributes:
        pid: its number in the root's namespace.
        threads: the numbers of its threads, its own first.
        core: its core_entry.
        cores: the core_entry of each thread by its number, its own too.
        alike: the number of the core of each thread, which alike ones have in common (alikecores.py).
        ids: the identities of what it may share.
        mm: its mm_entry; None for a zombie.
        fs: its fs_entry; None for a zombie.
        fds: its descriptors.
        ppid, pgid, sid: numbers of its parent, group and session in the root's namespace; 0 outside of it.
    """

    pid: int
    threads: tuple[int, ...]
    core: Message
    cores: dict[int, Message]
    alike: dict[int, int]
    ids: Message
    mm: Message
    fs: Message
    fds: tuple[Message, ...]
    ppid: int = 0
    pgid: int = 0
    sid: int = 0

    @property
    def lives(self) -> bool:
        """True unless it is a zombie."""
        return bool(self.core.tc.task_state != DEAD)

    @property
    def messages(self) -> tuple[int, ...] | None:
        """Numbers that tell whether the messages of two processes are alike; None where they name its threads.

        Of alike messages all is true that is true of one of them, but for what its general registers say.
        """
        if len(self.threads) > 1 or self.core.tc.timers.posix:
            return None
        return self.alike[self.pid], id(self.mm), id(self.fds)


class Images:
    """A folder of images.

    Args:
        path: of the folder.
        folders: it and those of the dumps before it, the last one first; none: as the links of the disk have them.
    """

    def __init__(self, path: Path, folders: Sequence[PageFolder] = ()) -> None:
        self.path = path
        self._folders: Sequence[PageFolder] = folders or list(_chain(path))
        self._known: dict[tuple[str, bytes], tuple[Message, ...]] = {}
        self._alike_cores = AlikeCores()

    @cached_property
    def inventory(self) -> Message:
        """The inventory_entry; FormatError of a folder that has the tree alone."""
        found = imagefolder.optional(self._folders[0], "inventory.img")
        if found is None:
            text = "has no such file: its dump failed, or ckptree wrote it, and it holds the tree alone"
            raise FormatError(f"{self.path}/inventory.img", f"the folder {text}")
        return found

    @cached_property
    def processes(self) -> dict[int, ProcessImage]:
        """The processes by pid, in the order of the file: parents first."""
        return {int(entry.pid): self._process(entry) for entry in self.all("pstree.img")}

    @cached_property
    def files(self) -> dict[int, Message]:
        """The file_entry of each open file, by its id."""
        found = {}
        for read, _ in self.payloads("files.img", wanted=False):
            entry: Message = read.message
            if entry.HasField("reg") and b"\0" in entry.reg.name:
                raise FormatError(f"files.img: file {entry.id}: name", "a path has no byte 0", read.offset)
            found[int(entry.id)] = entry
        return found

    @cached_property
    def clocks(self) -> Message | None:
        """The timens_entry: the times of the tree's clocks at the dump; None where the images have none."""
        for pid in self.processes:
            identity = int(self.processes[pid].ids.time_ns_id) if self.processes[pid].lives else 0
            for number in dict.fromkeys((identity, 0)):
                found = imagefolder.optional(self._folders[0], f"timens-{number}.img")
                if found is not None:
                    return found
        return None

    def all(self, name: str) -> list[Message]:
        """Return the messages of a file; none where there is no such file."""
        return [entry.message for entry, _ in self.payloads(name, wanted=False)]

    def payloads(self, name: str, *, wanted: bool = True) -> Iterator[tuple[imagefile.ImageEntry, bytes]]:
        """Yield the entries of a file with the bytes behind each; without them if they are not wanted."""
        file = self._folders[0].open(name)
        if file is None:
            return
        with closing(file):
            for entry in imagefile.read(file, name):
                content = b""
                if wanted and entry.payload_bytes:
                    file.seek(entry.payload)
                    content = file.read(entry.payload_bytes)
                yield entry, content

    def pages(self, name: str) -> list[PageRun]:
        """Return where the pages of a pagemap file lie, by address; those of earlier dumps are looked up there.

        Raises:
            FormatError: a page is said to be in an earlier dump that does not have it, or in none.
            Refused: pages were not dumped.
        """
        return list(self.page_runs(name))

    def page_runs(self, name: str) -> Iterator[PageRun]:
        """Yield what `pages` returns, so that no more than the caller keeps is in memory."""
        return self._runs(name, 0)

    def undecoded_map(self, name: str) -> tuple[bytes, Path] | None:
        """Return the entries of a page map behind its head, and the file of its pages; None of a large map, or of none.

        Maps with the same entries have their pages at the same places of their files.
        """
        data = imagefolder.content(self._folders[0], name, _COMPARED + 1)
        if data is None:
            return None
        end = imagefile.end_of_first(data, name)
        if len(data) > _COMPARED or end is None:
            return None
        head: Message = imagefile.one(io.BytesIO(data[:end]), name)
        return data[end:], self._pages_file(0, head)

    def check_pages(self, file: Path, size: int) -> None:
        """Refuse a file of pages that is shorter than its page map says."""
        self._check_pages(0, file.name, size)

    def _pages_file(self, depth: int, head: Message) -> Path:
        return self._folders[depth].path / f"pages-{head.pages_id}.img"

    def _runs(self, name: str, depth: int) -> Iterator[PageRun]:
        file = self._folders[depth].open(name) if depth < len(self._folders) else None
        if file is None:
            if depth:
                raise FormatError(name, f"its pages are in an earlier dump, and the folder {PARENT} has no such file")
            return
        with closing(file):
            entries = imagefile.read(file, name)
            head: Message = next(entries).message
            source = self._pages_file(depth, head)
            offset = end = 0
            earlier: PageRuns | None = None
            for entry in entries:
                message: Message = entry.message
                count, flags = page_count(message), page_flags(message)
                size = count * PAGE
                if message.vaddr + size > _ADDRESSES:
                    text = f"{count} pages that lie beyond all addresses"
                    raise FormatError(f"{name}: {message.vaddr:#x}", text, entry.offset)
                if not size:  # CRIU writes no entry without pages, and a read of none has no part
                    continue
                if message.vaddr < end:  # CRIU's own reader takes them in order, too
                    text = f"its pages lie below {end:#x}, where those of the entry before it end"
                    raise FormatError(f"{name}: {message.vaddr:#x}", text, entry.offset)
                end = int(message.vaddr) + size
                if flags & IN_PARENT:
                    if earlier is None:
                        earlier = PageRuns(self._runs(name, depth + 1))
                    yield from _within(earlier, int(message.vaddr), size, name, entry.offset)
                elif flags & LAZY and not flags & PRESENT:
                    raise Refused("pages", f"{message.vaddr:#x}", "lazy", _LAZY)
                else:
                    yield PageRun(int(message.vaddr), size, source, offset)
                    offset += size
        if offset:
            self._check_pages(depth, source.name, offset)

    def _check_pages(self, depth: int, name: str, size: int) -> None:
        """Refuse a file of pages that is shorter than its page map says."""
        file = self._folders[depth].open(name)
        if file is None:
            raise FormatError(name, "the folder has no such file")
        with closing(file):
            found = file.seek(0, os.SEEK_END)
        if found < size:
            raise FormatError(name, f"{size // PAGE} pages are said to be in it, and it has {found} bytes")

    def _process(self, entry: Message) -> ProcessImage:
        pid = int(entry.pid)
        core = self._one(f"core-{pid}.img")
        lives = core.tc.task_state != DEAD
        # For a zombie CRIU writes the number of a thread that it has never set.
        threads = tuple(dict.fromkeys((pid, *map(int, entry.threads)))) if lives else (pid,)
        cores = {tid: core if tid == pid else self._one(f"core-{tid}.img") for tid in threads}
        ids = core.ids if core.HasField("ids") or not lives else self._one(f"ids-{pid}.img")
        return ProcessImage(
            pid,
            threads,
            core,
            cores,
            {tid: self._alike_cores.number(each) for tid, each in cores.items()},
            ids,
            self._one(f"mm-{pid}.img") if lives else None,
            self._one(f"fs-{pid}.img") if lives else None,
            self._alike(f"fdinfo-{ids.files_id}.img") if lives else (),
            *(int(entry.ppid), int(entry.pgid), int(entry.sid)),
        )

    def _one(self, name: str) -> Message:
        found = self._alike(name)
        return found[0] if len(found) == 1 else imagefolder.one(self._folders[0], name)  # which says what is wrong

    def _alike(self, name: str) -> tuple[Message, ...]:
        """Return the messages of a file of one process; those of equal files are decoded once, and are the same objects.

        Processes that descend from one by forks alone have many of them.
        """
        data = imagefolder.content(self._folders[0], name, _COMPARED + 1)
        if data is None:
            return ()
        if len(data) > _COMPARED:
            return tuple(self.all(name))
        kind = name.partition("-")[0]
        known = self._known.get((kind, data))
        if known is None:
            known = tuple([entry.message for entry in imagefile.whole(data, name, imagefile.KINDS[kind])])
            self._known[kind, data] = known
        return known


def _chain(path: Path) -> Iterator[ImageFolder]:
    seen: set[Path] = set()
    here = path.resolve()
    while here not in seen and len(seen) < _MOST_PARENTS and here.is_dir():
        seen.add(here)
        yield ImageFolder(here)
        here = (here / PARENT).resolve()
    if not seen:
        yield ImageFolder(path)


def _within(runs: PageRuns, address: int, size: int, name: str, offset: int) -> Iterator[PageRun]:
    """Yield the parts of runs, which are in order, that are in a range of addresses, which they must cover."""
    at, end = address, address + size
    place = max(bisect.bisect_right(runs.addresses, at) - 1, 0)
    while at < end and place < len(runs) and runs[place].address <= at:
        run = runs[place]
        skip = at - run.address
        taken = min(run.size - skip, end - at)
        if taken > 0:
            yield PageRun(at, taken, run.file, run.offset + skip)
            at += taken
        place += 1
    if at < end:
        raise FormatError(name, f"the page at {at:#x} is said to be in an earlier dump, which does not have it", offset)
