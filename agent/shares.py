# SPDX-License-Identifier: Apache-2.0
"""How much of the daemon's time each user may have.

The daemon runs before everybody else (nice -15), so who makes it work works with its priority. Those who may see
everything may also stop it; of all others each user gets `SHARE` of the time, beside a `CREDIT_S` for having asked nothing
lately. Who has had more waits; nobody else does.
"""

from typing import Final

SHARE: Final = 0.1
CREDIT_S: Final = 0.05


class Shares:
    """When each user may have their next turn. No clock in here."""

    def __init__(self) -> None:
        self._paid_s: dict[int, float] = {}  # when the time that they have had will have been theirs by right

    def spend(self, uid: int, took_s: float, now_s: float) -> None:
        """A user has had so much time."""
        if len(self._paid_s) > 1000:
            self._paid_s = {user: paid for user, paid in self._paid_s.items() if paid > now_s}
        self._paid_s[uid] = max(self._paid_s.get(uid, 0.0), now_s - CREDIT_S / SHARE) + took_s / SHARE

    def due_s(self, uid: int) -> float:
        """When they may have more; the past: now."""
        return self._paid_s.get(uid, 0.0)
