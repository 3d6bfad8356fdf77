# SPDX-License-Identifier: Apache-2.0
"""Snapshots for tests: a small tree with one of everything, large trees, and a strategy for arbitrary ones."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple, get_args

from hypothesis import strategies as st

from agent.model import (
    CKPT_PID_NULL,
    CKPT_PID_ROOT,
    Ancestor,
    AncestorEvent,
    At,
    Birth,
    Capabilities,
    Completeness,
    Creator,
    Dialect,
    FileOwner,
    Header,
    Mode,
    Namespace,
    Obstacle,
    OutsidePid,
    OwnerType,
    PidObject,
    PidRef,
    ProcessDetails,
    Shares,
    Snapshot,
    Tag,
    Task,
    TaskState,
    Terminal,
    Verified,
)
from exporters.content.hostmap import settled

A_HEADER = Header("6.1.0", "#1 SMP", "x86_64", (6, 1, 0), has_fxsr=True, has_xsave=True, xstate_size=2696)
A_TIME_NS = 1_714_564_800_123_456_789  # 2024-05-01 12:00:00 UTC


def a_bare_task(pid: int, ppid: int, tgid: int, pgid: int, sid: int, depth: int = 0) -> Task:
    """Return a task with ids and no facts."""
    return Task(pid=Tag(pid), ppid=Tag(ppid), tgid=Tag(tgid), pgid=Tag(pgid), sid=Tag(sid), depth=depth)


def a_task(tag: int, parent: int, *, tgid: int = 0, pgid: int = 0, sid: int = 0, depth: int = 0, **facts: Any) -> Task:
    """Return a running process; by default its group and session are those of tag 1."""
    known: dict[str, Any] = {"state": TaskState.RUNNING, "exit_signal": 17 if not tgid else -1, "uid": 0, "gid": 0}
    known |= {"comm": b"task-%d" % tag, "start_ns": 1_000_000 * tag, "subreaper": False}
    return a_bare_task(tag, parent, tgid or tag, pgid or 1, sid or 1, depth)._replace(**(known | facts))


def born(creator: int | Creator | None, order: int | None = 1, **facts: Any) -> Birth:
    """Return an observed birth into session and group 1; a creator with a tag may be given as that tag."""
    made = Creator(Tag(creator), None) if isinstance(creator, int) else creator
    return Birth(**({"creator": made, "observed": True, "sid": 1, "pgid": 1, "flags": (), "order": order} | facts))


def a_snapshot(
    pids: Iterable[tuple[int, ...]] = ((100,),), tasks: Iterable[Task] | None = None, **fields: Any
) -> Snapshot:
    """Return a subtree; by default of a single task. Namespace n is the one at level n."""
    objects = tuple(PidObject(numbers, tuple(range(len(numbers)))) for numbers in pids)
    levels = range(max(len(pid.numbers) for pid in objects))
    defaults: dict[str, Any] = {
        "mode": "subtree",
        "time_ns": A_TIME_NS,
        "namespaces": tuple(Namespace(n, 4026531836 + n, n, n - 1 if n else None) for n in levels),
        "boot_id": "5f0c1f0e-0d5c-4a5f-9b6b-6a1d4a0a7d11",
        "header": A_HEADER,
        "completeness": Completeness("numbering", sweeps=3),
    }
    root = (a_task(1, 0, comm=b"bash", birth=born(None)),)
    return Snapshot(pids=objects, tasks=root if tasks is None else tuple(tasks), **(defaults | fields))


def with_task(snapshot: Snapshot, tag: int, **fields: object) -> Snapshot:
    """Return the snapshot with one task changed."""
    tasks = [task._replace(**fields) if task.pid == tag else task for task in snapshot.tasks]  # type: ignore[arg-type]
    return replace(snapshot, tasks=tuple(tasks))


def a_family() -> Snapshot:
    """Return a tree with one of everything: threads, a namespace, a zombie, a ghost, and an ancestor that is gone."""
    numbers = [(4711,), (4712,), (4690,), (4720, 1), (4713,), (4714,), (4722,)]
    gone = OutsidePid((4700,), (0,))
    tasks = [
        a_task(1, 0, comm=b"bash", birth=born(None, sid=OutsidePid((300,), (0,)), pgid=0)),
        a_task(2, 1, pgid=2, comm=b"make", birth=born(1, 2), argv=(b"make", b"-j\xff\\"), cwd=b"/src", env=(b"A=1",)),
        a_task(4, 2, pgid=4, sid=4, depth=1, comm=b"init", subreaper=True, birth=born(2, 7, flags=("CLONE_NEWPID",))),
        a_task(5, 1, tgid=2, pgid=2, comm=b"make", birth=born(2, 3, flags=("CLONE_THREAD",))),
        a_task(6, 1, tgid=2, pgid=2, comm=b"wor\xffker", birth=born(5, 4, flags=("CLONE_THREAD",))),
        a_task(
            7,
            1,
            pgid=3,
            comm=b"cc",
            state=TaskState.ZOMBIE,
            exit_code=3 << 8,
            birth=born(Creator(None, 0), 6, pgid=gone),
        ),
    ]
    ancestor = Ancestor(
        0,
        *gone,
        born(1, 5, pgid=OutsidePid((), ())),
        (AncestorEvent("setpgid", 6, 3), AncestorEvent("subreaper", 7, 1), AncestorEvent("exit", 8, None)),
    )
    return a_snapshot(
        numbers,
        tasks,
        ancestors=(ancestor,),
        squashed=("4000", "4001"),
        entered=("5000 sh",),
        not_rebuildable=(Obstacle(Tag(7), "a-rule", "has a reason"),),
    )


def a_pipeline(*, events: bool = True, inherited: bool = True) -> Snapshot:
    """Return a shell and the last process of its pipeline: its creator, the leader of their group, is gone.

    Args:
        events: True if the ancestor is known to have founded its group.
        inherited: True if the process is known to have been born into that group.
    """
    founded = (AncestorEvent("setpgid", 3, Tag(3)),) if events else ()
    gone = Ancestor(0, (4712,), (0,), born(1, 2), (*founded, AncestorEvent("exit", 5, None)))
    birth = born(Creator(None, 0), 4, pgid=Tag(3) if inherited else OutsidePid((4712,), (0,)))
    rows = [a_task(1, 0, comm=b"bash"), a_task(2, 1, pgid=3, comm=b"sort", birth=birth)]
    return a_snapshot([(4711,), (4713,), (4712,)], rows, ancestors=(gone,))


def a_daemon() -> Snapshot:
    """Return a daemon that the init has adopted, in the session of its creator, which has exited."""
    gone = Ancestor(0, (2,), (0,), born(1, 1), (AncestorEvent("setsid", 2, 3), AncestorEvent("exit", 4, None)))
    rows = [a_task(1, 0, comm=b"in\x1bit"), a_task(2, 1, pgid=3, sid=3, birth=born(Creator(None, 0), 3, sid=3, pgid=3))]
    return a_snapshot([(1,), (3,), (2,)], rows, mode="container", ancestors=(gone,))


def a_crowd(tasks: int, ghosts: int = 0, *, level: int = 0) -> Snapshot:
    """Return a root with this many tasks in all, and further pid objects without a task, all `level` levels deep."""
    inner = range(1, level + 1)
    numbers = [(1000 + n, *(2 + n + 10 * below for below in inner)) for n in range(tasks + ghosts)]
    rows = [
        a_task(tag, 1 if tag > 1 else 0, pgid=tag + tasks if tag <= ghosts else 0, depth=level, birth=born(1, tag))
        for tag in range(1, tasks + 1)
    ]
    return a_snapshot(numbers, rows)


# Arbitrary snapshots: all that the readers call sound, whether or not a kernel would make it. What depends on how many
# there are of everything is made once for each shape: a strategy takes longer to make than a snapshot.


class Shape(NamedTuple):
    """The counts of all objects that others refer to."""

    first: int
    pids: int
    ancestors: int
    namespaces: int

    @property
    def tags(self) -> range:
        """Return all tags of pid objects."""
        return range(self.first, self.first + self.pids)


SHAPES = [Shape(1, 1, 0, 0), Shape(1, 3, 1, 1), Shape(2, 5, 2, 2), Shape(170, 6, 1, 3), Shape(1, 8, 0, 2)]

_u64 = st.integers(0, 2**64 - 1)
_u32 = st.integers(0, 2**32 - 1)
_s32 = st.integers(-(2**31) + 1, 2**31 - 1)
_inner = st.integers(2, 4194303)
_text = st.text(st.sampled_from("aé\\\0\n\U0001f600 "), max_size=80)
_words = st.lists(_text, max_size=2).map(tuple)
_raw = st.binary(max_size=15)
_raws = st.none() | st.lists(_raw, max_size=2).map(tuple)
_four = st.none() | st.tuples(_u32, _u32, _u32, _u32)
_caps = st.none() | st.tuples(_u64, _u64, _u64, _u64, _u64).map(lambda drawn: Capabilities(*drawn))
_maybe = st.sampled_from([None, False, True])
_details = st.tuples(
    *(st.none() | _raw, st.none() | _raw, _four, _four, st.none() | st.lists(_u32, max_size=2).map(tuple), _caps),
    *(_maybe, st.none() | st.integers(0, 0o777), _maybe),
).map(lambda drawn: ProcessDetails(*drawn))
_id = st.none() | st.integers(1, 2**32 - 1)
_shares = st.tuples(_id, _id, _id).map(lambda drawn: Shares(*drawn))
_u16 = st.integers(0, 2**16 - 1)
_machine = st.sampled_from(["x86_64", "aarch64"]) | _text
_constants = st.tuples(*[st.integers(0, 1024)] * 12)
# Few hosts are foreign, in few ways; otherwise ordinary ones would never be drawn.
_foreign: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "arch_id": _u16,
        "rev": _u16,
        "constants": _constants,
        "uflags": st.integers(0, 2**63 - 1).map(lambda bits: bits * 2),
        "arch": st.binary(min_size=8, max_size=8),
        "lsm_info": st.binary(max_size=192),
    },
)
_header = st.tuples(
    st.tuples(_text, _text, _machine, st.tuples(_u32, _u32, _u32), st.booleans(), st.booleans(), _u32, _text),
    st.just({}) | _foreign,
).map(lambda drawn: settled(Header(*drawn[0], **drawn[1])))
_completeness = st.tuples(st.sampled_from(get_args(Verified)), _u64, _u64, _u64, _u64, _words).map(
    lambda fields: Completeness(*fields)
)
_at = st.none() | st.tuples(_u64, st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)).map(lambda drawn: At(*drawn))
_whole = st.tuples(
    st.sampled_from(get_args(Mode)),
    st.integers(0, 2**63 - 1),
    st.none() | _u64,
    st.sampled_from(["", "5f0c1f0e-0d5c-4a5f-9b6b-6a1d4a0a7d11"]),
    st.sampled_from(get_args(Dialect)),
)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Draw any sound snapshot of a few tasks."""
    shape = draw(st.sampled_from(SHAPES))
    mode, time_ns, boottime_ns, boot_id, dialect = draw(_whole)
    pids = draw(_pid_objects(shape))
    tasks: list[Task] = []
    for tag in draw(_taken(shape)):
        depth = len(pids[tag - shape.first].numbers) - 1
        bare = a_bare_task(*_ids(draw(_wishes(shape)), tag, tasks), depth)
        tasks.append(Task(*bare[:6], *draw(_task_facts(shape))))
    return Snapshot(
        mode=mode,
        time_ns=time_ns,
        boottime_ns=boottime_ns,
        pids=pids,
        tasks=tuple(tasks),
        namespaces=draw(_namespaces(shape)),
        ancestors=tuple(Ancestor(index, *draw(_ancestors(shape))) for index in range(shape.ancestors)),
        squashed=draw(_words),
        entered=draw(_words),
        boot_id=boot_id,
        header=draw(_header),
        completeness=draw(_completeness),
        as_of_read=draw(_words),
        at=draw(_at),
        first_tag=shape.first,
        dialect=dialect,
    )


