# SPDX-License-Identifier: Apache-2.0
"""The meaning of equality, held against any two snapshots: equal buffers, states and namespaces, and nothing else."""

import json
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.model import CKPT_PID_ROOT, PidObject, Snapshot, Tag, TaskState
from exporters.comparing.difference import difference, lines, to_document
from exporters.content.wording import is_bare
from exporters.image import checkpoint
from tests.support.builders import snapshots, with_task
from tests.support.examples import examples, patient


def relabelled(snapshot: Snapshot, order: list[int], first: int) -> Snapshot:
    """Return the same tree with other tags: the n-th pid object becomes the order[n]-th, and tags count from
    `first`."""
    new = {snapshot.first_tag + old: first + place for old, place in enumerate(order)}
    new |= {0: 0, CKPT_PID_ROOT: CKPT_PID_ROOT}
    pids = dict(zip(order, snapshot.pids, strict=True))
    tasks = [
        task._replace(
            pid=Tag(new[task.pid]),
            ppid=Tag(new[task.ppid]),
            tgid=Tag(new[task.tgid]),
            pgid=Tag(new[task.pgid]),
            sid=Tag(new[task.sid]),
        )
        for task in snapshot.tasks
    ]
    return replace(snapshot, pids=tuple(pids[n] for n in sorted(pids)), tasks=tuple(tasks), first_tag=first)


def old_words(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot as an old image of the dialect v23 has it: 0 for the session that the root inherited."""
    tasks = [task._replace(pgid=Tag(max(task.pgid, 0)), sid=Tag(max(task.sid, 0))) for task in snapshot.tasks]
    return replace(snapshot, tasks=tuple(tasks))


def mean_the_same(a: Snapshot, b: Snapshot) -> bool:
    """Return True if two snapshots mean the same, in the words of an old image if one of them is one."""
    if any(each.dialect == "v23" and is_bare(each) for each in (a, b)):
        a, b = old_words(a), old_words(b)
    return meaning(a) == meaning(b)


def meaning(snapshot: Snapshot) -> object:
    """Return all that equality depends on: both buffers, with tags in the order of numbers, and the facts."""
    ranks = sorted(range(len(snapshot.pids)), key=lambda n: snapshot.pids[n].numbers)
    ranked = relabelled(snapshot, [ranks.index(n) for n in range(len(ranks))], 1)
    tasks = sorted(ranked.tasks)
    shared = defaultdict(set)
    for pid in snapshot.pids:
        for place, id_ in enumerate(pid.namespaces):
            shared[id_].add((pid.numbers, place))
    return (
        checkpoint._pack_pids(ranked.pids),
        checkpoint._pack_tasks(tasks, "seed"),
        [(t.state, None if t.exit_code is None else t.exit_code & ~0x80, t.subreaper) for t in tasks],
        frozenset(map(frozenset, shared.values())),
    )


@patient
@given(snapshots(), st.randoms(use_true_random=False), st.integers(1, 1000))
def test_tags_and_the_order_of_rows_make_no_difference(snapshot: Snapshot, random: object, first: int) -> None:
    """They belong to the file and not to the tree."""
    order = list(range(1, len(snapshot.pids)))
    random.shuffle(order)  # type: ignore[attr-defined]  # hypothesis passes a random.Random
    other = relabelled(snapshot, [0, *order], first)
    other = replace(other, tasks=(other.tasks[0], *reversed(other.tasks[1:])))

    assert difference(snapshot, other).equal


TOUCHED = [
    "state",
    "exit_code",
    "subreaper",
    "ppid",
    "tgid",
    "pgid",
    "sid",
    "comm",
    "start_ns",
    "birth",
    "number",
    "inner",
    "namespaces",
    "member",
    "ghost",
    "last",
]


def touched(draw: st.DrawFn, a: Snapshot, what: str) -> Snapshot:
    """Return the snapshot with one change, which may matter or not; tags may become impossible for a kernel."""
    task = draw(st.sampled_from(a.tasks))
    place = draw(st.integers(0, len(a.pids) - 1))
    pid = a.pids[place]
    if what == "last":
        return replace(a, tasks=a.tasks[:-1] or a.tasks)
    if what == "ghost":
        return replace(a, pids=(*a.pids, PidObject((5_000_000,), ())))
    if what in ("number", "inner", "namespaces", "member"):
        ids = range(-1, 3)
        new = {
            "number": pid._replace(numbers=(5_000_000, *pid.numbers[1:])),
            "inner": pid._replace(numbers=(*pid.numbers[:-1], 6_000_000)),
            "namespaces": pid._replace(namespaces=() if pid.namespaces else pid.numbers),
            "member": pid._replace(namespaces=tuple(draw(st.sampled_from(ids)) for _ in pid.namespaces)),
        }[what]
        return replace(a, pids=(*a.pids[:place], new, *a.pids[place + 1 :]))
    tags = [0, CKPT_PID_ROOT, *range(a.first_tag, a.first_tag + len(a.pids))]
    values: dict[str, list[object]] = {
        "state": [None, *TaskState],
        "exit_code": [None, 0, 0x8B, 0x0B, (task.exit_code or 0) ^ 0x80],
        "subreaper": [None, False, True],
        "ppid": [0, *tags[2:]],
        "tgid": [*tags[2:]],
        "pgid": [*tags],
        "sid": [*tags],
        "comm": [None, b"other"],
        "start_ns": [None, 7],
        "birth": [None],
    }
    return with_task(a, task.pid, **{what: draw(st.sampled_from(values[what]))})


@st.composite
def neighbours(draw: st.DrawFn, what: str) -> tuple[Snapshot, Snapshot]:
    """Return a snapshot and one like it, with one change at most."""
    a = draw(snapshots())
    known = [task._replace(state=task.state or TaskState.RUNNING) for task in a.tasks]
    a = replace(a, tasks=tuple(known)) if draw(st.booleans()) else a
    return a, touched(draw, a, what)


@pytest.mark.parametrize("what", TOUCHED)
def test_equal_means_the_same_buffers_and_facts_and_nothing_else(what: str) -> None:
    """The bytes of the image with new tags decide. In the other direction gone tasks are born."""

    @settings(patient, max_examples=examples(40))
    @given(neighbours(what))
    def judged(pair: tuple[Snapshot, Snapshot]) -> None:
        a, b = pair
        found, back = difference(a, b), difference(b, a)

        assert found.equal == back.equal == mean_the_same(a, b)
        assert lines(found)[0].startswith("equal" if found.equal else "different: ")
        assert (found.gone, found.born, found.pids_gone) == (back.born, back.gone, back.pids_came)
        assert [row.a for row in found.moved] == [row.b for row in back.moved]
        assert [(fact, side) for fact, side, _ in found.unsaid] == [
            (fact, "b" if side == "a" else "a") for fact, side, _ in back.unsaid
        ]

    judged()


@patient
@given(snapshots(), snapshots())
def test_any_two_snapshots_can_be_told_apart(a: Snapshot, b: Snapshot) -> None:
    """People get lines that a terminal can show, programs get values that JSON can hold."""
    found = difference(a, b)

    assert all(line.isprintable() for line in lines(found))
    assert all(line.isascii() for line in lines(found, unicode=False))
    assert json.loads(json.dumps(to_document(found)))["equal"] == found.equal
