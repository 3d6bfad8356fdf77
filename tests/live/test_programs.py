# SPDX-License-Identifier: Apache-2.0
"""Every program, built by this system's bcc in every shape that a kernel asks for, is one that kernels take."""

import os
from collections.abc import Iterator

import pytest

from bpf import compiler, syscall
from bpf.hooks import FEATURES
from bpf.layout import Layout, layout
from bpf.loader import CALLED, ITERATORS, Loader
from tests.bytecode import bites, instructions

pytestmark = pytest.mark.live

LEFT_OUT = ((), ("pid.ino",), ("pid_namespace.ns_id",), ("terminals",), ("owners",), ("terminals", "owners"))
RING_BYTES = 1 << 16


def toggled(made: Layout, flag: str) -> Layout:
    """The same, with a flag where it has none, and without it where it has it."""
    rest = tuple(each for each in made.flags if each != flag)
    return Layout(rest if len(rest) < len(made.flags) else (*rest, flag), made.missing)


def of_this_kernel() -> Iterator[Layout]:
    """The shapes that are true of this kernel, its own first: it takes them all."""
    btf = compiler.vmlinux()
    yield from (layout(btf, without) for without in LEFT_OUT)
    yield toggled(layout(btf), "-DHAVE_GROUP_DEAD=1")  # signal->live tells the same


def of_others() -> Iterator[Layout]:
    """Shapes that are true of another one."""
    yield toggled(layout(compiler.vmlinux()), "-DHAVE_EMBEDDED_OWNER=1")


def test_the_kernel_takes_every_program_in_every_shape() -> None:
    """Also those that are second choice here. It may not permit to attach them: that is not the verifier's to say."""
    for shape in of_this_kernel():
        bundle = compiler._compile(compiler.source(), compiler.vmlinux(), shape)
        loader = Loader(bundle, RING_BYTES, (), shape.missing)
        loads = [*CALLED, *ITERATORS]
        loads += [(hook.program, hook.kind, hook.traced) for each in FEATURES for way in each.ways for hook in way]
        try:
            for program, kind, function in loads:
                try:
                    loader.descriptors[f"{program} {kind}"] = loader.load(program, kind, function)
                except syscall.VerifierError as error:
                    pytest.fail(f"{program}, {set(layout(compiler.vmlinux()).flags) ^ set(shape.flags)}: {error.log}")
                except OSError:
                    assert kind in ("fentry", "fexit")
        finally:
            for descriptor in loader.descriptors.values():
                os.close(descriptor)

        assert {program for program, _, _ in loads} == set(bundle.code)


def test_no_program_has_an_instruction_that_an_older_kernel_or_a_loader_without_relocations_does_not_take() -> None:
    """A table of constants, a later processor's instructions, a helper of later kernels."""
    for shape in (*of_this_kernel(), *of_others()):
        code = compiler._compile(compiler.source(), compiler.vmlinux(), shape).code

        assert {
            name: found for name in code if (found := [one for one in instructions(code[name]) if bites(one)])
        } == {}
