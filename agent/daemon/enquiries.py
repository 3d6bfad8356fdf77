# SPDX-License-Identifier: Apache-2.0
"""Questions about the past, each answered by a process of its own that reads the recording (agent.recorder.answering).

The loop passes the answer on as the process writes it, and as the client takes it. It never waits: it spawns, reads what a
pipe has, and reaps. A client that goes away ends its process. There are few of them at a time, and of each ordinary user
one.
"""

import contextlib
import os
import select
import selectors
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import msgpack

from agent import interpreter
from agent.access import Viewer
from agent.errors import BusyError, CkptreeError
from agent.protocol import codec
from agent.record import named
from agent.recorder.pieces import HEAD

if TYPE_CHECKING:
    from agent.daemon.peer import Peer

MOST: Final = 4
MOST_PER_USER: Final = 1
"""Of users who do not see everything; one place is left to those who do."""
_READ_BYTES: Final = 1 << 18
_AHEAD_BYTES: Final = 1 << 20
"""Bytes that a client may leave unread before no more of its answer is taken from the process."""
_OK: Final = bytes(msgpack.packb("ok") + msgpack.packb(True))
_OK_WITHIN: Final = 16  # bytes: it is the first entry of an answer
_PROGRAM: Final = "from agent.recorder.answering import main; sys.exit(main(sys.argv[1:]))"


def is_of_past(request: codec.Message) -> bool:
    """Return True if a request is about the past."""
    verb = codec.verb(request)
    return verb in ("events", "history") or (verb == "snapshot" and request.get("at") is not None)


class Awaiting:
    """A client that waits for an answer about the past.

    Args:
        peer: the client.
        peers: those that are connected.
        attend: sends what waits for a client.
    """

    def __init__(self, peer: "Peer", peers: "set[Peer]", attend: "Callable[[Peer], None]") -> None:
        self._peer, self._peers, self._attend = peer, peers, attend
        self._poll = select.poll()
        self._poll.register(peer.connection, 0)  # the end of the connection is told in any case

    @property
    def unsent_bytes(self) -> int:
        """Count of bytes that it has not taken yet."""
        return self._peer.talk.unsent_bytes

    @property
    def is_gone(self) -> bool:
        """True where nobody will take an answer."""
        return self._peer not in self._peers or bool(self._poll.poll(0))

    def deliver(self, payload: bytes, *, last: bool) -> None:
        """Send a packed message of the answer."""
        if self._peer in self._peers:
            self._peer.talk.reply(payload, time.monotonic(), last=last)
            self._attend(self._peer)


class _Enquiry:
    """A question that is being answered.

    Attributes:
        client: gets the answer.
        viewer: the client's credentials.
        process: number of the process.
        pipe: what it writes.
        data: read from there, and not delivered yet.
        done: called at the end with the result, for the log, and the CPU time that it took, s.
        heeded: True where the loop waits for the pipe.
        result: of the answer, for the log, once its last message has been delivered; empty: it has not.
        abandoned: True where the client went away before.
        over: True once the pipe is closed.
    """

    def __init__(
        self, client: Awaiting, viewer: Viewer, process: int, pipe: int, done: Callable[[str, float], None]
    ) -> None:
        self.client, self.viewer, self.process, self.pipe, self.done = client, viewer, process, pipe, done
        self.data = bytearray()
        self.result = ""
        self.heeded = self.abandoned = self.over = False

    @property
    def waits(self) -> bool:
        """True while its client waits for the answer."""
        return not self.result and not self.abandoned


