# SPDX-License-Identifier: Apache-2.0
"""The offset of another host's clock, from the times of a request and its answer, as NTP (RFC 5905) has it."""

from typing import Self

from agent.record import NamedTuple


class Offset(NamedTuple):
    """The difference between a host's CLOCK_REALTIME and the requester's.

    Attributes:
        ns: the host's time minus the requester's, nanoseconds.
        bound_ns: the true difference is at most so far from `ns`, nanoseconds.
    """

    ns: int
    bound_ns: int

    @classmethod
    def measured(cls, sent_ns: int, received_ns: int, answered_ns: int, got_ns: int) -> Self:
        """Return the offset that one request shows.

        Args:
            sent_ns, got_ns: when the requester sent it and had the answer, by the requester's clock.
            received_ns, answered_ns: when the host had it and answered, by the host's clock.
        """
        on_the_way = max(0, got_ns - sent_ns - (answered_ns - received_ns))
        return cls((received_ns - sent_ns + answered_ns - got_ns) // 2, on_the_way // 2 + 1)

    def narrower(self, other: Self | None) -> Self:
        """Return the one of two measurements with the smaller bound."""
        return self if other is None or self.bound_ns <= other.bound_ns else other

    def there(self, here_ns: int) -> int:
        """Return the host's time at a time of the requester's."""
        return here_ns + self.ns

    def here(self, there_ns: int) -> int:
        """Return the requester's time at a time of the host's."""
        return there_ns - self.ns
