# SPDX-License-Identifier: Apache-2.0
"""Areas of private memory, and what a process has of one from the stage, before it has its own pages."""

from agent.record import NamedTuple
from agent.restart.contents.addresses import AddressRange


class PrivateArea(NamedTuple):
    """An area of ordinary private memory.

    Attributes:
        range: its addresses.
        file: the file that it maps, and the flags that this is opened with; None: none.
        offset: of its begin in the file.
    """

    range: AddressRange
    file: tuple[int, int] | None
    offset: int


class Inherited(NamedTuple):
    """An area that a process has from the stage; see staging.py.

    Attributes:
        at: its address there.
        end: of the area in the process.
        merged: the ranges of its pages that the base has, too, and that may differ.
        read: those of its pages that the base has not.
        dropped: those of pages that only the base has.
    """

    at: int
    end: int
    merged: list[AddressRange]
    read: list[AddressRange]
    dropped: list[AddressRange]
