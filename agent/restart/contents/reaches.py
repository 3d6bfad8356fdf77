# SPDX-License-Identifier: Apache-2.0
"""The reaches of a tree beyond itself, which its caller must allow."""

from typing import Final, NamedTuple


class Reaches(NamedTuple):
    """Reaches of a tree beyond itself that the caller allows.

    Attributes:
        terminal: the path of the caller's terminal, for a tree that was begun by a shell; else empty.
        established: True if connections of TCP are made again.
    """

    terminal: bytes = b""
    established: bool = False


NOTHING: Final = Reaches()
