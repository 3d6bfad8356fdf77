# SPDX-License-Identifier: Apache-2.0
"""What a watch has done so far, and why; what went past its table."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Cause = Literal["start", "due", "loss", "large-tree", "no-hook"]
"""Why a sweep is made: at the start; every now and then; after loss, or what looks like one; because it costs less than the
questions about a large tree; or because here not all events have a hook."""

Surprise = Literal["exit", "gone", "group", "parent", "session"]
"""What an answer showed before any event did."""


def _none_of_any(names: Any) -> Counter[Any]:
    return Counter(dict.fromkeys(get_args(names), 0))


@dataclass(slots=True)
class Totals:
    """What the watch has done so far.

    Attributes:
        causes: full sweeps, by why.
        snapshots: taken.
        skipped: program runs that took no number.
    """

    causes: Counter[Cause] = field(default_factory=lambda: _none_of_any(Cause))
    snapshots: int = 0
    skipped: int = 0

    @property
    def sweeps(self) -> int:
        """Full sweeps, for whatever reason."""
        return self.causes.total()


@dataclass(slots=True)
class Counts:
    """What went past, since the watch began.

    Attributes:
        repairs: facts that a record put right though it told of something else.
        kinds: surprises that no event settled, by what they were.
        assumed: tasks entered without a birth.
    """

    repairs: int = 0
    kinds: Counter[Surprise] = field(default_factory=lambda: _none_of_any(Surprise))
    assumed: int = 0

    @property
    def anomalies(self) -> int:
        """Of all kinds."""
        return self.kinds.total()

    def forget_anomalies(self) -> None:
        """Count them from here."""
        self.kinds = _none_of_any(Surprise)
