# SPDX-License-Identifier: Apache-2.0
"""What a watch has done so far, and why."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, get_args

Cause = Literal["start", "due", "loss", "large-tree", "no-hook"]
"""Why a sweep is made: at the start; every now and then; after loss, or what looks like one; because it costs less than the
questions about a large tree; or because here not all events have a hook."""


@dataclass(slots=True)
class Totals:
    """What the watch has done so far.

    Attributes:
        causes: full sweeps, by why.
        snapshots: taken.
        skipped: program runs that took no number.
    """

    causes: Counter[Cause] = field(default_factory=lambda: Counter(dict.fromkeys(get_args(Cause), 0)))
    snapshots: int = 0
    skipped: int = 0

    @property
    def sweeps(self) -> int:
        """Full sweeps, for whatever reason."""
        return self.causes.total()
