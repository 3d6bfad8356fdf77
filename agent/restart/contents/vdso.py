# SPDX-License-Identifier: Apache-2.0
"""The vdso of another kernel: its functions are redirected to those of this kernel's vdso.

A program calls the vdso by addresses that it has looked up once. Where the kernel is another one, the image's vdso becomes
ordinary memory at its old place, and each of its functions begins with a jump to this kernel's function of the same name,
or with the system call of that name where this kernel's vdso has none.
This is true for calls that begin after the restart. A thread within a function of the old vdso could not go on: its data
([vvar]) is this kernel's, in another order.
"""

import struct
from array import array
from collections.abc import Iterable, Mapping
from typing import Final

from agent.record import NamedTuple
from agent.restart.contents.addresses import AddressRange
from agent.restart.contents.refusals import Refused
from agent.restart.contents.syscalls import CALLS

JUMP_BYTES: Final = 16
_ELF: Final = struct.Struct("<4sBBB9xHHIQQQIHHH")
_HEADER: Final = struct.Struct("<IIQQQQQQ")
_DYNAMIC: Final = struct.Struct("<qQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_HASH, _DT_STRTAB, _DT_SYMTAB = 4, 5, 6
_STT_FUNC: Final = 2
_X86_64: Final = 62
_WORD: Final = 8
_ALWAYS_SET: Final = 2
_FLAG_BITS: Final = 22
_CS_GS_FS: Final = 0xFFFF_FFFF_FFFF
_USER_SEGMENTS: Final = (0x33, 0xE033)
"""The code segment of 64-bit programs, natively and in a guest of Xen; the kernel saves zeros for the two others."""
_WITHOUT_DATA: Final = ("sgx_enter_enclave", "futex_robust_list64_try_unlock", "futex_robust_list32_try_unlock")
"""Functions that read no data of their kernel, and work under any."""


class Function(NamedTuple):
    """A function of a vdso: its offset from the start, and its size, in bytes."""

    offset: int
    size: int


def functions(code: bytes) -> dict[str, Function]:
    """Return the functions that a vdso exports, by name.

    Raises:
        Refused: it is no vdso of x86-64.
    """
    try:
        return _functions(code)
    except (struct.error, ValueError, OverflowError, StopIteration) as error:
        raise Refused("vdso", "", "other-kernel", "it cannot be read as a program of ELF: dump again") from error


def _functions(code: bytes) -> dict[str, Function]:
    magic, width, order, _, _, machine, _, _, offset, _, _, _, size, count = _ELF.unpack_from(code)
    if magic != b"\x7fELF" or (width, order, size, machine) != (2, 1, _HEADER.size, _X86_64):
        raise ValueError("no ELF of x86-64")
    headers = [_HEADER.unpack_from(code, offset + _HEADER.size * index) for index in range(count)]
    base = next(address - place for kind, _, place, address, *_ in headers if kind == _PT_LOAD)
    place, length = next((place, length) for kind, _, place, _, _, length, *_ in headers if kind == _PT_DYNAMIC)
    tags = dict(_DYNAMIC.iter_unpack(code[place : place + length // _DYNAMIC.size * _DYNAMIC.size]))
    names, symbols = tags.get(_DT_STRTAB, 0) - base, tags.get(_DT_SYMTAB, 0) - base
    # Without the older table of hashes the number of symbols is known by what lies behind them.
    number = struct.unpack_from("<4xI", code, tags[_DT_HASH] - base)[0] if _DT_HASH in tags else 0
    number = number or (names - symbols) // _SYMBOL.size
    found = {}
    for name, info, _, section, value, extent in _SYMBOL.iter_unpack(code[symbols : symbols + number * _SYMBOL.size]):
        if section and info & 15 == _STT_FUNC:
            start = value - base
            if not 0 <= start <= len(code) - JUMP_BYTES:
                raise ValueError("a function outside")
            text = code[names + name : code.index(b"\0", names + name)]
            found[text.decode("ascii")] = Function(start, extent)
    if not found:
        raise ValueError("no functions")
    return found


class Lead(NamedTuple):
    """The place that a function of an old vdso leads to.

    Attributes:
        offset: of a function in the new vdso; -1: to a system call.
        call: the number of the system call.
    """

    offset: int
    call: int = 0

    def code(self, base: int) -> bytes:
        """Return the code that replaces the beginning of the function; `base` is the address of the new vdso."""
        if self.offset >= 0:
            return jump(base + self.offset)
        return (b"\xb8" + struct.pack("<I", self.call) + b"\x0f\x05\xc3").ljust(JUMP_BYTES, b"\xcc")


def redirects(old: bytes, new: bytes) -> dict[int, Lead]:
    """Return the place that each function of an old vdso leads to, by its offset.

    Raises:
        Refused: a function cannot be redirected.
    """
    theirs, ours = functions(old), functions(new)
    starts = sorted({each.offset for each in theirs.values()})
    found = {}
    for name, function in theirs.items():
        plain = name.removeprefix("__vdso_")
        if any(0 < start - function.offset < JUMP_BYTES for start in starts):
            raise Refused("vdso", name, "other-kernel", "the function is too short to be redirected")
        if name in ours:
            found[function.offset] = Lead(ours[name].offset)
        elif plain in CALLS:
            found[function.offset] = Lead(-1, CALLS[plain])
        elif plain not in _WITHOUT_DATA:
            raise Refused("vdso", name, "other-kernel", "the kernel of this host has no such function: use the old one")
    return found


def jump(target: int) -> bytes:
    """Return the code that jumps to an address; it changes r11, which no caller relies on."""
    return (b"\x49\xbb" + struct.pack("<Q", target) + b"\x41\xff\xe3").ljust(JUMP_BYTES, b"\xcc")


def check_threads(old: bytes, area: AddressRange, threads: Mapping[int, int], stacks: Iterable[bytes]) -> None:
    """Refuse a process of which a thread is within a function of an old vdso.

    Args:
        old: the vdso.
        area: its addresses.
        threads: the instruction pointer of each thread, by its number.
        stacks: parts of memory that may have the registers that a signal handler will return to.

    Raises:
        Refused: a thread is, or a signal handler has interrupted one.
    """
    for tid, pointer in threads.items():
        if area.start <= pointer < area.end:
            raise Refused(
                "vdso", f"thread {tid}", "other-kernel", "it is within a function of the old kernel: dump again"
            )
    bodies = [
        range(area.start + each.offset + 1, area.start + each.offset + each.size) for each in functions(old).values()
    ]
    low, high = area.start, area.end
    for stack in stacks:
        words = array("Q", stack[: len(stack) // _WORD * _WORD])
        for at, word in enumerate(words):
            if low <= word < high and any(word in body for body in bodies) and _is_frame(words[at + 1 : at + 3]):
                text = "a signal handler will return into a function of the old kernel: dump again"
                raise Refused("vdso", f"{word:#x}", "other-kernel", text)


def _is_frame(behind: "array[int]") -> bool:
    """Return True if the words behind an instruction pointer are those of a signal's frame: flags and segments.

    They tell it from what the vdso's functions have left on the stack themselves. A 64-bit kernel writes them in
    setup_sigcontext(), in arch/x86/kernel/signal_64.c; sigcontext.h has their order.
    """
    if len(behind) < 2:
        return False
    flags, segments = behind
    return bool(flags & _ALWAYS_SET) and not flags >> _FLAG_BITS and segments & _CS_GS_FS in _USER_SEGMENTS
