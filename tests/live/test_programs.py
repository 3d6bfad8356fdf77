# SPDX-License-Identifier: Apache-2.0
"""Every program, built by this system's bcc in every shape that a kernel asks for, is one that kernels take."""

import os

import pytest

from bpf import compiler, syscall
from bpf.hooks import FEATURES
from bpf.layout import Layout, layout
from bpf.loader import CALLED, ITERATORS, Loader
from tests.support.bytecode import bites, instructions

RING_BYTES = 1 << 16
# How kernels differ: features that they lack, and flags that they have or have not.
LEFT_OUT: dict[str, tuple[str, ...]] = {
    "this kernel's": (),
    "without pid.ino": ("pid.ino",),
    "without ns_id": ("pid_namespace.ns_id",),
    "without terminals": ("terminals",),
    "without owners": ("owners",),
    "without ties": ("terminals", "owners"),
}
TOGGLED = {"the other exit": "-DHAVE_GROUP_DEAD=1", "the other owner": "-DHAVE_EMBEDDED_OWNER=1"}
NOT_TO_BE_LOADED = "the other owner"  # it would follow a pointer that this kernel has not there


def shaped(name: str) -> Layout:
    """The layout of this kernel, in one of these shapes."""
    made = layout(compiler.vmlinux(), LEFT_OUT.get(name, ()))
    flag = TOGGLED.get(name)
    if flag is None:
        return made
    rest = tuple(each for each in made.flags if each != flag)
    return Layout(rest if len(rest) < len(made.flags) else (*rest, flag), made.missing)


@pytest.mark.parametrize("shape", [*LEFT_OUT, *TOGGLED])
def test_every_program_is_one_that_kernels_take(shape: str) -> None:
    """Also those that are second choice here, and none has an instruction that an older kernel, or a loader without
    relocations, does not know. This kernel may not permit to load some kinds: that is not the verifier's to say.
    """
    made = shaped(shape)
    bundle = compiler._compile(compiler.source(), compiler.vmlinux(), made)
    biting = {name: [one for one in instructions(code) if bites(one)] for name, code in bundle.code.items()}

    assert not any(biting.values()), biting
    if shape == NOT_TO_BE_LOADED:
        return
    loads = [*CALLED, *ITERATORS]
    loads += [(hook.program, hook.kind, hook.traced) for each in FEATURES for way in each.ways for hook in way]
    assert {program for program, _, _ in loads} == set(bundle.code)
    loader = Loader(bundle, RING_BYTES, (), made.missing)
    try:
        for program, kind, function in loads:
            try:
                loader.descriptors[f"{program} {kind} {function}"] = loader.load(program, kind, function)
            except syscall.VerifierError as error:
                pytest.fail(f"{program}: {error.log}")
            except OSError:
                assert kind in ("fentry", "fexit")
    finally:
        for descriptor in loader.descriptors.values():
            os.close(descriptor)
