# SPDX-License-Identifier: Apache-2.0
"""The memory that a relay has of requests for snapshots, and its bounds."""

import pytest

from agent.errors import BusyError, UsageError
from agent.fleet.cuts import Cuts

S = 1_000_000_000


def test_one_id_is_one_entry() -> None:
    """However often its request comes."""
    cuts: Cuts[int] = Cuts()

    assert cuts.entered("x", ("1",), S, 0) is cuts.entered("x", ("1",), S, S // 2)


def test_an_id_that_asks_for_something_else_is_refused() -> None:
    """One of the two requesters would get a tree that it has not asked for."""
    cuts: Cuts[int] = Cuts()
    cuts.entered("x", ("1",), S, 0)

    with pytest.raises(UsageError, match="another id"):
        cuts.entered("x", ("2",), S, 0)


def test_an_entry_is_forgotten_a_while_after_its_deadline() -> None:
    """A request that comes late finds it there."""
    cuts: Cuts[int] = Cuts()
    cuts.entered("x", ("1",), S, 0)
    cuts.forget(20 * S)
    assert cuts.found("x") is not None
    cuts.forget(40 * S)
    assert cuts.found("x") is None


def test_entries_and_bytes_have_bounds() -> None:
    """A request that is over its time makes room."""
    cuts: Cuts[int] = Cuts(most_ids=2, most_bytes=10)
    first = cuts.entered("1", (), S, 0)
    second = cuts.entered("2", (), S, 0)
    with pytest.raises(BusyError, match="2 requests"):
        cuts.entered("3", (), S, 0)
    cuts.keep(first, b"123456")
    with pytest.raises(BusyError, match="images"):
        cuts.keep(second, b"12345")
    cuts.drop("1")
    cuts.keep(second, b"12345")
    assert cuts.entered("3", (), S, 100 * S).data == b""