@cache
def _taken(shape: Shape) -> st.SearchStrategy[list[int]]:
    """Draw the tags that have a task: the root's first, the others in any order; the remaining tags are ghosts."""
    rest = st.permutations(shape.tags[1:])
    return st.tuples(rest, st.integers(0, shape.pids - 1)).map(lambda drawn: [shape.first, *drawn[0][: drawn[1]]])


@cache
def _namespaces(shape: Shape) -> st.SearchStrategy[tuple[Namespace, ...]]:
    rows = [
        st.tuples(st.just(n), _u64, st.integers(1, 32), st.integers(0, n - 1)).map(lambda row: Namespace(*row))
        if n
        else _u64.map(lambda inum: Namespace(0, inum, 0, None))
        for n in range(shape.namespaces)
    ]
    return st.tuples(*rows)


@cache
def _pid_objects(shape: Shape) -> st.SearchStrategy[tuple[PidObject, ...]]:
    id_ = st.integers(0, shape.namespaces - 1) if shape.namespaces else st.just(-1)
    levels = st.lists(st.tuples(_inner, id_), min_size=1, max_size=4)

    def one(drawn: tuple[list[tuple[int, int]], bool, bool]) -> PidObject:
        numbers, ids = zip(*drawn[0], strict=True)
        if drawn[1] and len(numbers) > 1:
            numbers = (*numbers[:-1], 1)
        return PidObject(numbers, ids if drawn[2] else ())

    pid = st.tuples(levels, st.booleans(), st.booleans()).map(one)
    return st.lists(pid, min_size=shape.pids, max_size=shape.pids, unique_by=lambda made: made.numbers[0]).map(tuple)


