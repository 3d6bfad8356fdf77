# SPDX-License-Identifier: Apache-2.0
"""The moments of a replay at which its feed tells losses, their end, and the end of roots: those of the daemon at work."""

from agent.events.feed import Feed
from agent.recorder import tape
from agent.table.inputs import Input
from agent.table.stream import Stream


class Settler:
    """The moments of one feed.

    Args:
        feed: the feed.
        stream: of the replay that it listens to.
    """

    def __init__(self, feed: Feed, stream: Stream) -> None:
        self._feed = feed
        self._stream = stream
        self._sweeping = False

    def note(self, entry: tape.TapeEntry) -> None:
        """Tell what is due behind an entry. While a sweep repairs the table, it does not count as repaired."""
        if entry.kind == Input.TRUST:
            self._sweeping = True
        elif entry.kind == Input.STRIKE_OFF:
            self._sweeping = False
        elif entry.kind == tape.PART:
            self.settle()

    def settle(self) -> None:
        """Tell the end of a loss, or of the roots, if no sweep is under way that repairs the table."""
        if not self._sweeping or self._stream.suspect:
            self._feed.settle()
