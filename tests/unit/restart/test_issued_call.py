# SPDX-License-Identifier: Apache-2.0
"""The call that the kernel had restarted, by its arguments where its code does not tell."""

from types import SimpleNamespace
from typing import Any

import pytest

from agent.restart.contents import issuedcall

AT = 0x7000_0000_1000
SLEEP, CLOCK_SLEEP, POLL, FUTEX = 35, 230, 7, 202


def process(*arguments: int) -> Any:
    """Return a process of one thread and one area, in a restarted call with these arguments."""
    names = dict(zip(("di", "si", "dx", "r10"), arguments, strict=True))
    general = SimpleNamespace(orig_ax=219, ax=(1 << 64) - 4, ip=AT + 64, **names)
    core = SimpleNamespace(thread_info=SimpleNamespace(gpregs=general))
    areas = [SimpleNamespace(start=AT, end=AT + 8192, status=0)]
    return SimpleNamespace(cores={5: core}, mm=SimpleNamespace(vmas=areas))


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        ((1, 0, AT, AT), CLOCK_SLEEP),
        (((1 << 32) - 6, 0, AT, 0), CLOCK_SLEEP),
        ((AT, AT + 16, 7, 8), SLEEP),
        ((AT, 3, 2000, 0), POLL),
        ((0, 0, 2000, 0), POLL),
        ((AT, 128, 0, AT), FUTEX),
        ((AT, 9 | 128 | 256, 0, AT), FUTEX),
        ((AT, 128, 5, AT), FUTEX),
        ((AT, 0, 2000, 0), None),
        ((1, 1, AT, AT), None),
        ((5, 6, 7, 8), None),
    ],
)
def test_the_arguments_tell_the_call_if_they_fit_one_alone(arguments: tuple[int, ...], number: int | None) -> None:
    """A sleep, a poll, a wait for a futex; where two of them fit, none is chosen."""
    assert issuedcall.number(process(*arguments), 5, {}) == number
