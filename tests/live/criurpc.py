# SPDX-License-Identifier: Apache-2.0
"""A dump as container runtimes ask for it: by messages to ``criu swrk``, with a file of options.

The messages are those of CRIU's images/rpc.proto. Every field here is a number or a string of Protocol Buffers.
"""

import os
import socket
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from tests.live.daemons import PATIENCE_S
from tests.support.suitepackages import criu

_DUMP, _NOTIFY = 1, 6  # of criu_req_type
_REQUEST: Final = {"type": 1, "opts": 2, "notify_success": 3}
_RESPONSE: Final = {"type": 1, "success": 2, "notify": 5}
_OPTIONS: Final = {"images_dir_fd": 1, "pid": 2, "log_file": 10, "notify_scripts": 12, "config_file": 51}
_SCRIPT: Final = 1  # of criu_notify

Value = int | bytes


class Answered(NamedTuple):
    """The result of a dump.

    Attributes:
        told: points of the dump that the runtime was told of.
    """

    success: bool
    told: list[str]


def dump(pid: int, folder: Path, config: Path) -> Answered:
    """Dump a tree into a folder as runc does: it gives the file of options, and is told of every point of the dump."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    images = os.open(folder, os.O_RDONLY)
    with ours, theirs, subprocess.Popen([criu(), "swrk", str(theirs.fileno())], pass_fds=[theirs.fileno()]) as worker:
        theirs.close()
        ours.settimeout(PATIENCE_S)
        options: dict[str, Value] = {
            "images_dir_fd": images,
            "pid": pid,
            "log_file": b"dump.log",
            "notify_scripts": 1,
            "config_file": os.fsencode(config),
        }
        request: dict[str, Value] = {"type": _DUMP, "opts": _packed(_OPTIONS, options)}
        told: list[str] = []
        try:
            while True:
                ours.send(_packed(_REQUEST, request))
                answer = _unpacked(ours.recv(1 << 16))
                if answer[_RESPONSE["type"]] != _NOTIFY:
                    return Answered(bool(answer[_RESPONSE["success"]]), told)
                notified = answer[_RESPONSE["notify"]]
                assert isinstance(notified, bytes)
                point = _unpacked(notified)[_SCRIPT]
                assert isinstance(point, bytes)
                told.append(point.decode())
                request = {"type": _NOTIFY, "notify_success": 1}
        finally:
            os.close(images)
            worker.terminate()


def _packed(numbers: dict[str, int], fields: dict[str, Value]) -> bytes:
    parts = []
    for name, value in fields.items():
        number = numbers[name]
        if isinstance(value, int):
            parts.append(_varint(number << 3) + _varint(value))
        else:
            parts.append(_varint(number << 3 | 2) + _varint(len(value)) + value)
    return b"".join(parts)


def _unpacked(data: bytes) -> dict[int, Value]:
    found: dict[int, Value] = {}
    while data:
        key, data = _first_varint(data)
        value, data = _first_varint(data)
        if key & 7 == 2:
            found[key >> 3], data = data[:value], data[value:]
        else:
            assert key & 7 == 0
            found[key >> 3] = value
    return found


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _first_varint(data: bytes) -> tuple[int, bytes]:
    value = 0
    for place, byte in enumerate(data):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, data[place + 1 :]
    raise AssertionError("a number ends too early")
