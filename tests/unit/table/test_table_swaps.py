# SPDX-License-Identifier: Apache-2.0
"""Processes in each other's groups, with some or all of the events missing: only answers tell the groups."""

from itertools import product

import pytest

from tests.support.kernelobjects import Thread
from tests.support.watched import Watched, watched


def ring(pair: Watched, size: int, *, told: tuple[bool, ...]) -> list[Thread]:
    """Make founders of groups, each of which moves into the next one's group; the other members then end."""
    kernel = pair.kernel
    init = next(iter(kernel.threads))
    founders = [kernel.fork(init) for _ in range(size)]
    for founder in founders:
        kernel.setpgid(founder, founder.group, founder.pid, quiet=not told[0])
    others = [kernel.fork(founder) for founder in founders]
    for founder, after, is_told in zip(founders, [*founders[1:], founders[0]], told[1:], strict=True):
        kernel.setpgid(founder, founder.group, after.pid, quiet=not is_told)
    for founder, other in zip(founders, others, strict=True):
        kernel.exit(other)
        kernel.wait(founder, other)
    return founders


@pytest.mark.parametrize("size", [2, 3, 4])
def test_founders_in_each_others_groups_are_found_by_answers(size: int) -> None:
    """Any of the events may come. A founder is moved back into its group, because a member proves that it was there,
    and is asked about; no other task is moved for it again.
    """
    for told in product((True, False), repeat=size + 1):
        pair = watched()
        founders = ring(pair, size, told=told)

        pair.put([pair.table.question(pair.task(founder)) for founder in founders])
        pair.ask()

        pair.agree()
        assert not pair.table.moved


def test_a_founder_that_ends_before_it_was_asked_about_is_forgotten() -> None:
    """The table keeps nothing of it."""
    pair = watched()
    first, second = ring(pair, 2, told=(True, True, False))
    pair.put([pair.table.question(pair.task(second))])
    assert pair.table.moved

    pair.kernel.exit(first)
    pair.kernel.wait(next(iter(pair.kernel.threads)), first)

    assert not pair.table.moved
