# SPDX-License-Identifier: Apache-2.0
"""The connection of a relay to the service that carries a restart out, with rights that the relay lacks.

    relay    {"requester", "id", "host", "run", "pids", "pidns", "contents", "plan", "left_ns", "manifest", "signature",
              "image"}
    service  {"ok": true, "ready": {...}}       the tree stands: the line that `ckptree restart --json` prints
           | {"ok": false, ...}                 as agent.protocol.codec has it
    relay    {"keep": true}                     else, at the end of the connection, the tree is taken down
    service  {"ok": true}

With "contents" the programs of the tree run on, from the folder that the manifest names. With "plan" nothing is made: the
answer is what `ckptree plan criu:ADDRESS --json` prints there, and ends it.

A dump of contents is asked for in the same way. It ends with the first answer:

    relay    {"what": "dump", "requester", "id", "root", "end", "at_ns", "left_ns"}
    service  {"ok": true, "image", "before_ns", "after_ns", "tasks", "complete", "reasons", "contents"}

Messages are those of agent.protocol.codec: a length and a msgpack map. The relay is believed nothing: the service reads
its own configuration, and checks the signature.
"""

import socket
import time
from pathlib import Path
from typing import Final

from agent.errors import CkptreeError, HostError
from agent.protocol import codec
from agent.protocol.codec import Message

MOST_BYTES: Final = 300 << 20
"""Bound of a request: manifest, signature and image."""
_AT_ONCE: Final = 1 << 20


class RestartLink:
    """A connection, for the one restart that is asked for over it.

    Args:
        path: the socket of the service.
        until_s: CLOCK_MONOTONIC, seconds: no call waits longer.
        most: bound of an answer, bytes.

    Raises:
        HostError: nobody listens there, or this user may not connect.
    """

    def __init__(self, path: Path, until_s: float, most: int = _AT_ONCE) -> None:
        self._until_s = until_s
        self._decoder = codec.Decoder(most)
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._patience()
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise HostError(
                f"nobody starts restarts at {path} ({error.strerror or error}): "
                "`systemctl enable --now ckptree-restart.socket` has them started; without systemd see docs/fleet.md"
            ) from error

    def _patience(self) -> None:
        self._socket.settimeout(max(0.001, self._until_s - time.monotonic()))

    def ask(self, message: Message) -> Message:
        """Send a message and return the answer.

        Raises:
            CkptreeError: the error in the answer, or there is none in time.
        """
        try:
            self._patience()
            self._socket.sendall(codec.encode(message))
            while (answer := self._decoder.pop()) is None:
                self._patience()
                data = self._socket.recv(_AT_ONCE)
                if not data:
                    raise CkptreeError("the restart ended without an answer: the journal of ckptree-restart@ says more")
                self._decoder.push(data)
        except TimeoutError as error:
            raise CkptreeError("the tree did not stand by the deadline: it is taken down") from error
        except OSError as error:
            raise CkptreeError(f"the restart ended: {error.strerror or error}") from error
        codec.raise_failure(answer)
        return answer

    def close(self) -> None:
        """Close the connection. A tree that is not to be kept is taken down."""
        self._socket.close()
