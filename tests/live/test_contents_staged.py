# SPDX-License-Identifier: Apache-2.0
"""Pages that processes share since a fork, after a dump by CRIU and a restart: they share them again, and nothing else."""

from ast import literal_eval
from pathlib import Path

import pytest

from tests.live.standing import dumped, restored

pytestmark = pytest.mark.live

FORKED = """
SIZE = 16 << 20
data = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
other = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
sealed = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, SIZE, PAGE):
    data[at : at + 8] = at.to_bytes(8, "little")
    sealed[at : at + 8] = at.to_bytes(8, "little")
ctypes.c_char.from_buffer(sealed)
place = ctypes.addressof(ctypes.c_char.from_buffer(sealed))
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mprotect(place, SIZE, 1)
heap = [bytes([number % 251]) * 2000 for number in range(8000)]
def total():
    return [sum(each[at] for at in range(0, SIZE, 1021)) for each in (data, other, sealed)]
name = "one"
for number in range(4):
    if not os.fork():
        name = f"child{number}"
        more = [b"m" * 2000 for _ in range(200 * number)]
        for at in range(number * PAGE, SIZE, 64 * PAGE):
            data[at + 8 : at + 16] = name.encode().ljust(8)
        data.madvise(mmap.MADV_DONTNEED, SIZE // 2, 100 * PAGE)
        for at in range(0, SIZE, 512 * PAGE):
            other[at : at + 8] = name.encode().ljust(8)
        break
else:
    other[: SIZE // 2] = b"p" * (SIZE // 2)
before = total()
def answer():
    same = total() == before and all(each == bytes([number % 251]) * 2000 for number, each in enumerate(heap))
    data[0:6] = name.encode()[:6].ljust(6)
    return same, bytes(data[0:6])
stand(name, answer)
"""
NAMES = ("one", "child0", "child1", "child2", "child3")


def memory_of(pids: list[int]) -> tuple[int, int]:
    """Return the memory of processes in MiB: as if each had its own, and as they share it."""
    found = {"Rss": 0, "Pss": 0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in found:
                found[name] += int(rest.split()[0])
    return found["Rss"] >> 10, found["Pss"] >> 10


def test_pages_that_are_shared_since_a_fork_are_shared_again(tmp_path: Path, daemon_socket: Path) -> None:
    """Five processes have some pages in common; each has written others, given back some, and goes on with its own."""
    before: list[tuple[int, int]] = []

    def measured(_root: int) -> None:
        before.append(memory_of([int((tmp_path / f"{name}.ready").read_text()) for name in NAMES]))

    standing = dumped(FORKED, tmp_path, daemon_socket, NAMES, before=measured)
    with restored(standing, daemon_socket):
        after = memory_of([standing.pid(name) for name in NAMES])
        answers = {name: literal_eval(standing.ask(name)) for name in NAMES}

    assert answers == {name: (True, name.encode()[:6].ljust(6)) for name in NAMES}
    assert before[0][0] > 3 * before[0][1]
    assert after[1] < before[0][1] + 16  # stacks and the data of libraries are not shared
