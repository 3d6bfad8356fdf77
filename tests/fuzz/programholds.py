# SPDX-License-Identifier: Apache-2.0
"""The holds of a program that restores contents: what no image, however hostile, may make it do.

A program is read again from its bytes, as the restorer in C reads it, and no operation leads out of its part, to a
process outside the tree, to a path that neither the images nor the restart names, or into the region that the program
itself is in.
"""

import struct
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from agent.restart.contents import fillabi
from agent.restart.contents.fillabi import Demand, Special
from agent.restart.contents.fillprogram import ProcessProgram
from agent.restart.contents.syscalls import CALLS

PAGE: Final = 4096
_NAMES: Final = {number: name for name, number in CALLS.items()}
_ISSUED: Final = frozenset(
    CALLS[name]
    for name in (
        *(
            "accept4",
            "bind",
            "capset",
            "chroot",
            "close",
            "close_range",
            "connect",
            "dup3",
            "epoll_create1",
            "epoll_ctl",
        ),
        *("eventfd2", "fchdir", "fchmod", "fchown", "fchownat", "fcntl", "flock", "ftruncate", "inotify_add_watch"),
        *(
            "inotify_init1",
            "ioctl",
            "listen",
            "lseek",
            "madvise",
            "membarrier",
            "memfd_create",
            "mlock",
            "mlock2",
            "mmap",
        ),
        *("mprotect", "mremap", "msgsnd", "munmap", "openat", "openat2", "personality", "pidfd_getfd", "pidfd_open"),
        *("pipe2", "ppoll", "prctl", "prlimit64", "rseq", "rt_sigaction", "rt_sigqueueinfo", "rt_tgsigqueueinfo"),
        *("sched_setscheduler", "seccomp", "semctl", "sendmsg", "sendto", "set_robust_list", "set_tid_address"),
        *("msgctl", "msgget", "semget", "shmget"),
        *("setgroups", "setitimer", "setpriority", "setresgid", "setresuid", "setfsuid", "setfsgid", "setsockopt"),
        *("shmat", "shmctl", "shmdt", "shutdown", "sigaltstack", "signalfd4", "socket", "socketpair", "timer_settime"),
        *("timerfd_create", "timerfd_settime", "umask", "unlinkat", "write"),
    )
)
"""The calls that a restart issues: none that makes or removes folders and devices, or that signals another process."""
_RANGES: Final = {CALLS[name]: (0, 1) for name in ("munmap", "mprotect", "madvise", "mlock", "mlock2")}
_TARGETS: Final = frozenset(
    CALLS[name]
    for name in (
        *("pidfd_open", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "prlimit64", "sched_setscheduler", "setpriority"),
        *("openat", "openat2", "unlinkat", "fchownat"),
    )
)
"""The calls that name a process or a path."""
_MEMORY: Final = frozenset((*_RANGES, CALLS["mmap"], CALLS["mremap"]))
"""The calls that change memory."""
_ANY_NUMBERS: Final = _ISSUED - _TARGETS - _MEMORY
_FIXED: Final = 0x10
_NEVER_FLAGS: Final = 0o100 | 0o200 | 0o1000  # O_CREAT, O_EXCL, O_TRUNC
_SPANS: Final = {Special.READ: 1, Special.ASIDE: 1, Special.MERGE: 1}
_OPERANDS: Final = {
    Special.WAIT: 2,
    Special.POST: 1,
    Special.READ: 4,
    Special.STORE: 2,
    Special.LOAD: 1,
    Special.ADDRESS: 2,
    Special.TIMER: 3,
    Special.ASIDE: 5,
    Special.JOIN: 1,
    Special.TERMINAL: 3,
    Special.MERGE: 4,
    Special.PART: 3,
    Special.RING: 4,
    Special.SPENT: 3,
}
_SPAN: Final = struct.Struct("<2Q")


class Limits(NamedTuple):
    """The bounds of a tree's programs.

    Attributes:
        numbers: the numbers of its tasks, as any of its processes sees them.
        words: number of the shared words.
        names: tells of a path that the images or the restart name.
    """

    numbers: Collection[int]
    words: int
    names: Callable[[bytes], bool]


class _Part(NamedTuple):
    """A part of a program: its bytes, their address, and where slots and data begin in them."""

    content: bytes
    at: int
    slots: int
    data: int

    def text(self, place: int) -> bytes:
        """Return the path at an address of the data."""
        begin = place - self.at
        end = self.content.find(b"\0", begin)
        assert end >= 0, f"the path at {place:#x} does not end within its part"
        return self.content[begin:end]


def hold(program: ProcessProgram, at: int, content: bytes, limits: Limits) -> int:
    """Check a part of a program; return the number of its operations.

    Args:
        program: the process.
        at: the address of the part.
        content: its bytes.
        limits: of the tree.

    Raises:
        AssertionError: an operation does what none may; the text tells which.
    """
    assert at % PAGE == 0 == len(content) % PAGE, f"a part of {len(content)} bytes at {at:#x}"
    starts = fillabi.START.size * len(program.actors)
    place = at + starts
    heads = list(fillabi.START.iter_unpack(content[:starts]))
    count = 0
    for (_, operations, _, _, number, actor, _, _), wanted in zip(heads, program.actors, strict=True):
        assert (operations, actor) == (place, wanted), f"the operations of {actor} begin at {operations:#x}"
        place += fillabi.OPERATION.size * number
        count += number
    end = at + len(content)
    for _, operations, slots, data, number, *_ in heads:
        part = _Part(content, at, slots, data)
        first = operations - at
        _hold_all(program, part, (place, end), content[first : first + fillabi.OPERATION.size * number], limits)
    return count


