# SPDX-License-Identifier: Apache-2.0
"""A check of any bytes never raises, never hangs, costs no more than their size, and agrees with the reader."""

import random
import struct
import time
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import FormatError
from agent.model import Snapshot
from exporters import registry
from exporters.checking.check import check
from exporters.documents import jsonfmt
from exporters.image import checkpoint
from exporters.image.framing import LISTED
from tests.support.builders import a_crowd, a_family, snapshots
from tests.support.checked import BEYOND_READERS, judged
from tests.support.examples import patient
from tests.support.images import (
    GOLDEN,
    TAIL_AT,
    a_record,
    an_extension,
    an_image,
    patched,
    repaired,
    some_facts,
    with_records,
)

WHOLE = checkpoint.dumps(a_family())


@pytest.mark.slow
@pytest.mark.parametrize("image", [GOLDEN, WHOLE], ids=["bare", "whole"])
def test_every_truncated_image_is_an_error(image: bytes) -> None:
    """This holds at every length. From the first record's head on the file counts as an image."""
    for length in range(len(image)):
        assert judged(image[:length])
        if length >= 8:
            assert "truncated" in {found.name for found in check(image[:length])}


@patient
@given(snapshots(), st.sampled_from(["seed", "v23"]))
def test_what_the_reader_takes_has_no_errors_but_those_it_does_without(snapshot: Snapshot, dialect: str) -> None:
    """The snapshot is sound, but need not be one that a kernel would make."""
    judged(checkpoint.dumps(snapshot, "v23" if dialect == "v23" else "seed"))


MUTATION = st.tuples(st.integers(0, 10**6), st.sampled_from([0, 1, 0x7F, 0x80, 0xC0, 0xDD, 0xFF]) | st.integers(0, 255))


@patient
@given(st.sampled_from([GOLDEN, WHOLE]), st.lists(MUTATION, min_size=1, max_size=6), st.integers(0, 10**6))
def test_any_damage_is_judged_as_the_reader_judges_it(image: bytes, mutations: list[tuple[int, int]], cut: int) -> None:
    """Some bytes are changed, then some are lost. The checksum is corrected, so that the data behind it is reached."""
    damaged = bytearray(image)
    for at, value in mutations:
        damaged[at % len(image)] = value
    judged(bytes(damaged))
    judged(repaired(bytes(damaged)))
    judged(bytes(damaged[: cut % len(image)]))


@patient
@given(st.binary(max_size=300))
def test_any_bytes_are_errors(data: bytes) -> None:
    """The bytes stand alone, in place of the head, of the tree, or of its rows."""
    assert judged(data)
    assert judged(GOLDEN[:72] + data)
    assert judged(GOLDEN[:347] + data)
    judged(GOLDEN[:379] + data.ljust(44, b"\0")[:44] + GOLDEN[423:])
    judged(GOLDEN[:447] + data.ljust(96, b"\0")[:96] + GOLDEN[TAIL_AT:])
    judged(with_records(an_extension(data)))


