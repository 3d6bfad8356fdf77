# SPDX-License-Identifier: Apache-2.0
"""A span of events as a test tells it, and the lives in it."""

from typing import Any

from agent.protocol.replies import Event, EventTask
from agent.recorder.lives import SpanLives
from tests.support.taped import AHEAD_NS

SECOND_NS = 1_000_000_000


class Story:
    """Events, one record a second from the hundredth second after boot on.

    Attributes:
        lives: that have taken them.
        order: the number of the last record.
        late_s: seconds by which further events are later than their numbers say.
    """

    def __init__(self, root: int | None = None) -> None:
        self.lives = SpanLives(root)
        self.order = 1000
        self.late_s = 0
        self._born: dict[int, int] = {}

    def tell(
        self, kind: str, tid: int = 0, comm: bytes = b"sh", *, step: int = 1, pid: int = 0, **details: Any
    ) -> bool:
        """Tell an event of a task; return False where there is no room for it."""
        self.order += step
        now_ns = (100 + self.late_s + self.order - 1000) * SECOND_NS
        if kind == "birth":
            self._born[tid] = now_ns
            known = {"parent": 0, "creator": 0, "pgid": tid, "sid": tid, "exit_signal": 17, "flags": []}
            details = known | details
        task = EventTask(pid or tid, tid, (tid,), self._born[tid], 1000, 1000, comm) if tid else None
        told = details | {"boottime_ns": now_ns}
        return self.lives.take(Event(kind, self.order, task, told, AHEAD_NS + now_ns))
