# SPDX-License-Identifier: Apache-2.0
"""What must be true of the image of any tree: it comes back byte for byte by every way, and no error is found in it."""

from typing import get_args

from agent.model import Dialect, Snapshot
from exporters import registry
from exporters.check import check


def assert_comes_back(snapshot: Snapshot, *, sound: bool = True) -> None:
    """Raise AssertionError unless image -> snapshot -> each lossless format -> snapshot -> image gives the same bytes.

    Args:
        snapshot: of any tree.
        sound: whether a kernel was in that state, so that nothing may be said against it.
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
