# SPDX-License-Identifier: Apache-2.0
"""The decoding of keys from bytes, and the visible part of the lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.scroll import Keyboard, Viewport
from tests.support.examples import patient

KEYS = (b"\x1b[A", b"\x1bOB", b"\x1b[5~", b"\x1b[6~", b"\x1b[H", b"\x1b[F", b"q", b" ", b"\x1bOD", b"\r", b"\x7f")
NAMES = ["up", "down", "page-up", "page-down", "top", "bottom", "q", " ", "left", "enter", "backspace"]


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


def test_the_cursor_moves_within_the_window_and_then_with_it() -> None:
    """Neither goes above the first line or below the last."""
    viewport = Viewport()
    places = []
    for key in ("up", "down", "down", "down", "down", "page-down", "page-down", "up", "page-up", "top", "bottom"):
        assert viewport.press(key, 10, 4)
        places.append((viewport.top, viewport.cursor))

    assert places == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 4), (4, 7), (6, 9), (6, 8), (3, 5), (0, 0), (6, 9)]
    assert viewport.seen(10, 4) == range(6, 10)
    assert viewport.place(10, 4) == "7-10/10"
    assert not viewport.press("x", 10, 4)


def test_a_tree_that_shrinks_takes_the_window_with_it() -> None:
    """A tree that fits shows no position."""
    viewport = Viewport()
    viewport.press("bottom", 10, 4)

    assert viewport.seen(5, 4) == range(1, 5)
    assert viewport.seen(2, 4) == range(2)
    assert viewport.cursor == 1
    assert viewport.place(2, 4) == ""
    assert viewport.seen(0, 4) == range(0)
    assert viewport.cursor == 0
