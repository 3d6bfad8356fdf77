# SPDX-License-Identifier: Apache-2.0
"""The comparison of two dumps of one tree, the second one after a restart: the differences that a program could see.

The programs must stand still in both dumps, as in pause() or after SIGSTOP. Objects have other numbers in each dump, so
each is known by the place where it first occurs: a process and a descriptor, or an area. EXPECTED tells what may differ,
and why.
"""

import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from agent.restart.contents.images import Images, ProcessImage
from agent.restart.contents.pageruns import PAGE, PageRun
from agent.restart.contents.registers import COMPONENTS
from agent.restart.contents.socketoptions import LISTEN
from exporters.criu.filemessages import REMAP_LINKED
from exporters.criu.memorymessages import (
    AREA_MEMFD,
    AREA_UPROBES,
    AREA_VDSO,
    AREA_VSYSCALL,
    AREA_VVAR,
    FILE_PRIVATE,
    FILE_SHARED,
)

EXPECTED: Final = {
    "thread_core_entry.cg_set": "a rebuilt tree is in the caller's control groups",
    "task_core_entry.cg_set": "a rebuilt tree is in the caller's control groups",
    "task_core_entry.loginuid": "the audit session is the caller's",
    "task_core_entry.timers": "time has passed; the tests of timers compare them",
    "task_core_entry.flags": "what the kernel notes of a task, as that it has used the rights of root",
    "mm_entry.exe_file_id": "numbers of objects; their names are compared",
    "vma_entry.shmid": "numbers of objects; their names and the sharing are compared",
    "fdinfo_entry.id": "numbers of objects; their names and the sharing are compared",
    "reg_file_entry.id": "numbers of objects",
    "reg_file_entry.mnt_id": "numbers of mounts",
    "memfd_file_entry.id": "numbers of objects",
    "memfd_file_entry.inode_id": "numbers of objects; the sharing is compared",
    "memfd_inode_entry.inode_id": "numbers of objects",
    "memfd_inode_entry.shmid": "numbers of objects",
    "file_entry.id": "numbers of objects",
    "pipe_entry.id": "numbers of objects",
    "pipe_entry.pipe_id": "numbers of objects; the sharing is compared",
    "fifo_entry.pipe_id": "numbers of objects; the sharing is compared",
    "fifo_entry.regf_id": "numbers of objects",
    "unix_sk_entry.ino": "numbers of objects; the peers are compared",
    "unix_sk_entry.peer": "numbers of objects; the peers are compared",
    "unix_sk_entry.backlog": "compared of listeners; of others it is what their peers have not read",
    "unix_sk_entry.mnt_id": "numbers of mounts",
    "inet_sk_entry.ino": "numbers of objects",
    "netlink_sk_entry.ino": "numbers of objects",
    "pidfd_entry.ino": "numbers of objects; the processes are compared",
    "eventpoll_tfd_entry.inode": "numbers of objects; the descriptors are compared",
    "eventpoll_tfd_entry.dev": "numbers of devices without a name",
    "timerfd_entry.vsec": "time has passed",
    "timerfd_entry.vnsec": "time has passed",
    "fh_entry.mnt_id": "numbers of mounts",
    "tty_file_entry.id": "numbers of objects",
    "tty_file_entry.tty_info_id": "numbers of objects; the terminals are compared",
    "tty_file_entry.regf_id": "numbers of objects",
    "tty_info_entry.id": "numbers of objects",
    **{
        f"{name}_entry.id": "numbers of objects"
        for name in (
            *("unix_sk", "inet_sk", "netlink_sk", "eventfd_file", "eventpoll_file", "eventpoll_tfd", "timerfd", "fifo"),
            *("inotify_file", "inotify_wd", "pidfd", "ns_file"),
        )
    },
    "signalfd_entry.id": "numbers of objects",
}
"""The fields that may differ, each with the reason."""

