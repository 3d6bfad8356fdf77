# SPDX-License-Identifier: Apache-2.0
"""The parts of a restart that come piece by piece, and their bounds."""

import pytest

from agent.errors import BusyError, UsageError
from agent.fleet.parcels import Parcels

OF = ("ops", "1")


def test_pieces_become_a_part() -> None:
    """A piece that comes twice changes nothing."""
    parcels = Parcels()
    for offset, data in ((0, b"ab"), (0, b"ab"), (2, b"c"), (2, b"c")):
        parcels.add(OF, "image", offset, data, 10, 0)

    assert parcels.taken(OF).parts == {"manifest": b"", "signature": b"", "image": b"abc"}


def test_a_piece_that_comes_before_its_turn_is_refused() -> None:
    """So is one of no part."""
    parcels = Parcels()
    with pytest.raises(UsageError, match="came before"):
        parcels.add(OF, "image", 1, b"x", 10, 0)
    with pytest.raises(UsageError, match="part"):
        parcels.add(OF, "other", 0, b"x", 10, 0)


def test_a_parcel_is_taken_once() -> None:
    """Another requester has another one under the same id."""
    parcels = Parcels()
    parcels.add(OF, "image", 0, b"x", 10, 0)
    with pytest.raises(UsageError, match="nothing has been sent"):
        parcels.taken(("eve", "1"))
    parcels.taken(OF)
    with pytest.raises(UsageError, match="nothing has been sent"):
        parcels.taken(OF)


def test_parcels_and_bytes_have_bounds() -> None:
    """A parcel that is over its time makes room."""
    parcels = Parcels(most=2, most_bytes=5)
    parcels.add(("a", "1"), "image", 0, b"123", 10, 0)
    parcels.add(("a", "2"), "image", 0, b"1", 10, 0)
    with pytest.raises(BusyError, match="2 restarts"):
        parcels.add(("a", "3"), "image", 0, b"1", 10, 0)
    with pytest.raises(BusyError, match="MiB"):
        parcels.add(("a", "2"), "image", 1, b"12", 10, 0)
    assert parcels.add(("a", "3"), "image", 0, b"12345", 30, 20) == 5
