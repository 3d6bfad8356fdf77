# SPDX-License-Identifier: Apache-2.0
"""A client of the server: its socket, its conversation, and its place in the loop."""

import selectors
import socket
import time
from collections.abc import Callable

from agent.daemon.conversation import Conversation


class Peer:
    """A client: its socket, and its conversation.

    Args:
        connection: a non-blocking socket.
        talk: the conversation.
        serve: called with this object when its socket is ready.

    Attributes:
        viewer: its credentials.
        events: the selector's events that its socket is registered for.
        queued: True while it waits for its turn.
        due: True for a subscriber to which the time has come to send events.
    """

    def __init__(self, connection: socket.socket, talk: Conversation, serve: Callable[["Peer"], None]) -> None:
        self.connection = connection
        self._serve = serve
        self.talk = talk
        self.viewer = talk.asker.viewer
        self.events = 0
        self.queued = self.due = False

    def serve(self, _file: object) -> None:
        """Serve the client, whose socket is ready."""
        self._serve(self)

    def send(self, most: int) -> int:
        """Send as many bytes as the socket takes, and some more than `most` at the most; return their count.

        Raises:
            OSError: the connection is broken.
        """
        talk, sent = self.talk, 0
        try:
            while sent < most and (chunks := talk.next_chunks(most)):
                count = self.connection.sendmsg(chunks)
                talk.sent(count, time.monotonic())
                sent += count
        except BlockingIOError:
            pass
        return sent

    def tell(self, next_order: int, now_s: float) -> int:
        """Make a message of a subscriber's events, and send it if nothing else is unsent; return the count of sent bytes.

        Args:
            next_order: number of the next record.
            now_s: time on a monotonic clock.

        Raises:
            OSError: the connection is broken.
        """
        return self.talk.tell(next_order, now_s, self.connection.sendmsg)

    def register(self, selector: selectors.BaseSelector) -> None:
        """Have a selector tell what the conversation wants to know of the socket."""
        talk = self.talk
        wanted = selectors.EVENT_READ * talk.wants_to_read | selectors.EVENT_WRITE * bool(talk.unsent_bytes)
        if wanted == self.events:
            return
        if not wanted and self.events == selectors.EVENT_READ:
            return  # most requests are answered before more bytes of the client come, and the selector need not know
        if not wanted:
            selector.unregister(self.connection)
        elif self.events:
            selector.modify(self.connection, wanted, self.serve)
        else:
            selector.register(self.connection, wanted, self.serve)
        self.events = wanted
