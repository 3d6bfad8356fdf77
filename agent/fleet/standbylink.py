# SPDX-License-Identifier: Apache-2.0
"""The socket of a stand-by, ``standby.sock`` in the folder of its copy, on which `fleet takeover` asks it.

    request  {"do": "takeover", "root": text, "mode": text}
    answer   {"ok": true, "data": the image, "present": word, ...what is held} | {"ok": false, ...}

Messages are those of agent.protocol.codec: a length and a msgpack map. The word says what the host's relay has answered
just now: ``answers``, ``nobody`` (the server of NATS knows that no relay is connected), ``silent`` (no answer in a quarter
of a second; or it was silent for a second, just before) or ``unknown`` (the stand-by has no connection to the server
itself). The folder is open to the stand-by's user alone.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.errors import CkptreeError
from agent.fleet.messages import Message
from agent.protocol import codec

NAME: Final = "standby.sock"
MOST_REQUEST: Final = 1 << 16
MOST_ANSWER: Final = 256 << 20
_ANSWER_S: Final = 30.0

ANSWERS, NOBODY, SILENT, UNKNOWN = "answers", "nobody", "silent", "unknown"


@contextlib.contextmanager
def address(folder: Path) -> Iterator[str]:
    """Yield an address of the socket that is short enough, however long the name of the folder is.

    Raises:
        OSError: there is no such folder.
    """
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{NAME}"
    finally:
        os.close(descriptor)


def ask(folder: Path, message: Message) -> Message | None:
    """Ask the stand-by that keeps a folder; return its answer; None: none runs.

    Raises:
        CkptreeError: the error in the answer, or there is no answer.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_S)
        try:
            with address(folder) as where:
                connection.connect(where)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise CkptreeError(f"{folder}: the stand-by cannot be asked: {error.strerror or error}") from error
        decoder = codec.Decoder(MOST_ANSWER)
        try:
            connection.sendall(codec.encode(message))
            while (answer := decoder.pop()) is None:
                data = connection.recv(1 << 20)
                if not data:
                    raise CkptreeError(f"{folder}: the stand-by has ended without an answer")
                decoder.push(data)
        except OSError as error:
            raise CkptreeError(f"{folder}: the stand-by does not answer: {error.strerror or error}") from error
    codec.raise_failure(answer)
    return answer
