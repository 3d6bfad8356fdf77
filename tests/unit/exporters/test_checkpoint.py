# SPDX-License-Identifier: Apache-2.0
"""The checkpoint image: its bytes, its round trip, and the records that a reader skips."""

import itertools
import struct
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model import CKPT_PID_ROOT, At, Completeness, Dialect, Header, Obstacle, Snapshot, Tag, Task
from exporters.content.soundness import TaskIds
from exporters.image import checkpoint
from tests.support.builders import (
    A_HEADER,
    a_bare_task,
    a_crowd,
    a_family,
    a_snapshot,
    a_task,
    born,
    snapshots,
)
from tests.support.examples import patient
from tests.support.images import (
    GOLDEN,
    GOLDEN_SNAPSHOT,
    TAIL_AT,
    a_record,
    an_extension,
    an_image,
    patched,
    records_of,
    some_facts,
    with_records,
)

DIALECTS: tuple[Dialect, ...] = ("seed", "seed", "v23")


def known_of(data: bytes) -> dict[str, Any]:
    """Return the document in EXTENSION."""
    known: dict[str, Any] = msgpack.unpackb(dict(records_of(data))[8101][8:])
    return known


# Writing


def test_the_golden_image_is_read_as_the_tree_it_holds() -> None:
    """Bytes made by hand come back as the snapshot that they describe."""
    assert checkpoint.read(GOLDEN) == checkpoint.Reading(GOLDEN_SNAPSHOT)


def test_the_golden_tree_is_written_as_the_golden_bytes_but_for_our_record() -> None:
    """All bytes that the 2011 readers look at are the expected ones."""
    written = checkpoint.dumps(GOLDEN_SNAPSHOT)
    length = struct.unpack_from("<I", written, TAIL_AT + 4)[0]

    assert struct.unpack_from("<I", written, TAIL_AT)[0] == 8101
    assert written[:TAIL_AT] + written[TAIL_AT + length :] == GOLDEN


def test_a_subtree_is_bit_0_of_the_user_flags() -> None:
    """The header has the mode."""
    written = checkpoint.dumps(replace(GOLDEN_SNAPSHOT, mode="subtree"))

    assert written[:64] == GOLDEN[:64]
    assert struct.unpack_from("<Q", written, 64)[0] == 1


@pytest.mark.parametrize(("dialect", "first", "offset"), [("seed", 1, 0), ("v23", 1, 1), ("seed", 9, 8), ("v23", 9, 9)])
def test_offset_is_the_first_tag_or_the_one_before_it(dialect: Dialect, first: int, offset: int) -> None:
    """The dialects count from different ends; the tags are the same."""
    snapshot = a_snapshot(tasks=[a_task(first, 0, pgid=first, sid=first)], first_tag=first, dialect=dialect)
    written = checkpoint.dumps(snapshot, dialect)

    assert struct.unpack_from("<I", written, 363)[0] == offset
    assert checkpoint.loads(written) == snapshot


def test_a_writer_that_kept_rows_writes_the_bytes_of_a_new_one() -> None:
    """The kept rows may be those of this snapshot, of its other dialect, or of another tree."""
    family = a_family()
    snapshots = (family, replace(family, squashed=("x",)), replace(a_family(), tasks=tuple(family.tasks[:1])), family)
    writer = checkpoint.Writer()

    for snapshot, dialect in itertools.product(snapshots, DIALECTS):
        assert writer.dumps(snapshot, dialect) == checkpoint.dumps(snapshot, dialect)


def test_a_writer_that_kept_all_rows_writes_all_else_of_each_snapshot() -> None:
    """Differences are in the head, in the proof and the times, or in any other fact of the tree."""
    family = a_family()
    others: tuple[dict[str, Any], ...] = (
        *({}, {"time_ns": 7_000_000_001}, {"boottime_ns": None}, {"boottime_ns": 5}, {"boottime_ns": 1 << 40}),
        {"completeness": replace(family.completeness, verified="no", reasons=("x",), order=1 << 33, sweeps=700)},
        *({"mode": "container"}, {"header": Header("r", lsm="another")}, {"boot_id": "b"}, {"first_tag": 1}, {}),
        *({"ancestors": ()}, {"entered": ("7 (x)",)}, {"squashed": ("8 became 0",)}, {"as_of_read": ("tty",)}),
        *({"at": At(7, 8, 9)}, {"not_rebuildable": (Obstacle(Tag(1), "x", "y"),)}, {}),
    )
    writer = checkpoint.Writer()

    for change in (*others, *reversed(others)):
        snapshot = replace(family, **change)
        assert writer.dumps(snapshot) == checkpoint.dumps(snapshot)


