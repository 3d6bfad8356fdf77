# SPDX-License-Identifier: Apache-2.0
"""The users of zombies in a tree with contents: those that do not exist for the caller are refused beforehand."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from agent.model import TaskState, WaitStatus
from agent.restart.contents import treechecks, zombieusers
from agent.restart.contents.hostfacts import NAMESPACES, HostFacts
from agent.restart.contents.images import ProcessImage
from exporters.criu.criuschema import messages
from tests.support.builders import a_snapshot, a_task

DEAD: dict[str, Any] = {"state": TaskState.ZOMBIE, "exit_code": WaitStatus(0)}
TREE = a_snapshot(
    [(1,), (20,), (21,), (22,)],
    [
        a_task(1, 0, uid=5),
        a_task(2, 1, uid=1000, gid=7, **DEAD),
        a_task(3, 1, uid=0, gid=7, **DEAD),
        a_task(4, 1, uid=None, gid=None, **DEAD),
    ],
    mode="container",
)


def refused(host: HostFacts) -> list[tuple[int, tuple[str, str, str, str]]]:
    """Return the number of each process of which something is refused, and that."""
    return [(number, each.refusal) for number, each in treechecks.zombies(TREE, host)]


def test_a_zombie_of_a_user_that_does_not_exist_here_is_refused() -> None:
    """An ordinary user's tree gets that user alone. Of one whose ids no image tells nothing is refused."""
    host = HostFacts("x86_64", frozenset(), uids=(range(1),), gids=(range(7), range(8, 100)))

    assert refused(HostFacts("x86_64", frozenset())) == []
    assert refused(host) == [
        (20, ("credentials", "20", "user", "there is no user 1000 here")),
        (20, ("credentials", "20", "group", "there is no group 7 here")),
        (21, ("credentials", "21", "group", "there is no group 7 here")),
    ]


def test_a_caller_in_a_user_namespace_has_the_ids_of_that() -> None:
    """The ids of zombies are numbered as those of the living are."""
    inside = frozenset(NAMESPACES) - {"user"}
    host = HostFacts("x86_64", frozenset(), uids=(range(2000),), gids=(range(7),), initial=inside)

    assert [number for number, _ in refused(host)] == [20, 21]


def images(living: Mapping[int, int], *extents: tuple[int, int, int]) -> Any:
    """Return images of processes with these users and groups, by pid, in a user namespace with a map if there is one."""
    made = messages()
    processes = {}
    for pid, user in living.items():
        core: Any = made["core_entry"]()
        core.tc.task_state = 1
        core.thread_core.creds.uid = core.thread_core.creds.gid = user
        ids = made["task_kobj_ids_entry"](user_ns_id=9)
        processes[pid] = ProcessImage(pid, (pid,), core, {pid: core}, {pid: 0}, ids, None, None, ())
    entry: Any = made["userns_entry"]()
    for first, outer, count in extents:
        for each in (entry.uid_map, entry.gid_map):
            each.add(first=first, lower_first=outer, count=count)
    return SimpleNamespace(processes=processes, all=lambda name: [entry] if extents and name == "userns-9.img" else [])


def ids(users: Sequence[int], found: Any) -> tuple[list[tuple[Any, Any]], list[str]]:
    """Return the ids of zombies with these users in the tree, and what is refused of them; two processes live."""
    living = [a_task(1, 0, uid=100000, gid=100000), a_task(2, 1, uid=101000, gid=101000)]
    dead = [a_task(3 + at, 1, uid=user, gid=user, **DEAD) for at, user in enumerate(users)]
    numbers = [(1,), (20,), *((21 + at,) for at in range(len(users)))]
    tree, refused = zombieusers.numbered(a_snapshot(numbers, [*living, *dead], mode="container"), found)
    return [(task.uid, task.gid) for task in tree.tasks[2:]], [each.refusal[2] for _, each in refused]


def test_a_zombie_has_its_ids_as_the_tree_s_user_namespace_numbers_them() -> None:
    """Ids of the tree are the initial namespace's; a living task of the same user has both."""
    known = images({1: 0, 20: 1000})

    assert ids([101000, 100000], known) == ([(1000, 1000), (0, 0)], [])


def test_a_zombie_whose_ids_nothing_tells_in_the_tree_s_user_namespace_is_refused() -> None:
    """No living task has that user, and no image has the map."""
    found, rules = ids([100007], images({1: 0, 20: 1000}))

    assert rules == ["user", "group"]
    assert found == [(100007, 100007)]


def test_the_map_of_the_user_namespace_tells_the_ids_of_all_zombies() -> None:
    """Where it is that of the living, too: CRIU may have been in a namespace between."""
    assert ids([100007], images({1: 0, 20: 1000}, (0, 100000, 65536))) == ([(7, 7)], [])
    assert ids([100007], images({1: 0, 20: 1000}, (0, 200000, 65536)))[1] == ["user", "group"]


def test_zombies_keep_their_ids_where_the_living_have_the_same_ones_in_both() -> None:
    """As of a tree in the initial namespace."""
    assert ids([5], images({1: 100000, 20: 101000})) == ([(5, 5)], [])
