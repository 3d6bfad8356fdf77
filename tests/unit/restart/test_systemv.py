# SPDX-License-Identifier: Apache-2.0
"""System V objects of images: whether a tree gets an IPC namespace, and what of them is refused."""

from types import SimpleNamespace
from typing import Any

from agent.restart.contents.hostfacts import HostFacts
from agent.restart.contents.pageruns import PageRun
from agent.restart.contents.systemv import SystemV
from exporters.criu.criuschema import messages

HERE = HostFacts("", frozenset())


def images(own: int = 2, of_criu: int = 1, pages: int = 0, **files: list[Any]) -> Any:
    """Return images of one process in an IPC namespace, with the entries of some of its files and one run of pages."""
    ids = messages()["task_kobj_ids_entry"](vm_id=1, files_id=1, fs_id=1, sighand_id=1, ipc_ns_id=own)
    criu = messages()["task_kobj_ids_entry"](vm_id=1, files_id=1, fs_id=1, sighand_id=1, ipc_ns_id=of_criu)
    return SimpleNamespace(
        processes={5: SimpleNamespace(lives=True, ids=ids)},
        inventory=SimpleNamespace(root_ids=criu),
        all=lambda name: files.get(name.split("-")[1], []),
        payloads=lambda name: iter(
            [(SimpleNamespace(message=each), b"") for each in files.get(name.split("-")[1], [])]
        ),
        pages=lambda _: [PageRun(0, pages, None, 0)] if pages else [],  # type: ignore[arg-type]
    )


def segment(number: int = 3, size: int = 100, uid: int = 0, **more: Any) -> Any:
    """Return the message of a segment."""
    desc = {"key": 0, "uid": uid, "gid": 0, "cuid": 0, "cgid": 0, "mode": 0o600, "id": number}
    return messages()["ipc_shm_entry"](desc=desc, size=size, **{"in_pagemaps": True, **more})


def rules(found: SystemV, host: HostFacts = HERE) -> list[str]:
    """Return the rules by which objects are refused."""
    return [each.refusal[2] for each in found.faults(host)]


def test_a_tree_in_the_namespace_of_criu_gets_none() -> None:
    """Its objects would be those of all programs there, and are not dumped."""
    found = SystemV(images(own=1, shm=[segment()]))

    assert (found.namespace, found.segments, found.needed(HERE)) == (0, {}, False)


def test_a_caller_in_a_namespace_of_its_own_stands_for_one_without_objects() -> None:
    """As below a container runtime; with objects it gets another one, where no number is taken."""
    inside = HERE._replace(initial=frozenset())

    assert [SystemV(images()).needed(host) for host in (HERE, inside)] == [True, False]
    assert SystemV(images(shm=[segment()])).needed(inside)


def test_what_cannot_be_made_is_refused_by_its_rule() -> None:
    """A caller without the right, owners that are not here, sizes that none can have, pages behind the end, old images."""
    here = HERE._replace(granted=0)

    assert rules(SystemV(images(shm=[segment()]))) == []
    assert rules(SystemV(images()), here) == ["namespace"]
    assert rules(SystemV(images(shm=[segment(uid=7)])), HERE._replace(uids=(range(1),))) == ["user"]
    assert rules(SystemV(images(shm=[segment(size=0)]))) == ["size"]
    assert rules(SystemV(images(shm=[segment(size=1 << 60)]))) == ["size"]
    assert rules(SystemV(images(shm=[segment()], pages=8192))) == ["pages"]
    assert rules(SystemV(images(shm=[segment(in_pagemaps=False)]))) == ["version"]


def test_the_bytes_of_a_segment_are_whole_pages() -> None:
    """Segments of huge pages are among them."""
    found = SystemV(images(shm=[segment(3, 4097), segment(4, 1, hugetlb_flag=0o4000 | 21 << 26)]))

    assert (found.span, found.huge_pages) == (2 << 20, {2 << 20: 2 << 20})
    assert found.segments[3].span == 8192
