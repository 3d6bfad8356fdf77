# SPDX-License-Identifier: Apache-2.0
"""The abilities of standard output, and what goes to it and to standard error.

Texts hold names, paths and reasons that came from a file or another user's process. Every message, and every document
that goes to a terminal, passes here, so that no such text commands the terminal. What is drawn in colours
(exporters.drawing.treeview) escapes each text before it adds them.
"""

import os
import sys
from typing import Any, TypedDict

from agent.cli.message import in_a_line, plain
from agent.cli.message import say as say


class Abilities(TypedDict):
    """Arguments of exporters.drawing.treeview.render."""

    unicode: bool
    color: bool
    width: int | None


def unicode() -> bool:
    """Return True if standard output shows more than ASCII."""
    return (sys.stdout.encoding or "ascii").lower().startswith("utf")


def abilities() -> Abilities:
    """Return the abilities of standard output: Unicode, colours, and its columns; None where it is no terminal."""
    terminal = sys.stdout.isatty()
    if terminal:
        import shutil  # takes time, and most output goes elsewhere
    return {
        "unicode": unicode(),
        # https://no-color.org: any value but the empty one forbids colour.
        "color": terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
        "width": shutil.get_terminal_size().columns if terminal else None,
    }


def can_be_taken_over() -> bool:
    """Return True if standard output is a terminal that can move its cursor: TERM must name its kind."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb")


def tell(text: str) -> None:
    """Print a text without colours on standard output."""
    draw(plain(text))


def tell_line(text: str) -> None:
    """Print a line without colours on standard output. A line's end in a text of another's makes no further line."""
    draw(in_a_line(text))


def draw(text: str) -> None:
    """Print a text whose colours are meant, and in which nothing else commands a terminal, on standard output."""
    encoded = f"{text}\n".encode(sys.stdout.encoding or "ascii", "backslashreplace")
    sys.stdout.flush()
    sys.stdout.buffer.write(encoded)
    sys.stdout.buffer.flush()


def tell_json(document: Any) -> None:
    """Print a document on standard output, in lines."""
    import json  # takes time, and most output is text

    text = json.dumps(document, indent=1)
    draw(without_del(text))


def without_del(text: str) -> str:
    """Return ASCII that json.dumps has made, on a terminal without the one control character that it leaves."""
    return text.replace("\x7f", r"\u007f") if sys.stdout.isatty() else text


def write(data: bytes, *, is_json: bool = False) -> None:
    """Write a document, in UTF-8, to standard output; on a terminal with its control characters escaped."""
    sys.stdout.buffer.write(shown(data, is_json=is_json) if sys.stdout.isatty() else data)
    sys.stdout.buffer.flush()


def shown(data: bytes, *, is_json: bool = True) -> bytes:
    """Return a document as a terminal may have it. The value of one in JSON is the same."""
    from exporters.content import wording

    escaped = wording.plain_json if is_json else wording.plain_lines
    return escaped(data.decode("utf-8", "backslashreplace")).encode()


def is_unread() -> bool:
    """Return True if standard output is a pipe or a connection whose other end is closed."""
    import select

    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(found & select.POLLERR for _, found in poll.poll(0))
