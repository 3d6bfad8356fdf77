# SPDX-License-Identifier: Apache-2.0
"""Rings of asynchronous I/O, and open files of namespaces: those that the images do not describe are refused."""

from types import SimpleNamespace
from typing import Any

import pytest

from agent.restart.contents import aiorings
from agent.restart.contents.namespacefiles import NamespaceFiles
from agent.restart.contents.refusals import Refused
from exporters.criu.criuschema import messages
from exporters.criu.memorymessages import AREA_AIORING
from tests.support.filledfiles import calls, file_entry, filled

AT = 0x7000_0000_0000
NET, PID = 0x40000000, 0x20000000


def process(*rings: dict[str, int], areas: int = 1) -> Any:
    """Return a process with rings and with areas for them, each of one page."""
    known: Any = messages()["aio_ring_entry"]
    vmas = [
        SimpleNamespace(start=AT + 8192 * at, end=AT + 8192 * at + 4096, status=AREA_AIORING) for at in range(areas)
    ]
    made = [known(**{"id": AT, "nr_req": 62, "ring_len": 4096} | each) for each in rings]
    return SimpleNamespace(mm=SimpleNamespace(aios=made, vmas=vmas))


def test_a_ring_needs_its_memory_and_its_size() -> None:
    """One that the images do not describe, or describe otherwise, is refused by its address."""
    assert list(aiorings.faults(process({}))) == []
    for one in (process(), process({"ring_len": 8192}), process({"nr_req": 0}), process({"nr_req": 1 << 30})):
        ((kind, identity, rule, _),) = [each.refusal for each in aiorings.faults(one)]
        assert (kind, identity, rule) == ("aio", f"{AT:#x}", "missing")
    without = [each.refusal for each in aiorings.faults(process({}, areas=0))]
    assert [each[2] for each in without] == ["missing"]


def of_tree(**ids: int) -> Any:
    """Return a process in namespaces of these numbers."""
    made: Any = messages()["task_kobj_ids_entry"]
    return SimpleNamespace(lives=True, ids=made(vm_id=1, files_id=1, fs_id=1, sighand_id=1, **ids))


def test_a_namespace_of_all_processes_is_opened_by_its_owner() -> None:
    """By its own file in /proc."""
    kind = NamespaceFiles([of_tree(net_ns_id=4), of_tree(net_ns_id=4)])
    entry = file_entry(1, 14, ns_id=4, ns_cflag=NET)
    kind.check(entry, {3})
    (holder,) = filled([entry], {14: kind}, [((10,), [1])])

    (opened,) = calls(holder, "openat")
    place: Any = opened.arguments[1]
    assert bytes(holder.program._data[place.offset :]).startswith(b"/proc/self/ns/net\0")


@pytest.mark.parametrize(("identity", "flag"), [(9, NET), (4, PID), (4, 1)])
def test_a_namespace_that_some_are_not_in_is_refused(identity: int, flag: int) -> None:
    """No task of the tree could open its file."""
    kind = NamespaceFiles([of_tree(net_ns_id=4, pid_ns_id=4), of_tree(net_ns_id=4, pid_ns_id=5)])
    with pytest.raises(Refused) as caught:
        kind.check(file_entry(1, 14, ns_id=identity, ns_cflag=flag), {3})

    assert caught.value.refusal[2] == "namespace"
