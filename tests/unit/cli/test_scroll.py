# SPDX-License-Identifier: Apache-2.0
"""The decoding of keys from bytes, and the visible part of the lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.scroll import Keyboard, Viewport
from tests.support.builders import patient

KEYS = (b"\x1b[A", b"\x1bOB", b"\x1b[5~", b"\x1b[6~", b"\x1b[H", b"\x1b[F", b"q", b" ", b"k")
NAMES = ["up", "down", "page-up", "page-down", "top", "bottom", "q", "page-down", "up"]


@patient
@given(st.lists(st.integers(1, 4)))
def test_sequences_may_come_in_pieces(sizes: list[int]) -> None:
    """An example is a terminal at the end of a slow line."""
    keyboard, data, keys = Keyboard(), b"".join(KEYS), []
    for size in [*sizes, len(data)]:
        keys += keyboard.feed(data[:size])
        data = data[size:]

    assert keys == NAMES


@pytest.mark.parametrize("data", [b"\x1b[200~", b"\x1b[1;5C", b"\x1bOP", b"\x1b[?62c"])
def test_sequences_that_mean_nothing_here_are_no_keys(data: bytes) -> None:
    """The key behind such a sequence is found."""
    assert Keyboard().feed(data + b"q") == ["q"]


def test_escape_alone_waits_for_more_and_loses_no_key() -> None:
    """ESC followed by a letter is no sequence."""
    keyboard = Keyboard()

    assert keyboard.feed(b"\x1b") == []
    assert keyboard.feed(b"q")[-1] == "q"


LINES = [str(number) for number in range(10)]


def test_moving_stops_at_both_ends() -> None:
    """The window never goes above the first line or below the last."""
    viewport = Viewport()
    tops = []
    for key in ("up", "page-down", "page-down", "page-down", "down", "page-up", "top", "bottom", "up"):
        assert viewport.press(key, len(LINES), 4)
        tops.append(viewport.top)

    assert tops == [0, 3, 6, 6, 6, 3, 0, 6, 5]
    assert viewport.seen(LINES, 4) == ["5", "6", "7", "8"]
    assert viewport.place(10, 4) == "6-9/10"
    assert not viewport.press("x", 10, 4)


def test_a_tree_that_shrinks_takes_the_window_with_it() -> None:
    """A tree that fits shows no position."""
    viewport = Viewport()
    viewport.press("bottom", len(LINES), 4)

    assert viewport.seen(LINES[:5], 4) == ["1", "2", "3", "4"]
    assert viewport.seen(LINES[:2], 4) == ["0", "1", "", ""]
    assert viewport.place(2, 4) == ""
