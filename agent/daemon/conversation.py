# SPDX-License-Identifier: Apache-2.0
"""A client's connection without the socket: bytes in, bytes out, and the time to close it.

States
------
::

    silent     no byte of a request has come, none is unsent         may last IDLE_S
    asking     a part of a request has come                          may last REQUEST_S, from its first byte on
    asked      its request waits for its turn, or is being answered  lasts as long as that does
    answering  an answer, or events, are unsent                      may last STALL_S without one byte being taken
    listening  it has subscribed and everything is sent              may last for ever; a message from it is an error
    closing    it broke the protocol, or closed its side             ends when all bytes are sent

A request is answered when the client has taken the answer before it, one at a time: a client that sends a thousand
requests waits a thousand turns, between which all other clients have theirs.
"""

import itertools
import sys
from collections import deque
from collections.abc import Callable
from typing import Final

from agent.access import Viewer
from agent.daemon.asker import Asker
from agent.daemon.endpoint import PeerProcess
from agent.protocol import codec

IDLE_S: Final = 300.0
REQUEST_S: Final = 10.0
STALL_S: Final = 30.0
READ_BYTES: Final = 1 << 16
_READY_BYTES: Final = 1 << 16  # with fewer bytes unsent, the next message of events is made
_PIECES: Final = 64  # for one system call, far fewer than the kernel takes


def _take_none(_pieces: list[bytes]) -> int:
    """Send nothing."""
    return 0


class Conversation:
    """A client's requests and the daemon's answers.

    Args:
        viewer: the client's credentials.
        now_s: time on a monotonic clock, as in all methods.
        process: the process that connected.

    Attributes:
        closing: True where the connection is to be closed once all bytes are sent.
    """

    def __init__(self, viewer: Viewer, now_s: float, process: PeerProcess | None = None) -> None:
        self._decoder = codec.Decoder(codec.MAX_REQUEST, codec.MAX_PARTS)
        self._out: deque[bytes | memoryview] = deque()
        self._unsent = 0
        self._moved = now_s  # when bytes last went in either direction
        self._asking_since = 0.0
        self._half_closed = False
        self._asked = False
        self.asker = Asker(viewer, process, lambda: self._unsent)
        self.closing = False

    @property
    def unsent_bytes(self) -> int:
        """Count of bytes that the client has not taken yet."""
        return self._unsent

    @property
    def wants_to_read(self) -> bool:
        """True where more bytes of the client can be taken now."""
        return (
            not self.closing
            and not self._half_closed
            and not self._decoder.complete
            and (not self._unsent or self.subscribed)
        )

    @property
    def subscribed(self) -> bool:
        """True where events go to the client."""
        return self.asker.subscription is not None

    @property
    def ready(self) -> bool:
        """True where a request can be answered, or events can be sent."""
        if self.closing or self._asked:
            return False
        subscription = self.asker.subscription
        if subscription is not None:
            return subscription.waiting and self._unsent < _READY_BYTES
        return not self._unsent and self._decoder.complete

    @property
    def over(self) -> bool:
        """True where the connection is to be closed now."""
        return self.closing and not self._unsent

    @property
    def deadline_s(self) -> float:
        """Time at which the connection expires unless bytes go before."""
        if self._unsent:
            return self._moved + STALL_S
        if self.subscribed or self._asked or self._decoder.complete:  # the client waits for the daemon
            return float("inf")
        return self._asking_since + REQUEST_S if self._decoder.waiting else self._moved + IDLE_S

    @property
    def expiry(self) -> str:
        """The reason for which the connection would expire at `deadline_s`."""
        return "stalled" if self._unsent else "half-request" if self._decoder.waiting else "idle"

    def receive(self, data: bytes, now_s: float) -> None:
        """Take bytes from the client."""
        self._moved = now_s
        if self.subscribed:
            self._fail(codec.ProtocolError("a subscription takes no requests: open another connection for them"))
            return
        if not self._decoder.waiting:
            self._asking_since = now_s
        self._decoder.push(data)

    def hang_up(self) -> None:
        """Note that the client has closed its side. Its requests are still answered; a subscription ends."""
        self._half_closed = True
        self.closing = self.subscribed or not (self._asked or self._decoder.complete)

    def next_request(self, now_s: float) -> codec.Message | None:
        """Return the next request; None: there is none, or the bytes break the protocol, which is answered with an
        error.
        """
        try:
            request = self._decoder.pop()
        except codec.ProtocolError as error:
            self._fail(error)
            return None
        self._asking_since = now_s
        self._asked = request is not None
        return request

    def reply(self, payload: bytes, now_s: float, *, last: bool = True) -> None:
        """Queue the packed answer to the last request, or a part of it, behind which others follow."""
        self._put(payload, now_s=now_s)
        if not last:
            return
        self._asked = False
        self.closing = self._half_closed and not self._decoder.complete

    def tell(self, next_order: int, now_s: float, send: Callable[[list[bytes]], int] = _take_none) -> int:
        """Make a message of the events that wait, and send it at once if nothing else is to be sent before it.

        Args:
            next_order: number of the next record.
            now_s: as in all methods.
            send: sends the sum of these bytes, or a first part of it, and returns how many.

        Returns:
            The count of bytes that were sent; the others are unsent.

        Raises:
            OSError: of `send`.
        """
        subscription = self.asker.subscription
        if subscription is None:
            return 0
        message = subscription.message(next_order)
        if not message.framed:
            message.framed = [codec.length(message.size), *message.pieces]
        size = codec.LENGTH_BYTES + message.size
        self.closing = subscription.ended
        count = 0
        if not self._unsent:
            self._moved = now_s
            try:
                count = send(message.framed[:_PIECES])
            except BlockingIOError:
                count = 0
            if count == size:
                return count
        self._out.extend(message.framed)
        self._unsent += size
        if count:
            self.sent(count, now_s)
        return count

    @property
    def has_more(self) -> bool:
        """True where events wait that collect for nobody else, too, and there is room for them."""
        subscription = self.asker.subscription
        if subscription is None or self.closing or self._asked:
            return False
        return subscription.queued and self._unsent < _READY_BYTES

    def next_chunks(self, most: int = sys.maxsize) -> list[bytes | memoryview]:
        """Return at most `most` of the bytes to send next, in a few pieces; no piece where there are none."""
        out = self._out
        if self._unsent <= most and len(out) <= _PIECES:
            return list(out)
        chunks: list[bytes | memoryview] = []
        for piece in itertools.islice(out, _PIECES):
            chunk = piece if len(piece) <= most else memoryview(piece)[:most]
            chunks.append(chunk)
            most -= len(chunk)
            if not most:
                break
        return chunks

    def sent(self, count: int, now_s: float) -> None:
        """Take `count` bytes of the chunks as sent."""
        self._moved = now_s
        self._unsent -= count
        out = self._out
        if not self._unsent:
            out.clear()
            return
        while count and count >= len(out[0]):
            count -= len(out.popleft())
        if count:
            out[0] = memoryview(out[0])[count:]

    def _fail(self, error: codec.ProtocolError) -> None:
        self._put(codec.pack(codec.failure(error)), now_s=self._moved)
        self.closing = True

    def _put(self, *payload: bytes, now_s: float) -> None:
        """Queue a message whose packed map is the sum of these pieces."""
        if not self._unsent:
            self._moved = now_s
        for piece in (codec.head(*payload), *payload):
            if piece:
                self._out.append(piece)
                self._unsent += len(piece)