def test_a_reason_with_a_foreign_byte_is_escaped() -> None:
    """Names of tasks stand in reasons, and need not be text; the next proof is not touched by it."""
    writer = checkpoint.Writer()
    foreign = replace(a_family(), completeness=Completeness("no", reasons=("7 (\udcff)",)))
    for snapshot in (foreign, a_family(), foreign):
        assert writer.dumps(snapshot) == checkpoint.dumps(snapshot)
    assert checkpoint.loads(checkpoint.dumps(foreign)).completeness.reasons == ("7 (\\udcff)",)


def test_unknown_keys_of_the_proof_are_written_each_time() -> None:
    """They stand in a map that is packed for each snapshot."""
    family = replace(a_family(), unknown={("completeness",): {"aardvark": 1, "zebra": 2}, (): {"zoo": 3}})
    writer = checkpoint.Writer()

    for time_ns in (1, 2, 3):
        snapshot = replace(family, time_ns=time_ns)
        assert checkpoint.loads(writer.dumps(snapshot)) == snapshot
        assert writer.dumps(snapshot) == checkpoint.dumps(snapshot)


@pytest.mark.parametrize(("dialect", "on_the_wire"), [("seed", -4097), ("v23", 0)])
def test_the_inherited_session_is_minus_4097_in_seed_and_0_in_v23(dialect: Dialect, on_the_wire: int) -> None:
    """EXTENSION keeps the fact that v23 cannot express."""
    task = a_task(1, 0, pgid=CKPT_PID_ROOT, sid=CKPT_PID_ROOT)
    snapshot = a_snapshot(tasks=[task], dialect=dialect)
    written = checkpoint.dumps(snapshot, dialect)
    tasks = [body for kind, body in records_of(written) if kind == 4][-1]

    assert struct.unpack("<5iI", tasks) == (1, 0, 1, on_the_wire, on_the_wire, 0)
    assert checkpoint.loads(written) == snapshot


def test_without_our_record_v23_reads_the_inherited_session_as_outside() -> None:
    """The dialect causes the loss."""
    bare = an_image([(7,)], [(1, 0, 1, 0, 0, 0)], offset=1)

    assert checkpoint.loads(bare).dialect == "v23"
    assert checkpoint.loads(bare).tasks[0].sid == 0


def test_strings_too_long_for_the_header_are_cut_there_and_whole_in_our_record() -> None:
    """A name is cut between characters, so the rest is still text."""
    header = Header("é" * 50, "v" * 64, "m" * 66, (70000, 1, 2), xstate_size=2**20, lsm="a-module-of-some-length")
    snapshot = a_snapshot(header=header)
    written = checkpoint.dumps(snapshot)
    buffers = [body for kind, body in records_of(written) if kind == 4]

    assert buffers[0] == ("é" * 32).encode() + b"\0"
    assert buffers[1] == b"v" * 64 + b"\0"
    assert buffers[2] == b"m" * 64 + b"\0"
    assert buffers[3] == b"a-module-o\0"
    assert checkpoint.loads(written).header == header


def test_our_record_repeats_nothing_of_the_base() -> None:
    """The base alone has the ids, the numbers and a header that fits."""
    known = known_of(checkpoint.dumps(a_family()))

    assert known["header"] == {}
    assert not {"pid", "ppid", "tgid", "pgid", "sid", "depth"} & set(known["tasks"][1])
    assert set(known["pids"][0]) == {"namespaces"}


def test_the_keys_of_our_record_are_sorted_at_every_depth() -> None:
    """So two writers of one tree write the same bytes."""

    def check(value: object) -> None:
        if isinstance(value, dict):
            assert list(value) == sorted(value)
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(inner)

    root = a_task(1, 0, pgid=CKPT_PID_ROOT)
    check(known_of(checkpoint.dumps(a_family())))
    check(known_of(checkpoint.dumps(a_snapshot(tasks=[root]), "v23")))


def test_half_a_surrogate_pair_is_spelled_out() -> None:
    """Python's stand-in for a foreign byte has no UTF-8; a capture must not fail because of it."""
    snapshot = a_snapshot(squashed=("x\udcff",), header=replace(A_HEADER, release="6\udcff"))

    assert checkpoint.loads(checkpoint.dumps(snapshot)).squashed == ("x\\udcff",)
    assert checkpoint.loads(checkpoint.dumps(snapshot)).header.release == "6\\udcff"


# Round trips


@patient
@given(snapshots(), st.sampled_from(["seed", "v23"]))
def test_any_snapshot_comes_back_the_same(snapshot: Snapshot, dialect: Dialect) -> None:
    """This holds in both dialects, for every field."""
    assert checkpoint.loads(checkpoint.dumps(snapshot, dialect)) == replace(snapshot, dialect=dialect)


