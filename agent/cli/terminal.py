# SPDX-License-Identifier: Apache-2.0
"""The abilities of standard output."""

import os
import shutil
import sys
from typing import TypedDict


class Abilities(TypedDict):
    """Arguments of exporters.drawing.treeview.render."""

    unicode: bool
    color: bool
    width: int | None


def unicode() -> bool:
    """Return True if standard output shows more than ASCII."""
    return (sys.stdout.encoding or "ascii").lower().startswith("utf")


def abilities() -> Abilities:
    """Return the characters, colours and columns of standard output; columns None where it is no terminal."""
    terminal = sys.stdout.isatty()
    return {
        "unicode": unicode(),
        # https://no-color.org: any value but the empty one forbids colour.
        "color": terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
        "width": shutil.get_terminal_size().columns if terminal else None,
    }


def can_be_taken_over() -> bool:
    """Return True if standard output is a terminal that can move its cursor: TERM must name its kind."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb")
