# SPDX-License-Identifier: Apache-2.0
"""A tree that is folded and searched: what is shown, and where the cursor is."""

import re
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from agent.cli.outline import HELP, Outline, bar
from agent.cli.scroll import Keyboard
from agent.model import Snapshot, Task
from exporters.drawing.colours import columns
from exporters.drawing.treeview import rows
from tests.support.builders import a_snapshot, a_task, snapshots
from tests.support.examples import patient

ROWS = 20


def a_tree(*more: Task, gone: int = 0) -> Snapshot:
    """Return the tree 11 a (12 b (13 c (14 d)), 15 e) and further tasks, without the task of a tag."""
    tasks = [
        a_task(1, 0, comm=b"a"),
        a_task(2, 1, comm=b"b"),
        a_task(3, 2, comm=b"c"),
        a_task(4, 3, comm=b"d"),
        a_task(5, 1, comm=b"e"),
        *more,
    ]
    numbers = [(10 + tag,) for tag in range(1, len(tasks) + 1)]
    return a_snapshot(numbers, [task for task in tasks if task.pid != gone])


def outline(tree: Snapshot, *keys: str, color: bool = False) -> Outline:
    """Return the outline of a tree after some keys; a key of several characters without a name is typed."""
    made = Outline()
    made.show(rows(tree, width=60, color=color))
    press(made, *keys)
    return made


def press(made: Outline, *keys: str) -> None:
    """Press keys."""
    for key in keys:
        made.press(key, ROWS)


def typed(text: str) -> list[str]:
    """Return the keys of a search."""
    return ["/", *Keyboard().feed(text.encode()), "enter"]


def shown(made: Outline) -> list[str]:
    """Return the names of the visible tasks, with ">" at the cursor and "+" where one is folded."""
    found = []
    for line in made.seen(ROWS):
        plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
        task = re.search(r"\b1\d ([a-e])\b", plain)
        if task:
            cursor = ">" if line.startswith("\x1b[7m") else ""
            found.append(cursor + task[1] + ("+" if "+" in plain[: task.start()] else ""))
    return found


def test_the_cursor_begins_at_the_root() -> None:
    """The summary above it is one line."""
    made = outline(a_tree())

    assert shown(made) == [">a", "b", "c", "d", "e"]
    assert made.seen(ROWS)[0].startswith("subtree of 11 · 5 processes")
    assert len(made.seen(ROWS)) == ROWS


def test_a_folded_task_hides_all_below_it() -> None:
    """Enter folds and unfolds; so do the arrows, and left goes to the parent of what cannot be folded further."""
    made = outline(a_tree(), "down", "enter")
    assert shown(made) == ["a", ">b+", "e"]
    press(made, "enter")
    assert shown(made) == ["a", ">b", "c", "d", "e"]
    press(made, "down", "down", "left")
    assert shown(made) == ["a", "b", ">c", "d", "e"]
    press(made, "left")
    assert shown(made) == ["a", "b", ">c+", "e"]
    press(made, "left", "left")
    assert shown(made) == ["a", ">b+", "e"]
    press(made, "right")
    assert shown(made) == ["a", ">b", "c+", "e"]
    press(made, "left", "down", "*")
    assert shown(made) == ["a", "b", "c", "d", ">e"]


def test_the_root_and_a_task_without_children_are_not_folded() -> None:
    """A mark would hide nothing, or all."""
    made = outline(a_tree(), "enter", "bottom", "enter")

    assert shown(made) == ["a", "b", "c", "d", ">e"]


def test_a_new_picture_is_folded_alike_and_keeps_the_cursor_on_its_task() -> None:
    """A task is known by its numbers and start: another task with the same number is not folded."""
    made = outline(a_tree(), "down", "down", "enter", "down")
    assert shown(made) == ["a", "b", "c+", ">e"]
    made.show(rows(a_tree(a_task(6, 2, comm=b"c")), width=60))
    assert shown(made) == ["a", "b", "c+", "c", ">e"]
    made.show(rows(a_tree(gone=5), width=60))
    assert shown(made) == ["a", "b", "c+"]
    later = a_tree()
    tasks = [task._replace(start_ns=99) if task.comm == b"c" else task for task in later.tasks]
    made.show(rows(a_snapshot([(10 + n,) for n in range(1, 6)], tasks), width=60))
    assert shown(made)[:4] == ["a", "b", "c", "d"]


