# SPDX-License-Identifier: Apache-2.0
"""What a coordinator and its guard tell one another: the mirror of control.h.

Messages are single packets of one layout. Behind the program, in the same file, the guard leaves the pids that it sees;
where tasks are to run something, the coordinator leaves there what, just before it releases them.
"""

import mmap
import struct
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

# (field, struct code), in the order of the header.
MESSAGE_FIELDS = (
    *(("kind", "I"), ("reason", "I"), ("actor", "I"), ("place", "I"), ("error", "i"), ("value", "i")),
    *(("offset", "Q"), ("size", "Q")),
)
ANSWER_FIELDS = (("first_clone_ns", "Q"), ("standing_ns", "Q"), ("proc_error", "i"), ("user_namespace", "i"))
RUN_ENTRY_FIELDS = (("path", "Q"), ("argv", "Q"), ("envp", "Q"), ("cwd", "Q"))

MESSAGE: Final = struct.Struct("=" + "".join(code for _, code in MESSAGE_FIELDS))
ANSWER: Final = struct.Struct("=" + "".join(code for _, code in ANSWER_FIELDS))
RUN_ENTRY: Final = struct.Struct("=" + "".join(code for _, code in RUN_ENTRY_FIELDS))

FD_PROGRAM: Final = 3
FD_CONTROL: Final = 4


class Said(IntEnum):
    """Kinds of message; from GO on they are the coordinator's."""

    STANDING = 1
    ACTIVE = 2
    RELEASED = 3
    FAILED = 4
    GONE = 5
    GO = 16
    RELEASE = 17
    SIGNAL = 18
    KILL = 19
    DETACH = 20


class Reason(IntEnum):
    """Why something failed."""

    STEP = 1
    DIED = 2
    STUCK = 3
    SETUP = 4
    RUN = 5


class Setup(IntEnum):
    """What failed before any step."""

    PROGRAM = 1
    USERNS = 2
    IDMAP = 3
    SOCKETS = 4
    CLONE = 5
    PRIVATE = 6
    STDIO = 7


class Run(IntEnum):
    """What the tasks are released to."""

    HOLD = 1
    SECTION = 2


class Message(NamedTuple):
    """One packet; see control.h for what a kind uses."""

    kind: int
    reason: int = 0
    actor: int = 0
    place: int = 0
    error: int = 0
    value: int = 0
    offset: int = 0
    size: int = 0


class Program(NamedTuple):
    """What a task is to run.

    Attributes:
        path: of the file, no search.
        argv: its arguments, its name first.
        env: the environment, as NAME=value.
        cwd: where to be, if that is there; None: where the guard is.
    """

    path: bytes
    argv: Sequence[bytes]
    env: Sequence[bytes]
    cwd: bytes | None = None


def answer_offset(program: bytes) -> int:
    """Where the guard's answer begins."""
    return (len(program) + 7) & ~7


def run_offset(program: bytes, actors: int) -> int:
    """Where the run section begins: a page that nothing before it reaches into."""
    page = mmap.PAGESIZE
    return (answer_offset(program) + ANSWER.size + 4 * actors + page - 1) // page * page


def run_section(programs: Mapping[int, Program], actors: int) -> bytes:
    """What each actor runs; those without a program hold. Strings that many share are there once."""
    lists: list[Iterable[bytes]] = []
    for each in programs.values():
        lists += [each.argv, each.env]
    texts = {text for one in lists for text in one}
    texts |= {each.path for each in programs.values()} | {each.cwd for each in programs.values() if each.cwd}
    arrays_at = RUN_ENTRY.size * actors
    texts_at = arrays_at + 8 * sum(len(each.argv) + len(each.env) + 2 for each in programs.values())
    places: dict[bytes, int] = {}
    data = bytearray()
    for text in texts:
        places[text] = texts_at + len(data)
        data += text + b"\0"
    entries = bytearray(arrays_at)
    arrays = bytearray()
    for actor, each in programs.items():
        at = []
        for one in (each.argv, each.env):
            at.append(arrays_at + len(arrays))
            arrays += struct.pack(f"={len(one) + 1}Q", *(places[text] for text in one), 0)
        cwd = places[each.cwd] if each.cwd else 0
        RUN_ENTRY.pack_into(entries, RUN_ENTRY.size * actor, places[each.path], *at, cwd)
    return bytes(entries + arrays + data)
