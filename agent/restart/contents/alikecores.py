# SPDX-License-Identifier: Apache-2.0
"""Cores of threads that differ in their general registers alone, as those of processes that descend from one by forks."""

from typing import Any


class AlikeCores:
    """The numbers of cores; alike ones have one number.

    All is true of one of them that is true of another, but for what `thread_info.gpregs` says. The mode in there, that of
    a program of 32 or of 64 bits, is the same.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[bytes, int], int] = {}

    def number(self, core: Any) -> int:
        """Return the number of a core_entry, which is changed meanwhile."""
        mode = 0
        if core.HasField("thread_info") and core.thread_info.HasField("gpregs"):
            info = core.thread_info
            mode, kept = int(info.gpregs.mode), info.gpregs.SerializePartialToString()
            info.ClearField("gpregs")
            key = core.SerializePartialToString(), mode
            info.gpregs.MergeFromString(kept)
        else:
            key = core.SerializePartialToString(), mode
        return self._numbers.setdefault(key, len(self._numbers))
