# SPDX-License-Identifier: Apache-2.0
"""The contents of a folder of images, as a restart reads them."""

from pathlib import Path

import pytest

from agent.errors import FormatError
from agent.restart.contents.images import Images
from exporters.criu import criuschema, imagefile
from tests.support import criuimages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder that CRIU wrote."""
    for name, data in criuimages.dump("container").data.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_a_zombie_has_no_thread_but_itself(folder: Path) -> None:
    """CRIU writes a number there that it has not set."""
    found = Images(folder).processes

    assert {pid: process.threads for pid, process in found.items()} == {1: (1, 2), 3: (3,), 4: (4,), 5: (5,), 6: (6,)}
    assert [pid for pid, process in found.items() if not process.lives] == [4, 5]


def test_a_folder_without_an_inventory_has_no_contents(folder: Path) -> None:
    """The format criu writes none, nor does a dump that failed."""
    (folder / "inventory.img").unlink()

    with pytest.raises(FormatError, match="it holds the tree alone"):
        _ = Images(folder).inventory


def test_an_entry_without_pages_is_no_run_of_pages(folder: Path) -> None:
    """An image that was made by hand may have one; reading no bytes has no parts."""
    made = criuschema.messages()
    empty, full = (made["pagemap_entry"](vaddr=1 << 20, compat_nr_pages=count, flags=4) for count in (0, 1))
    head = made["pagemap_head"](pages_id=3)
    (folder / "pagemap-1.img").write_bytes(imagefile.image("pagemap", [head, empty, full, empty]))

    assert [(run.address, run.size, run.offset) for run in Images(folder).pages("pagemap-1.img")] == [
        (1 << 20, 4096, 0)
    ]


def test_a_path_that_the_kernel_would_cut_is_refused(folder: Path) -> None:
    """The kernel takes a path up to its first byte 0, and Python takes none with such a byte."""
    made = criuschema.messages()
    owner = made["fown_entry"](uid=0, euid=0, signum=0, pid_type=0, pid=0)
    regular = made["reg_file_entry"](id=7, flags=0, pos=0, fown=owner, name=b"/etc\0/passwd")
    (folder / "files.img").write_bytes(imagefile.image("files", [made["file_entry"](type=1, id=7, reg=regular)]))

    with pytest.raises(FormatError, match=r"files\.img: file 7: name at byte 8: a path has no byte 0"):
        _ = Images(folder).files


def test_messages_of_a_process_of_many_threads_are_alike_to_none(folder: Path) -> None:
    """They name its threads; those of a process of one thread are known by the objects that they are."""
    images = Images(folder)

    assert images.processes[1].messages is None
    assert images.processes[3].messages is not None
    assert images.processes[3].messages != images.processes[6].messages


def test_equal_files_of_two_processes_are_decoded_once(folder: Path) -> None:
    """The messages are the same objects then."""
    for name in ("core", "mm", "fs"):
        (folder / f"{name}-6.img").write_bytes((folder / f"{name}-3.img").read_bytes())
    found = Images(folder).processes

    assert (found[6].core, found[6].mm, found[6].fs) == (found[3].core, found[3].mm, found[3].fs)
    assert found[6].core is found[3].core
    assert found[6].mm is found[3].mm
