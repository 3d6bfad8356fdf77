# SPDX-License-Identifier: Apache-2.0
"""The takeover from the store of descriptors; files in memory stand for the kernel's objects."""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent.capture.loading import Loaded
from agent.daemon import handover
from agent.daemon.handover import Inheritance, Order
from agent.daemon.servicemanager import Passed

ORDER = Order("1" * 40, 65536, ())
NAMES = (
    "map:ring",
    "program:on_announce raw_tracepoint",
    "raw_tracepoint:task_newtask",
    "perf:tracepoint:sys_exit_setsid",
)
MANIFEST, MEMORY = "ckptree/manifest", "ckptree/memory"


class Store:
    """A service manager's store: it keeps descriptors up to a limit, and passes all of them on."""

    def __init__(self, limit: int = 100) -> None:
        self.kept: list[tuple[str, int]] = []
        self.limit = limit
        self.listens = True

    @property
    def passed(self) -> Passed:
        """Return copies, as a new process gets them."""
        return Passed(stored=tuple((name, os.dup(descriptor)) for name, descriptor in self.kept))

    def store(self, name: str, descriptor: int) -> bool:
        """Handle FDSTORE=1."""
        assert name.isascii()
        assert name.isprintable()
        assert ":" not in name
        if len(self.kept) < self.limit:
            self.kept.append((name, os.dup(descriptor)))
        return True

    def forget(self, name: str) -> None:
        """Handle FDSTOREREMOVE=1."""
        for each in [each for each in self.kept if each[0] == name]:
            self.kept.remove(each)
            os.close(each[1])

    def settle(self, _timeout_s: float) -> bool:
        """Handle BARRIER=1."""
        return True

    def put(self, name: str, data: bytes) -> None:
        """Replace a file by another."""
        self.forget(name)
        descriptor = os.memfd_create(name)
        os.pwrite(descriptor, data, 0)
        self.kept.append((name, descriptor))

    def manifest(self) -> dict[str, Any]:
        """Return the manifest in the store."""
        document: dict[str, Any] = json.loads(os.pread(dict(self.kept)[MANIFEST], 1 << 16, 0))
        return document

    def change(self, **values: Any) -> None:
        """Change the manifest."""
        self.put(MANIFEST, json.dumps(self.manifest() | values).encode())


def leave(store: Any) -> Loaded:
    """Leave a kernel side in the store."""
    loaded = Loaded({name: os.memfd_create(name) for name in NAMES}, {"fork": ["x"]}, {"y": "no"}, ["pid.ino"])
    handover.leave(store, loaded, ORDER)
    return loaded


def take(store: Any, by: Order = ORDER) -> Inheritance:
    """Take over, as the next daemon does."""
    return handover.take(store, by)


@pytest.fixture
def store() -> Iterator[Store]:
    """Yield a store with a kernel side."""
    made = Store()
    loaded = leave(made)
    yield made
    for descriptor in (*loaded.descriptors.values(), *(each for _, each in made.kept)):
        os.close(descriptor)


def test_what_was_left_is_taken_over_and_stays_in_the_store(store: Store) -> None:
    """Names and facts are those of the predecessor, and the manifest comes last."""
    before = list(store.kept)
    found = take(store)

    assert found.loaded is not None
    assert tuple(found.loaded.descriptors) == NAMES
    assert found.loaded[1:] == ({"fork": ["x"]}, {"y": "no"}, ["pid.ino"])
    assert (found.memory, found.refusal) == (None, "")
    assert store.kept == before
    assert [name for name, _ in before].index(MANIFEST) == len(before) - 1


def test_a_memory_comes_along(store: Any) -> None:
    """It stays in the store until the daemon removes it."""
    assert handover.leave_memory(store, b"everything")
    assert take(store).memory == b"everything"
    handover.forget_memory(store)
    assert take(store).memory is None


def test_from_a_store_that_has_nothing_of_ours_nothing_is_taken() -> None:
    """Other programs' descriptors are left alone."""
    store = Store()
    store.put("something", b"")
    assert take(store) == Inheritance()
    assert [name for name, _ in store.kept] == ["something"]


def test_without_a_manager_nothing_is_left() -> None:
    """The daemon does not even ask."""
    store = Store()
    store.listens = False
    leave(store)

    assert store.kept == []


def exchange(store: Store) -> None:
    """Exchange two descriptors' names."""
    (one, a), (two, b) = store.kept[:2]
    store.kept[:2] = [(one, b), (two, a)]


def repeat(store: Store) -> None:
    """Add a second descriptor of the same name."""
    store.store(*store.kept[0])


UNFIT: dict[str, tuple[Callable[[Store], object], str]] = {
    "other programs": (lambda s: s.change(order=["2" * 40, 65536, []]), "it is of another version of ckptree"),
    "another ring": (
        lambda s: s.change(order=["1" * 40, 131072, []]),
        "its ring has 131072 bytes, and 65536 are configured",
    ),
    "other features": (lambda s: s.change(order=["1" * 40, 65536, ["owners"]]), "it was loaded with other features"),
    "an order of another kind": (lambda s: s.change(order={}), "its manifest is of another version"),
    "names of another kind": (lambda s: s.change(descriptors=[]), "its manifest is of another version"),
    "a manifest of another kind": (lambda s: s.put(MANIFEST, b"{}"), "its manifest is of another version"),
    "a manifest that is none": (lambda s: s.put(MANIFEST, b"[]"), "its manifest cannot be read"),
    "garbage": (lambda s: s.put(MANIFEST, b"\xff\0garbage"), "its manifest cannot be read"),
    "no manifest": (lambda s: s.forget(MANIFEST), "it is not all there"),
    "one missing": (lambda s: s.forget("ckptree/map/ring"), "the manager has not kept all of it: map:ring is missing"),
    "two exchanged": (exchange, "map:ring is another one"),
    "one too many": (repeat, "some names came twice"),
    "a stranger": (lambda s: s.put("ckptree/stranger", b""), "there is more than there should be: ckptree/stranger"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_is_closed_and_goes_from_the_store(store: Store, name: str) -> None:
    """The reason is logged; other descriptors stay in the store."""
    spoil, why = UNFIT[name]
    spoil(store)
    store.put("something", b"")
    before = len(os.listdir("/proc/self/fd"))
    found = take(store)

    assert (found.loaded, found.memory) == (None, None)
    assert why in found.refusal
    assert [each for each, _ in store.kept] == ["something"]
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_store_with_too_little_room_is_noticed() -> None:
    """FileDescriptorStoreMax= is the limit; the last descriptors have no room."""
    store = Store(limit=3)
    leave(store)

    assert take(store).refusal == "it is not all there"
    assert store.kept == []


def test_this_daemon_would_load_what_its_sources_say() -> None:
    """Any change of a BPF program, or of its loader, gives another edition."""
    assert handover.order(65536) == handover.order(65536)
    assert len(handover.order(65536).programs) == 40
    assert handover.order(65536)[1:] == (65536, ())
