# SPDX-License-Identifier: Apache-2.0
"""The stage: the areas of a family of processes that are worth it, and what each process makes of them."""

import random
from pathlib import Path

from agent.restart.contents import staging
from agent.restart.contents.addresses import AddressRange
from agent.restart.contents.memory import AddressSpace
from agent.restart.contents.pageruns import PAGE, PageRun, PageRuns, cut
from agent.restart.contents.privateareas import Inherited, PrivateArea
from agent.restart.contents.staging import HEAD, READ, Stage

AREA = AddressRange(0x7F0000000000, 0x7F0000000000 + (4 << 20))


class Memory(AddressSpace):
    """A process with one area, whose pages are given by their numbers and all have one byte; `file` is one that it maps."""

    file: tuple[int, int] | None = None

    def __init__(self, program: int, pages: dict[int, int], file: Path, area: AddressRange = AREA) -> None:
        self._program = program
        self._area = area
        self.areas = [area]
        self.runs = PageRuns()
        for number, (page, value) in enumerate(sorted(pages.items())):
            run = PageRun(area.start + page * PAGE, PAGE, file, number * PAGE)
            self.runs.append(run)
            CONTENT[run] = bytes([value]) * PAGE

    @property
    def family(self) -> tuple[int, ...]:
        """Return the number of the program."""
        return (self._program,)

    def private_areas(self) -> list[PrivateArea]:
        """Return its area."""
        return [PrivateArea(self._area, self.file, 0)]


CONTENT: dict[PageRun, bytes] = {}


def read(run: PageRun) -> bytes:
    """Return the bytes of a page."""
    return CONTENT[run]


def staged(memories: dict[int, Memory]) -> Stage:
    """Return the stage of processes; file 5 must not be opened early, and from 8 on all are one."""
    return Stage(memories, read, lambda identity, _flags: None if identity == 5 else b"/lib/%d" % min(identity, 8))


