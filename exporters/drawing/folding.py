# SPDX-License-Identifier: Apache-2.0
"""The folding of a large tree: siblings without children share a block, and like ones a cell of it.

    block = a run of siblings without children, in one namespace      drawn in columns, one edge leads to it
    cell  = one process, or a run of like processes of the block

Processes are like if they differ in nothing that a drawing shows but their numbers, and in being each the leader of a
session or group of its own. The order of siblings is kept: only neighbours share a block or a cell.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final, TypeAlias, TypeVar

_Member = TypeVar("_Member")

FEWEST: Final = 4
"""Processes that share a block or a cell, at least."""

_TALL: Final = 0.3  # height of a cell in relation to its width, about

Block: TypeAlias = list[list[_Member]]
"""Cells, each of one process or of several like ones."""


def blocks(
    siblings: Sequence[_Member], place: Callable[[_Member], Hashable], kind: Callable[[_Member], Hashable]
) -> Iterator[Block[_Member]]:
    """Yield blocks of siblings.

    Args:
        siblings: children of one parent, in their order.
        place: returns the place that all processes of a block have; None for a process that is in no block.
        kind: returns the same value for like processes.
    """
    for where, run in groupby(siblings, place):
        members = list(run)
        if where is None or len(members) < FEWEST:
            continue
        block: Block[_Member] = []
        for _, some in groupby(members, kind):
            like = list(some)
            block += [like] if len(like) >= FEWEST else [[task] for task in like]
        yield block


def columns(cells: Sequence[str]) -> Iterable[str]:
    """Return cells as rows of a table that is about as wide as it is high; read column by column."""
    across = max(1, round(math.sqrt(len(cells) * _TALL)))
    down = -(-len(cells) // across)
    return ["".join(cells[row::down]) for row in range(down)]