class Wish(NamedTuple):
    """The wanted relations of a task, as far as they are possible."""

    thread: bool
    relative: int
    pgid: int
    sid: int


@cache
def _wishes(shape: Shape) -> st.SearchStrategy[Wish]:
    special = st.sampled_from([*shape.tags, 0, CKPT_PID_ROOT])
    return st.tuples(st.booleans(), st.integers(0, shape.pids), special, special).map(lambda drawn: Wish(*drawn))


def _ids(wish: Wish, tag: int, before: Sequence[Task]) -> tuple[int, int, int, int, int]:
    """Return pid, ppid, tgid, pgid and sid of a task that comes after the given ones."""
    if not before:
        return tag, 0, tag, wish.pgid, wish.sid
    relative = before[wish.relative % len(before)]
    if wish.thread:
        return tag, relative.ppid, relative.tgid, relative.pgid, relative.sid
    return tag, relative.pid, tag, wish.pgid, wish.sid


@cache
def _outside(shape: Shape) -> st.SearchStrategy[OutsidePid]:
    levels = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.integers(-1, shape.namespaces - 1)), max_size=3)
    return levels.map(lambda made: OutsidePid(tuple(n for n, _ in made), tuple(id_ for _, id_ in made)))


@cache
def _refs(shape: Shape) -> st.SearchStrategy[PidRef | None]:
    return st.sampled_from([None, 0, CKPT_PID_ROOT, *shape.tags]) | _outside(shape)


