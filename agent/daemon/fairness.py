# SPDX-License-Identifier: Apache-2.0
"""Each user's share of the daemon's time.

The daemon runs at a high priority (nice -15), and so does the work that it does for a client. Users who may see
everything may also stop the daemon, so they have no bound. Each other user gets `SHARE` of the time, and a credit of
`CREDIT_S` after a while without requests. A user who has had more waits, and no other user does.
"""

from typing import Final

SHARE: Final = 0.1
CREDIT_S: Final = 0.05


class FairShares:
    """The time of each user's next turn. It takes the time as an argument."""

    def __init__(self) -> None:
        self._paid_s: dict[int, float] = {}  # by uid: the time at which the user's share covers the time used

    def spend(self, uid: int, took_s: float, now_s: float) -> None:
        """Charge a user for `took_s` of the daemon's time."""
        if len(self._paid_s) > 1000:
            self._paid_s = {user: paid for user, paid in self._paid_s.items() if paid > now_s}
        self._paid_s[uid] = max(self._paid_s.get(uid, 0.0), now_s - CREDIT_S / SHARE) + took_s / SHARE

    def due_s(self, uid: int) -> float:
        """Return the time from which a user may have more; one in the past: now."""
        return self._paid_s.get(uid, 0.0)
