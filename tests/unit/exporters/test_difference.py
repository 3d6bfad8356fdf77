# SPDX-License-Identifier: Apache-2.0
"""The comparison of two snapshots: the meaning of equality, and the report of differences."""

import json
from dataclasses import replace

import pytest

from agent.model import CKPT_PID_ROOT, Completeness, Namespace, PidObject, Shares, Snapshot, Tag, TaskState
from exporters.comparing.difference import difference, lines, to_document
from tests.support.builders import a_bare_task, a_family, a_snapshot, a_task, born, with_task

# The lines behind the head, which is the same for every comparison.
HEAD = 4


def without(snapshot: Snapshot, *tags: int) -> Snapshot:
    """Return the snapshot without some tasks; their pid objects stay."""
    return replace(snapshot, tasks=tuple(task for task in snapshot.tasks if task.pid not in tags))


def told(a: Snapshot, b: Snapshot) -> list[str]:
    """Return the lines behind the head."""
    return lines(difference(a, b))[HEAD:]


def test_a_difference_is_told_by_kind_and_by_number() -> None:
    """The lines are those of the command line."""
    a = a_family()
    b = with_task(a, 2, state=TaskState.ZOMBIE, exit_code=0)
    b = with_task(b, 4, ppid=1, comm=b"in\x1bit")
    b = replace(without(b, 7), time_ns=a.time_ns + 5_000_000_000, pids=(*b.pids[:6], PidObject((4723,), (0,))))
    b = replace(b, tasks=(*b.tasks, a_task(7, 1, comm=b"sh")))

    assert lines(difference(a, b)) == [
        "different: 1 gone, 1 born, 1 moved, 1 changed",
        "a: subtree of 4711 · 6 tasks · 2024-05-01 12:00:00 UTC",
        "b: subtree of 4711 · 6 tasks · 2024-05-01 12:00:05 UTC",
        "who is who: by number and start time",
        "",
        "gone",
        "   4722 cc · child of 4711 · zombie, exited 3 · group 4690 · born of 4700 (gone)",
        "born",
        "   4723 sh · child of 4711",
        "moved",
        "   4720/1 init: parent 4712 → 4711",
        "changed",
        "   4712 make: state running → zombie; exit code none → exited 0",
        "",
        "notes, no part of being equal",
        r"   4720/1 init: comm init → in\x1bit",
    ]


def test_a_terminal_without_unicode_gets_the_same_in_ascii() -> None:
    """Signs are replaced, and foreign names are escaped."""
    a = a_family()
    found = difference(a, with_task(a, 7, pgid=CKPT_PID_ROOT, comm="é".encode()))

    assert lines(found, unicode=False)[HEAD:] == [
        "",
        "moved",
        "   4722 cc: group 4690 -> inherited from outside",
        "",
        "notes, no part of being equal",
        r"   4722 cc: comm cc -> \xe9",
    ]
    assert lines(found, unicode=False)[1] == "a: subtree of 4711 - 6 tasks - 2024-05-01 12:00:00 UTC"


def test_a_snapshot_equals_itself_in_four_lines() -> None:
    """No notes follow."""
    assert lines(difference(a_family(), a_family())) == [
        "equal",
        "a: subtree of 4711 · 6 tasks · 2024-05-01 12:00:00 UTC",
        "b: subtree of 4711 · 6 tasks · 2024-05-01 12:00:00 UTC",
        "who is who: by number and start time",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ppid": 3}, "parent 101 → 103"),
        ({"tgid": 3}, "thread group 102 → 103"),
        ({"pgid": 4}, "group 101 → 104"),
        ({"sid": 4}, "session 101 → 104"),
        ({"sid": 0}, "session 101 → outside"),
        ({"sid": CKPT_PID_ROOT}, "session 101 → inherited from outside"),
        ({"state": TaskState.STOPPED}, "state running → stopped"),
        ({"state": TaskState.ZOMBIE, "exit_code": 9}, "state running → zombie; exit code none → killed by SIGKILL"),
        ({"subreaper": True}, "subreaper no → yes"),
        ({"exit_signal": 10}, "exit signal SIGCHLD → SIGUSR1"),
        ({"exit_signal": 0}, "exit signal SIGCHLD → none"),
    ],
)
def test_what_became_of_a_task_is_told_in_words(change: dict[str, object], said: str) -> None:
    """One or two fields change; each of them makes the snapshots different."""
    tasks = [a_task(1, 0), a_task(2, 1, comm=b"sh"), a_task(3, 1)]
    a = a_snapshot([(100 + n,) for n in range(1, 5)], tasks)
    found = told(a, with_task(a, 2, **change))

    # A process that has become a thread is named as a process.
    assert found[2] == f"   102 sh: {said}"
    assert len(found) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"start_ns": None},
        {"birth": born(2)},
        {"uid": 7},
        {"comm": b"x"},
        {"exit_signal": None},
        {"child_namespace": 0},
        {"cwd": b"/"},
    ],
)
def test_what_is_no_part_of_being_equal_makes_no_difference(change: dict[str, object]) -> None:
    """Some of these changes are noted."""
    a = a_family()

    assert difference(a, with_task(a, 2, **change)).equal


