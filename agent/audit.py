# SPDX-License-Identifier: Apache-2.0
"""One line in the daemon's log for each snapshot: who asked, for what, and what became of it.

    line  = ("snapshot" | "subscribe") { " " key "=" value }        agent.journal writes it
    value = number | word | quoted

What a client or a task chooses, its name or the ROOT it asks for, is quoted: printable ASCII as it is, any other byte,
the quote and the backslash as ``\\xNN``. So a line is one line, and what stands between quotes cannot end them.
"""

from typing import Final

_LONGEST_BYTES: Final = 200  # of a quoted value
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
