# SPDX-License-Identifier: Apache-2.0
"""Unsound image files: each is refused by name and place, in limited time and memory."""

import random
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import FormatError
from agent.model import CKPT_PID_ROOT
from exporters.image import checkpoint
from tests.support.builders import a_family
from tests.support.examples import patient
from tests.support.images import (
    GOLDEN,
    GOLDEN_SNAPSHOT,
    TAIL_AT,
    a_record,
    an_extension,
    an_image,
    patched,
    repaired,
    some_facts,
    with_records,
)


def refused(data: bytes) -> FormatError:
    """Return the error with which these bytes are refused."""
    with pytest.raises(FormatError) as caught:
        checkpoint.loads(data)
    return caught.value


# The change, and the refusal: the field, its offset, and a word of the message.
MUTATIONS = [
    # the frame
    (0, "<I", 2, "HEADER", 0, "not ARCH"),
    (4, "<I", 73, "HEADER.len", 4, "must be 72"),
    (4, "<I", 7, "HEADER.len", 4, "takes 8"),
    (8, "<Q", 0, "HEADER.magic", 8, "no checkpoint image"),
    (8, ">Q", 0x00FEED0CC0A2D200, "HEADER.magic", 8, "big-endian"),
    (42, "<H", 64, "BUFFER.len", 76, "must be 72"),
    (44, "<H", 1025, "HEADER.uts_len", 44, "1024 at most"),
    (56, "<Q", 2**63, "HEADER.time", 56, "no time"),
    (149, "<I", 2**32 - 1, "BUFFER.len", 149, "must be 73"),
    (295, "<I", 24, "ARCH.len", 295, "must be 16"),
    (307, "<I", 9999, "ERROR", 307, "failed when it was written"),
    (311, "<I", 9, "CONTAINER.len", 311, "must be 8"),
    (338, "<I", 201, "LSM_INFO.len", 338, "200 at most"),
    (338, "<I", 14, "PIDS", 348, "not a record of type"),
    (347, "<I", 102, "PIDS", 347, "not TREE"),
    (351, "<I", 16, "PIDS.len", 351, "older than pids objects"),
    (351, "<I", 20, "PIDS.len", 351, "must be 24"),
    (543, "<I", 8, "file", 559, "ends where TAIL"),
    (547, "<I", 24, "TAIL.len", 547, "must be 16"),
    (547, "<I", 4, "TAIL.len", 547, "takes 8"),
    (551, "<Q", 1, "TAIL.magic", 551, "0x002d2a0cc0deef00"),
    # the pids
    (355, "<I", 0, "PIDS.nr_pids", 355, "is 0"),
    (355, "<I", 4, "PIDS.BUFFER.len", 375, "take 36 bytes, not 44"),
    (355, "<I", 2**32 - 1, "PIDS.BUFFER.len", 375, "not 44"),
    (359, "<I", 0, "PIDS.BUFFER.len", 375, "take 40 bytes, not 44"),
    (359, "<I", 2**32 - 1, "PIDS.BUFFER.len", 375, "not 44"),
    (363, "<I", 2, "PIDS.offset", 363, "must be 0 (seed) or 1 (v23)"),
    (363, "<I", 2**32 - 1, "PIDS.offset", 363, "must be 0"),
    (379, "<i", -1, "PIDS[0].depth", 379, "nest 32 deep"),
    (379, "<I", 2**31 - 1, "PIDS[0].depth", 379, "past the end"),
    (415, "<I", 1, "PIDS[4].depth", 415, "past the end"),
    (383, "<i", 0, "PIDS[0].numbers", 379, "no pid number"),
    (391, "<i", -5, "PIDS[1].numbers", 387, "no pid number"),
    (391, "<i", 4194304, "PIDS[1].numbers", 387, "1 to 4194303"),
    (391, "<i", 9, "PIDS[2].numbers", 395, "already that of pid object 1"),
    (407, "<i", 1, "PIDS[3].numbers", 403, "lives in its own"),
    # the tasks
    (431, "<I", 0, "TREE.nr_tasks", 431, "is 0"),
    (431, "<I", 3, "TREE.BUFFER.len", 443, "take 72 bytes, not 96"),
    (431, "<I", 2**32 - 1, "TREE.BUFFER.len", 443, "not 96"),
    (447, "<i", 0, "TREE[0].vpid", 447, "must be positive"),
    (447, "<i", -4097, "TREE[0].vpid", 447, "must be positive"),
    (447, "<i", 3, "PIDS.offset", 363, "must be 2 (seed) or 3 (v23)"),
    (451, "<i", 2, "TREE[0].vppid", 451, "outside and must be 0"),
    (471, "<i", 0, "TREE[1].vpid", 471, "possible here: 1 to 5"),
    (471, "<i", -4097, "TREE[1].vpid", 471, "no pid object"),
    (471, "<i", 6, "TREE[1].vpid", 471, "no pid object"),
    (495, "<i", 2, "TREE[2].vpid", 495, "already the pid of task 1"),
    (475, "<i", 0, "TREE[1].vppid", 475, "only the root"),
    (475, "<i", 6, "TREE[1].vppid", 475, "no pid object"),
    (475, "<i", -4097, "TREE[1].vppid", 475, "no pid object"),
    (475, "<i", 3, "TREE[1].vppid", 475, "has no task"),
    (475, "<i", 2, "TREE[1].vppid", 475, "runs in a circle"),
    (475, "<i", 4, "TREE[1].vppid", 475, "runs in a circle"),
    (475, "<i", 5, "TREE[1].vppid", 475, "parents must be first"),
    (479, "<i", 0, "TREE[1].vtgid", 479, "no pid object"),
    (479, "<i", 6, "TREE[1].vtgid", 479, "no pid object"),
    (527, "<i", -4097, "TREE[3].vtgid", 527, "no pid object"),
    (479, "<i", 1, "TREE[1].vpgid", 483, "its thread group is 1"),
    (479, "<i", 3, "TREE[3].vtgid", 527, "leads none"),
    (483, "<i", 6, "TREE[1].vpgid", 483, "1 to 5, 0, -4097"),
    (483, "<i", -1, "TREE[1].vpgid", 483, "no pid object"),
    (487, "<i", -4096, "TREE[1].vsid", 487, "no pid object"),
    (531, "<i", 1, "TREE[3].vpgid", 531, "its thread group is 3"),
    (535, "<i", 4, "TREE[3].vsid", 535, "its thread group is 1"),
    (467, "<I", 1, "TREE[0].depth", 467, "that of pid object 1 is 0"),
    (515, "<I", 0, "TREE[2].depth", 515, "that of pid object 4 is 1"),
    (515, "<I", 2**32 - 1, "TREE[2].depth", 515, "is 4294967295"),
]


