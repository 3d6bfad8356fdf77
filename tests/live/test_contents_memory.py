# SPDX-License-Identifier: Apache-2.0
"""Unusual memory after a dump by CRIU and a restart: the kernel shows the same areas, and the program can use them."""

import re
import subprocess
from ast import literal_eval
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.restart.contents.images import Images
from agent.restart.contents.pageruns import PAGE
from exporters.criu import criuschema, imagefile, imagefolder
from exporters.criu.imagefolder import ImageFolder, one
from exporters.criu.memorymessages import AREA_GUARD, IN_PARENT, PRESENT
from tests.live.daemons import ckptree
from tests.live.redump import differences
from tests.live.standing import dumped, restored

_WIPE_ON_FORK = 18
_FLAGS_OF_THE_PAST = {"sd", "ac"}
"""VmFlags that tell of the past: written since that was last asked, and once writable."""


def areas(pid: int) -> list[str]:
    """Return the areas of a process with their flags, as the kernel shows them."""
    found = []
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match("[0-9a-f]+-", line):
            found.append(line.strip())
        elif line.startswith("VmFlags:"):
            found[-1] += " " + " ".join(flag for flag in line.split()[1:] if flag not in _FLAGS_OF_THE_PAST)
    return found


def identity(pid: int) -> list[bytes]:
    """Return the arguments, environment, auxiliary vector and program of a process."""
    folder = Path(f"/proc/{pid}")
    names = ("cmdline", "environ", "auxv")
    return [*((folder / name).read_bytes() for name in names), bytes((folder / "exe").readlink())]


ODD = """
for name in ("madvise", "mprotect"):
    getattr(libc, name).argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
def must(answer):
    if answer:
        raise OSError(ctypes.get_errno(), "refused")
def apart():
    area(PAGE, 0, 0x122)
advised = {}
for advice in (1, 2, 10, 12, 14, 15, 16):  # sequential, random, dontfork, mergeable, huge pages or none, dontdump
    advised[advice] = area(32 * PAGE)
    write(advised[advice] + PAGE, b"kept")
    must(libc.madvise(advised[advice], 32 * PAGE, advice))
    apart()
locked = area(32 * PAGE)
write(locked, b"locked")
must(libc.mlock(locked, 32 * PAGE))
apart()
hidden = area(32 * PAGE)
write(hidden + PAGE, b"hidden")
must(libc.mprotect(hidden, 32 * PAGE, 0))
apart()
locked_and_hidden = area(32 * PAGE, 0)
libc.mlock(locked_and_hidden, 32 * PAGE)
with open("data", "w+b") as file:
    file.write(b"d" * 8 * PAGE)
    file.flush()
    own = area(8 * PAGE, 3, 2, 0, file.fileno())
    write(own + PAGE, b"own")
    must(libc.mprotect(own, 8 * PAGE, 1))
    locked_file = area(8 * PAGE, 1, 2, 0, file.fileno())
    must(libc.mlock(locked_file, 8 * PAGE))
    behind = area(12 * PAGE, 1, 2, 0, file.fileno())
    libc.mlock(behind, 12 * PAGE)  # which fails, for the file ends within, and yet locks it
with open("data", "rb") as file:
    read_only = area(4 * PAGE, 1, 1, 0, file.fileno(), 2 * PAGE)
area(64 * PAGE, 3, 0x4022)
low = area(PAGE, 3, 0x32, {low})
write(low, b"low")
write(area(4 * PAGE, 7), b"code")
libc.mmap(None, 4 * PAGE, 3, 8, -1, 0)  # droppable, since Linux 6.11
with open("/dev/zero", "r+b") as file:
    write(area(4 * PAGE, 3, 2, 0, file.fileno()), b"zero")

def answer():
    must(libc.mprotect(hidden, 32 * PAGE, 1))
    kept = {ctypes.string_at(place + PAGE, 4) for place in advised.values()}
    return ctypes.string_at(hidden + PAGE, 6), ctypes.string_at(own + PAGE - 1, 5), ctypes.string_at(low, 3), kept
stand("one", answer)
"""


