# SPDX-License-Identifier: Apache-2.0
"""How long the daemon's loop may wait for nothing.

Nobody wakes it for a record: one in WAKE_EVERY does (bpf/kernel.h). Those between must be taken in time for two reasons:
the ring must not fill, and events must not be late for who listens. A ring with room for WAKE_EVERY records of any usual
size needs no timer against the first, so the wait grows while little happens, up to `IDLE_S`; it is short again as soon as
something does, or somebody listens.
"""

from typing import Final

IDLE_S: Final = 1.0
_WAKE_EVERY: Final = 4096
_USUAL_BYTES: Final = 512  # a record has 160 to 230, in nested namespaces some more
_LITTLE: Final = 256  # records in one wait


class Pace:
    """The next wait, from the ones before.

    Args:
        interval_s: the shortest.
        ring_bytes: size of the ring.
    """

    def __init__(self, interval_s: float, ring_bytes: int) -> None:
        self._shortest = interval_s
        self._longest = max(interval_s, IDLE_S if ring_bytes >= _WAKE_EVERY * _USUAL_BYTES else 0.0)
        self._wait = interval_s
        self._records = 0

    def wait_s(self, records: int, *, listened_to: bool) -> float:
        """How long to wait now.

        Args:
            records: handled so far, in all.
            listened_to: somebody wants to hear of each at once.
        """
        little = records - self._records < _LITTLE
        self._records = records
        self._wait = min(self._wait * 2, self._longest) if little and not listened_to else self._shortest
        return self._wait