def pages(ranges: list[AddressRange]) -> list[int]:
    """Return the numbers of the pages of ranges."""
    return [(each.start - AREA.start + at) // PAGE for each in ranges for at in range(0, each.size, PAGE)]


def test_a_family_with_much_in_common_has_a_stage(tmp_path: Path) -> None:
    """The first process is the base; another one writes what differs, reads what the base has not, drops the rest."""
    every = dict.fromkeys(range(1024), 1)
    base = Memory(1, {page: 1 for page in every if page not in (7, 8)}, tmp_path / "a")
    other = Memory(1, {**{page: 1 for page in every if page not in (0, 1, 9)}, 500: 2}, tmp_path / "b")
    third = Memory(1, dict(every), tmp_path / "c")
    stranger = Memory(2, dict(every), tmp_path / "d")
    stage = staged({10: base, 11: other, 12: third, 13: stranger})
    mine = stage.inherited(11)[AREA.start]

    assert stage.place is not None
    assert stage.place.size == AREA.size
    assert stage.inherited(10)[AREA.start] == Inherited(stage.place.start, AREA.end, [], [], [])
    assert pages(mine.read) == [7, 8]
    assert pages(mine.merged) == [page for page in range(2, 1024) if page not in (7, 8, 9)]
    assert [((gap.start - AREA.start) // PAGE, gap.size // PAGE) for gap in mine.dropped] == [(0, 2), (9, 1)]
    assert stage.inherited(13) == {}


def test_processes_with_little_in_common_have_none(tmp_path: Path) -> None:
    """Other content at the same place, or an area that begins elsewhere."""
    every = dict.fromkeys(range(1024), 1)
    base = Memory(1, every, tmp_path / "a")
    different = Memory(1, dict.fromkeys(range(1024), 2), tmp_path / "b")
    moved = Memory(1, dict.fromkeys(range(1023), 1), tmp_path / "c", AddressRange(AREA.start + PAGE, AREA.end))
    stage = staged({10: base, 11: different, 12: moved})

    assert stage.place is None
    assert stage.section() == b""


def test_an_area_of_few_pages_is_shared_whatever_they_hold(tmp_path: Path) -> None:
    """One that is equal is shared; to compare them all at the restart costs little."""
    base = Memory(1, dict.fromkeys(range(3), 1), tmp_path / "a")
    other = Memory(1, {0: 2, 1: 1}, tmp_path / "b")
    stage = staged({10: base, 11: other})

    assert stage.place is not None
    assert pages(stage.inherited(11)[AREA.start].merged) == [0, 1]
    assert [gap.size for gap in stage.inherited(11)[AREA.start].dropped] == [PAGE]


def test_one_equal_page_of_a_sample_is_enough(tmp_path: Path) -> None:
    """Of a large area the pages that processes have in common are found one by one when they are read."""
    base = Memory(1, dict.fromkeys(range(1024), 1), tmp_path / "a")
    other = Memory(1, {page: 1 if page >= 768 else 2 for page in range(1024)}, tmp_path / "b")

    assert staged({10: base, 11: other}).place is not None


def test_a_map_of_a_file_is_in_the_stage_as_such(tmp_path: Path) -> None:
    """Of the same file alone, of the same size, and if the file can be opened before the tree is built."""
    found = []
    same, other, early, many = (7, 0), (8, 0), (5, 0), (9, 0)
    cases = (
        (same, same, 0),
        (same, other, 0),
        (same, same, PAGE),
        (early, early, 0),
        (other, many, 0),
        (other, (9, 2), 0),
    )
    for mine, theirs, size in cases:
        base = Memory(1, {0: 1, 2: 1}, tmp_path / "a")
        child = Memory(1, {0: 1}, tmp_path / "b", AddressRange(AREA.start, AREA.end + size))
        base.file, child.file = mine, theirs
        found.append(staged({10: base, 11: child}))

    assert [stage.place is not None for stage in found] == [True, False, False, False, True, False]
    section = found[0].section()
    size, start, length, reads, maps = HEAD.unpack_from(section)
    address, length_of_map, offset, path, _ = READ.unpack_from(section, HEAD.size)
    assert (address, length_of_map, offset, reads, maps) == (start, length, 0, 2, 1)
    assert section[path:].startswith(b"/lib/7\0")
    assert size == len(section)


def test_areas_that_begin_at_one_address_are_shared_up_to_the_end_of_the_shorter(tmp_path: Path) -> None:
    """Heaps have sizes of their own. The stage has room for the largest, and the pages of the base."""
    base = Memory(1, dict.fromkeys(range(1024), 1), tmp_path / "a")
    short = AddressRange(AREA.start, AREA.end - 8 * PAGE)
    long = AddressRange(AREA.start, AREA.end + 8 * PAGE)
    smaller = Memory(1, dict.fromkeys(range(1016), 1), tmp_path / "b", short)
    larger = Memory(1, dict.fromkeys(range(1032), 1), tmp_path / "c", long)
    stage = staged({10: base, 11: smaller, 12: larger})
    less, more = (stage.inherited(pid)[AREA.start] for pid in (11, 12))

    assert stage.place is not None
    assert stage.place.size == long.size
    assert (pages(less.merged), less.read, less.dropped) == (list(range(1016)), [], [])
    assert (pages(more.merged), pages(more.read), more.dropped) == (list(range(1024)), list(range(1024, 1032)), [])


def test_the_section_has_each_page_of_the_base_once(tmp_path: Path) -> None:
    """The reads go to the stage; a path is there once."""
    base = Memory(1, {page: 1 for page in range(1024) if page % 100}, tmp_path / "pages")
    stage = staged({10: base, 11: base, 12: base})
    section = stage.section()
    size, start, length, count, _ = HEAD.unpack_from(section)
    reads = list(READ.iter_unpack(section[HEAD.size : HEAD.size + READ.size * count]))

    assert stage.place == (start, start + length)
    assert size == len(section)
    assert section.count(b"pages\0") == 1
    assert {section[path : section.index(b"\0", path)] for *_, path, _ in reads} == {str(tmp_path / "pages").encode()}
    covered = [(address - start) // PAGE + at for address, each, *_ in reads for at in range(each // PAGE)]
    assert covered == [page for page in range(1024) if page % 100]
    assert sum(each for _, each, *_ in reads) == sum(run.size for run in base.runs)


def test_the_difference_of_two_processes_is_exact_for_any_pages(tmp_path: Path) -> None:
    """Merged, read and dropped pages are the intersection and both differences, however the runs are cut."""
    chance = random.Random(5)
    for _ in range(300):
        mine, theirs = ({page for page in range(40) if chance.random() < share} for share in (0.6, 0.5))
        runs = []
        for each in (mine, theirs):
            found: list[PageRun] = []
            for number, page in enumerate(sorted(each)):
                address = AREA.start + page * PAGE
                last = found[-1] if found else None
                if last and last.address + last.size == address and chance.random() < 0.7:
                    found[-1] = PageRun(last.address, last.size + PAGE, last.file, last.offset)
                else:
                    found.append(PageRun(address, PAGE, tmp_path, number * PAGE))
            runs.append(found)
        result = staging._difference(Inherited(0, AREA.end, [], [], []), *map(staging._ranges, runs))

        assert set(pages(result.merged)) == mine & theirs
        assert set(pages(result.read)) == mine - theirs
        dropped = {(gap.start - AREA.start) // PAGE + at for gap in result.dropped for at in range(gap.size // PAGE)}
        assert dropped == theirs - mine
        own = cut(runs[0], result.merged) + cut(runs[0], result.read)
        offsets = {(run.address - AREA.start) // PAGE: run.offset // PAGE for run in own}
        order = sorted(mine)
        assert all(order[offset] == page for page, offset in offsets.items())
