# SPDX-License-Identifier: Apache-2.0
"""The comparison of a tree rebuilt with other numbers with its image, by the map of its tags."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.errors import FormatError, UsageError
from agent.model import PidObject, Snapshot, TaskState
from exporters import registry
from exporters.comparing.difference import difference, lines, to_document
from exporters.comparing.renumbering import parse
from tests.support.builders import a_snapshot, a_task
from tests.support.commandline import ckptree, here

IMAGE = a_snapshot(
    [(10,), (11,), (12, 1), (13,)],
    [a_task(1, 0), a_task(2, 1, pgid=4, sid=1), a_task(3, 1, depth=1, state=TaskState.ZOMBIE, exit_code=3 << 8)],
)
# 13 was the group of 11 without a task: it has no entry in the map, and is 903 in the rebuilt tree.
REBUILT = a_snapshot(
    [(900,), (902, 1), (901,), (903,)],
    [a_task(1, 0), a_task(3, 1, pgid=4, sid=1), a_task(2, 1, depth=1, state=TaskState.ZOMBIE, exit_code=3 << 8)],
    boot_id="00000000-0000-0000-0000-000000000000",
)
MAP = {
    "root": 900,
    "tasks": [
        {"tag": 1, "pid": 900, "numbers": [900]},
        {"tag": 2, "pid": 901, "numbers": [901]},
        {"tag": 3, "pid": 902, "numbers": [902, 1]},
    ],
}


def mapped(document: Any = MAP, *, image: Snapshot = IMAGE, rebuilt: Snapshot = REBUILT) -> Any:
    """Return the difference as a document."""
    return to_document(difference(image, rebuilt, parse(json.dumps(document).encode())))


def test_an_equal_tree_with_other_numbers_is_equal_by_the_map() -> None:
    """Pid objects without a task are found by the members of their group or session."""
    found = mapped()

    assert found["equal"]
    assert found["identity"] == "map"
    assert not difference(IMAGE, REBUILT).equal


def test_what_differs_is_told_by_the_new_numbers() -> None:
    """These numbers exist on the host."""
    rebuilt = a_snapshot(
        [(900,), (902, 1), (901,), (903,)],
        [a_task(1, 0), a_task(3, 1), a_task(2, 1, depth=1, state=TaskState.ZOMBIE, exit_code=4 << 8)],
        boot_id=REBUILT.boot_id,
    )
    said = lines(difference(IMAGE, rebuilt, parse(json.dumps(MAP).encode())))

    assert said[3] == "who is who: by the map; a has the numbers that it gives"
    assert [line for line in said if line.startswith("   90") and ": comm" not in line] == [
        "   901 task-2: group 13 → 900",
        "   902/1 task-3: exit code exited 3 → exited 4",
        "   903",
    ]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "it is no object"),
        ({}, "no entry for a task of A: tag 1"),
        ({"tasks": [{"tag": 1}]}, "is empty"),
        ({"tasks": [{"tag": 0, "numbers": [1]}]}, "must be an integer from 1"),
        ({"tasks": [{"tag": 1, "numbers": [0]}]}, "must be a list of integers from 1"),
        ({"tasks": [*MAP["tasks"], {"tag": 1, "numbers": [5]}]}, "1 is there twice"),  # type: ignore[misc]
        ({"tasks": [*MAP["tasks"], {"tag": 9, "numbers": [5]}]}, "a tag that is no task of A: tag 9"),  # type: ignore[misc]
        ({"tasks": MAP["tasks"][:2]}, "no entry for a task of A: tag 3"),  # type: ignore[index]
    ],
)
def test_what_is_no_map_of_the_image_is_refused(document: Any, said: str) -> None:
    """The message says what is wrong."""
    with pytest.raises(FormatError, match=said):
        mapped(document)


@pytest.mark.parametrize(
    ("data", "said"),
    [(b'{"root": 900', "cut short"), (b"[" * 100_000, "nested too deeply"), (b"\xff", "not UTF-8")],
    ids=["cut", "deep", "binary"],
)
def test_what_is_no_json_is_no_map(data: bytes, said: str) -> None:
    """The message names the verb that prints a map."""
    with pytest.raises(FormatError, match=f"^map.*is not the line that `restart .*{said}"):
        parse(data)


def test_the_map_of_another_rebuild_is_a_wrong_request() -> None:
    """None of its numbers is in B, so nothing can be compared."""
    other = {"root": 800, "tasks": [{"tag": tag, "pid": 800 + tag, "numbers": [800 + tag]} for tag in (1, 2, 3)]}
    with pytest.raises(UsageError, match="the map of another rebuild"):
        mapped(other)


def test_the_command_line_takes_the_line_that_restart_prints(tmp_path: Path) -> None:
    """The exit codes are the usual ones; a wrong map is a bad file and is named."""
    for name, snapshot in (("a", IMAGE), ("b", REBUILT)):
        (tmp_path / name).write_bytes(registry.image(snapshot))
    (tmp_path / "map").write_text(json.dumps(MAP) + "\n")
    arguments = ("diff", tmp_path / "a", tmp_path / "b", "--map")
    equal, wrong = ckptree(*arguments, tmp_path / "map"), here(*arguments, tmp_path / "a")

    assert (equal.returncode, equal.stdout.splitlines()[0]) == (0, b"equal")
    assert (wrong.returncode, wrong.stdout) == (8, b"")
    assert f"{tmp_path / 'a'}: map" in wrong.stderr.decode()
    assert here("diff", "-", tmp_path / "b", "--map", "-").returncode == 2
    assert here("diff", tmp_path / "a", tmp_path / "b").returncode == 1


def test_a_pid_object_of_another_depth_says_nothing_of_its_namespaces() -> None:
    """The root of the rebuilt tree may be deeper than that of the image."""
    image = a_snapshot([(1,)], [a_task(1, 0)])
    found = difference(image, a_snapshot([(5, 1)], [a_task(1, 0, depth=1)]), {1: (5, 1)})

    assert found.a.pids == (PidObject((5, 1), ()),)