_GONE: Final = re.compile(rb"(?:\.ckptree-\d+-[0-9a-f]+)$")
"""The end of the path of a deleted file that another file has by now."""
_O_TMPFILE: Final = 0o20200000
"""Of a file that never had a name; it is made again with one, which is deleted."""
_O_LARGEFILE: Final = 0o100000
"""Every open() of a 64-bit kernel sets it; the ioctl() by which tmux opens a terminal does not."""
_CHARACTERS: Final = 19
_ANONYMOUS: Final = b"/dev/zero"
"""The name of the memory that mmap() makes without a file; CRIU may describe it as a memfd."""
_CHILD_STOPPED: Final = (17, 5)
"""SIGCHLD and its code: a parent hears once more that its child is stopped."""
_U64: Final = (1 << 64) - 1
_EINTR: Final = -4 & _U64
_CALL_BYTES: Final = 2
_SLEEPS: Final = {35: ("di", "si"), 230: ("dx", "r10")}
"""By call, the registers that point to the time of a sleep, and to where the kernel writes the rest of it."""
_CONTROL_WORD: Final = 0x37F
"""The control word of an x87 that was never used."""
_ZERO: Final = bytes(PAGE)
_RSEQ: Final = 32
"""Bytes of struct rseq, within one page by its alignment."""
_SAID: Final = 200
"""Characters of a value that a difference shows."""


def differences(first: Path, second: Path) -> list[str]:
    """Return a line for each difference of two dumps of one tree."""
    return list(_differences(_Dump(first), _Dump(second)))


class _Dump:
    """A dump, with names for its objects that do not depend on their numbers."""

    def __init__(self, folder: Path) -> None:
        self.images = Images(folder)
        self.inodes = {int(each.inode_id): each for each in self.images.all("memfd.img")}
        self.contents = {
            int(entry.message.pipe_id): content  # type: ignore[attr-defined]
            for name in ("pipes-data.img", "fifo-data.img")
            for entry, content in self.images.payloads(name)
        }
        self.terminals = {int(each.id): each for each in self.images.all("tty-info.img")}
        remaps = self.images.all("remap-fpath.img")
        self.linked = {int(each.orig_id) for each in remaps if each.remap_type == REMAP_LINKED}
        self.queues: dict[int, list[bytes]] = {}
        for entry, content in self.images.payloads("sk-queues.img"):
            self.queues.setdefault(int(entry.message.id_for), []).append(content)  # type: ignore[attr-defined]
        self._names: dict[tuple[str, int], str] = {}

    def named(self, kind: str, number: int, place: str) -> str:
        """Return the place where an object was first met."""
        return self._names.setdefault((kind, number), place)

    def file(self, identity: int, place: str) -> dict[str, Any]:
        """Return an open file as a document."""
        entry = self.images.files.get(identity)
        if entry is None:
            return {"missing": identity}
        found = {"first at": self.named("file", identity, place), **_document(entry)}
        if entry.HasField("memfd"):
            found["inode"] = self.inode(int(entry.memfd.inode_id), place)
        if entry.HasField("pipe"):
            found["pipe"] = self.named("pipe", int(entry.pipe.pipe_id), place)
            found["content"] = self.contents.get(int(entry.pipe.pipe_id), b"")
        if entry.HasField("fifo"):
            found["pipe"] = self.named("pipe", int(entry.fifo.pipe_id), place)
            found["content"] = self.contents.get(int(entry.fifo.pipe_id), b"")
        if entry.HasField("usk"):
            found["socket"] = self.named("unix", int(entry.usk.ino), place)
            found["peer"] = self.named("unix", int(entry.usk.peer), f"{place}, peer") if entry.usk.peer else ""
            found["backlog"] = int(entry.usk.backlog) if entry.usk.state == LISTEN else 0
            found["queue"] = self.queues.get(identity, [])
        if entry.HasField("epfd"):
            found["epfd"]["tfd"] = sorted(found["epfd"].get("tfd", ()), key=lambda each: int(each["tfd"]))
        if entry.HasField("tty"):
            found["tty"]["flags"] &= ~_O_LARGEFILE
            found["terminal"] = _document(self.terminals[int(entry.tty.tty_info_id)])
            for modes in (value for name, value in found["terminal"].items() if name.startswith("termios")):
                # CRIU copies the 19 control characters as they lie in memory, four into each number.
                modes["c_cc"] = b"".join(int(each).to_bytes(4, "little") for each in modes["c_cc"])[:_CHARACTERS]
        if entry.HasField("reg"):
            found["reg"]["flags"] &= ~_O_TMPFILE
            found["reg"]["name"] = self.path(entry)
        return found

    def path(self, entry: Any) -> bytes:
        """Return the path of a file; that of a deleted one as it was before another file had it."""
        if int(entry.id) in self.linked:
            return b"of another name"
        return _GONE.sub(b"", bytes(entry.reg.name))

    def inode(self, identity: int, place: str) -> dict[str, Any]:
        """Return the inode of a memfd as a document."""
        entry = self.inodes[identity]
        found = {"first at": self.named("inode", identity, place), **_document(entry)}
        found["pages"] = _pages(self.images.pages(f"pagemap-shmem-{entry.shmid}.img"))
        if bytes(entry.name) == _ANONYMOUS:  # no program can tell whose it is
            found = {name: value for name, value in found.items() if name not in ("uid", "gid")}
        return found


