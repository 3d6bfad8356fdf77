# SPDX-License-Identifier: Apache-2.0
"""The memory that the controller shares with the tasks of treeprog.c, and the orders that go through it."""

import atexit
import ctypes
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar, NamedTuple

CALL, CLONE, EXEC = 1, 2, 3
SCRATCH = 0x5C7A7C45C7A7C4
TIMEOUT_S = 5.0
_NUMBERS = {
    "x86_64": {
        "close": 3, "exit": 60, "wait4": 61, "kill": 62, "setpgid": 109, "setsid": 112, "prctl": 157,
        "rt_sigaction": 13, "exit_group": 231, "waitid": 247, "openat": 257, "unshare": 272, "setns": 308,
        "ioctl": 16, "fcntl": 72, "pipe2": 293, "futex": 202,
    },
    "aarch64": {
        "close": 57, "exit": 93, "wait4": 260, "kill": 129, "setpgid": 154, "setsid": 157, "prctl": 167,
        "rt_sigaction": 134, "exit_group": 94, "waitid": 95, "openat": 56, "unshare": 97, "setns": 268,
        "ioctl": 29, "fcntl": 25, "pipe2": 59, "futex": 98,
    },
}  # fmt: skip
SYS = _NUMBERS[os.uname().machine]

_HEADER_BYTES = 264
_SYS_FUTEX = SYS["futex"]
_FUTEX_WAIT, _FUTEX_WAKE = 0, 1
_NAP_S = 0.05

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.argtypes = [ctypes.c_long, ctypes.c_void_p, *[ctypes.c_long] * 2, ctypes.c_void_p, *[ctypes.c_long] * 2]
_libc.syscall.restype = ctypes.c_long


class TreeError(Exception):
    """An impossible step of a script, or an effect in the kernel that the oracle does not expect."""


class Result(NamedTuple):
    """The result of a system call, and its times (CLOCK_MONOTONIC, ns). `after_ns` is 0 if it has not returned."""

    value: int
    errno: int
    before_ns: int
    after_ns: int


class Node(ctypes.Structure):
    """The mirror of struct node in treeprog.c."""

    request: int
    reply: int
    ready: int
    order: int
    argument: "ctypes.Array[ctypes.c_int64]"
    number: int
    result: int
    before_ns: int
    after_ns: int
    tgid: int
    tid: int
    set_tid_size: int
    set_tid: "ctypes.Array[ctypes.c_int32]"
    scratch: "ctypes.Array[ctypes.c_uint8]"
    _fields_: ClassVar = [
        ("request", ctypes.c_uint32),
        ("reply", ctypes.c_uint32),
        ("ready", ctypes.c_uint32),
        ("order", ctypes.c_int32),
        ("argument", ctypes.c_int64 * 6),
        ("number", ctypes.c_int64),
        ("result", ctypes.c_int64),
        ("before_ns", ctypes.c_uint64),
        ("after_ns", ctypes.c_uint64),
        ("tgid", ctypes.c_int32),
        ("tid", ctypes.c_int32),
        ("set_tid_size", ctypes.c_uint32),
        ("set_tid", ctypes.c_int32 * 33),
        ("scratch", ctypes.c_uint8 * 128),
    ]

    def answered(self) -> bool:
        """Return True if the last order has been carried out."""
        return self.reply == self.request

    def outcome(self) -> Result:
        """Return the result of the last order; a call that does not return has the value 0."""
        value = self.result if self.answered() else 0
        return Result(max(value, 0), max(-value, 0), self.before_ns, self.after_ns)


@cache
def interpreter() -> Path:
    """Compile treeprog.c, once for this run, and return the path of the program."""
    folder = tempfile.mkdtemp(prefix="treeprog-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    program = Path(folder, "treeprog")
    source = Path(__file__).with_name("treeprog.c")
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", program, source], check=True)
    return program


class Mailbox:
    """The table of nodes, and the keeper that holds the other end.

    Attributes:
        keeper: number of the keeper, which ends every task of the tree when the mailbox closes or the controller dies.
    """

    def __init__(self, nodes: int) -> None:
        program = interpreter()
        size = _HEADER_BYTES + nodes * ctypes.sizeof(Node)
        fd = os.memfd_create("treeprog", 0)
        try:
            os.truncate(fd, size)
            self._memory = mmap.mmap(fd, size)
            self._memory[:_HEADER_BYTES] = struct.pack("256sII", bytes(program), fd, nodes)
            self._nodes = (Node * nodes).from_buffer(self._memory, _HEADER_BYTES)
            self._keeper = subprocess.Popen(
                [program, str(fd)], stdin=subprocess.PIPE, pass_fds=[fd], start_new_session=True, bufsize=0
            )
        finally:
            os.close(fd)
        self.keeper = self._keeper.pid
        self.until_ready(0)

    def __getitem__(self, node: int) -> Node:
        return self._nodes[node]

    def __len__(self) -> int:
        return len(self._nodes)

    def close(self) -> None:
        """End every task of the tree."""
        if self._keeper.stdin is not None:
            self._keeper.stdin.close()
        self._keeper.wait(2 * TIMEOUT_S)

    def write(self, node: int, data: bytes) -> None:
        """Write bytes to the memory that SCRATCH stands for."""
        ctypes.memmove(self._nodes[node].scratch, data, len(data))

    def read(self, node: int, layout: str) -> tuple[int, ...]:
        """Read values from the memory that SCRATCH stands for."""
        return struct.unpack_from(layout, bytes(self._nodes[node].scratch))

    def post(self, node: int, order: int, number: int, arguments: Sequence[int], set_tid: Sequence[int] = ()) -> None:
        """Give an order, once an earlier one, delayed by a vfork or a stop, has been answered."""
        slot = self._nodes[node]
        self.until_answered(node)
        slot.order, slot.number, slot.set_tid_size = order, number, len(set_tid)
        slot.argument[: len(arguments)] = list(arguments)
        slot.set_tid[: len(set_tid)] = list(set_tid)
        slot.request += 1
        _libc.syscall(_SYS_FUTEX, _address(slot, "request"), _FUTEX_WAKE, 1, None, 0, 0)

    def until_answered(self, node: int) -> None:
        """Wait for the answer to the last order."""
        self._until(node, Node.answered, "reply")

    def until_ready(self, node: int) -> None:
        """Wait until a task serves this node."""
        self._until(node, lambda slot: slot.ready, "ready")

    def until_either(self, node: int, child: int) -> bool:
        """Wait for the answer, or until `child` is ready, as in a vfork; return True in the second case."""
        slot = self._nodes[node]
        self._until(child, lambda each: each.ready or slot.answered(), "ready", nap_s=0.0005)
        return bool(self._nodes[child].ready)

    def _until(self, node: int, done: Callable[[Node], object], word: str, nap_s: float = _NAP_S) -> None:
        slot, deadline = self._nodes[node], time.monotonic() + TIMEOUT_S
        nap = struct.pack("qq", 0, int(nap_s * 1e9))
        while not done(slot):
            seen = getattr(slot, word)
            if not done(slot):
                _libc.syscall(_SYS_FUTEX, _address(slot, word), _FUTEX_WAIT, seen, nap, 0, 0)
            if time.monotonic() > deadline:
                raise TreeError(f"node {node} does not answer")


def _address(slot: Node, word: str) -> int:
    offset: int = getattr(Node, word).offset
    return ctypes.addressof(slot) + offset
