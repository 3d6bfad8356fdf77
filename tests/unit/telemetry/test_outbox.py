# SPDX-License-Identifier: Apache-2.0
"""The queue before a receiver: it never holds up the writer, and what it leaves out is counted."""

import threading
import time
from collections.abc import Iterator

import pytest

from agent.telemetry.outbox import Bounds, Outbox

PATIENCE_S = 20.0


class Receiver:
    """A receiver whose pace a test sets.

    Attributes:
        got: the items, batch by batch.
        open: it takes items while this is set.
        fails: it refuses batches while this is True.
    """

    def __init__(self) -> None:
        self.got: list[list[str]] = []
        self.open = threading.Event()
        self.entered = threading.Event()
        self.fails = False

    def send(self, batch: list[str]) -> bool:
        """Take a batch once the receiver is open."""
        self.entered.set()
        assert self.open.wait(PATIENCE_S)
        if self.fails:
            return False
        self.got.append(batch)
        return True


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Return a receiver that is closed."""
    found = Receiver()
    yield found
    found.open.set()


def outbox(receiver: Receiver, **bounds: float) -> Outbox[str]:
    """Return an outbox before a receiver."""
    given = {"queued": 4, "batch": 2, "delay_s": 0.001} | bounds
    return Outbox(
        receiver.send,
        lambda count: f"lost {count}",
        Bounds(int(given["queued"]), int(given["batch"]), given["delay_s"]),
    )


def test_all_items_arrive_in_order(receiver: Receiver) -> None:
    """Events that wait at the end are among them."""
    box = outbox(receiver, queued=100, delay_s=60)
    receiver.open.set()
    for number in range(9):
        box.put(str(number))
    box.close(PATIENCE_S)

    assert [each for batch in receiver.got for each in batch] == [str(number) for number in range(9)]
    assert max(map(len, receiver.got)) <= 2
    assert (box.sent, box.lost) == (9, 0)


def test_a_receiver_that_takes_nothing_holds_nobody_up(receiver: Receiver) -> None:
    """Two items are on their way, four wait, the others are counted; the receiver is told when it takes items again."""
    box = outbox(receiver)
    box.put("a")
    box.put("b")
    assert receiver.entered.wait(PATIENCE_S)
    begin = time.monotonic()
    sending = 2 if not box._queue else 1
    for number in range(10_000):
        box.put(str(number))
    elapsed = time.monotonic() - begin
    receiver.open.set()
    deadline = time.monotonic() + PATIENCE_S
    while box.sent < sending + 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    lost = box.lost
    box.put("after")
    box.close(PATIENCE_S)
    got = [each for batch in receiver.got for each in batch]

    assert elapsed < 5
    assert lost == 10_002 - sending - 4
    assert got[-2:] == [f"lost {lost}", "after"]
    assert (box.lost, box.sent) == (lost, len(got))


def test_a_batch_that_is_refused_is_lost_and_told(receiver: Receiver) -> None:
    """An error of the sender counts as a refusal."""
    box = outbox(receiver, batch=1)
    receiver.open.set()
    receiver.fails = True
    box.put("a")
    deadline = time.monotonic() + PATIENCE_S
    while not box.lost and time.monotonic() < deadline:
        time.sleep(0.001)
    receiver.fails = False
    box.put("b")
    box.close(PATIENCE_S)

    assert receiver.got == [["lost 1"], ["b"]]
    assert (box.sent, box.lost) == (2, 1)


def test_the_end_waits_no_longer_than_it_is_told(receiver: Receiver) -> None:
    """Events that the receiver has not taken by then are lost."""
    box = outbox(receiver)
    for name in "abcd":
        box.put(name)
    assert receiver.entered.wait(PATIENCE_S)
    begin = time.monotonic()
    box.close(0.05)

    assert time.monotonic() - begin < 10
    assert (box.sent, box.lost) == (0, 4)