def _differences(first: _Dump, second: _Dump) -> Iterator[str]:
    before, after = first.images.processes, second.images.processes
    yield from _compared("tree", sorted(before), sorted(after))
    for pid in before.keys() & after.keys():
        one, two = before[pid], after[pid]
        yield from _compared(f"{pid}", _process(first, one), _process(second, two))
        if one.lives and two.lives:
            yield from _pages_compared(pid, first, second)


def _process(dump: _Dump, process: ProcessImage) -> dict[str, Any]:
    """Return all of a process but its pages as a document."""
    found: dict[str, Any] = {"threads": sorted(process.threads)}
    for tid in process.threads:
        found[f"thread {tid}"] = _thread(process.cores[tid])
    if not process.lives:
        return found
    mm = process.mm
    found["memory"] = {name: value for name, value in _document(mm).items() if name != "vmas"}
    found["exe"] = bytes(dump.images.files[int(mm.exe_file_id)].reg.name)
    found["areas"] = {}
    for vma in mm.vmas:
        if vma.status & (AREA_VSYSCALL | AREA_UPROBES):
            continue
        area = _document(vma)
        if vma.fd >= 0 or vma.shmid:
            area["file"] = _mapped(dump, vma, f"{process.pid}: area {vma.start:#x}")
        found["areas"][f"{vma.start:#x}-{vma.end:#x}"] = area
    for name in ("cwd_id", "root_id"):
        found[name] = bytes(dump.images.files[int(getattr(process.fs, name))].reg.name)
    found["umask"] = int(process.fs.umask)
    found["descriptors"] = {}
    for info in process.fds:
        place = f"{process.pid}: descriptor {info.fd}"
        found["descriptors"][int(info.fd)] = {**_document(info), "file": dump.file(int(info.id), place)}
    return found


def _thread(core: Any) -> dict[str, Any]:
    """Return a thread as a document, a call that goes on as one that is to be made."""
    found = _document(core)
    registers = found.get("thread_info", {}).get("gpregs")
    if registers:
        call, answer = registers.pop("orig_ax"), registers["ax"]
        if answer == _EINTR and call != _U64:  # the kernel, or a restart, makes it once more
            registers["ax"], registers["ip"] = call, registers["ip"] - _CALL_BYTES
            asked, rest = _SLEEPS.get(call, ("", ""))
            if rest and registers[rest]:  # a restart has it sleep for the rest of its time
                registers[asked] = registers[rest]
    floating = found.get("thread_info", {}).get("fpregs", {})
    if "xsave" in floating:
        floating["xsave"]["xstate_bv"] = _in_use(floating)
    pending = found.get("tc", {}).get("signals_s", {})
    if "signals" in pending:
        signals = [
            each for each in pending["signals"] if struct.unpack_from("<i4xi", each["siginfo"]) != _CHILD_STOPPED
        ]
        pending["signals"] = signals
    if not pending.get("signals"):
        found.get("tc", {}).pop("signals_s", None)
    return found


def _in_use(floating: dict[str, Any]) -> int:
    """Return XSTATE_BV without the components that have their initial values: a processor may report those or not
    (Intel's manual, volume 1, section 13.6).
    """
    xsave = floating["xsave"]
    x87 = [floating["cwd"] ^ _CONTROL_WORD, *(floating[name] for name in ("swd", "twd", "fop")), *floating["st_space"]]
    values = {0: x87, 1: floating["xmm_space"]}
    values |= {bit: xsave.get(name, []) for bit, (name, _, _) in COMPONENTS.items()}
    initial = sum(1 << bit for bit, each in values.items() if not any(each))
    return int(xsave["xstate_bv"]) & ~initial


