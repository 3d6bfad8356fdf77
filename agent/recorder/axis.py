# SPDX-License-Identifier: Apache-2.0
"""The one axis on which all events of a span stand: CLOCK_BOOTTIME of the span's first boot, in ns.

Events of a later boot stand where CLOCK_REALTIME puts them, for that is the only clock that goes on over a boot.
"""

from agent.protocol.replies import Event


class Axis:
    """The axis, for events that come in their order.

    Args:
        ahead_ns: CLOCK_REALTIME minus CLOCK_BOOTTIME at the first event, ns.
    """

    def __init__(self, ahead_ns: int) -> None:
        self._ahead_ns = ahead_ns
        self._shift_ns: int | None = 0  # of the times since boot; None: the next event is of another boot

    def at(self, event: Event) -> int:
        """Return the time of an event on the axis, ns, 1 at least."""
        time_ns = event.time_ns or 0
        boottime_ns = boottime(event, self._ahead_ns)
        if self._shift_ns is None:
            self._shift_ns = time_ns - boottime_ns - self._ahead_ns
        at_ns = max(1, boottime_ns + self._shift_ns)
        if event.details.get("reboot"):
            self._shift_ns = None
        return at_ns


def boottime(event: Event, ahead_ns: int = 0) -> int:
    """Return CLOCK_BOOTTIME of an event, ns; an event that does not tell has its CLOCK_REALTIME less `ahead_ns`."""
    told: int = event.details.get("boottime_ns", (event.time_ns or 0) - ahead_ns)
    return told