def test_areas_of_all_kinds_are_as_they_were(tmp_path: Path, daemon_socket: Path) -> None:
    """Advices, locks, areas without access, own pages of a mapped file, low addresses: kernel and program agree."""
    found: list[object] = []
    low = max(int(Path("/proc/sys/vm/mmap_min_addr").read_text()), 0x1000)
    source = ODD.replace("{low}", str(low))
    standing = dumped(source, tmp_path, daemon_socket, before=lambda pid: found.extend((areas(pid), identity(pid))))
    with restored(standing, daemon_socket):
        pid = standing.pid("one")
        assert areas(pid) == found[0]
        assert identity(pid) == found[1]
        answer = standing.ask("one")

    assert answer == repr((b"hidden", b"downd", b"low", {b"kept"}))


ON_FAULT = """
libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mlock2.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
def resident(place):
    lines = open("/proc/self/smaps").read().splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith(f"{place:x}-"))
    found = {line.split(":")[0]: line.split()[1] for line in lines[first + 1 : first + 24]}
    return found["Rss"], found["Locked"]
sparse, whole = area(512 * PAGE, 3, 0x4022), None
area(PAGE, 0, 0x122)
whole = area(32 * PAGE)
write(sparse, b"first")
if libc.mlock2(sparse, 512 * PAGE, 1) or libc.mlock(whole, 32 * PAGE):
    raise OSError(ctypes.get_errno(), "mlock")
stand("one", lambda: (resident(sparse), resident(whole)))
"""


def test_memory_that_is_locked_as_its_pages_come_gets_no_others(tmp_path: Path, daemon_socket: Path) -> None:
    """A large area that is hardly used must not become resident."""
    standing = dumped(ON_FAULT, tmp_path, daemon_socket)
    with restored(standing, daemon_socket):
        (sparse, _), (whole, locked) = literal_eval(standing.ask("one"))

    assert int(sparse) < 512 * PAGE >> 10
    assert (int(whole), int(locked)) == (32 * PAGE >> 10,) * 2


GROWING = """
import re
def stack():
    found = re.search(r"^([0-9a-f]+)-.*\\[stack\\]$", open("/proc/self/maps").read(), re.MULTILINE)
    return int(found[1], 16)
hole = area(600 * PAGE, 0)
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.munmap(hole, 500 * PAGE)
other = area(4 * PAGE, 3, 0x132, hole + 496 * PAGE)
write(other, b"other")
def answer():
    before = stack()
    ctypes.memset(before - (1 << 20), 7, 1 << 20)
    ctypes.memset(other - 100 * PAGE, 7, 100 * PAGE)
    return before - stack() >= 1 << 20, ctypes.string_at(other - 100 * PAGE, 1)
stand("one", answer)
"""


def test_stacks_grow_on(tmp_path: Path, daemon_socket: Path) -> None:
    """The first thread's stack, and an area that the program made to grow: both take what is written below them."""
    standing = dumped(GROWING, tmp_path, daemon_socket)
    with restored(standing, daemon_socket):
        answer = standing.ask("one")

    assert answer == repr((True, b"\7"))


@contextmanager
def huge_pages(count: int) -> Iterator[Path]:
    """Have the host keep a number of huge pages; yield the file that tells the number."""
    pool = Path("/proc/sys/vm/nr_hugepages")
    before = pool.read_text()
    pool.write_text(str(int(before) + count))
    try:
        yield pool
    finally:
        pool.write_text(before)


HUGE = """
HUGE = 2 << 20
private = area(2 * HUGE, 3, 0x40022)
write(private + HUGE, b"private")
shared = area(2 * HUGE, 3, 0x40021)
write(shared + HUGE, b"shared")
memfd = os.memfd_create("huge", 4 | 21 << 26)
os.ftruncate(memfd, HUGE)
mapped = area(HUGE, 3, 1, 0, memfd)
write(mapped, b"memfd")
if os.fork() == 0:
    stand("child", lambda: (ctypes.string_at(shared, 3), ctypes.string_at(mapped, 5)))
def answer():
    write(shared, b"new")
    return ctypes.string_at(private + HUGE, 7), ctypes.string_at(shared + HUGE, 6)
stand("one", answer)
"""