def _mapped(dump: _Dump, vma: Any, place: str) -> Any:
    """Return the file of an area: an open file of its own in each dump, so only the file itself is named."""
    entry = dump.images.files.get(int(vma.shmid))
    if entry is None or not vma.status & (AREA_MEMFD | FILE_PRIVATE | FILE_SHARED):
        return dump.named("shared", int(vma.shmid), place)
    if entry.HasField("memfd"):
        return dump.inode(int(entry.memfd.inode_id), place)
    return dump.path(entry)


def _document(message: Any) -> dict[str, Any]:
    """Return the fields of a message that are set, without those that may differ."""
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        if f"{message.DESCRIPTOR.name}.{field.name}" in EXPECTED:
            continue
        if field.message_type is None:
            found[field.name] = list(value) if isinstance(value, Iterable) and not isinstance(value, bytes) else value
        elif hasattr(value, "ListFields"):
            found[field.name] = _document(value)
        else:
            found[field.name] = [_document(each) for each in value]
    return found


def _compared(where: str, one: Any, two: Any) -> Iterator[str]:
    """Yield the differences of two documents."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        for key in dict.fromkeys((*one, *two)):
            if key not in one or key not in two:
                which, value = ("second", two[key]) if key in two else ("first", one[key])
                yield f"{where}: {key}: only in the {which}: {_said(value)}"
            else:
                yield from _compared(f"{where}: {key}", one[key], two[key])
    elif one != two:
        yield f"{where}: {_said(one)}, then {_said(two)}"


def _said(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SAID else text[:_SAID] + "..."


def _pages(runs: Iterable[PageRun]) -> dict[int, bytes]:
    """Return the pages of runs that are not all zeros, by address."""
    found = {}
    for run in runs:
        with run.file.open("rb") as file:
            file.seek(run.offset)
            for at in range(0, run.size, PAGE):
                page = file.read(PAGE)
                if page != _ZERO:
                    found[run.address + at] = page
    return found


def _pages_compared(pid: int, first: _Dump, second: _Dump) -> Iterator[str]:
    """Yield the pages of a process that differ; a page of zeros is as good as none, but where a file lies below."""
    one, two = (_pages_of(dump, pid) for dump in (first, second))
    special = [vma for vma in second.images.processes[pid].mm.vmas if vma.status & (AREA_VDSO | AREA_VVAR)]
    for address in sorted(one.keys() | two.keys()):
        if any(vma.start <= address < vma.end for vma in special) or one.get(address) == two.get(address):
            continue
        found = (one.get(address) or _below(first, pid, address), two.get(address) or _below(second, pid, address))
        texts = [_page_said(page) for page in found]
        if texts[0] != texts[1]:
            yield f"{pid}: page {address:#x}: {texts[0]}, then {texts[1]}"


def _pages_of(dump: _Dump, pid: int) -> dict[int, bytes]:
    """Return the pages of a process, without the numbers of processors that the kernel writes for rseq(2)."""
    found = _pages(dump.images.pages(f"pagemap-{pid}.img"))
    for core in dump.images.processes[pid].cores.values():
        place = int(core.thread_core.rseq_entry.rseq_abi_pointer)
        page = found.get(place & -PAGE)
        if place and page:
            at = place % PAGE
            found[place & -PAGE] = page[:at] + bytes(_RSEQ) + page[at + _RSEQ :]
    return found


def _below(dump: _Dump, pid: int, address: int) -> bytes:
    """Return a page that the dump has not: that of the mapped file, or zeros."""
    for vma in dump.images.processes[pid].mm.vmas:
        if vma.start <= address < vma.end and vma.status & FILE_PRIVATE and not vma.status & AREA_MEMFD:
            with open(dump.images.files[int(vma.shmid)].reg.name, "rb") as file:
                file.seek(int(vma.pgoff) + address - int(vma.start))
                return file.read(PAGE).ljust(PAGE, b"\0")
    return _ZERO


def _page_said(page: bytes) -> str:
    if page == _ZERO:
        return "zeros"
    return f"{page[:16].hex()}... CRC {zlib.crc32(page):08x}"
