# SPDX-License-Identifier: Apache-2.0
"""Layouts of memories: processes whose images are alike have one in common, each with its own file of pages."""

from pathlib import Path
from typing import Any

import pytest

from agent.errors import FormatError
from agent.restart.contents.images import Images, ProcessImage
from agent.restart.contents.layouts import Layouts
from agent.restart.contents.pageruns import PAGE
from exporters.criu import criuschema, imagefile
from exporters.criu.memorymessages import ANON_PRIVATE, AREA_REGULAR, AREA_VDSO, IN_PARENT, PRESENT

HEAP, VDSO = 1 << 20, 1 << 30
AREAS = (
    (HEAP, 8, AREA_REGULAR | ANON_PRIVATE),
    (HEAP + 64 * PAGE, 8, AREA_REGULAR | ANON_PRIVATE),
    (VDSO, 2, AREA_VDSO),
)


def memory() -> Any:
    """Return a mm_entry with two areas and a vdso."""
    made = criuschema.messages()
    names = [
        field.name
        for field in criuschema.fields("mm_entry")
        if field.name.startswith("mm_") and field.label == "required"
    ]
    vmas = [
        made["vma_entry"](
            start=start, end=start + pages * PAGE, pgoff=0, shmid=0, prot=3, flags=0x22, status=status, fd=-1
        )
        for start, pages, status in AREAS
    ]
    marks = {**dict.fromkeys(names, PAGE << 8), "mm_end_code": PAGE << 9}
    return made["mm_entry"](**marks, exe_file_id=1, vmas=vmas)


def process(folder: Path, pid: int, mm: Any, runs: list[tuple[int, int]], flags: int = PRESENT) -> ProcessImage:
    """Write the page map and the pages of a process, given by address and number, and return its messages."""
    made = criuschema.messages()
    entries = [
        made["pagemap_entry"](vaddr=address, compat_nr_pages=count, nr_pages=count, flags=flags)
        for address, count in runs
    ]
    head = made["pagemap_head"](pages_id=pid)
    (folder / f"pagemap-{pid}.img").write_bytes(imagefile.image("pagemap", [head, *entries]))
    (folder / f"pages-{pid}.img").write_bytes(bytes(PAGE * sum(count for _, count in runs)))
    return ProcessImage(pid, (pid,), None, {}, {}, None, mm, None, ())


RUNS = [(HEAP, 3), (HEAP + 5 * PAGE, 1), (VDSO, 2)]


def test_alike_memories_have_one_layout_and_their_own_pages(tmp_path: Path) -> None:
    """Places are shared, files are not; a memory with another page has a layout of its own."""
    mm = memory()
    layouts = Layouts(Images(tmp_path), 0)
    one, other = (layouts.of(process(tmp_path, pid, mm, RUNS)) for pid in (10, 11))
    third = layouts.of(process(tmp_path, 12, mm, [(HEAP, 4), *RUNS[1:]]))

    assert one.areas is other.areas is third.areas
    assert one.runs.addresses is other.runs.addresses
    assert third.runs.addresses is not one.runs.addresses
    for pid, layout in ((10, one), (11, other)):
        file = tmp_path.resolve() / f"pages-{pid}.img"
        assert [tuple(run) for run in layout.runs] == [
            (HEAP, 3 * PAGE, file, 0),
            (HEAP + 5 * PAGE, PAGE, file, 3 * PAGE),
        ]
        assert [tuple(run) for run in layout.vdso] == [(VDSO, 2 * PAGE, file, 4 * PAGE)]
        assert layout.written == {HEAP}
    assert third.runs.size == 5 * PAGE


def test_each_file_of_pages_of_a_layout_must_be_as_long_as_its_map_says(tmp_path: Path) -> None:
    """Also the file of a process whose layout is known."""
    mm = memory()
    layouts = Layouts(Images(tmp_path), 0)
    layouts.of(process(tmp_path, 10, mm, RUNS))
    short = process(tmp_path, 11, mm, RUNS)
    (tmp_path / "pages-11.img").write_bytes(bytes(5 * PAGE))

    with pytest.raises(FormatError, match="6 pages are said to be in it"):
        layouts.of(short)


def test_pages_of_an_earlier_dump_are_looked_up_for_each_process(tmp_path: Path) -> None:
    """Equal page maps do not tell that the earlier ones were equal, too."""
    parent, folder = tmp_path / "first", tmp_path / "second"
    parent.mkdir()
    folder.mkdir()
    (folder / "parent").symlink_to(parent)
    mm = memory()
    process(parent, 10, mm, [(HEAP, 4)])
    process(parent, 11, mm, [(HEAP - PAGE, 5)])
    layouts = Layouts(Images(folder), 0)
    one, other = (layouts.of(process(folder, pid, mm, [(HEAP, 2)], IN_PARENT)) for pid in (10, 11))

    assert [(run.file.name, run.offset) for run in one.runs] == [("pages-10.img", 0)]
    assert [(run.file.name, run.offset) for run in other.runs] == [("pages-11.img", PAGE)]