@cache
def _births(shape: Shape) -> st.SearchStrategy[Birth]:
    creators = [
        None,
        *(Creator(Tag(tag), None) for tag in shape.tags),
        *(Creator(None, n) for n in range(shape.ancestors)),
    ]
    flags = st.sampled_from([(), ("CLONE_NEWPID",), ("CLONE_PARENT", "CLONE_VFORK")])
    return st.tuples(st.sampled_from(creators), st.booleans(), _refs(shape), _refs(shape), flags, st.none() | _u64).map(
        lambda drawn: Birth(*drawn)
    )


@cache
def _terminals(shape: Shape) -> st.SearchStrategy[Terminal]:
    group = st.just(CKPT_PID_NULL) | _refs(shape)
    return st.tuples(st.none() | _raw, group, group).map(lambda drawn: Terminal(*drawn))


@cache
def _owners(shape: Shape) -> st.SearchStrategy[FileOwner]:
    owner = st.sampled_from([0, CKPT_PID_NULL, CKPT_PID_ROOT, *shape.tags]) | _outside(shape)
    return st.tuples(st.integers(0, 2**31 - 1), owner, st.sampled_from(get_args(OwnerType))).map(
        lambda drawn: FileOwner(*drawn)
    )


@cache
def _task_facts(shape: Shape) -> st.SearchStrategy[tuple[Any, ...]]:
    """Draw all fields of a task except its ids, in their order."""
    return st.tuples(
        st.none() | _u64,
        st.sampled_from([None, *TaskState]),
        st.none() | _s32,
        st.none() | _s32,
        st.none() | _raw,
        st.none() | _u32,
        st.none() | _u32,
        st.sampled_from([None, False, True]),
        st.sampled_from([None, *range(-1, shape.namespaces)]),
        _raws,
        st.none() | _raw,
        _raws,
        st.none() | _terminals(shape),
        st.none() | st.lists(_owners(shape), max_size=2).map(tuple),
        st.none() | _details,
        st.none() | _shares,
        st.sampled_from([None, True]),
        st.none() | _births(shape),
    )


@cache
def _ancestors(shape: Shape) -> st.SearchStrategy[tuple[Any, ...]]:
    """Draw all fields of an ancestor except its id, in their order."""
    tagged = st.tuples(st.sampled_from(["setsid", "setpgid", "exit"]), _u64, _refs(shape))
    switch = st.tuples(st.just("subreaper"), _u64, st.sampled_from([None, 0, 1]))
    events = st.lists((tagged | switch).map(lambda drawn: AncestorEvent(*drawn)), max_size=3).map(tuple)
    return st.tuples(_outside(shape), _births(shape), events).map(lambda drawn: (*drawn[0], *drawn[1:]))
