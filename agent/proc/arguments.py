# SPDX-License-Identifier: Apache-2.0
"""The arguments and the environment that a process was started with, out of memory that it may have written over.

Theory
------
exec() puts both at the top of the new stack, argument strings first, and /proc shows what is there now. Programs that
show a title (nginx, redis, sshd, PostgreSQL) write it over them. So the content of /proc is believed only if it is that
of the last exec():

* Where the exec hook has seen the exec, it has taken a hash of both areas (agent.table.areas), and has noted their
  place. The same bytes in the same place are those of the exec. Bytes behind the hashed ones are not certain, and the
  result says so. An area in another place is none of that exec: prctl(PR_SET_MM) may move one anywhere, to any strings.
* Else the areas are looked at for marks of a rewrite: one that does not end with a NUL, another number of strings than
  the ``argc`` that exec() had put below them, empty strings in the environment, an area that prctl() has moved. A title
  that keeps the number and the length of all strings has no mark.

``create_elf_tables()`` in the kernel's fs/binfmt_elf.c lays it out: argc, pointers, and above them the strings.
"""

import os
import struct
from typing import Final

from agent.record import NamedTuple
from agent.table.areas import HASHED_BYTES, Area, AtExec

MOVED: Final = "it is not where exec had put it: moved by prctl(PR_SET_MM), or of an exec that was not seen"

HELD_TITLE: Final = b"ckptree: held "
"""The beginning of the title of a task that a restart holds; see show_held() in agent/restart/helper/settle.c."""

HELD: Final = (
    "held by a ckptree restart, with nothing to run; the image that it was made from says what the original ran"
)
"""Why such a task has no arguments."""

_AT_NULL: Final = 0
_AT_EXECFN: Final = 31
_WORD: Final = 8
_PATH_MAX: Final = 4096
_MOST_ARGUMENTS: Final = 1 << 16
# Places in statfile.stat_fields().
_VSIZE, _START_STACK, _ARG_START = 23 - 3, 28 - 3, 48 - 3


class ProcessMemory(NamedTuple):
    """The addresses of the strings, from stat; all 0 where the reader lacks the right.

    Attributes:
        size: of all the memory; 0: a zombie or a kernel thread.
        start_stack: address of argc.
        arg_start, arg_end, env_start, env_end: of the areas.
    """

    size: int
    start_stack: int
    arg_start: int
    arg_end: int
    env_start: int
    env_end: int


class Strings(NamedTuple):
    """The arguments and environment that were found.

    Attributes:
        argv, env: None: not known, or the process has none.
        argv_unknown, env_unknown: the reason, for people, why it is not known although there is one.
        argv_uncertain, env_uncertain: the part that is not certain, for people.
    """

    argv: tuple[bytes, ...] | None = None
    env: tuple[bytes, ...] | None = None
    argv_unknown: str | None = None
    env_unknown: str | None = None
    argv_uncertain: str | None = None
    env_uncertain: str | None = None


def memory_of(fields: list[bytes]) -> ProcessMemory:
    """Return the addresses in the fields of a stat file; a kernel hides the last ones from some readers."""
    size, stack, *areas = [
        int(fields[at]) if at < len(fields) else 0 for at in (_VSIZE, _START_STACK, *range(_ARG_START, _ARG_START + 4))
    ]
    return ProcessMemory(size, stack, *areas)


def judge(
    memory: ProcessMemory, arguments: bytes | None, environment: bytes | None, stack: "Stack | None", seen: AtExec
) -> Strings:
    """Return the strings, where they are those of the last exec.

    Args:
        memory: their addresses.
        arguments: the area, or the content of cmdline where memory may not be read.
        environment: the area; None where it may not be read.
        stack: the words below the strings; None where they may not be read.
        seen: by the exec hook.
    """
    argv_wrong = _arguments_wrong(memory, arguments, stack) if arguments else "it has none any more"
    if argv_wrong == HELD:  # the records are of the strings with which its helper was started
        seen = AtExec()
    env_wrong = "" if environment is None else _environment_wrong(environment, arguments, argv_wrong)
    argv = _decided(memory.arg_start, arguments, argv_wrong, seen.arguments)
    env = _decided(memory.env_start, environment, env_wrong, seen.environment)
    return Strings(argv.strings, env.strings, argv.unknown, env.unknown, argv.uncertain, env.uncertain)


class Stack(NamedTuple):
    """The words that exec() has put below the strings.

    Attributes:
        argc: count of arguments.
        pointers: to the arguments; a program may have changed them.
    """

    argc: int
    pointers: tuple[int, ...]


class _Decided(NamedTuple):
    """The strings of an area, or the reason why they are not known."""

    strings: tuple[bytes, ...] | None = None
    unknown: str | None = None
    uncertain: str | None = None


