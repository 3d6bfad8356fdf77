# SPDX-License-Identifier: Apache-2.0
"""Counts of a watch: its sweeps by their causes, its snapshots, and the irregularities that its table met."""

from collections import Counter
from typing import Any, Literal, get_args

Cause = Literal["start", "due", "loss", "large-tree", "no-hook"]
"""The cause of a sweep: the start; the interval; loss, or signs of it; a large tree, for which it costs less than
questions; or a kernel on which some changes have no hook."""

Surprise = Literal["exit", "gone", "group", "parent", "session"]
"""The change that an answer showed before any event did."""


def _none_of_any(names: Any) -> Counter[Any]:
    return Counter(dict.fromkeys(get_args(names), 0))


class Totals:
    """Counts of the watch's work.

    Attributes:
        causes: full sweeps, by cause.
        snapshots: snapshots taken.
        skipped: runs of BPF programs that the kernel skipped, as of the last sweep.
    """

    __slots__ = ("causes", "skipped", "snapshots")

    def __init__(self, causes: Counter[Cause] | None = None, snapshots: int = 0, skipped: int = 0) -> None:
        self.causes: Counter[Cause] = _none_of_any(Cause) if causes is None else causes
        self.snapshots, self.skipped = snapshots, skipped

    @property
    def sweeps(self) -> int:
        """Count of full sweeps, for all causes."""
        return sum(self.causes.values())


class Counts:
    """Counts of the table's irregularities since the watch began.

    Attributes:
        repairs: errors of the table that a record of another kind of change repaired.
        kinds: surprises that no event settled, by kind.
        assumed: tasks entered without a birth.
    """

    __slots__ = ("assumed", "kinds", "repairs")

    def __init__(self, repairs: int = 0, kinds: Counter[Surprise] | None = None, assumed: int = 0) -> None:
        self.repairs, self.assumed = repairs, assumed
        self.kinds: Counter[Surprise] = _none_of_any(Surprise) if kinds is None else kinds

    @property
    def anomalies(self) -> int:
        """Count of anomalies of all kinds."""
        return sum(self.kinds.values())

    def forget_anomalies(self) -> None:
        """Start the count of anomalies anew."""
        self.kinds = _none_of_any(Surprise)
