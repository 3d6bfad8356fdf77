# SPDX-License-Identifier: Apache-2.0
"""Long work beside the loop: a snapshot or a sweep of a host with very many tasks.

While a job runs, the job alone may touch the watch, the ring and the table; the loop only moves bytes to and from its
clients. So only one thread is in the table at any time, without a lock, and no turn of the loop lasts as long as a walk
over a hundred thousand tasks. Where tasks are few the loop does the work itself: a job would cost more than the work.

Both threads want the interpreter's lock. The loop gets it within `_SWITCH_S`, or when a call into C returns.
"""

import os
import queue
import selectors
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

_SWITCH_S: Final = 0.0005


class _Job:
    def __init__(self, name: str, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self.name, self.work, self.done = name, work, done
        self.result: Any = None
        self.error: BaseException | None = None
        self.took_s = 0.0


class Worker:
    """A thread that runs one job at a time.

    Args:
        selector: the loop's; the data of each key is a function of the ready file.
        note: called with the name of each job, and its seconds.

    Attributes:
        busy: True while a job runs, and until its `done` is called.
    """

    def __init__(self, selector: selectors.BaseSelector, note: Callable[[str, float], None]) -> None:
        self._note = note
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._selector = selector
        self._finished: _Job | None = None
        self._thread: threading.Thread | None = None
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.busy = False
        selector.register(self._bell, selectors.EVENT_READ, lambda _: self._finish())

    def start(self, name: str, work: Callable[[], Any], done: Callable[[Any], None] = lambda _: None) -> None:
        """Begin a job.

        Args:
            name: for the figures.
            work: runs in the thread.
            done: takes its result, in the loop. An error of `work` is raised in the loop instead.
        """
        if self.busy:
            raise RuntimeError(f"{name}: there is a job already")
        self.prepare()
        self.busy = True
        self._jobs.put(_Job(name, work, done))

    def prepare(self) -> None:
        """Start the thread. What it takes for good, it takes then."""
        if self._thread is None:
            sys.setswitchinterval(_SWITCH_S)
            self._thread = threading.Thread(target=self._run, name="ckptree-worker", daemon=True)
            self._thread.start()

    def wait(self, longest_s: float) -> bool:
        """Wait until no job runs; return False if one still does after `longest_s`, s."""
        end = time.monotonic() + longest_s
        while self.busy and (left := end - time.monotonic()) > 0:
            with selectors.DefaultSelector() as bell:
                bell.register(self._bell, selectors.EVENT_READ)
                bell.select(left)
            self._finish()
        return not self.busy

    def close(self) -> None:
        """Close the descriptor that the loop waits on; no job may run."""
        self._selector.unregister(self._bell)
        os.close(self._bell)

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            begin = time.monotonic()
            try:
                job.result = job.work()
            except BaseException as error:  # noqa: BLE001 - _finish() raises it in the loop
                job.error = error
            job.took_s = time.monotonic() - begin
            self._finished = job
            del job  # else it would stay, with its result, until the next one
            os.eventfd_write(self._bell, 1)

    def _finish(self) -> None:
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:
            return
        job, self._finished = self._finished, None
        self.busy = False
        if job is None:
            return
        self._note(job.name, job.took_s)
        if job.error is not None:
            raise job.error
        job.done(job.result)
