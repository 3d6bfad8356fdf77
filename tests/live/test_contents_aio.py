# SPDX-License-Identifier: Apache-2.0
"""Rings of asynchronous I/O after a dump by CRIU and a restart: answers that were not read are there, new ones follow."""

from ast import literal_eval
from pathlib import Path

from tests.live.standing import dumped, restored

RINGS = """
import struct
SETUP, DESTROY, EVENTS, SUBMIT = 206, 207, 208, 209
file = os.open("data", os.O_RDWR | os.O_CREAT)
content = ctypes.create_string_buffer(b"0123456789abcdef")

def made(requests):
    context = ctypes.c_ulong(0)
    call("syscall", SETUP, requests, ctypes.byref(context))
    return context.value

def submitted(context, number, offset, size):
    request = ctypes.create_string_buffer(
        struct.pack("<QIIHHIQQqQII", number, 0, 0, 1, 0, file, ctypes.addressof(content) + offset, size, offset, 0, 0, 0)
    )
    pointer = ctypes.c_void_p(ctypes.addressof(request))
    return libc.syscall(SUBMIT, ctypes.c_ulong(context), ctypes.c_long(1), ctypes.byref(pointer))

def answered(context, most):
    room = ctypes.create_string_buffer(32 * most)
    zero = (ctypes.c_long * 2)(0, 0)
    count = libc.syscall(EVENTS, ctypes.c_ulong(context), ctypes.c_long(0), ctypes.c_long(most), room, ctypes.byref(zero))
    return [struct.unpack_from("<QQqq", room, 32 * at)[::2] for at in range(count)]

plain, turned = made(10), made(5)
for number in range(3):
    submitted(plain, 70 + number, number, 1 + number)
first = answered(plain, 1)
length = 0
while length < 2000:  # more than the ring holds: its tail begins anew
    submitted(turned, length, 0, 2)
    length += 1
    if length % 3 == 0:
        answered(turned, 3)
empty = made(1)

def answer():
    begun = first, answered(plain, 9), answered(turned, 9)
    counts = submitted(plain, 99, 8, 4), submitted(turned, 98, 0, 3), submitted(empty, 97, 0, 5)
    after = answered(plain, 9), answered(turned, 9), answered(empty, 9)
    ends = [libc.syscall(DESTROY, ctypes.c_ulong(each)) for each in (plain, turned, empty)]
    return begun, counts, after, ends, os.pread(file, 12, 0)
stand("one", answer)
"""


def test_a_ring_has_the_answers_that_were_not_read(tmp_path: Path, daemon_socket: Path) -> None:
    """The kernel takes new requests, answers them behind the old ones, and ends the ring."""
    standing = dumped(RINGS, tmp_path, daemon_socket)
    with restored(standing, daemon_socket, compared=False):
        begun, counts, after, ends, written = literal_eval(standing.ask("one"))

    assert begun == ([(70, 1)], [(71, 2), (72, 3)], [(1998, 2), (1999, 2)])
    assert counts == (1, 1, 1)
    assert after == ([(99, 4)], [(98, 3)], [(97, 5)])
    assert ends == [0, 0, 0]
    assert written == b"01234\0\0\0" + b"89ab"
