# SPDX-License-Identifier: Apache-2.0
"""Unknown keys: they come back at their place, in every lossless format and by every conversion."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import FormatError
from agent.model import At, Snapshot
from exporters import registry
from exporters.checking.check import check
from exporters.comparing.comparison import difference
from exporters.content.unknown import DOCUMENT, NOTHING, _MapShape, collect
from exporters.documents import jsonfmt, msgpackfmt
from exporters.documents.document import to_document
from exporters.image import checkpoint
from tests.support.builders import a_family, a_snapshot, snapshots
from tests.support.examples import patient
from tests.support.images import TAIL_AT, an_extension, records_of, some_facts, with_records
from tests.support.roundtrip import assert_a_way_changes_nothing

Way = tuple[str | int, ...]

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["$bytes", "$$bytes", "b", "a"]), inner)
    ),
    max_leaves=8,
)
NAMES = st.sampled_from(["tomorrow", "aaa", "$bytes", "$$bytes", "zzz", "", "\x1b[31m", "é", "\\"]) | st.text(
    max_size=4
)


def maps_of(value: Any, shape: _MapShape = DOCUMENT, way: Way = ()) -> Iterator[Way]:
    """Yield the ways to all known maps of a document."""
    yield way
    for key, inner in shape.maps.items():
        if isinstance(value.get(key), dict):
            yield from maps_of(value[key], inner, (*way, key))
    for key, inner in shape.lists.items():
        for index, row in enumerate(value.get(key) or ()):
            yield from maps_of(row, inner, (*way, key, index))


def at(document: Any, way: Way) -> Any:
    """Return the map that a way leads to."""
    for step in way:
        document = document[step]
    return document


@st.composite
def later_documents(draw: st.DrawFn) -> dict[str, Any]:
    """Any document with keys in any of its maps that a later version could have."""
    document = to_document(draw(snapshots()))
    places = list(maps_of(document))
    for way, name, value in draw(st.lists(st.tuples(st.sampled_from(places), NAMES, PLAIN), min_size=1, max_size=6)):
        at(document, way).setdefault(name, value)
    return document


@patient
@given(later_documents(), st.sampled_from(list(permutations(registry.LOSSLESS))))
def test_every_way_through_the_lossless_formats_gives_the_same_bytes(
    document: dict[str, Any], way: tuple[str, ...]
) -> None:
    """The way goes from any of them through all others and back, with any keys at any place."""
    assert_a_way_changes_nothing(registry.load(msgpack.packb(document)), way)


@patient
@given(later_documents())
def test_what_is_kept_is_what_was_there(document: dict[str, Any]) -> None:
    """Every key and value of the old document is in the new one."""
    packed = msgpack.packb(document)

    assert msgpack.unpackb(msgpackfmt.dumps(registry.load(packed))) == msgpack.unpackb(packed)


@patient
@given(snapshots())
def test_no_document_of_ours_has_a_key_that_is_not_known(snapshot: Snapshot) -> None:
    """The list of known keys is that of the writers."""
    for data in (jsonfmt.dumps(snapshot), msgpackfmt.dumps(snapshot), checkpoint.dumps(snapshot)):
        assert registry.load(data).unknown is NOTHING


def test_every_key_that_is_known_is_written() -> None:
    """A key that the writers have given up must leave the list."""
    document: Any = json.loads(jsonfmt.dumps(replace(a_family(), at=At(1, 2, 3))))
    for key in ("header", "completeness"):
        assert DOCUMENT.maps[key].keys >= set(document[key])
    for key, shape in DOCUMENT.lists.items():
        assert shape.keys == set().union(*document[key])
    assert DOCUMENT.keys == set(document)


def test_a_key_that_only_one_format_has_is_known_in_all() -> None:
    """A key of the base in EXTENSION is known, and must not overrule the base."""
    rows: list[dict[str, object]] = [{"pid": 7, "ppid": 7, "tgid": 7}, {}, {}, {}]
    read = checkpoint.loads(with_records(an_extension(some_facts(tasks=rows, mode="subtree", format="other"))))

    assert read.unknown == {}
    assert read.tasks[0].pid == 1


def test_the_record_of_an_image_keeps_its_keys_in_order() -> None:
    """So two writers of one tree write the same bytes."""
    document = json.loads(jsonfmt.dumps(a_family()))
    document["aardvark"] = document["tasks"][1]["birth"]["fur"] = {"z": 1, "a": {"y": 1, "b": 2}}
    image = checkpoint.dumps(jsonfmt.loads(json.dumps(document).encode()))
    known = msgpack.unpackb(dict(records_of(image))[8101][8:])

    assert list(known) == sorted(known)
    assert list(known["aardvark"]) == ["a", "z"]
    assert list(known["tasks"][1]["birth"]) == sorted(known["tasks"][1]["birth"])


def test_what_a_rebuild_was_said_to_lack_is_kept() -> None:
    """A conversion keeps the writer's list, and looks for nothing itself."""
    document = json.loads(jsonfmt.dumps(a_family()))
    document["not_rebuildable"] = [{"rule": "x", "tag": 1, "text": "y"}]
    read = jsonfmt.loads(json.dumps(document).encode())

    assert json.loads(jsonfmt.dumps(checkpoint.loads(checkpoint.dumps(read)))) == document