def test_huge_pages_come_back_or_are_refused(tmp_path: Path, daemon_socket: Path) -> None:
    """Private and shared memory and a memfd in huge pages; where the host has too few, the restart says how many."""
    with huge_pages(12):
        standing = dumped(HUGE, tmp_path, daemon_socket, ("one", "child"))
        with restored(standing, daemon_socket):
            answers = [standing.ask("one"), standing.ask("child")]
    with huge_pages(0):
        refused = ckptree("restart", f"criu:{standing.images}")

    assert answers == [repr((b"private", b"shared")), repr((b"new", b"memfd"))]
    assert refused.code == 7
    assert "huge-pages 2048kB: 7 huge pages are needed, and 0 are free: raise nr_hugepages" in refused.err


GUARDED = """
area(PAGE, 0)
place = area(16 * PAGE)
area(PAGE, 0)
write(place, b"x" * 16 * PAGE)
with open("place", "w") as file:
    file.write(str(place))
null = os.open("copy", os.O_RDWR | os.O_CREAT)
def readable(at):
    return libc.write(null, ctypes.c_void_p(at), ctypes.c_size_t(1)) == 1
def answer():
    child = os.fork()
    if not child:
        os._exit(ctypes.string_at(place, 1) == b"\\0")
    return [readable(place + page * PAGE) for page in (3, 4, 5, 6)], os.waitpid(child, 0)[1] >> 8
stand("one", answer)
"""


def test_guard_regions_and_memory_that_a_fork_wipes_come_back(tmp_path: Path, daemon_socket: Path) -> None:
    """Since version 4.2 CRIU tells of both; here they are added to the images of an older one."""
    standing = dumped(GUARDED, tmp_path, daemon_socket)
    place = int((tmp_path / "place").read_text())
    name = f"mm-{standing.pid('one')}.img"
    mm: Any = one(ImageFolder(standing.images), name)
    guard: Any = criuschema.messages()["vma_entry"]()
    guard.CopyFrom(next(vma for vma in mm.vmas if vma.start <= place < vma.end))
    for vma in mm.vmas:
        if vma.start <= place < vma.end:
            vma.madv |= 1 << _WIPE_ON_FORK
    guard.start, guard.end, guard.status, guard.madv = place + 4 * PAGE, place + 6 * PAGE, AREA_GUARD, 0
    mm.vmas.append(guard)
    (standing.images / name).write_bytes(imagefile.image("mm", [mm]))
    with restored(standing, daemon_socket, compared=False):
        answer = standing.ask("one")

    assert answer == repr(([True, False, False, True], 1))


CHANGING = """
place = area(2000 * PAGE)
for page in range(2000):
    write(place + page * PAGE, page.to_bytes(4, "little"))
turn = 0
def answer():
    global turn
    turn += 1
    for page in range(turn, 2000, 7):
        write(place + page * PAGE + 8, turn.to_bytes(4, "little"))
    return [ctypes.string_at(place + page * PAGE, 12).hex() for page in range(2000)]
stand("one", answer)
"""


LIBRARY = """
with open("library.so", "rb") as file:
    mapped = mmap.mmap(file.fileno(), PAGE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
stand("one", lambda: bytes(mapped[1:4]))
"""


def test_another_build_of_a_mapped_library_is_refused(tmp_path: Path, daemon_socket: Path) -> None:
    """It has the same size; its code would run with the data of the old one."""
    library = tmp_path / "library.so"
    flags: list[str | Path] = [
        "-x",
        "c",
        "-",
        "-shared",
        "-nostdlib",
        "-Wl,--build-id=0x1122334455667788",
        "-o",
        library,
    ]
    subprocess.run(["gcc", *flags], input=b"int f(void) { return 1; }", check=True)
    content = library.read_bytes()
    standing = dumped(LIBRARY, tmp_path, daemon_socket)
    library.write_bytes(content.replace(bytes.fromhex("1122334455667788"), bytes.fromhex("1122334455667789")))
    refused = ckptree("restart", f"criu:{standing.images}")
    library.write_bytes(content)
    with restored(standing, daemon_socket):
        answer = standing.ask("one")

    assert refused.code == 7
    assert f"{library} is another build than at the dump: put the file of that time there" in refused.err
    assert answer == repr(b"ELF")


