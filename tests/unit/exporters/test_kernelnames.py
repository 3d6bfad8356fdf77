# SPDX-License-Identifier: Apache-2.0
"""The names of capabilities and limits."""

import resource

import pytest

from exporters.content import kernelnames


@pytest.mark.parametrize(
    ("mask", "names"),
    [
        (0, "none"),
        (1 << 24, "CAP_SYS_RESOURCE"),
        (1 << 21 | 1 << 31, "CAP_SYS_ADMIN, CAP_SETFCAP"),
        (1 << 40 | 1 << 41, "CAP_CHECKPOINT_RESTORE, capability 41"),
    ],
)
def test_capabilities_have_the_names_of_the_kernel_s_headers(mask: int, names: str) -> None:
    """The last one is of no kernel yet."""
    assert kernelnames.capabilities(mask) == names


def test_limits_have_the_names_of_the_c_library() -> None:
    """All that Python knows."""
    known = {name: getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
    del known["RLIMIT_OFILE"]  # the same as RLIMIT_NOFILE

    assert {name: kernelnames.limit(number) for name, number in known.items()} == {name: name for name in known}
    assert kernelnames.limit(99) == "99"


def test_a_limit_without_a_bound_is_said_to_be_infinite() -> None:
    """Its number says nothing to a reader."""
    assert [kernelnames.limit_value(each) for each in (1024, (1 << 64) - 1)] == ["1024", "infinity"]
