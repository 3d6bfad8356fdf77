# SPDX-License-Identifier: Apache-2.0
"""Folders of CRIU's images in place of a file: those that are none, and those without a tree."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from exporters.image import checkpoint
from tests.support import commandline
from tests.support.builders import a_family
from tests.support.dumpparts import ROOT, alone, dump, image, new
from tests.support.filledfiles import file_entry

Run = Callable[..., commandline.Ran]


@pytest.fixture
def here(tmp_path: Path) -> Run:
    """Run ckptree in a folder with an image, family.ckpt, and the same tree as CRIU's images, images."""
    (tmp_path / "family.ckpt").write_bytes(checkpoint.dumps(a_family()))
    found = partial(commandline.here, cwd=tmp_path)
    found("convert", "family.ckpt", "images", "-f", "criu")
    return found


def test_a_folder_that_cannot_be_restarted_is_a_failure_of_restart_itself(here: Run) -> None:
    """1 where the tasks hold, and 125 where the exit code is else the root's: with a command, and with contents. With
    --detach it is never the root's.
    """
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
    for what, code in (("images", 1), ("criu:none", 1), ("criu:images", 8)):
        assert here("restart", what, "--detach").returncode == code
    assert here("restart", "images", "--run", "true", "--detach").returncode == 1


def test_a_folder_without_a_tree_says_why_it_is_incomplete(here: Run) -> None:
    """The images alone tell of no births."""
    shown = here("show", "criu:images").stdout.decode()
    here("convert", "family.ckpt", "images/tree.ckpt")

    assert "images has no tree.ckpt, as `ckptree hook criu` leaves one" in shown
    assert "tree.ckpt" not in here("show", "criu:images").stdout.decode()


def test_a_plan_gives_a_job_of_a_shell_its_terminal(here: Run, tmp_path: Path) -> None:
    """As restart does, whose terminal the plan does not need."""
    (tmp_path / "dump").mkdir()
    modes = {f"c_{name}": 5 for name in ("iflag", "oflag", "cflag", "lflag", "line", "ispeed", "ospeed")}
    about = {"locked": False, "exclusive": False, "packet_mode": False, "termios": modes | {"c_cc": list(range(19))}}
    info = new("tty_info_entry", id=81, type=1, sid=ROOT, rdev=136 << 8, pty={"index": 4001}, pgrp=ROOT, **about)
    files, processes = alone([file_entry(10, 11, tty_info_id=81, flags=2, regf_id=20)])
    made = dump([*files, file_entry(20, 1, name=b"/dev/pts/4001", pos=0)], processes, tty_info=image("tty-info", info))
    for name, data in made.files.items():
        (tmp_path / "dump" / name).write_bytes(data)
    refused, planned = here("plan", "criu:dump"), here("plan", "criu:dump", "--shell-job")

    assert b"terminal of a process outside the tree: use --shell-job" in refused.stderr
    assert planned.stdout == refused.stdout
    assert b"--shell-job" not in planned.stderr
    without = here("plan", "family.ckpt", "--shell-job")
    assert (without.returncode, b"name a folder that CRIU wrote, as criu:DIR" in without.stderr) == (2, True)
    assert here("plan", "criu:dump", "--for", "criu", "--shell-job").returncode == 2
