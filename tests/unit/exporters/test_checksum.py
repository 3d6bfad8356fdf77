# SPDX-License-Identifier: Apache-2.0
"""The checksum of bytes that were summed before is that of zlib."""

import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters.image import checksum as checksums
from exporters.image.checksum import Summed


@pytest.fixture(autouse=True, scope="module")
def short_parts_count() -> Iterator[None]:
    """Let the sum of a short part be known ahead, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checksums, "_LONG", 0)
        yield


@given(st.binary(max_size=300), st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_summed_bytes_add_what_zlib_adds(data: bytes, before: list[bytes]) -> None:
    """The first time, and each time after."""
    summed = Summed([data[:7], data[7:]])
    for part in before:
        checksum = zlib.crc32(part)
        assert summed.added(checksum) == zlib.crc32(data, checksum) == zlib.crc32(part + data)


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 65_535, 65_536, 1_000_003, (1 << 22) + 1])
def test_lengths_of_any_size_move_the_sum_before(size: int) -> None:
    """The power of x has as many factors as the length has bits."""
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    summed = Summed([data[:7], data[7:]])
    for checksum in (0, 1, 0xFFFFFFFF, 0x80000000, 0xDEADBEEF):
        assert summed.added(checksum) == zlib.crc32(data, checksum)
