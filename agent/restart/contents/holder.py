# SPDX-License-Identifier: Apache-2.0
"""A process that is filled, and the numbers at which it has files meanwhile: above all that the images have."""

import os
from typing import Final, NamedTuple

from agent.restart.contents.fillprogram import Argument, FillScript, ProcessProgram
from agent.restart.contents.images import ProcessImage

O_CLOEXEC: Final = 0o2000000
AT_FDCWD: Final = -100
LOWEST_SERVICE: Final = 32


class TableWords(NamedTuple):
    """The words by which processes that share a table of descriptors keep out of each other's way.

    Attributes:
        others: number of the processes beside the keeper.
        threads: number of the threads of all.
        entered: each thread posts it when it needs none of the helper's descriptors any more.
        cleared: the keeper posts it when it has closed these.
        joined: each other process posts it when it needs low numbers for no moment, until all have fetched.
        closed: the keeper posts it when it has closed all high numbers.
    """

    others: int
    threads: int
    entered: int
    cleared: int
    joined: int
    closed: int


class Holder:
    """A process that is filled.

    Args:
        actor: its index in the plan.
        depth: of its pid namespace, the root's being 0.
        numbers: its numbers, from the root's namespace inward.
        image: its messages.
        program: its operations.

    Attributes:
        service: the first number above those of its descriptors and mapped files.
        keeper: the process that restores its descriptors, because it shares its table with that; None: it does.
        turns: of a table that is shared.
        taken: numbers above those, so far.
    """

    def __init__(
        self, actor: int, depth: int, numbers: tuple[int, ...], image: ProcessImage, program: ProcessProgram
    ) -> None:
        self.actor = actor
        self.depth = depth
        self.numbers = numbers
        self.image = image
        self.program = program
        self.service = LOWEST_SERVICE
        self.keeper: Holder | None = None
        self.turns: TableWords | None = None
        self.taken = 0

    @property
    def leader(self) -> FillScript:
        """The script of its first thread."""
        return self.program.scripts[0]

    def number(self) -> int:
        """Return a new number above all descriptors of all processes."""
        number = self.next_number
        (self.keeper or self).taken += 1
        return number

    @property
    def next_number(self) -> int:
        """The number that `number` will return."""
        return self.service + (self.keeper or self).taken

    def pass_over(self, following: int) -> None:
        """Take all numbers below one, as the copied operations of an alike process have."""
        (self.keeper or self).taken = following - self.service

    def clear(self) -> None:
        """Have the process close the helper's descriptors, once all threads with that table have entered the restorer."""
        script, turns = self.leader, self.turns
        if turns is not None:
            script.wait(turns.entered, turns.threads)
        if self.keeper is None:
            script.call("close_range", 0, self.service - 1, 0)
            if turns is not None:
                script.post(turns.cleared)
        elif turns is not None:
            script.wait(turns.cleared, 1)


def keep_high(holder: Holder, made: Argument) -> int:
    """Move a new descriptor to a high number, close it where it was, and return the number."""
    number = holder.number()
    holder.leader.call("dup3", made, number, O_CLOEXEC)
    holder.leader.call("close", made)
    return number


def open_high(holder: Holder, path: bytes, flags: int) -> int:
    """Open a file at a high number, and return the number."""
    name = holder.program.data(path + b"\0")
    return keep_high(holder, holder.leader.kept("openat", AT_FDCWD, name, flags | O_CLOEXEC, 0))


def write_file(script: FillScript, program: ProcessProgram, path: bytes, text: bytes) -> None:
    """Write a text into a file of procfs."""
    file = script.kept("openat", AT_FDCWD, program.data(path + b"\0"), os.O_WRONLY, 0)
    script.exact("write", file, program.data(text), len(text), wanted=len(text))
    script.call("close", file)
