# SPDX-License-Identifier: Apache-2.0
"""The msgpack document: the keys of JSON, bytes as bytes, and the same bytes by every conversion."""

import json
from itertools import permutations
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import FormatError
from agent.model import Snapshot
from exporters import registry
from exporters.content.fields import escape
from exporters.documents import jsonfmt, msgpackfmt
from tests.support.builders import a_family, a_snapshot, a_task, snapshots
from tests.support.examples import patient
from tests.support.roundtrip import assert_a_way_changes_nothing


def parsed(snapshot: Snapshot) -> dict[str, Any]:
    """Return the document as any msgpack reader sees it."""
    document: dict[str, Any] = msgpack.unpackb(msgpackfmt.dumps(snapshot))
    return document


def as_text(value: Any) -> Any:
    """Return the same value with text for bytes."""
    if isinstance(value, bytes):
        return escape(value)
    if isinstance(value, dict):
        return {key: as_text(each) for key, each in value.items()}
    return [as_text(each) for each in value] if isinstance(value, list) else value


def maps_of(value: Any) -> list[dict[str, Any]]:
    """Return all maps in a value, itself first."""
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [*([value] if isinstance(value, dict) else []), *(found for each in below for found in maps_of(each))]


def refused(data: bytes) -> FormatError:
    """Return the error with which these bytes are refused."""
    with pytest.raises(FormatError) as caught:
        msgpackfmt.loads(data)
    return caught.value


@patient
@given(snapshots())
def test_it_is_the_document_that_json_is(snapshot: Snapshot) -> None:
    """The keys are equal; bytes stand in place of JSON's text."""
    assert as_text(parsed(snapshot)) == json.loads(jsonfmt.dumps(snapshot))


@patient
@given(snapshots())
def test_the_keys_of_every_map_are_sorted(snapshot: Snapshot) -> None:
    """This holds at every depth, so that equal snapshots give equal files."""
    for found in maps_of(parsed(snapshot)):
        assert list(found) == sorted(found)


@patient
@given(snapshots(), st.sampled_from(list(permutations(registry.LOSSLESS))))
def test_every_way_through_the_lossless_formats_gives_the_same_bytes(snapshot: Snapshot, way: tuple[str, ...]) -> None:
    """The way goes from any of them through all others and back."""
    assert_a_way_changes_nothing(snapshot, way)


def test_all_three_lossless_formats_are_on_the_way() -> None:
    """The test above would not notice a format that is missing."""
    assert set(registry.LOSSLESS) == {"ckpt", "msgpack", "json"}


def test_what_the_kernel_calls_a_string_need_not_be_utf_8() -> None:
    """It is bytes, and stays the same bytes in JSON and back."""
    raw = bytes(range(1, 16))[:14] + b"\xff"
    task = a_task(1, 0, comm=raw, argv=(b"\xfe\\x41", b""), cwd=b"/\xc3", env=(b"A=\\\x80",))
    snapshot = a_snapshot(tasks=[task])
    through_json = jsonfmt.loads(jsonfmt.dumps(msgpackfmt.loads(msgpackfmt.dumps(snapshot))))

    assert parsed(snapshot)["tasks"][0]["comm"] == raw
    assert through_json.tasks[0].comm == raw
    assert (through_json.tasks[0].argv, through_json.tasks[0].env) == ((b"\xfe\\x41", b""), (b"A=\\\x80",))


def test_a_document_of_someone_else_may_have_any_order_and_text_for_bytes() -> None:
    """The document is JSON's, converted to msgpack by another program."""
    converted = msgpack.packb(json.loads(jsonfmt.dumps(a_family())))

    assert registry.recognize(converted).name == "msgpack"
    assert registry.load(converted) == a_family()


def test_the_first_bytes_of_a_file_are_these() -> None:
    """The file is a map of more than 15 keys, with their number in 16 bits; the first key is a string of 9 bytes."""
    data = msgpackfmt.dumps(a_family())

    assert data[:13] == b"\xde" + len(parsed(a_family())).to_bytes(2, "big") + b"\xa9ancestors"


@pytest.mark.parametrize(
    "head", [b"\x81\xa6format", b"\xde\x00\x01\xd9\x06format", b"\xdf\x00\x00\x00\x01\xda\x00\x06format"]
)
def test_a_map_is_known_in_each_of_its_three_spellings(head: bytes) -> None:
    """The length of the map is short, in 16 or in 32 bits, and so is the length of the string behind it."""
    data = head + msgpack.packb("something else")

    assert registry.recognize(data).name == "msgpack"
    assert refused(data).path == "format"


@pytest.mark.parametrize("data", [b"\x80", b"\x81", b"\x81\x01\x01", b"\xde\x00", b"\xde\x00\x01", b"\x90", b"\xc0"])
def test_another_value_is_no_document(data: bytes) -> None:
    """Examples are a list, a number, a map that begins with a number, and an empty map."""
    with pytest.raises(FormatError, match="no format known here"):
        registry.load(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut short"),
        (b"\x90", "must be a map"),
        (msgpack.packb({"format": "ckptree"}) + b"\0", "no msgpack"),
        (b"\x81\xa1\xff\xc0", "no msgpack"),
        (b"\x91" * 5000 + b"\xc0", "no msgpack"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "cut short"),
        (b"\x81\xa1a\xc6\xff\xff\xff\xff", "cut short"),
    ],
    ids=range(7),
)
def test_what_is_no_document_is_refused(data: bytes, reason: str) -> None:
    """Examples are trailing bytes, bad UTF-8, depth, and lists and blobs that claim four thousand million items."""
    assert reason in refused(data).message


def test_a_wrong_field_is_refused_by_name() -> None:
    """The path is that of JSON."""
    document = parsed(a_family())
    document["tasks"][1]["uid"] = b"root"
    error = refused(msgpack.packb(document))

    assert (error.path, error.offset) == ("tasks[1].uid", -1)


def test_every_truncated_file_is_refused_as_cut_short_with_the_place() -> None:
    """This holds at every length."""
    data = msgpackfmt.dumps(a_family())
    for length in range(len(data)):
        error = refused(data[:length])

        assert (error.message, error.offset) == (
            "is cut short: the bytes end here, before their msgpack does",
            length,
        )
