# SPDX-License-Identifier: Apache-2.0
"""Values kept for trees: those of the newest ones, within bounds of their number and of their tasks."""

from agent.capture.recent import MOST_TASKS, MOST_TREES, Recent


def kept(recent: Recent[str, list[int]]) -> int:
    """Return the number of values."""
    return len(recent.values())


def test_a_value_is_made_once_and_found_again() -> None:
    """The same object comes back, whatever was used between."""
    recent: Recent[str, list[int]] = Recent(list)
    first = recent.of("a")

    assert recent.of("b") is not first
    assert recent.of("a") is first


def test_the_tree_used_longest_ago_is_forgotten_first() -> None:
    """A use makes a tree the newest one."""
    recent: Recent[str, list[int]] = Recent(list)
    first, second = recent.of("0"), recent.of("1")
    for number in range(2, MOST_TREES):
        recent.of(str(number))
    recent.of("0")
    recent.of("one more")

    assert kept(recent) == MOST_TREES
    assert recent.of("0") is first
    assert recent.of("1") is not second


def test_the_tasks_of_all_trees_but_the_newest_are_bounded() -> None:
    """One large tree is kept, and displaced by the next one."""
    recent: Recent[str, list[int]] = Recent(list)
    large = recent.of("large", 10 * MOST_TASKS)

    assert recent.of("large") is large

    recent.of("small", 1)

    assert recent.of("large") is not large


def test_small_trees_are_kept_beside_the_newest_up_to_the_bound() -> None:
    """The count of a tree is the one told last."""
    recent: Recent[str, list[int]] = Recent(list)
    recent.of("a", MOST_TASKS // 2)
    recent.of("b", MOST_TASKS // 2)
    recent.of("c", MOST_TASKS)

    assert kept(recent) == 3

    recent.of("a", MOST_TASKS // 2 + 1)
    recent.of("c")

    assert kept(recent) == 2


def test_some_values_stay_where_all_others_are_forgotten() -> None:
    """Also where the newest one goes: its key has another value then."""
    recent: Recent[str, list[int]] = Recent(list)
    one, other = recent.of("one"), recent.of("other")
    recent.retain({"one"})

    assert recent.values() == [one]
    assert recent.of("other") is not other
    assert recent.of("one") is one