class Enquiries:
    """The questions that are being answered.

    Args:
        selector: of the loop; the data of each key is a function of the ready file.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._running: list[_Enquiry] = []

    def check_room(self, viewer: Viewer) -> None:
        """Refuse one more question beyond the bounds.

        Raises:
            BusyError: a bound is reached.
        """
        running = [each.viewer for each in self._running if each.waits]  # another process is about to end
        ordinary = Counter(each.account for each in running if not each.privileged)
        if len(running) >= MOST or (not viewer.privileged and ordinary.total() >= MOST - 1):
            raise BusyError(f"{len(running)} questions about the past are being answered already: try again later")
        if not viewer.privileged and ordinary[viewer.account] >= MOST_PER_USER:
            raise BusyError(f"a question of user {viewer.account} about the past is being answered already")

    def begin(self, asked: codec.Message, client: Awaiting, viewer: Viewer, done: Callable[[str, float], None]) -> None:
        """Have a question answered.

        Args:
            asked: the `folder` of the recording, and the `question` (agent.recorder.answering).
            client, viewer, done: see _Enquiry.

        Raises:
            BusyError: a bound is reached.
            CkptreeError: no process can be started.
        """
        self.check_room(viewer)
        credentials = named(viewer)
        credentials["groups"] = list(viewer.groups)
        question, its_answer = os.memfd_create("question", os.MFD_CLOEXEC), os.pipe2(os.O_CLOEXEC)
        try:
            os.write(question, msgpack.packb({**asked["question"], "viewer": credentials}))
            os.lseek(question, 0, os.SEEK_SET)
            moves = [(os.POSIX_SPAWN_DUP2, question, 0), (os.POSIX_SPAWN_DUP2, its_answer[1], 1)]
            process = os.posix_spawn(
                sys.executable,
                interpreter.command(_PROGRAM, asked["folder"]),
                os.environ,
                file_actions=moves,
                setsigdef=(signal.SIGTERM, signal.SIGINT),
            )
        except OSError as error:
            os.close(its_answer[0])
            raise CkptreeError(f"no process can be started that would answer: {error.strerror}") from error
        finally:
            os.close(question)
            os.close(its_answer[1])
        os.set_blocking(its_answer[0], False)
        enquiry = _Enquiry(client, viewer, process, its_answer[0], done)
        self._running.append(enquiry)
        self._heed(enquiry)

    def tend(self) -> None:
        """Take on what clients have made room for, and reap processes; called in each turn of the loop."""
        for each in tuple(self._running):
            if each.over:
                self._reap(each)
            elif each.client.is_gone:
                self._end(each)
            else:
                self._heed(each)

    def close(self) -> None:
        """End all processes."""
        for each in self._running:
            if not each.over:
                self._end(each)

    # ---- one question ----------------------------------------------------------------------------------------------

    def _heed(self, enquiry: _Enquiry) -> None:
        wanted = not enquiry.over and enquiry.client.unsent_bytes < _AHEAD_BYTES
        if wanted is enquiry.heeded:
            return
        enquiry.heeded = wanted
        if wanted:
            self._selector.register(enquiry.pipe, selectors.EVENT_READ, lambda _: self._take(enquiry))
        else:
            self._selector.unregister(enquiry.pipe)

    def _take(self, enquiry: _Enquiry) -> None:
        """Take what the process has written."""
        try:
            data = os.read(enquiry.pipe, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._close(enquiry)
            return
        enquiry.data += data
        for payload, more in _whole(enquiry.data):
            if not more:
                enquiry.result = _result(payload)
            enquiry.client.deliver(payload, last=not more)
        self._heed(enquiry)

    def _end(self, enquiry: _Enquiry) -> None:
        """End a process for whose answer nobody waits."""
        enquiry.abandoned = True
        self._close(enquiry)
        with contextlib.suppress(ProcessLookupError):
            os.kill(enquiry.process, signal.SIGKILL)

    def _close(self, enquiry: _Enquiry) -> None:
        enquiry.over = True
        self._heed(enquiry)
        os.close(enquiry.pipe)

    def _reap(self, enquiry: _Enquiry) -> None:
        """Reap a process, if it has ended; the client gets an error if it has no answer."""
        process, status, usage = os.wait4(enquiry.process, os.WNOHANG)
        if not process:
            return
        self._running.remove(enquiry)
        code = os.waitstatus_to_exitcode(status)
        if enquiry.waits:
            is_late = code == -signal.SIGPROF
            text = (
                "it takes more time than one question may have: ask about a shorter span" if is_late else "it broke off"
            )
            enquiry.client.deliver(codec.pack(codec.failure(CkptreeError(f"no answer: {text}"))), last=True)
        told = enquiry.result or ("gone" if enquiry.abandoned else f"code {code}")
        enquiry.done(told, usage.ru_utime + usage.ru_stime)


def _result(payload: bytes) -> str:
    """Return the result that the last message of an answer has, as the daemon's log names it."""
    if _OK in payload[:_OK_WITHIN]:
        return "ok"
    return str(msgpack.unpackb(payload).get("kind", "failed"))


def _whole(data: bytearray) -> Iterator[tuple[bytes, bool]]:
    """Take whole messages off the beginning of some bytes; yield each, and True where more follow."""
    while len(data) >= HEAD.size:
        more, length = HEAD.unpack_from(data)
        if len(data) < HEAD.size + length:
            return
        payload = bytes(data[HEAD.size : HEAD.size + length])
        del data[: HEAD.size + length]
        yield payload, bool(more)