@patient
@given(snapshots())
def test_the_base_alone_is_a_sound_tree(snapshot: Snapshot) -> None:
    """A reader that skips EXTENSION gets the same ids and numbers."""
    records = [a_record(kind, body) for kind, body in records_of(checkpoint.dumps(snapshot)) if kind != 8101]
    bare = checkpoint.loads(b"".join(records))

    assert [task[:6] for task in bare.tasks] == [task[:6] for task in snapshot.tasks]
    assert [pid.numbers for pid in bare.pids] == [pid.numbers for pid in snapshot.pids]
    assert all(task[6:] == a_bare_task(1, 0, 1, 1, 1, 0)[6:] for task in bare.tasks)
    assert (bare.namespaces, bare.ancestors, bare.completeness) == ((), (), Completeness("no"))


@pytest.mark.parametrize("level", [0, 1, 2, 32])
def test_more_pids_and_tasks_than_a_page_holds_come_back(level: int) -> None:
    """The kernel patch of 2011 failed beyond 4096 bytes of either."""
    snapshot = a_crowd(200, 400, level=level)

    assert len(snapshot.pids) == 600
    assert checkpoint.loads(checkpoint.dumps(snapshot)) == snapshot


def test_a_chain_of_thousands_comes_back() -> None:
    """A generation takes no stack frame."""
    chain = [a_task(tag, tag - 1) for tag in range(1, 5001)]
    snapshot = a_snapshot([(tag,) for tag in range(2, 5002)], chain)

    assert checkpoint.loads(checkpoint.dumps(snapshot)) == snapshot


# Skipped records


def test_foreign_records_are_left_out_and_reported() -> None:
    """Type and length of each are reported, in order; the tree is not touched."""
    reading = checkpoint.read(
        with_records(a_record(103, b"a task"), an_extension(some_facts()), a_record(4, b"its buffer"))
    )

    assert reading.foreign == ((103, 14), (4, 18))
    assert reading.snapshot.tasks[0].comm == b"a"


def test_keys_of_ours_that_are_not_known_yet_do_no_harm() -> None:
    """A later version may have more keys."""
    reading = checkpoint.read(with_records(an_extension(some_facts(tomorrow=[1, 2]))))

    assert reading.snapshot.time_ns == GOLDEN_SNAPSHOT.time_ns + 5


def test_oddities_of_the_header_are_noted_and_not_refused() -> None:
    """Only a wrong magic is refused."""
    odd = patched(patched(patched(GOLDEN, 16, "<H", 1), 24, "<H", 3), 64, "<Q", 0x10)
    reading = checkpoint.read(odd)

    assert reading.notes == (
        "HEADER.arch_id is 1; x86-64 is 2",
        "HEADER.rev is 3; known is 6",
        "HEADER.uflags is 0x10; known is bit 0, subtree",
    )
    assert reading.snapshot.tasks == GOLDEN_SNAPSHOT.tasks


def test_strings_of_another_length_are_read_if_the_constants_say_so() -> None:
    """The length 65 is Linux's and not the format's."""
    shorter = patched(GOLDEN[:72], 42, "<H", 6) + a_record(4, b"6.1.0\0") + GOLDEN[145:]

    constants = (16, 44, 64, 65, 65, 6, 65, 65, 65, 16, 4096, 19)

    assert checkpoint.loads(shorter) == replace(GOLDEN_SNAPSHOT, header=replace(A_HEADER, constants=constants))


def test_the_roots_threads_have_their_parent_outside_as_the_root_has() -> None:
    """A thread has the parent of its group."""
    image = an_image([(50,), (51,)], [(1, 0, 1, 1, 1, 0), (2, 0, 1, 1, 1, 0)])

    assert [task.ppid for task in checkpoint.loads(image).tasks] == [0, 0]


def test_a_thread_may_outlive_its_leaders_task() -> None:
    """Then the leader is a pid object without a task."""
    image = an_image([(50,), (51,), (52,)], [(1, 0, 1, 1, 1, 0), (2, 1, 3, 1, 1, 0)])

    assert checkpoint.loads(image).tasks[1].tgid == 3


def test_a_birth_outside_the_tree_is_told_from_one_that_nobody_saw() -> None:
    """Neither has a creator."""
    seen = a_snapshot(tasks=[a_task(1, 0, birth=born(None))])
    assumed = a_snapshot(tasks=[a_task(1, 0, birth=born(None, None, observed=False, sid=None, pgid=None))])

    assert checkpoint.loads(checkpoint.dumps(seen)) == seen
    assert checkpoint.loads(checkpoint.dumps(assumed)) == assumed


def test_the_ids_of_a_bare_image_are_the_first_fields_of_a_task() -> None:
    """So a task of a bare image may be made from them by place."""
    assert Task._fields[:6] == TaskIds._fields
