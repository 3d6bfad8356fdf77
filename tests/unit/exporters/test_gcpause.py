# SPDX-License-Identifier: Apache-2.0
"""The search for cycles, which would hold up what makes many objects."""

import gc
from collections.abc import Iterator

import pytest

from exporters import gcpause


@pytest.fixture
def searches() -> Iterator[list[int]]:
    """Collect the generation of each search, with Python's own thresholds; restore those at hand."""
    found: list[int] = []
    before = gc.get_threshold()

    def note(phase: str, about: dict[str, int]) -> None:
        if phase == "start":
            found.append(about["generation"])

    gc.set_threshold(700, 10, 10)
    gc.callbacks.append(note)
    yield found
    gc.callbacks.remove(note)
    gc.set_threshold(*before)


def test_a_block_without_searches_ends_with_the_block(searches: list[int]) -> None:
    """Nested ones end with the outer one."""
    with gcpause.paused():
        searches.clear()  # one that was due as the fixture ended
        with gcpause.paused():
            kept: list[list[int]] = [[] for _ in range(10_000)]
        kept += [[] for _ in range(10_000)]
        assert searches == []
    kept += [[] for _ in range(10_000)]

    assert searches


def test_a_restart_of_hundreds_of_processes_makes_no_search(searches: list[int]) -> None:
    """It makes some 80,000 objects for a hundred of them."""
    gcpause.make_rare()
    searches.clear()
    kept: list[list[int]] = [[] for _ in range(500_000)]

    assert len(kept) == 500_000
    assert searches == []
