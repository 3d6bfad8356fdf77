# SPDX-License-Identifier: Apache-2.0
"""Pages that processes share since a fork, after a dump by CRIU and a restart: they share them again, and nothing else."""

import os
import struct
from ast import literal_eval
from pathlib import Path

from tests.live.standing import dumped, restored

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
FEW = """
SIZE = 8 * PAGE
with open("mapped", "wb") as file:
    file.write(b"f" * SIZE)
file = open("mapped", "r+b")
data = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
mapped = mmap.mmap(file.fileno(), SIZE, flags=mmap.MAP_PRIVATE)
sealed = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
areas = data, mapped, sealed
for each in areas:
    for at in range(0, SIZE - PAGE, PAGE):
        each[at : at + 5] = b"first"
places = [ctypes.addressof(ctypes.c_char.from_buffer(each)) for each in areas]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mprotect(places[2], SIZE, 1)
name = "one" if os.fork() else "child"
if name == "one":
    data[PAGE : PAGE + 3] = mapped[PAGE : PAGE + 3] = b"one"
else:
    data[2 * PAGE : 2 * PAGE + 5] = mapped[2 * PAGE : 2 * PAGE + 5] = b"child"
    data.madvise(mmap.MADV_DONTNEED, 3 * PAGE, PAGE)
    mapped.madvise(mmap.MADV_DONTNEED, 3 * PAGE, PAGE)
    mapped[7 * PAGE : 7 * PAGE + 4] = b"last"
def answer():
    return places, [[bytes(each[at : at + 5]) for at in range(0, SIZE, PAGE)] for each in areas]
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


def frames(pid: int, address: int, count: int) -> list[int]:
    """Return the physical pages from an address of a process on; 0: there is none."""
    file = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    try:
        found = struct.unpack(f"<{count}Q", os.pread(file, 8 * count, address // os.sysconf("SC_PAGE_SIZE") * 8))
    finally:
        os.close(file)
    return [entry & (1 << 55) - 1 if entry >> 63 else 0 for entry in found]


def test_the_few_pages_that_neither_has_written_are_shared_again(tmp_path: Path, daemon_socket: Path) -> None:
    """Of anonymous memory, of a map of a file, and of one that cannot be written. All others are each process's own."""
    standing = dumped(FEW, tmp_path, daemon_socket, ("one", "child"))
    with restored(standing, daemon_socket):
        pids = [standing.pid(name) for name in ("one", "child")]
        (places, mine), (_, theirs) = (literal_eval(standing.ask(name)) for name in ("one", "child"))
        shared = []
        for place in places:
            one, child = (frames(pid, place, 8) for pid in pids)
            shared.append([page for page in range(7) if one[page] == child[page] != 0])

    first, none = b"first", bytes(5)
    assert mine[0] == [first, b"onest", *[first] * 5, none]
    assert theirs[0] == [first, first, b"child", none, *[first] * 3, none]
    assert mine[1] == [first, b"onest", *[first] * 5, b"f" * 5]
    assert theirs[1] == [first, first, b"child", b"f" * 5, *[first] * 3, b"lastf"]
    assert mine[2] == theirs[2] == [*[first] * 7, none]
    assert shared == [[0, 4, 5, 6], [0, 4, 5, 6], [*range(7)]]