@pytest.mark.parametrize(("at", "layout", "value", "path", "offset", "reason"), MUTATIONS)
def test_one_wrong_field_is_refused_by_name_and_place(
    at: int, layout: str, value: int, path: str, offset: int, reason: str
) -> None:
    """The image is right except for one field."""
    error = refused(patched(GOLDEN, at, layout, value))

    assert (error.path, error.offset) == (path, offset)
    assert reason in error.message


@pytest.mark.parametrize("special", [0, CKPT_PID_ROOT])
@pytest.mark.parametrize("field", [459, 463])
def test_group_and_session_may_be_outside_or_the_inherited_one(field: int, special: int) -> None:
    """Only these two of the five ids may be outside."""
    assert special in checkpoint.loads(patched(GOLDEN, field, "<i", special)).tasks[0]


@pytest.mark.parametrize(("count", "nested", "found"), [(4, 3, 5), (5, 1, 5), (2, 7, 5)])
def test_depths_that_do_not_add_up_are_refused(count: int, nested: int, found: int) -> None:
    """The buffer has the length that the counts give, but more or fewer pid objects."""
    image = patched(patched(GOLDEN, 355, "<I", count), 359, "<I", nested)
    if count == found:
        assert checkpoint.loads(image) == GOLDEN_SNAPSHOT
    else:
        error = refused(image)
        assert (error.path, error.offset) == ("PIDS.nr_pids", 355)
        assert f"holds {found} pid objects" in error.message


