# SPDX-License-Identifier: Apache-2.0
"""One line in the daemon's log for each snapshot and subscription: who asked, for what, and what became of it.

    line  = ("snapshot" | "subscribe") { " " key "=" value }        agent.journal writes it
    value = number | word | quoted

What a client or a task chooses, its name or the ROOT it asks for, is quoted: printable ASCII as it is, any other byte,
the quote and the backslash as ``\\xNN``. So a line is one line, and what stands between quotes cannot end them.

What was refused costs whoever asks next to nothing, and so could fill a log: of each user so many lines a minute are
written, and the next one says how many were not. What was given always has its line.
"""

from typing import Final

_LONGEST_BYTES: Final = 200  # of a quoted value
_REFUSALS: Final = 60  # lines of a user in an interval
_INTERVAL_S: Final = 60.0
_REMEMBERED: Final = 1000  # users; the one that began longest ago is forgotten for another
_PRINTABLE: Final = frozenset(range(0x20, 0x7F)) - frozenset(b'"\\')

Value = int | float | str | bytes


def quoted(value: str | bytes) -> str:
    """Hostile text, or bytes, as a word that cannot be mistaken for anything else."""
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    cut = data[:_LONGEST_BYTES]
    text = "".join(chr(byte) if byte in _PRINTABLE else f"\\x{byte:02x}" for byte in cut)
    return f'"{text}"' + ("..." if len(cut) < len(data) else "")


def line(what: str, **fields: Value) -> str:
    """The text of a line. Text in it is quoted, numbers are not."""
    said = [f"{key}={quoted(value) if isinstance(value, (str, bytes)) else value}" for key, value in fields.items()]
    return " ".join((what, *said))


class Refusals:
    """How many refusals are written of each user. No clock in here."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[float, int]] = {}  # since when, and how many
        self._unwritten: dict[int, int] = {}

    def admit(self, uid: int, now_s: float) -> int | None:
        """Whether one more is written: how many were not, since the last that was; None: not now."""
        since, count = self._seen.get(uid, (now_s, 0))
        if now_s - since >= _INTERVAL_S:
            since, count = now_s, 0
        if count == 0:
            self._seen.pop(uid, None)  # the newest stand last
            if len(self._seen) >= _REMEMBERED:
                oldest = next(iter(self._seen))
                del self._seen[oldest]
                self._unwritten.pop(oldest, None)
        self._seen[uid] = since, count + 1
        if count >= _REFUSALS:
            self._unwritten[uid] = self._unwritten.get(uid, 0) + 1
            return None
        return self._unwritten.pop(uid, 0)