def _decided(start: int, data: bytes | None, wrong: str, seen: Area | None) -> _Decided:
    """Decide on the strings of an area.

    Args:
        start: address of the area now; 0: the reader may not know it.
        data: its bytes; None where they may not be read.
        wrong: the mark of a rewrite; empty where there is none.
        seen: the area as the hook saw it.
    """
    uncertain = None
    if seen is not None:
        moved = bool(start) and start != seen.address
        if seen.same and not moved:
            wrong = wrong if seen.size > HASHED_BYTES else ""
            if seen.size > HASHED_BYTES:
                uncertain = f"what is behind its first {HASHED_BYTES} bytes may have been written over since exec"
        elif seen.text is not None and len(seen.text) == seen.size:
            return _Decided(split(seen.text))
        else:
            wrong = MOVED if moved else "it has been written over since exec"
    if data is None:
        return _Decided()
    return _Decided(unknown=wrong) if wrong else _Decided(split(data), uncertain=uncertain)


def _arguments_wrong(memory: ProcessMemory, data: bytes, stack: Stack | None) -> str:
    if data.startswith(HELD_TITLE):
        return HELD
    if memory.arg_start:
        if memory.arg_end != memory.env_start or memory.arg_start < memory.start_stack:
            return "it has been moved by prctl(PR_SET_MM), as for a title"
        if len(data) != memory.arg_end - memory.arg_start:
            return "its end has been written over, as by a title"
    if not data.endswith(b"\0"):
        return "its end has been written over, as by a title"
    if stack is None:
        padded = memory.arg_start and data.endswith(b"\0\0")
        return "it ends with empty strings, as a title does, and its memory may not be read" if padded else ""
    if data.count(0) == stack.argc or _is_loaders(memory, data, stack):
        return ""
    return f"it has {data.count(0)} strings, and exec gave it {stack.argc}: it has been written over, as by a title"


def _is_loaders(memory: ProcessMemory, data: bytes, stack: Stack) -> bool:
    """Return True if the dynamic loader, called by its name, has taken its own arguments away from the program's."""
    places = [pointer - memory.arg_start for pointer in stack.pointers]
    if len(places) != stack.argc or not all(0 < at < len(data) and not data[at - 1] for at in places):
        return False
    return data.count(0, min(places, default=0)) == stack.argc


def _environment_wrong(data: bytes, arguments: bytes | None, argv_wrong: str) -> str:
    strings = data.removesuffix(b"\0").split(b"\0") if data else []
    torn = data and not data.endswith(b"\0")
    overrun = bool(arguments) and not (arguments or b"").endswith(b"\0")
    unnamed = bool(argv_wrong) and any(b"=" not in each for each in strings)
    if torn or overrun or unnamed or b"" in strings:
        return "it has been written over, as by a title"
    return ""


def split(data: bytes) -> tuple[bytes, ...]:
    """Split NUL-ended strings."""
    return tuple(data.removesuffix(b"\0").split(b"\0")) if data else ()


class ArgumentsReader:
    """The memory of one process, through its opened directory of procfs.

    Args:
        process: descriptor of the directory.

    Attributes:
        permitted: True where it may be read.
    """

    def __init__(self, process: int) -> None:
        try:
            self._file = os.open("mem", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
        except OSError:
            self._file = -1
        self.permitted = self._file >= 0

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)

    def bytes_at(self, address: int, size: int) -> bytes | None:
        """Read `size` bytes at an address; None where not all can be read."""
        if self._file < 0 or size < 0:
            return None
        try:
            data = os.pread(self._file, size, address)
        except (OSError, OverflowError):
            return None
        return data if len(data) == size else None

    def stack(self, address: int) -> Stack | None:
        """Read argc and the pointers at start_stack; None where they cannot be read."""
        first = self.bytes_at(address, _WORD)
        if first is None:
            return None
        (word,) = struct.unpack("=Q", first)
        # A 32-bit program's words are half as long, and its first argument's address, which is not 0, is the next one.
        size, code = (_WORD, "Q") if word >> 32 == 0 else (4, "I")
        argc = word & 0xFFFF_FFFF
        pointers = self.bytes_at(address + size, argc * size) if argc < _MOST_ARGUMENTS else None
        return Stack(argc, struct.unpack(f"={argc}{code}", pointers) if pointers is not None else ())

    def text_at(self, address: int) -> bytes | None:
        """Read the string at an address; None where it has no end."""
        if self._file < 0:
            return None
        try:
            data = os.pread(self._file, _PATH_MAX, address)
        except (OSError, OverflowError):
            return None
        text, end, _ = data.partition(b"\0")
        return text if end else None


def called_as(auxv: bytes | None, memory: ArgumentsReader) -> bytes | None:
    """Return the path by which the process called its program: the text at AT_EXECFN of its auxiliary vector."""
    if not auxv:
        return None
    # The words of a 32-bit program are half as long; read as 64-bit words they have an upper half of 0 only by chance.
    for code in ("QQ", "II"):
        pair = struct.Struct(f"={code}")
        for key, value in pair.iter_unpack(auxv[: len(auxv) // pair.size * pair.size]):
            if key == _AT_NULL:
                break
            if key == _AT_EXECFN:
                return memory.text_at(value) or None
    return None
