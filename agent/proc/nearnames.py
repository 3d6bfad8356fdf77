# SPDX-License-Identifier: Apache-2.0
"""The answer to a name that is not found: the names there are."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

_MOST: Final = 8


def offered(kind: str, where: str, names: Sequence[str], wanted: str) -> str:
    """Return a clause that lists names, the nearest ones where there are many.

    Args:
        kind: of what the names are, in the plural.
        where: place of them.
        names: all that there are.
        wanted: the name that is not among them.
    """
    if not names:
        return f"There are no {kind} {where}"
    if len(names) <= _MOST:
        return f"The {kind} {where}: {', '.join(names)}"
    near = get_close_matches(wanted, names, _MOST) or names[:_MOST]
    return f"Of {len(names)} {kind} {where}, the nearest: {', '.join(near)}"
