# SPDX-License-Identifier: Apache-2.0
"""The registers of a thread on x86-64, from CRIU's messages to the kernel's register sets.

The registers are struct user_regs_struct. The floating point state is the FXSAVE area, and behind it each component of
XSAVE that the image has; the resumer puts each where the processor wants it.
"""

import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from agent.restart.contents import fillabi
from agent.restart.contents.syscalls import CALLS

REGISTERS: Final = (
    *("r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di", "orig_ax"),
    *("ip", "cs", "flags", "sp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
)
"""The order of struct user_regs_struct in the kernel's arch/x86/include/asm/user_64.h."""
_ORIG_AX, _AX = REGISTERS.index("orig_ax"), REGISTERS.index("ax")
_U64: Final = (1 << 64) - 1
_U32: Final = (1 << 32) - 1
_EINTR, _ERESTARTNOHAND = 4, 514
_GO_ON: Final = frozenset(
    CALLS[name]
    for name in (
        *("poll", "nanosleep", "clock_nanosleep", "futex", "epoll_wait", "epoll_pwait", "epoll_pwait2"),
        *("rt_sigtimedwait", "semop", "semtimedop", "io_getevents"),
        *("recvfrom", "recvmsg", "recvmmsg", "accept", "accept4"),
    )
)
"""Calls that a stop by a tracer may end with EINTR though no handler has run; see signal(7)."""
_TELLS_REST: Final = {
    CALLS["nanosleep"]: (REGISTERS.index("di"), REGISTERS.index("si")),
    CALLS["clock_nanosleep"]: (REGISTERS.index("dx"), REGISTERS.index("r10")),
}
"""Calls that write the rest of their time: the registers of the time asked for and of the rest."""
_FXSAVE: Final = struct.Struct("<HHBxHQQII32I64I96x")
_LEGACY: Final = 3
"""The bits of x87 and SSE, which the FXSAVE area has."""

# The components of XSAVE by their bits: the field of CRIU's message, the code of its elements, and their number.
COMPONENTS: Final = {
    2: ("ymmh_space", "I", 64),
    3: ("bndreg_state", "Q", 8),
    4: ("bndcsr_state", "Q", 8),
    5: ("opmask_reg", "Q", 8),
    6: ("zmm_upper", "Q", 64),
    7: ("hi16_zmm", "Q", 128),
    9: ("pkru", "I", 2),
}
FLAGS: Final = {2: "avx", 3: "mpx", 4: "mpx", 5: "avx512f", 6: "avx512f", 7: "avx512f", 9: "ospke"}
"""The word in /proc/cpuinfo for each component that a processor may lack."""
_MXCSR: Final = 0x2FFFF
"""Bits that a processor may have: those of SSE, and the one for misaligned operands of AMD's."""
_LENGTHS: Final = (("st_space", 32), ("xmm_space", 64))


class Registers(NamedTuple):
    """The registers of a thread, as the resumer sets them.

    Attributes:
        general: struct user_regs_struct.
        floating: the FXSAVE area and the components.
        features: XSTATE_BV, the components in use.
        components: number of components behind the FXSAVE area.
    """

    general: bytes
    floating: bytes
    features: int
    components: int


def lacks(fp: Any) -> Iterator[str]:
    """Yield each reason for which the floating point state of a user_x86_fpregs_entry cannot be restored."""
    for name, number in _LENGTHS:
        if len(getattr(fp, name)) != number:
            yield f"{name} has {len(getattr(fp, name))} words, and needs {number}"
    if fp.mxcsr & ~_MXCSR:
        yield f"MXCSR is {fp.mxcsr:#x}, and has bits that no processor takes"
    features = int(fp.xsave.xstate_bv)
    for bit in range(features.bit_length()):
        if not features >> bit & 1 or 1 << bit & _LEGACY:
            continue
        if bit not in COMPONENTS:
            yield f"it uses XSAVE component {bit}, which is not restored"
            continue
        name, _, number = COMPONENTS[bit]
        if len(getattr(fp.xsave, name)) != number:
            yield f"XSAVE component {bit} has {len(getattr(fp.xsave, name))} words, and needs {number}"
    if fp.xsave.cet.cet or fp.xsave.cet.ssp:
        yield "it uses a shadow stack, which is not restored"


def lacks_here(fp: Any, flags: frozenset[str]) -> Iterator[str]:
    """Yield a text for each part of a floating point state that this processor does not have.

    Args:
        fp: the user_x86_fpregs_entry.
        flags: of the processor, as /proc/cpuinfo names them.
    """
    for bit, flag in FLAGS.items():
        if int(fp.xsave.xstate_bv) >> bit & 1 and flag not in flags:
            yield f"it uses registers (XSAVE component {bit}, {flag}) that this processor lacks"


def is_restarted(info: Any) -> bool:
    """Return True if a thread was in a call that the kernel had restarted, whose number it does not keep."""
    return int(info.gpregs.orig_ax) & _U32 == CALLS["restart_syscall"] and int(info.gpregs.ax) == -_EINTR & _U64


def registers(info: Any, call: int | None = None) -> Registers:
    """Return the registers of a thread_info_x86.

    Args:
        info: the message.
        call: the number of a call that the kernel had restarted; None: it is not known, or there was none.

    A dump has already set the instruction pointer back to most interrupted system calls, so the kernel must not do that
    again: orig_ax is -1. See `_interrupted` for the others.
    """
    general = [int(getattr(info.gpregs, name)) for name in REGISTERS]
    if call is not None:
        general[_ORIG_AX] = call
    _interrupted(general)
    fp = info.fpregs
    floating = _FXSAVE.pack(
        *(fp.cwd & 0xFFFF, fp.swd & 0xFFFF, fp.twd & 0xFF, fp.fop & 0xFFFF, fp.rip, fp.rdp, fp.mxcsr, fp.mxcsr_mask),
        *_sized(fp.st_space, 32),
        *_sized(fp.xmm_space, 64),
    )
    features, count = _LEGACY, 0
    if fp.HasField("xsave"):
        features = int(fp.xsave.xstate_bv)
        for bit, (name, code, number) in COMPONENTS.items():
            values = getattr(fp.xsave, name)
            if not values or not features >> bit & 1:
                features &= ~(1 << bit)
                continue
            content = struct.pack(f"<{number}{code}", *_sized(values, number))
            floating += fillabi.RESUME_COMPONENT.pack(bit, len(content)) + content
            count += 1
        features &= _LEGACY | sum(1 << bit for bit in COMPONENTS)
    return Registers(struct.pack("<27Q", *general), floating, features, count)


def _interrupted(general: list[int]) -> None:
    """Have the kernel go on with a system call that waits for a time and was interrupted by the dump alone.

    CRIU leaves EINTR where the kernel would have gone on by a restart block, which no image can have, and where the kernel
    answers EINTR to the dump's own interruption. No handler has run, so the program would not expect that. -ERESTARTNOHAND
    has the kernel issue the call once more, unless a pending signal has a handler: then the program gets EINTR.
    A relative time begins anew, but for a sleep that has told the rest of its time.
    """
    call, answer = general[_ORIG_AX] & _U32, general[_AX]
    general[_ORIG_AX] = _U64
    if answer != -_EINTR & _U64 or call not in _GO_ON:
        return
    general[_ORIG_AX], general[_AX] = call, -_ERESTARTNOHAND & _U64
    if call in _TELLS_REST:
        asked, rest = _TELLS_REST[call]
        if general[rest]:
            general[asked] = general[rest]


def _sized(values: Any, number: int) -> list[int]:
    """Return exactly so many values, with zeros for those that are missing."""
    return (list(values) + [0] * number)[:number]
