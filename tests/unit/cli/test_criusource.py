# SPDX-License-Identifier: Apache-2.0
"""Folders of CRIU's images in place of a file: those that are none, and those without a tree."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from exporters.image import checkpoint
from tests.support import commandline
from tests.support.builders import a_family

Run = Callable[..., commandline.Ran]


@pytest.fixture
def here(tmp_path: Path) -> Run:
    """Run ckptree in a folder with an image, family.ckpt, and the same tree as CRIU's images, images."""
    (tmp_path / "family.ckpt").write_bytes(checkpoint.dumps(a_family()))
    found = partial(commandline.here, cwd=tmp_path)
    found("convert", "family.ckpt", "images", "-f", "criu")
    return found


def test_a_folder_that_cannot_be_restarted_is_a_failure_of_restart_itself(here: Run) -> None:
    """1 where the tasks hold, and 125 where the exit code is else the root's: with a command, and with contents."""
    codes = [
        here("restart", *words).returncode
        for words in (
            ["images"],
            ["images", "--run", "argv"],
            ["images", "--run", "true"],
            ["criu:none"],
            ["criu:images"],
        )
    ]

    assert codes == [1, 125, 125, 125, 125]


def test_a_folder_without_a_tree_says_why_it_is_incomplete(here: Run) -> None:
    """The images alone tell of no births."""
    shown = here("show", "criu:images").stdout.decode()
    here("convert", "family.ckpt", "images/tree.ckpt")

    assert "images has no tree.ckpt, as `ckptree hook criu` leaves one" in shown
    assert "tree.ckpt" not in here("show", "criu:images").stdout.decode()
