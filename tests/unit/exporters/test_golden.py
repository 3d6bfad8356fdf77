# SPDX-License-Identifier: Apache-2.0
"""Literal bytes of small trees, read and written: the view of the 2011 readers, field by field."""

from typing import Any

import msgpack
import pytest

from agent.model import Completeness, Tag
from exporters.image import checkpoint
from tests.support.builders import a_bare_task
from tests.support.goldens import GOLDENS, Golden
from tests.support.images import GOLDEN, TAIL_AT, patched, records_of

BASE_AT = 347


def bare(golden: Golden) -> bytes:
    """Return the golden image's head, the tree's bytes, and TAIL."""
    head = patched(GOLDEN[:BASE_AT], 64, "<Q", int(golden.mode == "subtree"))
    return head + golden.base + GOLDEN[TAIL_AT:]


@pytest.mark.parametrize("name", GOLDENS)
def test_a_tree_is_written_as_its_bytes(name: str) -> None:
    """The image is head, base, EXTENSION and TAIL; without EXTENSION it is a whole image of 2011."""
    golden = GOLDENS[name]
    written = checkpoint.dumps(golden.snapshot, golden.dialect)
    ours = 8 + len(dict(records_of(written))[8101])
    end = BASE_AT + len(golden.base)

    assert written[BASE_AT:end] == golden.base
    assert written[:end] + written[end + ours :] == bare(golden)
    assert checkpoint.loads(written) == golden.snapshot


@pytest.mark.parametrize("name", GOLDENS)
def test_the_bytes_alone_are_read_as_the_ids_and_numbers_of_the_tree_and_nothing_more(name: str) -> None:
    """Without EXTENSION no state, namespace or birth is known; ids and numbers are all there."""
    golden = GOLDENS[name]
    tasks = [a_bare_task(*ids) for ids in golden.tasks]
    if golden.dialect == "v23":  # this dialect cannot express the inherited session
        tasks = [task._replace(pgid=Tag(max(task.pgid, 0)), sid=Tag(max(task.sid, 0))) for task in tasks]
    read = checkpoint.loads(bare(golden))

    assert [pid.numbers for pid in read.pids] == golden.pids
    assert list(read.tasks) == tasks
    assert (read.mode, read.first_tag, read.dialect) == (golden.mode, golden.first, golden.dialect)
    assert {pid.namespaces for pid in read.pids} == {()}
    assert (read.namespaces, read.ancestors, read.completeness) == ((), (), Completeness("no"))


@pytest.mark.parametrize("name", [name for name in GOLDENS if GOLDENS[name].said])
def test_what_the_base_has_no_place_for_is_in_our_own_record(name: str) -> None:
    """The text is msgpack: a head byte with the length of each string, then the string."""
    golden = GOLDENS[name]
    payload = dict(records_of(checkpoint.dumps(golden.snapshot)))[8101]

    for words, meaning in golden.said:
        assert bytes.fromhex(words) in payload, meaning


def test_the_dialect_v23_has_the_inherited_session_in_our_own_record_alone() -> None:
    """It is -4097 there, in the rows of the session's tasks."""
    golden = GOLDENS["inherited session, v23"]
    known: Any = msgpack.unpackb(dict(records_of(checkpoint.dumps(golden.snapshot, "v23")))[8101][8:])

    assert [(row.get("pgid"), row.get("sid")) for row in known["tasks"]] == [
        (None, -4097),
        (None, -4097),
        (-4097, -4097),
    ]


@pytest.mark.parametrize("tree", ["inherited session", "tag base 7"])
def test_the_dialects_differ_in_the_offset_and_in_that_session_and_in_nothing_else(tree: str) -> None:
    """One tree gives two files."""
    seed, v23 = GOLDENS[f"{tree}, seed"], GOLDENS[f"{tree}, v23"]
    a, b = seed.snapshot, v23.snapshot
    changed = [at for at, (one, other) in enumerate(zip(seed.base, v23.base, strict=True)) if one != other]
    sessions = [at for at in range(0, len(seed.base), 4) if seed.base[at : at + 4] == b"\xff\xef\xff\xff"]

    assert (a.pids, a.tasks) == (b.pids, b.tasks)
    assert changed == [16, *[at + byte for at in sessions for byte in range(4)]]