def _hold_all(program: ProcessProgram, part: _Part, room: tuple[int, int], code: bytes, limits: Limits) -> None:
    """Check the operations of a thread. Most are calls with numbers alone that may be any, and are passed over soon."""
    begin, end = room
    slots = range(-(-(begin - part.slots) // fillabi.SLOT), (end - part.slots) // fillabi.SLOT)
    data = range(begin - part.data, end - part.data)
    none = fillabi.NO_SLOT
    for call, keep, demand, from_slots, from_data, count, *values, _ in fillabi.OPERATION.iter_unpack(code):
        assert keep == none or keep in slots, f"slot {keep} of {call} is outside of its part"
        assert demand <= Demand.EXACT, f"{call} demands {demand}"
        assert count <= fillabi.ARGUMENTS, f"{call} with {count} arguments"
        if call in _ANY_NUMBERS and not from_slots | from_data:
            continue
        name = _NAMES.get(call, str(call))
        known: list[int | None] = list(values)
        for index, value in enumerate(values):
            if from_slots >> index & 1:
                assert value in slots, f"slot {value} of {name} is outside of its part"
                known[index] = None
            elif from_data >> index & 1:
                assert value in data, f"data {value} of {name} is outside of its part"
                known[index] = part.data + value
        if call in _ISSUED:
            if call in _TARGETS:
                _hold_targets(name, known, from_data, part, limits)
            if call in _MEMORY:
                _hold_memory(program, call, name, known, part, room)
            continue
        assert _OPERANDS.get(call) == count, f"{name} with {count} arguments is no operation of a restart"
        if call in (Special.WAIT, Special.POST, Special.PART):
            assert (known[0] or 0) < limits.words, f"{name} of word {known[0]} of {limits.words}"
        elif call == Special.TERMINAL:
            _hold_path("open", [None, *known], from_data << 1, part, limits)
        else:
            _hold_memory(program, call, name, known, part, room)


def _hold_targets(name: str, known: list[int | None], from_data: int, part: _Part, limits: Limits) -> None:
    """Hold that a call is about the tree's own processes and about paths that are named."""
    match name:
        case "pidfd_open" | "rt_sigqueueinfo":
            assert known[0] in limits.numbers, f"{name} of process {known[0]}, which is not of the tree"
        case "rt_tgsigqueueinfo":
            assert {known[0], known[1]} <= set(limits.numbers), f"{name} of {known[:2]}, which are not of the tree"
        case "prlimit64" | "sched_setscheduler":
            assert known[0] == 0, f"{name} of process {known[0]}"
        case "setpriority":
            assert known[:2] == [0, 0], f"{name} of {known[:2]}"
        case _:
            _hold_path(name, known, from_data, part, limits)


def _hold_path(name: str, known: list[int | None], from_data: int, part: _Part, limits: Limits) -> None:
    place, flags = known[1], known[2]
    assert from_data >> 1 & 1, f"{name} of a path that is no data"
    assert place is not None
    path = part.text(place)
    if name == "openat2" and flags is not None:
        flags = int.from_bytes(part.content[flags - part.at : flags - part.at + 8], "little")
    if name.startswith("open"):
        assert flags is not None, f"{path!r} is opened with flags that are not known before"
        assert not flags & _NEVER_FLAGS, f"{path!r} is opened with {flags:#o}"
    assert limits.names(path), f"{name} of {path!r}, which no image names"


def _hold_memory(
    program: ProcessProgram, call: int, name: str, known: list[int | None], part: _Part, room: tuple[int, int]
) -> None:
    """Hold that the program does not change its own region."""
    if call in _RANGES or (name == "mmap" and (known[3] or 0) & _FIXED):
        _apart(program, name, known[0], known[1])
    elif name == "mremap":
        _apart(program, name, known[0], known[1])
        _apart(program, name, known[4], known[2])
    elif call in _SPANS:
        begin, count = known[1], known[2]
        assert begin is not None, f"spans of {name} are no data"
        assert count is not None, f"the number of spans of {name} is not known before"
        end = begin + _SPAN.size * count
        assert room[0] <= begin <= end <= room[1], f"{count} spans at {begin:#x} lead out of their part"
        for start, size in _SPAN.iter_unpack(part.content[begin - part.at : end - part.at]):
            _apart(program, name, start, size)
    elif call == Special.STORE and known[0] is not None:
        assert known[0] % 4 == 0, f"four bytes are stored at {known[0]:#x}"
        if not room[0] <= known[0] < room[1]:
            _apart(program, name, known[0], 4)
    elif call == Special.RING:
        _apart(program, name, known[1], known[2])


def _apart(program: ProcessProgram, name: str, start: int | None, size: int | None) -> None:
    if start is not None and size is not None:
        end = program.base + program.region_size
        assert start >= end or start + size <= program.base, f"{name} of {start:#x}+{size:#x}, where the program is"


def hold_table(table: bytes, threads: int) -> None:
    """Check the resumer's table: all that it leads to is within it."""
    size, _, _, count, _ = fillabi.RESUME_HEAD.unpack_from(table)
    assert (size, count) == (len(table), threads), f"a table of {size} bytes for {count} threads"
    begin = fillabi.RESUME_HEAD.size + fillabi.RESUME_THREAD.size * count
    for index in range(count):
        place = fillabi.RESUME_HEAD.size + fillabi.RESUME_THREAD.size * index
        *_, general, floating, _, components, _ = fillabi.RESUME_THREAD.unpack_from(table, place)
        assert begin <= general <= floating - 216, f"registers at {general}, floating ones at {floating}"
        assert general % 8 == 0, f"registers at {general}"
        at = floating + 512
        for _ in range(components):
            _, length = fillabi.RESUME_COMPONENT.unpack_from(table, at)
            at += fillabi.RESUME_COMPONENT.size + length
        assert at <= size, f"components of thread {index} end at {at} of {size}"