def test_a_dumped_core_is_no_difference() -> None:
    """A rebuilt task was killed by the same signal, and dumps no second core."""
    a = with_task(a_family(), 7, exit_code=11 | 0x80)

    assert difference(a, with_task(a, 7, exit_code=11)).equal
    assert told(a, with_task(a, 7, exit_code=11)) == [
        "",
        "notes, no part of being equal",
        "   4722 cc: core dumped yes → no",
    ]
    assert not difference(a, with_task(a, 7, exit_code=6)).equal


def test_a_namespace_that_waits_and_is_dead_in_one_of_them_alone_is_noted() -> None:
    """A rebuild makes another namespace, which is alive."""
    a = with_task(a_family(), 7, child_namespace=-1, child_namespace_dead=True)
    b = with_task(a_family(), 7, child_namespace=-1)

    assert difference(a, b).equal
    assert told(a, b)[-1] == "   4722 cc: next pid namespace dead → alive"
    assert told(a, a_family())[-1] == "   4722 cc: next pid namespace dead → its own"


def test_what_is_shared_in_one_of_them_alone_is_noted() -> None:
    """The note has the sharing tasks and not the ids, and it needs both snapshots to have been read for sharing."""
    looked = replace(a_family(), as_of_read=("shares",))
    a = with_task(with_task(looked, 2, shares=Shares(files=5)), 7, shares=Shares(files=5))
    b = with_task(with_task(looked, 2, shares=Shares(files=9)), 7, shares=Shares(files=9))

    assert difference(a, b).notes == ()
    assert difference(a, looked).equal
    assert difference(a, looked).notes == ("files shared in a alone: 4712, 4722",)
    assert difference(looked, a).notes == ("files shared in b alone: 4712, 4722",)
    assert difference(a, a_family()).notes == ()


def test_a_new_name_or_owner_is_noted() -> None:
    """The task has run a program or changed its user."""
    a = a_family()

    assert told(a, with_task(a, 7, comm=b"ld", uid=1000, gid=100)) == [
        "",
        "notes, no part of being equal",
        "   4722 cc: comm cc → ld; uid 0 → 1000; gid 0 → 100",
    ]


def test_a_number_used_again_is_another_task() -> None:
    """In one tree the start time tells tasks apart; the earlier task is gone."""
    a = a_family()
    found = difference(a, with_task(a, 7, start_ns=5, comm=b"sh", pgid=1, state=TaskState.RUNNING, exit_code=None))

    assert not found.equal
    assert [(task.comm, task.start_ns) for task in (*found.gone, *found.born)] == [(b"cc", 7_000_000), (b"sh", 5)]
    assert (found.moved, found.changed, found.renamed) == ((), (), ())


def test_a_number_used_again_by_its_like_is_noted_alone() -> None:
    """Start times do not count for equality."""
    a = a_family()

    assert told(a, with_task(a, 7, start_ns=5)) == [
        "",
        "notes, no part of being equal",
        "   4722 cc: another task since, with the same number",
    ]


