# SPDX-License-Identifier: Apache-2.0
"""The users of zombies in a tree with contents: those that do not exist for the caller are refused beforehand."""

from typing import Any

from agent.model import TaskState, WaitStatus
from agent.restart.contents import treechecks
from agent.restart.contents.hostfacts import NAMESPACES, HostFacts
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


def test_nothing_is_refused_to_a_caller_in_a_user_namespace() -> None:
    """The tree tells ids of the initial one, and those in here may have other numbers."""
    inside = frozenset(NAMESPACES) - {"user"}

    assert refused(HostFacts("x86_64", frozenset(), uids=(range(1),), gids=(range(1),), initial=inside)) == []