def test_a_namespace_deeper_than_the_kernel_goes_is_refused() -> None:
    """The limit is 32 levels below the first."""
    error = refused(an_image([tuple(range(2, 36))], [(1, 0, 1, 1, 1, 33)]))

    assert (error.path, error.offset) == ("PIDS[0].depth", 379)


def test_an_image_without_tail_is_refused() -> None:
    """An image that stops after the tree may be cut off."""
    assert refused(GOLDEN[:TAIL_AT]).message == "ends where TAIL should begin"


def test_bytes_after_tail_are_refused() -> None:
    """No record has these bytes."""
    error = refused(GOLDEN + b"\0")

    assert (error.path, error.offset) == ("file", 559)


def test_a_failed_checkpoint_is_refused_in_its_writers_words() -> None:
    """An ERROR record may come anywhere."""
    failed = a_record(9999) + a_record(5, b"[pid 7] no memory\0\0\0")

    assert "'[pid 7] no memory'" in refused(with_records(failed)).message
    assert "'[pid 7] no memory'" in refused(GOLDEN[:347] + failed).message
    assert "''" in refused(GOLDEN[:347] + a_record(9999)).message


def test_an_empty_file_is_refused() -> None:
    """The offset is that of the first byte."""
    error = refused(b"")

    assert (error.path, error.offset, error.message) == ("file", 0, "ends where HEADER should begin")


CONTRADICTIONS = [
    ({"pids": [{}] * 4}, "pids", "4 rows for the 5"),
    ({"tasks": [{}] * 5}, "tasks", "5 rows for the 4"),
    ({"time_ns": GOLDEN_SNAPSHOT.time_ns + 10**9}, "time_ns", "an integer from"),
    ({"time_ns": None}, "time_ns", "absent"),
    ({"header": {"release": "5.15"}}, "header", "not that of the base"),
    ({"pids": [{"namespaces": [-1, -1]}, {}, {}, {}, {}]}, "pids[0].namespaces", "2 entries for a pid of 1"),
    ({"pids": [{"namespaces": [0]}, {}, {}, {}, {}]}, "pids[0].namespaces", "from -1 to -1"),
    ({"pids": 7}, "pids", "a list"),
    ({"tasks": [7, {}, {}, {}]}, "tasks[0]", "a map"),
    ({"tasks": [{"comm": 7}, {}, {}, {}]}, "tasks[0].comm", "text"),
    ({"tasks": [{"uid": -1}, {}, {}, {}]}, "tasks[0].uid", "from 0 to"),
    ({"tasks": [{"uid": True}, {}, {}, {}]}, "tasks[0].uid", "from 0 to"),
    ({"tasks": [{"state": "asleep"}, {}, {}, {}]}, "tasks[0].state", "'running' or"),
    ({"tasks": [{"subreaper": 1}, {}, {}, {}]}, "tasks[0].subreaper", "true or false"),
    ({"tasks": [{"birth": {"creator": {"tag": 6}}}, {}, {}, {}]}, "tasks[0].birth.creator.tag", "from 1 to 5"),
    ({"tasks": [{"birth": {"creator": {}}}, {}, {}, {}]}, "tasks[0].birth.creator", "either"),
    ({"tasks": [{"birth": {"creator": {"ancestor": 0}}}, {}, {}, {}]}, "tasks[0].birth.creator.ancestor", "from 0"),
    ({"tasks": [{"birth": {"sid": -1}}, {}, {}, {}]}, "tasks[0].birth.sid", "a tag from 1 to 5, 0 or -4097"),
    ({"namespaces": [{"id": 0, "inum": 1, "level": 1}]}, "namespaces[0].level", "from 0 to 0"),
    ({"ancestors": [{"id": 1}]}, "ancestors[0].id", "from 0 to 0"),
    ({"completeness": {"verified": "yes"}}, "completeness.verified", "'sweep' or 'numbering' or 'no'"),
    ({"squashed": [1]}, "squashed", "a list of strings"),
]