LARGE = """
place = area(96 << 20)
for at in range(0, 96 << 20, PAGE):
    write(place + at, at.to_bytes(8, "little"))
stand("one", lambda: all(ctypes.string_at(place + at, 8) == at.to_bytes(8, "little") for at in range(0, 96 << 20, PAGE)))
"""


def test_large_memory_is_read_by_several_processors_and_leaves_no_helper(tmp_path: Path, daemon_socket: Path) -> None:
    """A helper process shares the memory for the time of the reads."""
    standing = dumped(LARGE, tmp_path, daemon_socket)
    with restored(standing, daemon_socket):
        pid = standing.pid("one")
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        answer = standing.ask("one")

    assert (children, answer) == ("", "True")


def chained(images: Path, name: str, parent: Path) -> None:
    """Make a dump one of a chain: two of three pages are in the dump before, which is punched where this one has a page.

    Not every kernel can tell CRIU which pages have changed, so CRIU itself makes no chain here.
    """
    files = ImageFolder(images)
    head, *entries = (each.message for each in imagefolder.entries(files, name))
    whole = (images / f"pages-{head.pages_id}.img").read_bytes()  # type: ignore[attr-defined]
    make = criuschema.messages()["pagemap_entry"]
    now, kept, before, at = [head], b"", bytearray(whole), 0
    for entry in entries:
        for page in range(entry.nr_pages or entry.compat_nr_pages):  # type: ignore[attr-defined]
            mine = at // PAGE % 3 == 0
            flags = PRESENT if mine else IN_PARENT
            address = entry.vaddr + page * PAGE  # type: ignore[attr-defined]
            now.append(make(vaddr=address, compat_nr_pages=1, nr_pages=1, flags=flags))
            if mine:
                kept += whole[at : at + PAGE]
                before[at : at + PAGE] = bytes(PAGE)
            at += PAGE
    parent.mkdir()
    (parent / name).write_bytes((images / name).read_bytes())
    (parent / f"pages-{head.pages_id}.img").write_bytes(before)  # type: ignore[attr-defined]
    (images / "parent").symlink_to(Path("..", parent.name))
    (images / name).write_bytes(imagefile.image("pagemap", now))
    (images / f"pages-{head.pages_id}.img").write_bytes(kept)  # type: ignore[attr-defined]


def test_pages_of_a_chain_of_dumps_come_from_the_last_that_has_them(tmp_path: Path, daemon_socket: Path) -> None:
    """The dump before lacks what the last one has."""
    standing = dumped(CHANGING, tmp_path, daemon_socket)
    name = f"pagemap-{standing.pid('one')}.img"
    chained(standing.images, name, tmp_path / "before")
    assert {run.file.parent.name for run in Images(standing.images).pages(name)} == {"before", "images"}
    with restored(standing, daemon_socket):
        answer = standing.ask("one")

    pages = [page.to_bytes(4, "little") + bytes(4) for page in range(2000)]
    ones = [(1).to_bytes(4, "little") if page % 7 == 1 else bytes(4) for page in range(2000)]
    assert literal_eval(answer) == [(page + one).hex() for page, one in zip(pages, ones, strict=True)]


def test_the_comparison_of_dumps_sees_a_changed_byte_and_a_changed_area(tmp_path: Path, daemon_socket: Path) -> None:
    """A comparison that found nothing would prove nothing."""
    standing = dumped(GUARDED, tmp_path, daemon_socket)
    other = tmp_path / "other"
    other.mkdir()
    for file in standing.images.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    pid = standing.pid("one")
    assert differences(standing.images, other) == []

    pages = other / "pages-1.img"
    content = bytearray(pages.read_bytes())
    content[content.index(b"x" * PAGE)] = ord("y")
    pages.write_bytes(content)
    mm: Any = one(ImageFolder(other), f"mm-{pid}.img")
    mm.vmas[0].prot ^= 2
    (other / f"mm-{pid}.img").write_bytes(imagefile.image("mm", [mm]))
    found = differences(standing.images, other)

    assert len(found) == 2
    assert f"{pid}: areas: " in found[0]
    assert f"{pid}: page 0x" in found[1]
