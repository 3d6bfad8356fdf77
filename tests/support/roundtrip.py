# SPDX-License-Identifier: Apache-2.0
"""The round trip of an image: it comes back byte for byte through every format, and a check finds no error in it."""

from collections.abc import Sequence
from typing import get_args

from agent.model import Dialect, Snapshot
from exporters import registry
from exporters.checking.check import check


def assert_a_way_changes_nothing(snapshot: Snapshot, way: Sequence[str]) -> None:
    """Raise AssertionError unless a snapshot comes back with the same bytes from a way through formats.

    Args:
        snapshot: of any tree.
        way: names of lossless formats; after the last one comes the first again.
    """
    first = registry.image(snapshot, way[0])
    data = first
    for name in (*way[1:], way[0]):
        data = registry.image(registry.load(data), name)

    assert data == first
    assert registry.load(data) == snapshot


def assert_comes_back(snapshot: Snapshot, *, sound: bool = True) -> None:
    """Raise AssertionError unless image -> snapshot -> each lossless format -> snapshot -> image gives the same bytes.

    Args:
        snapshot: of any tree.
        sound: True if a kernel was in that state, so that no rule may be broken.
    """
    for dialect in get_args(Dialect):
        image = registry.image(snapshot, "ckpt", dialect)
        read = registry.load(image)
        for name in registry.LOSSLESS:
            data = registry.image(read, name)
            again = registry.load(data)

            assert again == read, name
            assert registry.image(again, name) == data, name
            assert registry.image(again, "ckpt") == image, name
        errors = [found.text for found in check(image) if found.severity == "error"]

        assert not sound or errors == []
