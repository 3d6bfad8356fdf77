# SPDX-License-Identifier: Apache-2.0
"""The check for instructions of a compiled program that some kernel refuses."""

import struct
from pathlib import Path

import pytest

from tests.support.bytecode import Instruction, bites, instructions


def constant(low: int, high: int, source: int) -> bytes:
    """Return a load of a 64-bit constant into r1."""
    return struct.pack("<BBhIIi", 0x18, source << 4 | 1, 0, low, 0, high)


def one(code: bytes) -> Instruction:
    """Return the only instruction of a program."""
    (found,) = instructions(code)
    return found


def test_a_constant_is_one_instruction_of_two_places() -> None:
    """The instruction behind it is found."""
    code = constant(0x33333333, 0x55555555, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)

    assert [each.immediate for each in instructions(code)] == [0x5555555533333333, 0]


@pytest.mark.parametrize(
    "code",
    [
        constant(0x33333333, 0x55555555, 0),
        constant(0x80000000, 0, 0),
        constant(2, 0, 1),  # a map
        struct.pack("<BBhi", 0xDB, 0x21, 0, 0x01),  # atomic_fetch_add
        struct.pack("<BBhi", 0x85, 0, 0, 113),  # bpf_probe_read_kernel
        struct.pack("<BBhi", 0xBF, 0x21, 0, 0),  # r1 = r2
        struct.pack("<BBhi", 0x71, 0x21, 8, 0),  # r1 = *(u8 *)(r2 + 8)
        struct.pack("<BBhi", 0x95, 0, 0, 0),  # exit
        struct.pack("<BBhi", 0xDC, 1, 0, 64),  # r1 = be64 r1
    ],
)
def test_what_every_kernel_takes(code: bytes) -> None:
    """The programs consist mostly of these."""
    assert not bites(one(code))


@pytest.mark.parametrize(
    "code",
    [
        constant(0, 0, 0),  # the address of a look-up table, which no loader has filled in
        constant(2, 0, 2),  # a value of a map
        struct.pack("<BBhi", 0xDB, 0x21, 0, 0xE1),  # xchg
        struct.pack("<BBhi", 0x85, 0x10, 0, 0),  # a call of another function of the program
        struct.pack("<BBhi", 0x85, 0, 0, 208),  # a helper of later kernels
        struct.pack("<BBhi", 0xBF, 0x21, 8, 0),  # r1 = (s8)r2
        struct.pack("<BBhi", 0x91, 0x21, 0, 0),  # r1 = *(s8 *)(r2 + 0)
        struct.pack("<BBhi", 0x06, 0, 0, 4),  # a long jump
        struct.pack("<BBhi", 0xD7, 1, 0, 64),  # r1 = bswap64 r1
    ],
)
def test_what_some_do_not(code: bytes) -> None:
    """Compilers make them in later versions, or for later processors."""
    assert bites(one(code))


def test_the_result_of_an_atomic_addition_is_taken_in_one_place() -> None:
    """LLVM 21 compiles the built-in function for no processor that bcc names; take_number() avoids it."""
    folder = Path(__file__).parents[3] / "bpf"
    uses = [
        (path.name, line.strip())
        for path in (*folder.glob("*.c"), *folder.glob("*.h"))
        for line in path.read_text().splitlines()
        if "__sync_fetch_and_" in line and not line.strip().startswith("__sync_fetch_and_add(")
    ]

    assert uses == [("kernel.h", "return __sync_fetch_and_add(counter, 1);")]
