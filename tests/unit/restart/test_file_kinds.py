# SPDX-License-Identifier: Apache-2.0
"""The operations that restore the open files of a tree."""

import struct

import pytest

from agent.restart.contents.descriptors import unseen
from agent.restart.contents.eventfiles import Epolls, EventCounters, ProcessFiles, TimerFiles
from agent.restart.contents.fillprogram import Data
from agent.restart.contents.holder import Holder
from agent.restart.contents.netlinksockets import NetlinkSockets
from agent.restart.contents.openfiles import Pipes
from agent.restart.contents.refusals import Refused
from tests.support.filledfiles import calls, file_entry, filled

TIME = {"settime_flags": 0, "vsec": 0, "vnsec": 0, "isec": 0, "insec": 0, "ticks": 0, "clockid": 1}


def test_the_deepest_process_owns_a_file_and_the_others_fetch_it_by_its_number_there() -> None:
    """A process sees processes of its own pid namespace and of those below it."""
    entry = file_entry(7, 6, counter=5)

    above, below = filled([entry], {6: EventCounters()}, [((10,), [7]), ((11, 1), [7])])

    assert len(calls(below, "eventfd2")) == 1
    assert not calls(above, "eventfd2")
    assert calls(above, "pidfd_open")[0].arguments[0] == 11
    assert len(calls(above, "pidfd_getfd")) == 1


def test_both_ends_of_a_pipe_are_made_by_one_process() -> None:
    """Each end is then fetched by the process that has it."""
    ends = [file_entry(1, 2, pipe_id=9, flags=0), file_entry(2, 2, pipe_id=9, flags=1)]

    reader, writer = filled(ends, {2: Pipes({1: ends[0], 2: ends[1]}, {})}, [((10,), [1]), ((11, 1), [2])])

    assert len(calls(writer, "pipe2")) == 1
    assert not calls(reader, "pipe2")
    assert len(calls(reader, "pidfd_getfd")) == 1


def test_an_owner_gets_the_signals_of_a_file_by_its_number_in_the_namespace() -> None:
    """F_SETOWN_EX takes the number that the caller sees."""
    owner = {"uid": 0, "euid": 0, "signum": 12, "pid_type": 1, "pid": 11}
    entry = file_entry(7, 6, counter=0, fown=owner, flags=0o20002)

    (holder,) = filled([entry], {6: EventCounters()}, [((11, 1), [7])])

    assert calls(holder, "fcntl")[0].arguments[1:] == (10, 12)
    content = holder.program._data
    place = next(each.arguments[2] for each in calls(holder, "fcntl") if each.arguments[1] == 15)
    assert isinstance(place, Data)
    assert struct.unpack_from("<ii", content, place.offset) == (1, 1)
    assert calls(holder, "fcntl")[-1].arguments[1:] == (4, 0o20000)


def test_a_periodic_timer_that_waits_for_its_reader_expires_first() -> None:
    """Setting it anew without time would disarm it for good."""
    entry = file_entry(7, 17, **TIME | {"isec": 3, "ticks": 2})

    (holder,) = filled([entry], {17: TimerFiles()}, [((11,), [7])])

    made = [each.name for each in calls(holder, "timerfd_settime", "ppoll", "ioctl")]
    assert made == ["timerfd_settime", "ppoll", "ioctl"]
    place = calls(holder, "timerfd_settime")[0].arguments[2]
    assert isinstance(place, Data)
    assert struct.unpack_from("<4Q", holder.program._data, place.offset) == (3, 0, 0, 1)


def test_a_timer_that_ran_out_gets_its_ticks_alone() -> None:
    """It must not expire again."""
    entry = file_entry(7, 17, **TIME | {"ticks": 1})

    (holder,) = filled([entry], {17: TimerFiles()}, [((11,), [7])])

    assert [each.name for each in calls(holder, "timerfd_settime", "ppoll", "ioctl")] == ["ioctl"]


