# SPDX-License-Identifier: Apache-2.0
"""The owners of sub-ids."""

import os
from pathlib import Path

import pytest

from agent.daemon.subids import SubIds, parse


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1000:100000:65536", [(100000, 165536, 1000)]),
        ("root:231072:10\n", [(231072, 231082, 0)]),
        ("nobody-of-that-name:1:2", []),
        ("# 1000:1:2", []),
        ("1000:1", []),
        ("1000:-1:5", []),
        (":1:5", []),
        ("", []),
    ],
)
def test_lines_that_make_no_sense_give_nobody_anything(text: str, found: list[tuple[int, int, int]]) -> None:
    """The other lines are read."""
    assert parse(text) == found


def test_an_id_belongs_to_whoever_has_its_range(tmp_path: Path) -> None:
    """If ranges overlap, the first line counts."""
    path = tmp_path / "subuid"
    path.write_text("1001:100100:10\n1000:100000:1000\n1003:100105:5\n1002:200000:5\n")
    ids = SubIds(path)

    assert [ids.owner(uid) for uid in (99999, 100000, 100105, 100999, 101000, 200004, 200005)] == [
        *(None, 1000, 1001, 1000),
        *(None, 1002, None),
    ]


def test_the_file_is_read_again_when_it_has_changed_and_need_not_be_there(tmp_path: Path) -> None:
    """useradd replaces the file."""
    path = tmp_path / "subuid"
    ids = SubIds(path)

    assert ids.owner(5) is None

    path.write_text("1000:5:1\n")
    assert ids.owner(5) == 1000

    other = tmp_path / "other"
    other.write_text("1001:5:1\n")
    os.replace(other, path)
    assert ids.owner(5) == 1001

    path.unlink()
    assert ids.owner(5) is None