@pytest.mark.parametrize(("changed", "path", "reason"), CONTRADICTIONS)
def test_our_record_must_fit_the_base_and_its_own_schema(changed: dict[str, object], path: str, reason: str) -> None:
    """A misfit is an error with the field's name, at the offset of the payload."""
    error = refused(with_records(an_extension(some_facts(**changed))))

    assert (error.path, error.offset) == (f"EXTENSION.{path}", TAIL_AT + 16)
    assert reason in error.message


def test_v23_can_only_be_told_of_an_inherited_session_where_it_wrote_0() -> None:
    """Anywhere else EXTENSION would contradict the base."""
    image = an_image([(7,)], [(1, 0, 1, 1, 0, 0)], offset=1)
    known_here = {"time_ns": GOLDEN_SNAPSHOT.time_ns, "pids": [{}]}
    tail = len(image) - 16
    fits = image[:tail] + an_extension(known_here | {"tasks": [{"sid": -4097}]}) + image[tail:]
    contradicts = image[:tail] + an_extension(known_here | {"tasks": [{"pgid": -4097}]}) + image[tail:]

    assert checkpoint.loads(fits).tasks[0].sid == CKPT_PID_ROOT
    assert refused(contradicts).path == "EXTENSION.tasks[0].pgid"


def test_a_damaged_record_of_ours_is_refused_by_its_checksum() -> None:
    """The damage is one flipped bit, anywhere in the record."""
    record = bytearray(an_extension(some_facts()))
    record[20] ^= 1
    error = refused(with_records(bytes(record)))

    assert (error.path, error.offset) == ("EXTENSION.crc", TAIL_AT + 12)


def test_two_records_of_ours_a_later_version_and_a_short_one_are_refused() -> None:
    """An image has one such record, of the known version, with all its fields."""
    one = an_extension(some_facts())

    assert "second one" in refused(with_records(one, one)).message
    assert refused(with_records(an_extension(some_facts(), version=2))).path == "EXTENSION.version"
    assert refused(with_records(a_record(8101, b"1234567"))).path == "EXTENSION.len"


HOSTILE = [
    b"",
    b"\xc1",
    b"\x80\x80",
    b"\x81\xa1",
    b"\x81\x01\x02",
    b"\x81\xa1\xff\x01",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\x91" * 100_000,
    b"\x81\xa1a" * 100_000,
    b"\xdd\x00\x40\x00\x00" * 500 + b"\xc0" * 0x400000,
    b"\xd6\xff\xff\xff\xff\xff",
    b"\xc7\x0c\xff" + b"\xff" * 12,
]


@pytest.mark.parametrize("payload", HOSTILE, ids=lambda payload: payload[:8].hex() or "nothing")
def test_a_hostile_payload_costs_no_more_than_its_size(payload: bytes) -> None:
    """Claims of long lists and endless depth are refused quickly, without the memory that they ask for."""
    data = with_records(an_extension(payload))
    tracemalloc.start()
    begun = time.monotonic()
    try:
        error = refused(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert error.path.startswith("EXTENSION")
    assert peak < 256 * 1024 + 6 * len(data)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("image", [GOLDEN, checkpoint.dumps(a_family())], ids=["bare", "whole"])
def test_every_truncated_file_is_refused(image: bytes) -> None:
    """This holds at every length."""
    for length in range(len(image)):
        refused(image[:length])


@pytest.mark.parametrize("image", [GOLDEN, checkpoint.dumps(a_family())], ids=["bare", "whole"])
def test_random_damage_is_refused_or_harmless(image: bytes) -> None:
    """The only exception is FormatError, and a snapshot that was read can be written again."""
    chance = random.Random(2011)
    interesting = [0, 1, 0x7F, 0x80, 0xC0, 0xDC, 0xDD, 0xDF, 0xFF]
    for _ in range(1000):
        damaged = bytearray(image)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.choice([*interesting, chance.randrange(256)])
        try:
            snapshot = checkpoint.loads(repaired(bytes(damaged)))
        except FormatError:
            continue
        assert checkpoint.loads(checkpoint.dumps(snapshot, snapshot.dialect)) == snapshot


@patient
@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    """The bytes stand alone, in place of the head, or in place of the tree."""
    refused(data)
    refused(GOLDEN[:72] + data)
    refused(GOLDEN[:347] + data)