def test_a_snapshot_that_says_more_is_written_anew_though_its_rows_were_packed_before() -> None:
    """The rows that were packed last have no such keys, or others."""
    plain = a_family()
    more = replace(plain, unknown={("tasks", 1): {"tomorrow": 1}})
    writer = checkpoint.Writer()

    for snapshot in (plain, more, plain):
        assert checkpoint.loads(writer.dumps(snapshot)) == snapshot


def test_a_comparison_does_not_see_them() -> None:
    """They are no part of the tree."""
    more = replace(a_family(), unknown={("tasks", 1): {"tomorrow": 1}})

    assert difference(a_family(), more).equal
    assert check(checkpoint.dumps(more)) == []


def refused(data: bytes) -> FormatError:
    """Return the error with which these bytes are refused; the check must find the same."""
    with pytest.raises(FormatError) as caught:
        registry.load(data)
    assert [found.severity for found in check(data)] == ["error"]
    return caught.value


def deep(levels: int) -> object:
    """Return a list in a list, and so on."""
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


TOO_MUCH = [
    ({"a": float("nan")}, "tomorrow.a", "not finite"),
    ([1, float("-inf")], "tomorrow[1]", "not finite"),
    (deep(65), "tomorrow" + "[0]" * 64, "nested deeper than 64"),
    (msgpack.Timestamp(1), "tomorrow", "is a Timestamp"),
    ([msgpack.ExtType(5, b"")], "tomorrow[0]", "is a ExtType"),
    ({b"key": 1}, "tomorrow", "a key that is no text"),
    ({"\x1b": {b"": 1}}, r"tomorrow.'\x1b'", "a key that is no text"),
]


@pytest.mark.parametrize(("value", "path", "reason"), TOO_MUCH, ids=range(len(TOO_MUCH)))
def test_what_no_other_format_carries_is_refused_by_name(value: object, path: str, reason: str) -> None:
    """This holds for an image and a document, and the check finds it."""
    in_image = refused(with_records(an_extension(some_facts(tomorrow=value))))
    in_document = refused(msgpack.packb(to_document(a_family()) | {"tomorrow": value}))

    assert (in_image.path, in_image.offset) == (f"EXTENSION.{path}", TAIL_AT + 16)
    assert in_document.path == path
    assert reason in in_image.message
    assert reason in in_document.message


JSON_TOO_MUCH = [
    ("NaN", "tomorrow", "not finite"),
    ("[1e999]", "tomorrow[0]", "not finite"),
    (str(2**64), "tomorrow", "beyond 64 bits"),
    (str(-(2**63) - 1), "tomorrow", "beyond 64 bits"),
    (r'"\ud800"', "tomorrow", "surrogate"),
    (r'{"\ud800": 1}', "tomorrow", "a key that is no text"),
    ("[" * 65 + "]" * 65, "tomorrow" + "[0]" * 64, "nested deeper"),
    ('{"$bytes": 7}', "document", "must have their text"),
    (r'{"$bytes": "a\\b"}', "document", "backslash"),
]


