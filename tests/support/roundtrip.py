# SPDX-License-Identifier: Apache-2.0
"""The round trip of an image: it comes back byte for byte through every format, and a check finds no error in it."""

from typing import get_args

from agent.model import Dialect, Snapshot
from exporters import registry
from exporters.checking.check import check


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