def test_a_timer_that_was_off_keeps_its_interval_and_stays_off() -> None:
    """So the kernel keeps it; an absolute time of 0 is no time either."""
    entry = file_entry(7, 17, **TIME | {"isec": 3, "settime_flags": 1})

    (holder,) = filled([entry], {17: TimerFiles()}, [((11,), [7])])

    (setting,) = calls(holder, "timerfd_settime", "ppoll", "ioctl")
    place = setting.arguments[2]
    assert isinstance(place, Data)
    assert struct.unpack_from("<4Q", holder.program._data, place.offset) == (3, 0, 0, 0)


@pytest.mark.parametrize("wrong", [{"clockid": 5}, {"vsec": 1 << 63}])
def test_a_timer_of_no_clock_or_time_is_refused(wrong: dict[str, int]) -> None:
    """Images are untrusted."""
    with pytest.raises(Refused):
        TimerFiles().check(file_entry(7, 17, **TIME | wrong), {3})


def test_an_epoll_file_gets_its_targets_when_all_have_their_numbers() -> None:
    """In the first process that has it, and behind the last dup3()."""
    target = {"id": 7, "tfd": 4, "events": 1, "data": 99}
    files = [file_entry(7, 7, tfd=[target]), file_entry(8, 6, counter=0)]

    first, second = filled(files, {6: EventCounters(), 7: Epolls()}, [((10,), [7, 8]), ((11,), [7, 8])])

    names = [each.name for each in first.leader.operations]
    assert names.index("epoll_ctl") > max(at for at, name in enumerate(names) if name == "dup3")
    assert calls(first, "epoll_ctl")[0].arguments[:3] == (3, 1, 4)
    assert not calls(second, "epoll_ctl")


def test_an_epoll_file_with_a_target_that_was_closed_is_refused() -> None:
    """Another process or a message may hold the file; its number is gone."""
    entry = file_entry(7, 7, tfd=[{"id": 7, "tfd": 4, "events": 1, "data": 99}])

    with pytest.raises(Refused):
        Epolls().check(entry, {3})


def test_processes_that_do_not_see_the_owner_of_their_file_are_named() -> None:
    """Siblings in two pid namespaces see neither each other; those above see both."""
    files = {7: file_entry(7, 6, counter=0), 8: file_entry(8, 6, counter=0)}
    spaces = {10: (0,), 11: (0, 1), 12: (0, 2)}

    found = list(unseen(spaces, {7: [10, 11, 12], 8: [10, 12]}, files, {6: EventCounters()}))

    assert found == [(12, 7, 11)]


def test_a_netlink_socket_takes_another_number_where_its_own_is_given_away() -> None:
    """The kernel refuses the second call where the first one has succeeded."""
    entry = file_entry(7, 13, protocol=0, state=0, portid=55, groups=[1], dst_portid=0, dst_group=0, ino=9)

    (holder,) = filled([entry], {13: NetlinkSockets()}, [((10,), [7])])

    first, second = calls(holder, "bind")
    assert [_address(holder, each.arguments[1]) for each in (first, second)] == [(16, 55, 1), (16, 0, 1)]


def _address(holder: Holder, place: object) -> tuple[int, ...]:
    assert isinstance(place, Data)
    return struct.unpack_from("<HxxII", holder.program._data, place.offset)


def test_a_descriptor_of_a_process_names_it_as_its_owner_sees_it() -> None:
    """The image has numbers of the root's namespace."""
    entry = file_entry(7, 20, nspid=11, ino=9)

    (holder,) = filled([entry], {20: ProcessFiles([11])}, [((11, 1), [7])])

    assert calls(holder, "pidfd_open")[0].arguments[0] == 1
    with pytest.raises(Refused):
        ProcessFiles([11]).check(file_entry(7, 20, nspid=-1, ino=9), {3})


@pytest.mark.parametrize(("protocol", "rule"), [(0, ""), (31, "type"), (32, "type"), ((1 << 32) - 1, "type")])
def test_a_protocol_of_netlink_that_the_kernel_does_not_have_is_refused(protocol: int, rule: str) -> None:
    """No number of an image is too large to be refused; 31 is the last one, which nobody has."""
    entry = file_entry(7, 13, protocol=protocol, state=0, portid=0, dst_portid=0, dst_group=0)
    found = ""
    try:
        NetlinkSockets().check(entry, frozenset())
    except Refused as refused:
        found = refused.refusal[2]
    assert found == rule
