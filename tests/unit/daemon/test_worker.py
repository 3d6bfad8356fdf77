# SPDX-License-Identifier: Apache-2.0
"""Long work in a thread beside a loop."""

import selectors
import threading
from collections.abc import Iterator

import pytest

from agent.daemon.worker import Worker


class Loop:
    """A loop that waits for a worker's bell."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.noted: list[str] = []
        self.worker = Worker(self.selector, lambda name, _: self.noted.append(name))

    def turn(self) -> None:
        """Wait until something is ready, and handle it."""
        for key, _ in self.selector.select(10):
            key.data(key.fileobj)


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Yield a loop, and close it at the end."""
    it = Loop()
    yield it
    it.worker.wait(10)
    it.worker.close()


def test_a_job_runs_beside_the_loop_and_its_result_comes_in_the_loop(loop: Loop) -> None:
    """Jobs run one after the other, in one thread."""
    threads: list[threading.Thread] = []
    results: list[int] = []

    def work() -> int:
        threads.append(threading.current_thread())
        return len(threads)

    for _ in range(3):
        loop.worker.start("count", work, results.append)
        assert loop.worker.busy
        loop.turn()
        assert not loop.worker.busy

    assert results == [1, 2, 3]
    assert set(threads) != {threading.main_thread()}
    assert len(set(threads)) == 1
    assert loop.noted == ["count"] * 3


def test_there_is_one_job_at_a_time(loop: Loop) -> None:
    """A second start is a mistake of the caller, which must check first."""
    gate = threading.Event()
    loop.worker.start("first", gate.wait)
    with pytest.raises(RuntimeError, match="second: there is a job already"):
        loop.worker.start("second", gate.wait)
    gate.set()


def test_what_a_job_raises_is_raised_in_the_loop(loop: Loop) -> None:
    """The loop can log it."""

    def work() -> None:
        raise ValueError("so")

    loop.worker.start("fail", work)
    with pytest.raises(ValueError, match="so"):
        loop.turn()
    assert not loop.worker.busy


def test_an_end_waits_for_the_job(loop: Loop) -> None:
    """The job uses the table."""
    done: list[bool] = []
    gate = threading.Event()
    timer = threading.Timer(0.05, gate.set)
    timer.start()
    loop.worker.start("slow", lambda: gate.wait(10), done.append)
    loop.worker.wait(10)

    assert done == [True]


def test_a_wait_for_a_job_that_is_held_up_ends_in_time(loop: Loop) -> None:
    """The caller goes without the job, or waits once more."""
    gate = threading.Event()
    results: list[bool] = []
    loop.worker.start("held up", gate.wait, results.append)

    assert not loop.worker.wait(0.05)
    assert loop.worker.busy
    gate.set()
    assert loop.worker.wait(10)
    assert results == [True]
    assert loop.worker.wait(0)
