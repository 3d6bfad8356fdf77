# SPDX-License-Identifier: Apache-2.0
"""The allowance of each user for cheap changes (bpf/quiet.h), as the daemon's own speed affords it.

A processor that takes ten times as long for a record affords a tenth of the records. So the allowance is a share of the
daemon's time, and the price of a record is measured. No clock here: the intake measures, and only what it takes from the
ring in larger parts, for the fixed costs of a small one are no part of the price.
"""

from typing import Final

MOST: Final = 8000
"""The allowance where records are cheap, changes a second; bpf/quiet.h holds to it, whatever this module says."""

LEAST: Final = 250
"""The allowance however dear records are, changes a second. It binds where a record takes 0.4 ms, a hundred times what a
fast processor takes. There an interactive shell, which changes a group for each process of a pipeline and makes some 750
a second on the fast one, makes 8. The bound is for a user on a fast machine whose records another user has made dear."""

SHARE: Final = 0.1
"""The part of one CPU that applying the records of a user takes at most, but where `LEAST` binds."""

_REMEMBERED: Final = 256  # records whose mean is the price; at the least allowance a second's
_ENOUGH: Final = 64  # records that a first price takes
_STEP: Final = 1 / 8  # a smaller change is not worth a system call


class Allowance:
    """The present allowance, and the measurements behind it.

    Attributes:
        per_second: cheap changes of each user that are announced, a second.
    """

    def __init__(self) -> None:
        self.per_second = MOST
        self._records = 0
        self._spent_s = 0.0

    def note(self, records: int, spent_s: float) -> bool:
        """Take a measurement; return True if the allowance has changed.

        Args:
            records: the number of records that were applied.
            spent_s: the CPU time that it took, s.
        """
        kept = max(0, min(self._records, _REMEMBERED - records))
        if self._records:
            self._spent_s *= kept / self._records
        self._records = kept + records
        self._spent_s += spent_s
        if self._records < _ENOUGH:
            return False
        price_s = self._spent_s / self._records
        wanted = round(SHARE / min(max(price_s, SHARE / MOST), SHARE / LEAST))
        changed = wanted != self.per_second
        if changed and wanted not in (LEAST, MOST):
            changed = abs(wanted - self.per_second) >= self.per_second * _STEP
        if changed:
            self.per_second = wanted
        return changed
