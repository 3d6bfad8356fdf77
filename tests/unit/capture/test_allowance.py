# SPDX-License-Identifier: Apache-2.0
"""The allowance of each user, derived from measurements of what records take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.allowance import LEAST, MOST, SHARE, Allowance

US = 1e-6


def after(*measured: tuple[int, float]) -> Allowance:
    """Return the allowance after measurements of a number of records and the time of each, us."""
    allowance = Allowance()
    for records, each_us in measured:
        allowance.note(records, records * each_us * US)
    return allowance


@pytest.mark.parametrize(
    ("each_us", "allowed"),
    [(0, MOST), (1.2, MOST), (12.5, MOST), (25, 4000), (200, 500), (400, LEAST), (10_000, LEAST)],
)
def test_a_record_that_takes_longer_is_allowed_less_often(each_us: float, allowed: int) -> None:
    """The two bounds hold whatever it takes."""
    assert after((1000, each_us)).per_second == allowed


def test_a_few_records_prove_nothing() -> None:
    """The first ones find cold caches; until then a user has the most."""
    assert after((63, 10_000)).per_second == MOST
    assert after((40, 10_000), (40, 10_000)).per_second == LEAST


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 10_000)), max_size=20), st.floats(0, 10_000))
def test_after_so_many_records_all_before_is_forgotten(before: list[tuple[int, float]], each_us: float) -> None:
    """A machine that is slow for a while does not stay so, and what a user had recorded meanwhile has its share."""
    allowance = after(*before, (256, each_us))

    assert LEAST <= allowance.per_second <= MOST
    assert allowance.per_second == LEAST or allowance.per_second * each_us * US <= SHARE * 1.2
    assert allowance.per_second == MOST or allowance.per_second * each_us * US >= SHARE / 1.2


def test_only_a_change_that_matters_is_told() -> None:
    """Each one costs a system call."""
    allowance = after((1000, 50))
    told = [allowance.note(100_000, 100_000 * each_us * US) for each_us in (50, 52, 48, 55, 80, 80, 1, 1, 1)]

    assert told == [False, False, False, False, True, False, True, False, False]
    assert allowance.per_second == MOST


def test_a_bound_is_reached_in_however_small_a_step() -> None:
    """Else a machine that is as fast as before would keep a little less."""
    allowance = after((256, 20), (256, 14))
    assert 0.9 * MOST > allowance.per_second > MOST / (1 + 1 / 8)

    assert allowance.note(256, 256 * 12 * US)
    assert allowance.per_second == MOST
