# SPDX-License-Identifier: Apache-2.0
"""What standard output can show."""

import os
import shutil
import sys
from typing import TypedDict


class Abilities(TypedDict):
    """As exporters.treeview.render takes them."""

    unicode: bool
    color: bool
    width: int | None


def unicode() -> bool:
    """It shows more than ASCII."""
    return (sys.stdout.encoding or "ascii").lower().startswith("utf")


def abilities() -> Abilities:
    """Characters, colours and columns; None: it is no terminal, and has no end of line."""
    terminal = sys.stdout.isatty()
    return {
        "unicode": unicode(),
        # https://no-color.org: any value but the empty one forbids colour.
        "color": terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
        "width": shutil.get_terminal_size().columns if terminal else None,
    }


def can_be_taken_over() -> bool:
    """It is a terminal that moves its cursor; one that nobody has named may not."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb")