KEYS = st.sampled_from(["namespaces", "id", "level", "parent", "inum", "birth", "creator", "tag"])
VALUES = st.recursive(
    st.none() | st.integers(-5, 2**32) | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
PARTS = st.sampled_from(["pids", "tasks", "namespaces", "ancestors", "header", "completeness", "time_ns"])


@given(VALUES, PARTS)
@patient
def test_any_msgpack_in_our_record_is_judged(value: object, key: str) -> None:
    """The msgpack stands in place of each part of EXTENSION."""
    judged(with_records(an_extension(some_facts(**{key: value}))))


@patient
@given(st.lists(MUTATION, min_size=1, max_size=4))
def test_any_damage_to_a_document_is_judged_as_its_reader_judges_it(mutations: list[tuple[int, int]]) -> None:
    """Any bytes of the document are damaged."""
    damaged = bytearray(jsonfmt.dumps(a_family()))
    for at, value in mutations:
        damaged[at % len(damaged)] = value
    errors = [found.name for found in check(bytes(damaged)) if found.severity == "error"]
    try:
        registry.load(bytes(damaged))
    except FormatError:
        assert errors
    else:
        assert set(errors) <= BEYOND_READERS


@pytest.mark.parametrize("damage", [b"", b"{", b"{}", b"[]", b"\xff{", jsonfmt.dumps(a_family())[:-9]])
def test_a_damaged_document_is_an_error_and_no_exception(damage: bytes) -> None:
    """The finding has the reader's own words."""
    (found,) = check(damage)

    assert found.name in ("document", "unknown-format")


HUGE = {
    "pids claimed": patched(patched(GOLDEN, 355, "<I", 2**32 - 1), 375, "<I", 2**32 - 1),
    "nested numbers claimed": patched(GOLDEN, 359, "<I", 2**32 - 1),
    "depth claimed": patched(GOLDEN, 379, "<I", 2**31 - 2),
    "tasks claimed": patched(patched(GOLDEN, 431, "<I", 2**32 - 1), 443, "<I", 2**32 - 1),
    "a record claimed": patched(GOLDEN, 4, "<I", 2**32 - 1),
    "strings claimed": patched(GOLDEN, 42, "<H", 65535),
    "a short file": GOLDEN[:40],
    "rows claimed": with_records(an_extension(b"\x81\xa5tasks\xdd\xff\xff\xff\xff")),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_a_file_claims_is_not_paid_for(name: str) -> None:
    """A check takes kilobytes, whatever the counts say."""
    check(HUGE[name])  # fill the caches first: their memory is not the file's
    tracemalloc.start()
    try:
        assert judged(HUGE[name])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 1 << 20


COUNT = 30_000


def in_a_row() -> bytes:
    """Return tasks in a cycle: each one's parent is the next one, and the last one's is the second."""
    above = [*range(3, COUNT + 1), 2]
    tasks = [(1, 0, 1, 1, 1, 0), *((n, up, n, 1, 1, 0) for n, up in enumerate(above, 2))]
    return an_image([(n,) for n in range(1, COUNT + 1)], tasks)


def a_tower() -> bytes:
    """Return namespaces nested one below the other."""
    rows = [{"id": n, "inum": n, "level": n, "parent": n - 1 if n else None} for n in range(COUNT)]
    return with_records(an_extension(some_facts(namespaces=rows)))


SLOW: dict[str, Callable[[], bytes]] = {
    "a circle": in_a_row,
    "a tower": a_tower,
    "records in the way": lambda: GOLDEN[:347] + a_record(77) * COUNT + GOLDEN[347:],
    "records and no tree": lambda: GOLDEN[:347] + a_record(77) * COUNT,
    "foreign records": lambda: with_records(*[a_record(10_000 + n) for n in range(COUNT)]),
    "all the same": lambda: an_image([(7,)] * COUNT, [(1, 0, 1, 1, 1, 0)] * COUNT),
    "nothing fits": lambda: an_image([(n,) for n in range(COUNT)], [(9, 9, 9, 9, 9, 9)] * COUNT, offset=8),
    "bad rows": lambda: (
        an_image([(n + 1,) for n in range(COUNT)], [(n, min(n, 1), n, 1, 1, 0) for n in range(1, COUNT + 1)])[:-16]
        + an_extension({"pids": [7] * COUNT, "tasks": [{"uid": -1}] * COUNT, "time_ns": 1})
        + GOLDEN[TAIL_AT:]
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_no_file_takes_longer_than_its_size_deserves(name: str) -> None:
    """The limit is seconds; quadratic work would take minutes."""
    data = SLOW[name]()
    begun = time.monotonic()
    findings = check(data)

    assert time.monotonic() - begun < 10
    assert findings


@pytest.mark.slow
def test_twenty_thousand_tasks_are_checked_as_fast_as_they_are_read_twice() -> None:
    """A check takes less than two readings, on a busy machine too."""
    data = checkpoint.dumps(a_crowd(20_000))
    checkpoint.read(data)
    begun = time.process_time()
    checkpoint.read(data)
    reading = time.process_time() - begun
    begun = time.process_time()
    findings = check(data)

    assert findings == []
    assert time.process_time() - begun < 2 * reading + 0.1


def test_of_endless_findings_thousands_are_listed_and_the_others_counted() -> None:
    """A large file of nothing but faults costs no more than another large file."""
    count = LISTED + 5
    findings = check(
        an_image([(n + 1,) for n in range(count + 1)], [(1, 0, 1, 1, 1, 0)] + [(0, 1, 1, 1, 1, 0)] * count)
    )
    native = [found for found in findings if found.name == "native-tag"]

    assert len(native) == LISTED + 1
    assert native[-1].message == "5 more of native-tag from here on, not listed"
    assert (native[-1].offset or 0) - (native[-2].offset or 0) == 24


@pytest.mark.slow
def test_random_records_in_any_order_are_judged() -> None:
    """The records are those of the golden image, shuffled, repeated and left out."""
    chance = random.Random(101)
    records = []
    at = 0
    while at < len(GOLDEN):
        length = struct.unpack_from("<I", GOLDEN, at + 4)[0]
        records.append(GOLDEN[at : at + length])
        at += length
    for _ in range(2000):
        mixed = records.copy()
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(mixed) + 1)
            mixed[place : place + chance.randint(0, 1)] = chance.sample(records, chance.randint(0, 1))
        judged(b"".join(mixed))
