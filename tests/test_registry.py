# SPDX-License-Identifier: Apache-2.0
"""Formats by name, files by content."""

import pytest

from agent.errors import FormatError, UsageError
from exporters import checkpoint, jsonfmt, registry
from tests.builders import a_family


def test_a_format_is_written_by_its_name() -> None:
    """The names are those of the command line."""
    assert registry.dump(a_family(), "ckpt") == checkpoint.dumps(a_family())
    assert registry.dump(a_family(), "json") == jsonfmt.dumps(a_family())


def test_both_formats_are_told_the_dialect() -> None:
    """An image has it in its bytes, a document in its words."""
    assert registry.dump(a_family(), "ckpt", "v23") == checkpoint.dumps(a_family(), "v23")
    assert registry.load(registry.dump(a_family(), "json", "v23")).dialect == "v23"
    assert registry.load(registry.dump(a_family(), "ckpt", "v23")).dialect == "v23"


@pytest.mark.parametrize("name", list(registry.FORMATS))
def test_a_file_is_known_by_its_content(name: str) -> None:
    """No suffix is asked for."""
    data = registry.dump(a_family(), name)

    assert registry.recognize(data).name == name
    assert registry.load(data) == a_family()


@pytest.mark.parametrize("blanks", [b"", b"\n\t ", b"\xef\xbb\xbf", b"\xef\xbb\xbf \r\n"])
def test_json_may_begin_with_blanks_and_a_byte_order_mark(blanks: bytes) -> None:
    """Editors put them there."""
    assert registry.load(blanks + jsonfmt.dumps(a_family())) == a_family()


def test_damage_behind_the_magic_is_the_readers_to_tell() -> None:
    """It is an image then, if a bad one."""
    image = checkpoint.dumps(a_family())

    with pytest.raises(FormatError, match=r"TAIL\.magic"):
        registry.load(image[:-8] + bytes(8))
    with pytest.raises(FormatError, match="ends where BUFFER should begin"):
        registry.load(image[:72])


def test_an_image_of_a_big_endian_machine_is_told_apart() -> None:
    """It is no unknown file; it cannot be read, and the reason is known."""
    with pytest.raises(FormatError, match="big-endian"):
        registry.load(bytes.fromhex("00000001 00000048 00feed0cc0a2d200") + bytes(56))


@pytest.mark.parametrize("data", [b"", b"\x01", b"<svg>", b"[1]", b"digraph {}", bytes(100), b"\x01\0\0\0\x48\0\0\0"])
def test_an_unknown_file_is_refused_with_what_was_expected(data: bytes) -> None:
    """All formats are named, with what they begin with."""
    with pytest.raises(FormatError) as caught:
        registry.load(data)

    assert (caught.value.path, caught.value.offset) == ("file", 0)
    assert "0x00feed0cc0a2d200" in caught.value.message
    assert "json begins with '{'" in caught.value.message


def test_an_unknown_name_is_a_usage_error_that_lists_the_known_ones() -> None:
    """Whoever mistypes sees what there is."""
    with pytest.raises(UsageError, match="'cpkt'; there are ckpt, json"):
        registry.dump(a_family(), "cpkt")
