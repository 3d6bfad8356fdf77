# SPDX-License-Identifier: Apache-2.0
"""What the doctor says: one finding for each thing that was tried.

What decides is whether the whole works (``capture``, ``restart``); a part that is wrong is said beside it, as the reason
and with the command that mends it. A kernel's version decides nothing: versions promise, and kernels refuse.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

State = Literal["ok", "warn", "no"]


class Finding(NamedTuple):
    """One thing that was tried.

    Attributes:
        state: ``ok``; ``warn``: something is missing that not everybody needs; ``no``: what it is needed for cannot work.
        what: its name, a word or two.
        found: what came of it.
        mend: what to do; empty where nothing is to be done, or can be.
    """

    state: State
    what: str
    found: str
    mend: str = ""


def as_lines(findings: Sequence[Finding]) -> list[str]:
    """For people."""
    return [f"{one.state:<4} {one.what}: {one.found}" + (f" — {one.mend}" if one.mend else "") for one in findings]


def verdict(findings: Sequence[Finding]) -> dict[str, bool]:
    """Whether the two things that matter work."""
    states = {one.what: one.state for one in findings}
    return {what: states.get(what) == "ok" for what in ("capture", "restart")}
