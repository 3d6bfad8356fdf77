# SPDX-License-Identifier: Apache-2.0
"""The objects outside of a tree that it can get only if its caller says so: a terminal, the peers of connections."""

from typing import Final

from agent.record import NamedTuple


class External(NamedTuple):
    """The objects outside of the tree that the caller allows it.

    Attributes:
        terminal: the path of the caller's terminal, for a tree that was begun by a shell; else empty.
        established: True if connections of TCP are made again.
        closed: True if they come back closed.
    """

    terminal: bytes = b""
    established: bool = False
    closed: bool = False


NOTHING: Final = External()
