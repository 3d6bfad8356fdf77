# SPDX-License-Identifier: Apache-2.0
"""Offsets of clocks, from the times of a request and its answer."""

from hypothesis import given
from hypothesis import strategies as st

from agent.fleet.clocks import Offset
from tests.support.examples import patient

S = 1_000_000_000
times = st.integers(0, 10 * S)


@patient
@given(offset=st.integers(-3600 * S, 3600 * S), there=times, work=times, back=times)
def test_the_true_offset_is_within_the_bound(offset: int, there: int, work: int, back: int) -> None:
    """This holds however long the ways take, and however different they are."""
    sent = 1_000_000 * S
    received = sent + there + offset
    measured = Offset.measured(sent, received, received + work, sent + there + work + back)

    assert abs(measured.ns - offset) <= measured.bound_ns
    assert measured.bound_ns <= (there + back) // 2 + 1


def test_a_time_goes_there_and_back() -> None:
    """The clock there is five seconds ahead."""
    clock = Offset(5 * S, 0)

    assert (clock.there(7 * S), clock.here(clock.there(7 * S))) == (12 * S, 7 * S)


def test_of_two_measurements_the_narrower_counts() -> None:
    """The first one counts where there is no other."""
    wide, narrow = Offset(3, 100), Offset(5, 10)

    assert wide.narrower(narrow) is narrow
    assert narrow.narrower(wide) is narrow
    assert wide.narrower(None) is wide
