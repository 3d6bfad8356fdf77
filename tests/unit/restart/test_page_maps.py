# SPDX-License-Identifier: Apache-2.0
"""The pages of a dump: where each lies, in the dump itself or in one of the dumps before it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.errors import FormatError
from agent.restart.contents.images import Images
from agent.restart.contents.pagereads import parts, reads
from agent.restart.contents.pageruns import PAGE, PageRun
from agent.restart.contents.refusals import Refused
from exporters.checking.criucheck import page_faults
from exporters.criu import criuschema, imagefile
from exporters.criu.imagefolder import ImageFolder
from exporters.criu.memorymessages import IN_PARENT, LAZY, PRESENT

NAME = "pagemap-5.img"


def folder(path: Path, entries: Sequence[tuple[int, int, int]], parent: Path | None = None) -> Path:
    """Make a folder with a page map: the first page, the number of pages, and the flags of each entry."""
    messages: list[Any] = [criuschema.messages()["pagemap_head"](pages_id=1)]
    for first, count, flags in entries:
        values = {"vaddr": first * PAGE, "compat_nr_pages": count, "nr_pages": count, "flags": flags}
        messages.append(criuschema.messages()["pagemap_entry"](**values))
    path.mkdir()
    (path / NAME).write_bytes(imagefile.image("pagemap", messages))
    present = sum(count for _, count, flags in entries if flags & PRESENT)
    (path / "pages-1.img").write_bytes(bytes(present * PAGE))
    if parent is not None:
        (path / "parent").symlink_to(parent)
    return path


def runs(path: Path) -> list[tuple[int, int, str, int]]:
    """Return the runs of a folder: first page, number of pages, name of the folder, first page in the file."""
    found = Images(path).pages(NAME)
    return [(run.address // PAGE, run.size // PAGE, run.file.parent.name, run.offset // PAGE) for run in found]


def test_pages_of_earlier_dumps_are_found_through_the_chain(tmp_path: Path) -> None:
    """A range of pages may lie in several runs of the dump before, and those in a dump before that."""
    first = folder(tmp_path / "first", [(10, 4, PRESENT), (20, 4, PRESENT)])
    second = folder(tmp_path / "second", [(10, 2, IN_PARENT), (12, 4, PRESENT), (20, 4, IN_PARENT)], first)
    third = folder(tmp_path / "third", [(11, 3, IN_PARENT), (14, 1, PRESENT), (21, 2, IN_PARENT)], second)

    assert runs(third) == [
        (11, 1, "first", 1),
        (12, 2, "second", 0),
        (14, 1, "third", 0),
        (21, 2, "first", 5),
    ]


@pytest.mark.parametrize(
    ("entries", "wrong"),
    [
        ([(10, 2, PRESENT), (10, 1, PRESENT)], 10),
        ([(10, 2, PRESENT), (11, 2, PRESENT)], 11),
        ([(20, 1, PRESENT), (10, 1, PRESENT)], 10),
        ([(10, 4, IN_PARENT), (12, 1, PRESENT)], 12),
    ],
)
def test_pages_that_are_out_of_order_are_refused(
    tmp_path: Path, entries: list[tuple[int, int, int]], wrong: int
) -> None:
    """CRIU writes them in order of address. A page that is there twice would come from either place. check tells, too."""
    first = folder(tmp_path / "first", [(10, 4, PRESENT)])
    made = folder(tmp_path / "made", entries, first)
    text = f"{NAME}: {wrong * PAGE:#x}.*its pages lie below 0x[0-9a-f]+, where those of the entry before it end"

    with pytest.raises(FormatError, match=text):
        runs(made)
    assert [found.name for found in page_faults(ImageFolder(made), NAME)] == ["criu-pages"]


def test_a_page_that_no_earlier_dump_has_is_told(tmp_path: Path) -> None:
    """The dump before has the pages below and above, and not this one."""
    first = folder(tmp_path / "first", [(10, 2, PRESENT), (13, 2, PRESENT)])
    with pytest.raises(
        FormatError, match="the page at 0xc000 is said to be in an earlier dump, which does not have it"
    ):
        Images(folder(tmp_path / "second", [(10, 5, IN_PARENT)], first)).pages(NAME)
    with pytest.raises(FormatError, match="its pages are in an earlier dump, and the folder parent has no such file"):
        Images(folder(tmp_path / "third", [(10, 1, IN_PARENT)])).pages(NAME)


def test_pages_that_were_left_to_a_server_are_refused(tmp_path: Path) -> None:
    """A dump with --lazy-pages has the addresses alone; a lazy page that is present is a page as any other."""
    with pytest.raises(Refused) as refused:
        Images(folder(tmp_path / "lazy", [(10, 2, PRESENT), (12, 3, LAZY)])).pages(NAME)
    kept = Images(folder(tmp_path / "kept", [(12, 3, LAZY | PRESENT)])).pages(NAME)

    assert refused.value.refusal[:3] == ("pages", "0xc000", "lazy")
    assert kept == [PageRun(12 * PAGE, 3 * PAGE, kept[0].file, 0)]


def test_a_file_of_pages_that_is_too_short_is_told(tmp_path: Path) -> None:
    """Otherwise a task would find it out when half of the tree is filled."""
    path = folder(tmp_path / "short", [(10, 4, PRESENT)])
    (path / "pages-1.img").write_bytes(bytes(3 * PAGE))
    with pytest.raises(FormatError, match=r"pages-1\.img: 4 pages are said to be in it, and it has 12288 bytes"):
        Images(path).pages(NAME)


def test_reads_of_pages_are_joined_and_divided(tmp_path: Path) -> None:
    """Consecutive bytes of a file are one read, whatever memory they go to; parts cover it exactly, in order."""
    file, other = tmp_path / "pages-1.img", tmp_path / "pages-2.img"
    runs = [
        PageRun(10 * PAGE, 2 * PAGE, file, 0),
        PageRun(12 * PAGE, 3 * PAGE, file, 2 * PAGE),
        PageRun(20 * PAGE, 5 * PAGE, file, 5 * PAGE),
        PageRun(30 * PAGE, 1 * PAGE, other, 0),
    ]
    whole, last = reads(runs, shift=PAGE)
    divided = parts(whole, 3)

    assert whole == (str(file), 0, [(11 * PAGE, 5 * PAGE), (21 * PAGE, 5 * PAGE)])
    assert last == (str(other), 0, [(31 * PAGE, PAGE)])
    assert divided == [
        (str(file), 0, [(11 * PAGE, 4 * PAGE)]),
        (str(file), 4 * PAGE, [(15 * PAGE, PAGE), (21 * PAGE, 3 * PAGE)]),
        (str(file), 8 * PAGE, [(24 * PAGE, 2 * PAGE)]),
    ]
    assert parts(last, 0) == [last]
