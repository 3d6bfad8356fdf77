# SPDX-License-Identifier: Apache-2.0
"""The facts about a kernel's structures that the BPF programs are compiled with, where kernels differ."""

from collections.abc import Iterable

from bpf.btf import Btf, StructMember
from bpf.layout import layout


class Kernel(Btf):
    """A kernel in which every structure has every member, eight bytes each, except for the changes of a test.

    Args:
        members: the changed members by ``struct.member``; None: the member is missing.
    """

    def __init__(self, members: dict[str, StructMember | None]) -> None:
        self._members = members
        self._names: list[str] = []

    def structs(self, names: Iterable[str]) -> dict[str, int]:
        """Return numbers for structures by name."""
        self._names = sorted(names)
        return {name: number for number, name in enumerate(self._names)}

    def member(self, struct_id: int, path: str) -> StructMember | None:
        """Return a member of eight bytes."""
        name = f"{self._names[struct_id]}.{path}"
        return self._members[name] if name in self._members else StructMember(8, 0, 0)

    def size(self, _: int) -> int:
        """Return the same size for every structure."""
        return 64

    def tracepoint_arguments(self, _: str) -> int | None:
        """Return one argument."""
        return 1


def flags(**members: StructMember | None) -> dict[str, int]:
    """Return the compiler flags for a kernel whose signal_struct has these members."""
    made = layout(Kernel({f"signal_struct.{name}": member for name, member in members.items()}))
    return {name: int(value) for name, _, value in (flag.removeprefix("-D").partition("=") for flag in made.flags)}


def test_a_bit_field_has_the_mask_of_its_bit() -> None:
    """The mask applies to the byte that holds the bit."""
    told = flags(is_child_subreaper=StructMember(112, 1, 0), has_child_subreaper=StructMember(112, 2, 0))

    assert told["MASK_signal_struct_is_child_subreaper"] == 1
    assert told["MASK_signal_struct_has_child_subreaper"] == 2
    assert told["OFF_signal_struct_has_child_subreaper"] == 112


def test_a_bool_of_its_own_where_others_have_a_bit_has_a_mask_of_all_its_bits() -> None:
    """Without a mask the programs would not compile there."""
    told = flags(is_child_subreaper=StructMember(128, 0, 0), has_child_subreaper=StructMember(129, 0, 0))

    assert told["MASK_signal_struct_is_child_subreaper"] == 0xFF
    assert told["MASK_signal_struct_has_child_subreaper"] == 0xFF


def test_on_arm64_a_functions_first_argument_is_where_no_system_calls_is() -> None:
    """The register has the result when a call returns, so the hook on the entry keeps the argument elsewhere."""
    arm: dict[str, StructMember | None] = {
        "pt_regs.di": None,
        "pt_regs.orig_x0": StructMember(272, 0, 0),
        "pt_regs.regs": StructMember(0, 0, 0),
    }
    told = layout(Kernel(arm)).flags

    assert {"-DOFF_ARG0=272", "-DOFF_ARG1=8", "-DOFF_ARG3=24", "-DOFF_PARAMETER0=0"} <= set(told)


def test_on_x86_64_both_are_in_one_register() -> None:
    """The fourth argument differs: the call itself uses that register."""
    intel: dict[str, StructMember | None] = {
        "pt_regs.di": StructMember(112, 0, 0),
        "pt_regs.r10": StructMember(56, 0, 0),
    }
    told = layout(Kernel(intel)).flags

    assert {"-DOFF_ARG0=112", "-DOFF_ARG3=56", "-DOFF_PARAMETER0=112"} <= set(told)
