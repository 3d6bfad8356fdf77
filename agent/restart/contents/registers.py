# SPDX-License-Identifier: Apache-2.0
"""The registers of a thread on x86-64, from CRIU's messages to the kernel's register sets.

The registers are struct user_regs_struct. The floating point state is the FXSAVE area, and behind it each component of
XSAVE that the image has; the resumer puts each where the processor wants it.
"""

import struct
from typing import Any, Final, NamedTuple

from agent.restart.contents import fillabi

_REGISTERS: Final = (
    *("r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di", "orig_ax"),
    *("ip", "cs", "flags", "sp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
)
"""The order of struct user_regs_struct in the kernel's arch/x86/include/asm/user_64.h."""
_U64: Final = (1 << 64) - 1
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
FLAGS: Final = {2: "avx", 5: "avx512f", 6: "avx512f", 7: "avx512f", 9: "ospke"}
"""The word in /proc/cpuinfo for each component that a processor may lack."""


class Registers(NamedTuple):
    """What the resumer sets of a thread.

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


def registers(info: Any) -> Registers:
    """Return the registers of a thread_info_x86.

    A dump has already set the instruction pointer back to an interrupted system call, so the kernel must not do that
    again: orig_ax is -1.
    """
    general = [int(getattr(info.gpregs, name)) for name in _REGISTERS]
    general[_REGISTERS.index("orig_ax")] = _U64
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


def _sized(values: Any, number: int) -> list[int]:
    """Return exactly so many values, with zeros for those that are missing."""
    return (list(values) + [0] * number)[:number]
