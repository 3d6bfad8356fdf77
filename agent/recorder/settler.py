# SPDX-License-Identifier: Apache-2.0
"""The moments of a replay at which its feed tells losses, their end, and the end of roots: those of the daemon at work."""

from agent.events.feed import Feed
from agent.recorder import tape
from agent.recorder.replay import Replayer
from agent.table.inputs import Input


class Settler:
    """The moments of one feed.

    Args:
        feed: the feed, which nobody listens to yet.
        replay: the replay that it listens to; it may stand within a sweep.
    """

    def __init__(self, feed: Feed, replay: Replayer) -> None:
        self._feed = feed
        self._stream = replay.stream
        self._suspect = replay.stream.suspect
        if replay.mends_loss:
            feed.sweep_begins(suspect=True)

    def note(self, entry: tape.TapeEntry) -> None:
        """Tell what is due behind an entry, as agent.capture.watch has its feed tell it."""
        if entry.kind == Input.TRUST:
            self._feed.sweep_begins(suspect=self._suspect)
        elif entry.kind == Input.STRIKE_OFF:
            self._feed.sweep_ends()
        elif entry.kind == tape.PART:
            self._feed.settle()
        self._suspect = self._stream.suspect

    def settle(self) -> None:
        """Tell what is due where the tape ends."""
        self._feed.settle()
