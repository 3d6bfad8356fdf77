# SPDX-License-Identifier: Apache-2.0
"""The manifest of a set: its schema, its bytes, and what is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import FormatError
from agent.fleet import manifest
from agent.fleet.clocks import Offset
from agent.fleet.manifest import FleetSet, HostContents, HostImage, Missing
from tests.support.examples import patient

SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "ckptree-set.schema.json").read_text())
MS = 1_000_000

names = st.from_regex(r"[a-z0-9-]{1,9}(\.[a-z]{1,4}){0,2}", fullmatch=True)
numbers = st.integers(0, 2**62)
images = st.builds(
    HostImage,
    host=names,
    root=st.text(max_size=9),
    image=st.binary(max_size=4).map(manifest.hash_of),
    size=st.integers(1, 2**28),
    tasks=st.integers(0, 2**22),
    before_ns=numbers,
    after_ns=numbers,
    clock=st.builds(Offset, st.integers(-(2**60), 2**60), numbers),
    complete=st.booleans(),
    reasons=st.lists(st.text(max_size=9), max_size=2).map(tuple),
    boot_id=st.text(max_size=9),
    kernel=st.text(max_size=9),
    version=st.text(max_size=9),
    contents=st.none()
    | st.builds(HostContents, st.text(max_size=9), st.binary(max_size=4).map(manifest.hash_of), st.integers(0, 2**62)),
)
sets = st.builds(
    FleetSet,
    id=names,
    at_ns=numbers,
    hosts=st.lists(images, max_size=4, unique_by=lambda each: each.host).map(tuple),
    missing=st.lists(st.builds(Missing, names, st.text(max_size=9)), max_size=3).map(tuple),
    job=st.sampled_from(["", "slurm:7.0"]),
)


def an_image(**changes: Any) -> HostImage:
    """Return a host's part of a set."""
    of = HostImage("a", "1", manifest.hash_of(b"image"), 5, 1, 10 * MS, 12 * MS, Offset(0, 0), complete=True)
    return replace(of, **changes)


@patient
@given(sets)
def test_a_set_comes_back_as_it_was(made: FleetSet) -> None:
    """Its bytes are the same each time: they can be signed."""
    data = manifest.dumps(made)

    assert manifest.loads(data) == made
    assert manifest.dumps(manifest.loads(data)) == data


@patient
@given(sets)
def test_a_manifest_is_what_the_schema_says(made: FleetSet) -> None:
    """The schema allows no other key."""
    document = json.loads(manifest.dumps(made))

    jsonschema.validate(document, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document | {"surprise": 1}, SCHEMA)


def test_the_schema_is_one() -> None:
    """It says of each key what it means."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    described = [*SCHEMA["properties"].values(), *SCHEMA["$defs"]["host"]["properties"].values()]

    assert all("description" in each or "const" in each for each in described)


def test_the_skew_counts_offsets_and_bounds_of_the_clocks() -> None:
    """The second host's clock is five seconds ahead, give or take 3 ms; its image is from 20 to 21 ms of our time."""
    ahead = Offset(5000 * MS, 3 * MS)
    later = an_image(host="b", before_ns=5020 * MS, after_ns=5021 * MS, clock=ahead)

    assert FleetSet("x", 0, (an_image(), later)).skew_ns == (21 + 3 - 10) * MS
    assert FleetSet("x", 0, (an_image(),)).skew_ns == 2 * MS
    assert FleetSet("x", 0, ()).skew_ns == 0


def test_a_set_is_complete_if_no_host_is_missing_and_all_images_are_complete() -> None:
    """One reason suffices."""
    assert FleetSet("x", 0, (an_image(),)).complete
    assert not FleetSet("x", 0, (an_image(),), (Missing("b", "late"),)).complete
    assert not FleetSet("x", 0, (an_image(complete=False),)).complete


@pytest.mark.parametrize(
    ("change", "at"),
    [
        ({"format": "ckptree"}, "set.format"),
        ({"version": 2}, "set.version"),
        ({"hosts": None}, "set.hosts"),
        ({"hosts": [3]}, r"set.hosts\[0\]"),
        ({"id": 7}, "set.id"),
        ({"at_ns": True}, "set.at_ns"),
        ({"at_ns": 10**21}, "set.at_ns: expected an integer of 64 bits"),
        ({"missing": [{}]}, r"set.missing\[0\].host"),
    ],
)
def test_a_fault_is_refused_by_its_place(change: dict[str, Any], at: str) -> None:
    """So is every fault in a host."""
    document = json.loads(manifest.dumps(FleetSet("x", 0, (an_image(),))))

    with pytest.raises(FormatError, match=at):
        manifest.loads(json.dumps(document | change).encode())


@pytest.mark.parametrize(
    ("change", "at"),
    [
        ({"image": "sha256:../../etc"}, "image"),
        ({"bytes": "5"}, "bytes"),
        ({"complete": 1}, "complete"),
        ({"reasons": 1}, "reasons"),
    ],
)
def test_a_fault_in_a_host_is_refused_by_its_place(change: dict[str, Any], at: str) -> None:
    """A hash is part of a name in a store, and so nothing but a hash."""
    document = json.loads(manifest.dumps(FleetSet("x", 0, (an_image(),))))
    document["hosts"][0] |= change

    with pytest.raises(FormatError, match=rf"set.hosts\[0\].{at}"):
        manifest.loads(json.dumps(document).encode())


def test_a_host_that_is_there_twice_is_refused() -> None:
    """Which of its images would be meant?"""
    with pytest.raises(FormatError, match="twice"):
        manifest.loads(manifest.dumps(FleetSet("x", 0, (an_image(), an_image()))))


@pytest.mark.parametrize("data", [b"", b"[", b"\xff", b"[" * 100_000, b"null"])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    """It may be an image, or cut off."""
    with pytest.raises(FormatError, match="set"):
        manifest.loads(data)


@pytest.mark.parametrize(
    ("contents", "at"),
    [
        ([], "contents"),
        ({"store": "nats://dumps", "bytes": 1}, "contents.list"),
        ({"store": "nats://dumps", "list": "sha256:0", "bytes": 1}, "contents.list"),
        ({"store": 7, "list": manifest.hash_of(b""), "bytes": 1}, "contents.store"),
        ({"store": "nats://dumps", "list": manifest.hash_of(b""), "bytes": True}, "contents.bytes"),
    ],
)
def test_a_fault_in_contents_is_refused_by_its_place(contents: object, at: str) -> None:
    """A set without contents has no such key, so that its bytes are those of ever."""
    document = json.loads(manifest.dumps(FleetSet("x", 7, (an_image(),))))
    assert "contents" not in document["hosts"][0]
    document["hosts"][0]["contents"] = contents
    with pytest.raises(FormatError, match=rf"set\.hosts\[0\]\.{re.escape(at)}"):
        manifest.loads(json.dumps(document).encode())
