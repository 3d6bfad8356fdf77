# SPDX-License-Identifier: Apache-2.0
"""The rules of access: the tasks that each user may see."""

import pytest

from agent.access import Policy, Viewer

ALICE = Viewer(100, 1000, 1000, frozenset((24, 27)))


@pytest.mark.parametrize(
    ("uid", "gid", "theirs"),
    [
        (1000, 1000, True),
        (1000, 24, True),  # after newgrp
        (1000, 0, False),  # of a group that she is not in
        (1001, 1000, False),
        (0, 1000, False),
        (0, 0, False),
    ],
)
def test_a_task_is_theirs_whose_user_and_one_of_whose_groups_it_has(uid: int, gid: int, *, theirs: bool) -> None:
    """The real ids count."""
    assert ALICE.sees(uid, gid) is theirs
    assert ALICE.sees_ids((uid, gid)) is theirs


@pytest.mark.parametrize(
    ("credentials", "everything"),
    [
        ((1, 0, 0, frozenset[int]()), True),
        ((1, 990, 990, frozenset[int]()), True),  # the daemon's own user
        ((1, 1000, 1000, frozenset((5, 70))), True),  # a member of the group
        ((1, 1000, 70, frozenset[int]()), True),  # with the group as its present one
        ((1, 1000, 1000, frozenset((0, 5))), False),  # root's group is not root
        ((1, 1000, 0, frozenset[int]()), False),
    ],
)
def test_root_the_daemons_user_and_the_group_see_everything(
    credentials: tuple[int, int, int, frozenset[int]], *, everything: bool
) -> None:
    """No other user does."""
    viewer = Policy(990, 70).viewer(*credentials)

    assert viewer.privileged is everything
    assert viewer.sees(31, 31) is everything
    assert viewer.scope == ("all" if everything else "own")


def test_without_a_group_nobody_is_in_it() -> None:
    """This holds for a user without groups too."""
    assert not Policy(0, None).viewer(1, 1000, 1000, frozenset()).privileged
