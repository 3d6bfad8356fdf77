# SPDX-License-Identifier: Apache-2.0
"""Pid objects and namespaces from records."""

from agent.table import rules, wire
from agent.table.pidspace import PidSpace
from agent.table.wire import Kind
from tests.support.records import RecordWriter, a_state


def a_space() -> tuple[PidSpace, list[object]]:
    """Return a table of pid objects, and the tasks that it buries."""
    buried: list[object] = []
    return PidSpace(buried.append), buried


def test_a_pid_object_is_entered_once_and_found_by_every_number() -> None:
    """This holds for each level."""
    space, buried = a_space()
    pid = space.enter(7, a_state((100, 5, 1), (1, 2, 3)))

    assert space.enter(7, a_state((100, 5, 1), (1, 2, 3))) is pid
    assert pid.namespace.numbers == {1: pid}
    assert pid.namespace.ancestor(1).numbers == {5: pid}
    assert space.initial.numbers == {100: pid}
    assert buried == []


def test_a_task_of_the_initial_namespace_is_entered_under_its_number() -> None:
    """The record is not read for that."""
    space, _ = a_space()
    state = a_state((100,), (1,))
    record = RecordWriter().task(Kind.FORK, roles=((7, state),) * 4)

    assert space.own(record, 0, 100, 7) is space.own(record, 0, 100, 7) is space.numbers[100]


def test_each_role_of_a_record_is_found_wherever_its_numbers_stand() -> None:
    """The session shares the group's object, the tgid the pid's."""
    space, _ = a_space()
    own, group = a_state((100, 5), (1, 2)), a_state((90, 2), (1, 2))
    record = RecordWriter().task(Kind.FORK, roles=((7, own), (7, own), (8, group), (8, group)))
    pid = space.own(record, 0, 100, 7)
    roles = [space.role(record, 0, role) for role in (1, 2, 3)]

    assert roles[0] is pid
    assert roles[1] is roles[2]
    assert roles[1].numbers == (90, 2)
    assert roles[1].namespace is pid.namespace


def test_looking_for_a_task_enters_nothing() -> None:
    """An unknown leader leaves no pid object behind."""
    space, _ = a_space()
    own, leader = a_state((100,), (1,)), a_state((90,), (1,))
    record = RecordWriter().task(Kind.FORK, roles=((7, own), (8, leader), (8, leader), (8, leader)))

    assert space.task(record, 0, 1) is None
    assert space.numbers == {}


def test_a_number_that_belongs_to_another_object_buries_the_one_that_had_it() -> None:
    """This holds for any level: innermost, between, outermost."""
    for taken in range(3):
        space, buried = a_space()
        old = space.enter(7, a_state((100, 50, 10), (1, 2, 3)))
        numbers = [101, 51, 11]
        numbers[taken] = old.numbers[taken]
        space.enter(8, a_state((numbers[0], numbers[1], numbers[2]), (1, 2, 3)))

        assert old in buried


def test_the_first_pid_object_seen_may_be_the_deepest_there_can_be() -> None:
    """All namespaces of its 33 levels are unknown so far; a pid object one level up finds them."""
    space, _ = a_space()
    deep = space.enter(7, a_state(tuple(range(100, 133)), tuple(range(1, 34))))

    assert deep.level == 32
    assert len(space.living()) == wire.MAX_LEVELS

    for level in range(32):
        pid = space.enter(8 + level, a_state(tuple(range(200, 201 + level)), tuple(range(1, 2 + level))))

        assert pid.namespace is deep.namespace.ancestor(level)


def test_namespaces_that_share_an_inode_number_are_told_apart_by_identity() -> None:
    """The kernel uses an inode number again at once."""
    space, buried = a_space()
    first = space.enter(7, a_state((100, 1), (1, 2), (1, 77)))
    second = space.enter(8, a_state((101, 1), (1, 3), (1, 77)))

    assert first.namespace is not second.namespace
    assert [namespace.inum for namespace in space.living()][1:] == [77, 77]
    assert buried == []


def test_a_namespace_is_living_as_long_as_it_holds_a_pid_object() -> None:
    """Dead ones are forgotten when the next one appears."""
    space, _ = a_space()
    pids = []
    for number in range(50):
        pid = space.enter(number + 1, a_state((100 + number, 1), (1, 2 + number)))
        rules.attach_pid(pid)
        pids.append(pid)

        assert space.living() == [space.initial, pid.namespace]

        rules.detach_pid(pid)

    assert space.living() == [space.initial]
    assert len(space.namespaces) == 1


def test_an_identity_below_another_namespace_is_another_namespace() -> None:
    """Without ns_id the identity is a start time, which may occur twice."""
    space, _ = a_space()
    below = space.enter(7, a_state((100, 1, 1), (1, 2, 9))).namespace
    beside = space.enter(8, a_state((101, 1), (1, 9))).namespace

    assert below is not beside
    assert (below.level, beside.level) == (2, 1)
