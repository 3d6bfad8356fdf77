# SPDX-License-Identifier: Apache-2.0
"""Findings of the doctor: one for each trial.

The findings about the whole (``capture``, ``restart``) decide the verdict; findings about parts give the reasons, and
the commands that mend them. The kernel's version decides nothing: kernels of one version differ in what they allow.
"""

from collections.abc import Sequence
from typing import Literal

from agent.record import NamedTuple

State = Literal["ok", "warn", "no"]


class Diagnosis(NamedTuple):
    """The result of a trial.

    Attributes:
        state: ``ok``; ``warn``: a part is missing that not every use needs; ``no``: the uses that need it cannot work.
        what: name of the trial, a word or two.
        found: result, for people.
        mend: remedy, mostly a command; empty where none is needed, or there is none.
    """

    state: State
    what: str
    found: str
    mend: str = ""


def as_lines(findings: Sequence[Diagnosis]) -> list[str]:
    """Return findings as lines, for people."""
    return [f"{one.state:<4} {one.what}: {one.found}" + (f" — {one.mend}" if one.mend else "") for one in findings]


def verdict(findings: Sequence[Diagnosis]) -> dict[str, bool]:
    """Return True for each of ``capture`` and ``restart`` that works."""
    states = {one.what: one.state for one in findings}
    return {what: states.get(what) == "ok" for what in ("capture", "restart")}
