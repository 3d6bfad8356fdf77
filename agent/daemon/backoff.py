# SPDX-License-Identifier: Apache-2.0
"""The time that the daemon's loop may sleep before it looks at the ring again.

Only one record in WAKE_EVERY wakes the loop (bpf/kernel.h). The others must be read in time for two reasons: the ring
must not fill, and subscribers must get events soon. A ring with room for WAKE_EVERY records of any usual size cannot
fill without a wake-up. So the wait grows while few records come, up to `IDLE_S`, and is short again as soon as many
come, or a client subscribes.
"""

from typing import Final

IDLE_S: Final = 1.0
_WAKE_EVERY: Final = 4096
_USUAL_BYTES: Final = 512  # a record has 160 to 230 bytes, in nested namespaces some more
_LITTLE: Final = 256  # records in one wait


class Pace:
    """The next wait of the loop, derived from the ones before.

    Args:
        interval_s: the shortest wait.
        ring_bytes: size of the ring.
    """

    def __init__(self, interval_s: float, ring_bytes: int) -> None:
        self._shortest = interval_s
        self._longest = max(interval_s, IDLE_S if ring_bytes >= _WAKE_EVERY * _USUAL_BYTES else 0.0)
        self._wait = interval_s
        self._records = 0

    def wait_s(self, records: int, *, listened_to: bool) -> float:
        """Return the next wait, s.

        Args:
            records: handled so far, in all.
            listened_to: True where a client subscribes to events.
        """
        little = records - self._records < _LITTLE
        self._records = records
        self._wait = min(self._wait * 2, self._longest) if little and not listened_to else self._shortest
        return self._wait