@pytest.mark.parametrize("boot_id", ["", "another", a_family().boot_id])
def test_a_rebuilt_tree_is_compared_by_its_numbers(boot_id: str) -> None:
    """This holds on any host: all start times differ, and no task counts as replaced."""
    a = a_family()
    tasks = [task._replace(start_ns=(task.start_ns or 0) + 10**9) for task in a.tasks]
    found = difference(a, with_task(replace(a, boot_id=boot_id, tasks=tuple(tasks)), 7, pgid=1))

    assert not found.one_tree
    assert (found.gone, found.born, found.replaced) == ((), (), ())
    assert [row.a.pid for row in found.moved] == [7]
    assert lines(found)[3] == "who is who: by number"


def test_another_boot_is_noted() -> None:
    """Both snapshots need a boot id for this."""
    a = a_family()

    assert told(a, replace(a, boot_id="another"))[-1] == "   captured on different hosts, or with a boot in between"
    assert told(a, replace(a, boot_id="")) == []


def test_a_number_that_goes_on_differently_inside_is_another_pid() -> None:
    """Numbers are compared at every level."""
    a = a_family()
    b = replace(a, pids=(*a.pids[:3], PidObject((4720, 2), (0, 1)), *a.pids[4:]))
    found = difference(a, b)

    assert [task.pid for task in (*found.gone, *found.born)] == [4, 4]
    assert (found.pids_gone, found.pids_came) == ((), ())


def test_pids_without_a_task_come_and_go() -> None:
    """They remain as another task's group. If one of the two has a task of that pid, the task is gone or born."""
    a = a_family()
    lost = with_task(replace(a, pids=(*a.pids[:2], PidObject((4691,), (0,)), *a.pids[3:])), 7, pgid=3)

    assert told(a, lost) == [
        "",
        "moved",
        "   4722 cc: group 4690 → 4691",
        "pids without a task, gone",
        "   4690",
        "pids without a task, new",
        "   4691",
    ]
    assert told(a, without(a, 7))[1:] == [
        "gone",
        "   4722 cc · child of 4711 · zombie, exited 3 · group 4690 · born of 4700 (gone)",
    ]


def in_namespaces(*ids: int) -> Snapshot:
    """Return a root, and five tasks in inner namespaces with those ids."""
    pids = [PidObject((1,), (0,)), *[PidObject((2 + n, 1 + n), (0, id_)) for n, id_ in enumerate(ids)]]
    tasks = [a_task(1, 0), *[a_task(2 + n, 1, depth=1) for n in range(len(ids))]]
    spaces = tuple(Namespace(n, 4026532000 + n, min(n, 1), 0 if n else None) for n in range(1 + max(ids)))
    return replace(a_snapshot(tasks=tasks, namespaces=spaces), pids=tuple(pids))


def test_who_shares_a_namespace_matters_and_what_it_is_called_does_not() -> None:
    """Each capture gives new ids and inode numbers."""
    a = in_namespaces(1, 1, 2, 2, 2)

    assert difference(a, in_namespaces(2, 2, 1, 1, 1)).equal
    assert told(a, in_namespaces(2, 2, 1, 1, 2)) == [
        "",
        "in another pid namespace",
        "   6/5: its number 5 is with 4/3 in a, with 2/1 in b",
    ]
    assert told(a, in_namespaces(1, 1, 1, 1, 1))[2:] == [
        "   2/1: its number 1 is with 3/2 in a, with 3/2 in b",
        "   3/2: its number 2 is with 2/1 in a, with 2/1 in b",
    ]


def test_a_program_reads_namespaces_by_their_inode_numbers() -> None:
    """The numbers are those of either side, because ids mean nothing outside of their file."""
    found = difference(in_namespaces(1, 1, 2, 2, 2), in_namespaces(2, 2, 1, 1, 2))

    assert to_document(found)["namespaces"] == [{"numbers": (6, 5), "level": 1, "a": 4026532002, "b": 4026532002}]


def a_bare(snapshot: Snapshot, dialect: str = "seed") -> Snapshot:
    """Return the snapshot that an image of the 2011 tools would have."""
    bare = replace(
        snapshot,
        pids=tuple(PidObject(pid.numbers, ()) for pid in snapshot.pids),
        tasks=tuple(a_bare_task(*task[:6]) for task in snapshot.tasks),
        boot_id="",
    )
    if dialect == "v23":
        tasks = [t._replace(pgid=Tag(max(t.pgid, 0)), sid=Tag(max(t.sid, 0))) for t in bare.tasks]
        return replace(bare, dialect="v23", tasks=tuple(tasks))
    return bare


