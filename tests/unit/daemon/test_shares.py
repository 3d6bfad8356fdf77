# SPDX-License-Identifier: Apache-2.0
"""The share of the daemon's time for each user."""

import pytest

from agent.daemon.fairness import CREDIT_S, SHARE, FairShares


def test_who_asks_little_never_waits() -> None:
    """A request takes a millisecond, now and then."""
    shares = FairShares()
    for turn in range(1000):
        now = turn * 0.02
        assert shares.due_s(7) <= now
        shares.spend(7, 0.001, now)


def test_who_asks_without_end_gets_their_share() -> None:
    """The user gets the credit once."""
    shares, now, had = FairShares(), 100.0, 0.0
    while now < 110.0:
        now = max(now, shares.due_s(7))
        shares.spend(7, 0.002, now)
        had += 0.002
        now += 0.002

    assert abs(had - (10 * SHARE + CREDIT_S)) < 0.01


@pytest.mark.slow
def test_nobody_pays_for_another() -> None:
    """Each user has an own count, also among very many users."""
    shares = FairShares()
    for uid in range(5000):
        shares.spend(uid, 10.0, 0.0)
        assert shares.due_s(uid) > 10.0

    assert shares.due_s(5000) == 0.0
