# SPDX-License-Identifier: Apache-2.0
"""BPF bytecode, one instruction at a time, and the instructions that some supported kernel refuses."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

# Linux 5.15's instructions (include/uapi/linux/bpf.h, its documentation of the instruction set), which are those that
# compilers call processor v3. Later ones, as loads that extend a sign, longer jumps and byte swaps, would need 6.6.
LOADS = {0x61, 0x69, 0x71, 0x79}
STORES = {0x62, 0x63, 0x6A, 0x6B, 0x72, 0x73, 0x7A, 0x7B}
LOAD_CONSTANT, ATOMIC = 0x18, {0xC3, 0xDB}
ADD, ADD_AND_FETCH = 0x00, 0x01
ALU_OPERATIONS = 0xE  # up to the byte swap to a named order
LAST_HELPER = 175  # bpf_task_pt_regs
IMAGE_OF_MAP = 1


class Instruction(NamedTuple):
    """An instruction, as the kernel has it; a constant takes two places and has both halves."""

    opcode: int
    source: int
    offset: int
    immediate: int


def instructions(code: bytes) -> Iterator[Instruction]:
    """Yield the instructions of a program."""
    at = 0
    while at < len(code):
        opcode, registers, offset, immediate = struct.unpack_from("<BBhi", code, at)
        if opcode == LOAD_CONSTANT:
            low, high = immediate & 0xFFFFFFFF, struct.unpack_from("<I", code, at + 12)[0]
            immediate = low | high << 32
            at += 8
        yield Instruction(opcode, registers >> 4, offset, immediate)
        at += 8


def bites(found: Instruction) -> bool:
    """Return True if some kernel or loader refuses the instruction."""
    kind = found.opcode & 7
    if found.opcode == LOAD_CONSTANT:
        # A constant that a shorter instruction could carry is the address of a table that no loader has filled in.
        return found.source != IMAGE_OF_MAP and (found.source != 0 or found.immediate < 1 << 31)
    if found.opcode in ATOMIC:
        return found.immediate not in {ADD, ADD_AND_FETCH}
    if kind in (0x4, 0x7):
        return found.opcode >> 4 >= ALU_OPERATIONS or found.offset != 0 or found.opcode == 0xD7
    if found.opcode == 0x85:
        return found.source != 0 or not 0 < found.immediate <= LAST_HELPER
    if kind in (0x5, 0x6):
        return found.opcode in (0x06, 0x8D) or found.opcode >> 4 >= ALU_OPERATIONS
    return found.opcode not in LOADS | STORES