@pytest.mark.parametrize(("value", "path", "reason"), JSON_TOO_MUCH)
def test_what_only_json_can_spell_is_refused_by_name(value: str, path: str, reason: str) -> None:
    """Examples are numbers beyond the other formats, strings without UTF-8, and bad bytes."""
    error = refused(jsonfmt.dumps(a_snapshot())[:-3] + f', "tomorrow": {value}}}'.encode())

    assert (error.path, error.offset) == (path, -1)
    assert reason in error.message


@pytest.mark.parametrize("value", [2**64 - 1, -(2**63), deep(64), -0.0, 5e-324, 1.7976931348623157e308])
def test_the_last_that_all_formats_carry_is_kept(value: object) -> None:
    """The test has the last allowed value of each limit."""
    read = registry.load(msgpack.packb(to_document(a_snapshot()) | {"tomorrow": value}))
    for name in registry.LOSSLESS:
        assert repr(registry.load(registry.image(read, name)).unknown) == repr(read.unknown)


@pytest.mark.slow
def test_a_place_is_told_in_few_words_and_at_no_cost() -> None:
    """Keys have a million letters and lead to a million values; the last value cannot be kept."""
    value: Any = [*range(300_000), 2**64]
    for _ in range(20):
        value = {"a" * 100_000: value}
    text = jsonfmt.dumps(a_snapshot())[:-3] + f', "tomorrow": {json.dumps(value)}}}'.encode()
    begun = time.monotonic()
    error = refused(text)

    assert time.monotonic() - begun < 10
    assert error.path == "tomorrow" + ".'aaaaaaaaaaaa...aaaaaaaaaaaaa'" * 20 + "[300000]"


def test_a_key_that_is_no_text_is_refused_in_our_own_maps_too() -> None:
    """JSON has no such key at any place."""
    rows: list[dict[object, object]] = [{}, {b"comm": 1}, {}, {}]

    assert refused(with_records(an_extension(some_facts(tasks=rows)))).path == "EXTENSION.tasks[1]"
    assert refused(with_records(an_extension(some_facts() | {b"": 1}))).path == "EXTENSION.document"


SPELLINGS = [
    (b"", {"$bytes": ""}),
    (b"a\\\xff", {"$bytes": r"a\\\xff"}),
    ({"$bytes": "a"}, {"$$bytes": "a"}),
    ({"$$bytes": b"a"}, {"$$$bytes": {"$bytes": "a"}}),
    ({"$bytes": 1, "b": 2}, {"$$bytes": 1, "b": 2}),
    ({"$byte": 1}, {"$byte": 1}),
    (r"\xff", r"\xff"),
]


@pytest.mark.parametrize(("value", "spelling"), SPELLINGS)
def test_bytes_have_one_spelling_in_json_and_no_text_is_taken_for_them(value: object, spelling: object) -> None:
    """A key that looks like it has one dollar more."""
    read = registry.load(msgpack.packb(to_document(a_snapshot()) | {"tomorrow": value}))
    text = jsonfmt.dumps(read)

    assert json.loads(text)["tomorrow"] == spelling
    assert jsonfmt.loads(text) == read
    assert jsonfmt.loads(json.dumps(json.loads(text)).replace("$", "\\u0024").encode()) == read


def test_a_way_that_leads_to_no_map_is_a_mistake_of_whoever_made_the_snapshot() -> None:
    """No reader makes such a snapshot."""
    with pytest.raises(TypeError, match="leads to no map"):
        jsonfmt.dumps(replace(a_family(), unknown={("tasks",): {"tomorrow": 1}}))


def test_looking_for_them_finds_none_in_a_map_that_is_none() -> None:
    """The reader of that value refuses it."""
    assert collect({"tasks": 7, "pids": [7, None], "header": [], "ancestors": [{"events": 1}]}) == {}
