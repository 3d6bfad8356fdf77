# SPDX-License-Identifier: Apache-2.0
"""Copies of folders of CRIU images on this host, by `convert`."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from exporters.image import checkpoint
from tests.support import commandline, criuimages
from tests.support.builders import a_family

Run = Callable[..., commandline.Ran]


@pytest.fixture
def here(tmp_path: Path) -> Run:
    """Run ckptree in a folder with family.ckpt."""
    (tmp_path / "family.ckpt").write_bytes(checkpoint.dumps(a_family()))
    return partial(commandline.here, cwd=tmp_path)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Return a folder that CRIU wrote."""
    return criuimages.written("container", tmp_path / "dump")


def test_a_folder_is_copied_to_a_folder_and_not_converted_to_a_file(here: Run, dump: Path, tmp_path: Path) -> None:
    """All files are there, those that are no tree, too; a folder with files is not replaced."""
    (dump / "pages-9.img").write_bytes(b"memory")
    ran, again = (here("convert", "criu:dump", "criu:copy") for _ in range(2))

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
    assert {each.name: each.read_bytes() for each in (tmp_path / "copy").iterdir()} == {
        each.name: each.read_bytes() for each in dump.iterdir()
    }
    assert (again.returncode, b"copy: Directory not empty" in again.stderr) == (1, True)
    assert here("convert", "criu:none", "criu:new").returncode == 1
    assert not [name for name in os.listdir(tmp_path) if name.startswith(("criu:", ".", "new"))]


@pytest.mark.parametrize("options", [(), ("-f", "criu"), ("-f", "json")])
def test_a_tree_is_not_written_where_a_folder_would_be_copied(here: Run, tmp_path: Path, options: tuple[str]) -> None:
    """Nothing of that name appears, and the message says how a tree becomes a folder."""
    before = sorted(os.listdir(tmp_path))
    ran = here("convert", "family.ckpt", "criu:new", *options)

    assert (ran.returncode, b"-f criu writes a tree into a folder" in ran.stderr) == (2, True)
    assert sorted(os.listdir(tmp_path)) == before