def test_a_search_goes_on_from_the_cursor_and_around_the_end() -> None:
    """n goes to the next line, N to the one before."""
    made = outline(a_tree(a_task(6, 5, comm=b"d")), *typed(" d"))
    assert shown(made) == ["a", "b", "c", ">d", "e", "d"]
    press(made, "n")
    assert shown(made)[-1] == ">d"
    press(made, "n")
    assert shown(made)[3] == ">d"
    press(made, "N")
    assert shown(made)[-1] == ">d"


def test_a_search_unfolds_what_hides_the_line_and_nothing_else() -> None:
    """Colours are no part of a line."""
    tree = a_tree(a_task(6, 5, comm=b"d"))
    made = outline(tree, "bottom", "up", "enter", "top", "down", "down", "enter", color=True)
    assert shown(made) == ["a", ">b+", "e+"]
    press(made, *typed("14 d"))
    assert shown(made) == ["a", "b", "c", ">d", "e+"]


def test_capitals_count_where_the_search_has_any() -> None:
    """Without them it finds both."""
    tree = a_tree(a_task(6, 1, comm=b"Name"))

    assert outline(tree, *typed("name")).said == ""
    assert outline(tree, *typed("Name")).said == ""
    assert outline(tree, *typed("NAME")).said == "no line has NAME"


def test_a_search_can_be_mended_and_given_up_while_it_is_typed() -> None:
    """Letters that are commands elsewhere are text, and so are characters of several bytes."""
    made = outline(a_tree(), *typed("kqné ?")[:-1])
    assert (made.typing, made.prompt) == (True, "/kqné ?")
    press(made, "backspace", "backspace", "backspace")
    assert made.prompt == "/kqn"
    press(made, "\x15")
    assert made.prompt == "/"
    press(made, "backspace")
    assert not made.typing
    press(made, "/", "x", "\x1b")
    assert (made.typing, made.said) == (False, "")
    press(made, "n")
    assert made.said == ""


def test_the_keys_are_shown_until_the_next_key() -> None:
    """They fit into 40 columns and 8 rows with a bar."""
    made = outline(a_tree(), "h")

    assert made.seen(7) == list(HELP)
    assert max(map(len, HELP)) <= 40
    assert made.press("q", 7)
    assert shown(made)[0] == ">a"
    assert not made.press("q", 7)


def test_a_bar_is_as_wide_as_the_screen() -> None:
    """A line that is too long is cut at its end."""
    assert bar(["4711", "", "?: help"], 20) == " 4711  ?: help      "
    assert bar(["程序"], 5) == " 程  "


KEYS = [
    "up",
    "down",
    "page-up",
    "page-down",
    "top",
    "bottom",
    "left",
    "right",
    "enter",
    "*",
    "n",
    "N",
    "?",
    "/",
    "a",
    "x",
]


@patient
@given(st.lists(snapshots(), min_size=1, max_size=3), st.lists(st.sampled_from(KEYS), max_size=30), st.integers(1, 9))
def test_any_keys_leave_a_picture_with_one_cursor(trees: Sequence[Snapshot], keys: list[str], height: int) -> None:
    """The trees are those of refreshes, which may differ in everything."""
    made = Outline()
    for tree in trees:
        made.show(rows(tree, width=40))
        for key in keys:
            made.press(key, height)
            seen = made.seen(height)
            assert len(seen) == height
            assert all(columns(line.removeprefix("\x1b[7m").removesuffix("\x1b[0m")) <= 40 for line in seen)
            assert sum(line.startswith("\x1b[7m") for line in seen) <= 1