def test_what_a_bare_image_does_not_say_is_told_once() -> None:
    """An unknown fact is not known to be equal; the trees are compared all the same."""
    a = a_family()

    assert told(a, with_task(a_bare(a), 7, pgid=1)) == [
        "",
        "moved",
        "   4722 cc: group 4690 → 4711",
        "known to one alone",
        "   exit code: a says it of 1 task, b does not",
        "   namespaces: a says it of 7 pids, b does not",
        "   state: a says it of 6 tasks, b does not",
        "   subreaper: a says it of 6 tasks, b does not",
    ]
    assert difference(a_bare(a), a_bare(a)).equal


def test_an_old_image_has_one_word_for_two_kinds_of_outside() -> None:
    """The dialect v23 cannot express the root's inherited session. Without EXTENSION it is not compared."""
    a = with_task(a_family(), 1, sid=CKPT_PID_ROOT, pgid=0)
    bare = a_bare(a)

    assert difference(bare, a_bare(a, "v23")).equal
    assert not difference(bare, with_task(bare, 1, sid=0)).equal
    assert not difference(a, with_task(replace(a, dialect="v23"), 1, sid=0)).equal


def test_the_same_happened_to_the_threads_of_a_process_is_told_once() -> None:
    """Forty threads are not forty lines. A thread with another change has its own line."""
    threads = [a_task(tag, 1, tgid=2, comm=b"w") for tag in range(4, 44)]
    a = a_snapshot([(n,) for n in range(101, 144)], [a_task(1, 0), a_task(2, 1), a_task(3, 1), *threads])
    moved = [t._replace(pgid=Tag(3)) if t.tgid == 2 else t for t in a.tasks]
    b = with_task(replace(a, tasks=tuple(moved)), 43, state=TaskState.STOPPED)
    dead = without(a, 2, *range(4, 44))

    assert told(a, b)[1:] == [
        "moved",
        "   102 task-2 (and 40 threads): group 101 → 103",
        "changed",
        "   {143 w}: state running → stopped",
    ]
    assert told(a, dead)[1:] == ["gone", "   102 task-2 (and 40 threads) · child of 101"]
    assert told(a, without(a, 43))[1:] == ["gone", "   {143 w} · thread of 102"]


def test_what_each_snapshot_is_like_as_a_whole_is_noted() -> None:
    """None of these facts makes the snapshots different."""
    a = a_family()
    b = replace(a, mode="container", squashed=(), completeness=Completeness("no", reasons=("a gap\n",)))

    assert difference(a, b).equal
    assert told(a, b)[2:] == [
        "   a is a subtree, b a container",
        r"   b is incomplete: a gap\n",
        "   under one tag from outside: 4000, 4001 in a, nothing in b",
    ]


def test_a_program_reads_who_what_and_how() -> None:
    """Tasks are given by numbers, names as text."""
    a = a_family()
    b = with_task(with_task(a, 6, state=TaskState.STOPPED), 4, pgid=CKPT_PID_ROOT, comm=b"\xff")
    document = json.loads(json.dumps(to_document(difference(a, without(b, 7)))))

    worker = {"numbers": [4714], "comm": "wor\\xffker", "thread_group": [4712]}
    init = {"numbers": [4720, 1], "comm": "init", "thread_group": [4720, 1]}
    assert document["gone"] == [{"numbers": [4722], "comm": "cc", "thread_group": [4722]}]
    assert document["changed"] == [worker | {"changes": [{"field": "state", "a": "running", "b": "stopped"}]}]
    assert document["moved"] == [init | {"changes": [{"field": "group", "a": [4720, 1], "b": CKPT_PID_ROOT}]}]
    assert document["renamed"] == [init | {"changes": [{"field": "comm", "a": "init", "b": "\\xff"}]}]
    assert (document["identity"], document["a"]["root"], document["a"]["tasks"]) == ("start", [4711], 6)
