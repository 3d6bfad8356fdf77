# SPDX-License-Identifier: Apache-2.0
"""ROOT, as users write it: a pid, or ``pidns:INUM``; ``pidns:[INUM]`` too, as `show` and readlink print it."""

from typing import NamedTuple

from agent.errors import UsageError

_MAX_DIGITS = 10  # of a 32-bit number


class RootName(NamedTuple):
    """Which process is meant.

    Attributes:
        namespace: True: `number` is the inode number of a pid namespace, whose init is meant; False: it is a pid, as the
            caller's namespace counts.
        number: see namespace.
    """

    namespace: bool
    number: int

    def __str__(self) -> str:
        return f"pidns:{self.number}" if self.namespace else f"pid {self.number}"


def parse(text: str) -> RootName:
    """Read a ROOT.

    Raises:
        UsageError: it is neither.
    """
    kind, _, digits = text.rpartition(":")
    if kind and digits.startswith("[") and digits.endswith("]"):
        digits = digits[1:-1]
    if kind not in ("", "pidns") or not (digits.isascii() and digits.isdecimal()) or len(digits) > _MAX_DIGITS:
        shown = text if len(text) < 60 else text[:60] + "..."
        raise UsageError(f"ROOT {shown!r}: expected a pid, or pidns:INUM with the number of a link /proc/PID/ns/pid")
    return RootName(kind == "pidns", int(digits))
