# SPDX-License-Identifier: Apache-2.0
"""The fill section, with the first parts of the programs of all processes, and the words that they share."""

from collections.abc import Iterator
from typing import Final

from agent.restart.contents import fillabi
from agent.restart.contents.fillprogram import About, ProcessProgram
from agent.restart.contents.passages import Passages
from agent.restart.rebuild.helperabi import next_page

_CREDITED: Final = 1
_WORDS: Final = 4096


class FillProgram:
    """The programs of all processes of a tree, and the words that they share.

    Args:
        words: the most words, of which the processes' programs know the place of all.

    Attributes:
        credited: the word that each process posts once all its threads have their own credentials.
    """

    credited: Final = _CREDITED

    def __init__(self, words: int = _WORDS) -> None:
        self.processes: list[ProcessProgram] = []
        self.words = _CREDITED + 1
        self._most = words
        self._passages = Passages()

    def process(self, actors: tuple[int, ...]) -> ProcessProgram:
        """Add a process, its leader first."""
        made = ProcessProgram(actors, self._passages)
        self.processes.append(made)
        return made

    def word(self) -> int:
        """Return a new shared word, which begins at 0."""
        return self._taken(1)

    def part(self) -> int:
        """Return the first word of a new struct fill_part."""
        self.words += self.words % 2  # eight bytes are aligned
        return self._taken(fillabi.PART.size // fillabi.WORD)

    def _taken(self, count: int) -> int:
        if self.words + count > self._most:
            raise ValueError(f"a tree needs more than {self._most} words while it is filled")
        self.words += count
        return self.words - count

    @property
    def state_size(self) -> int:
        """Bytes of state and words, whole pages."""
        return next_page(fillabi.STATE.size + fillabi.WORD * self._most)

    def section(self, code: bytes, actors: int) -> Iterator[tuple[int, bytes]]:
        """Yield the pieces of the fill section that are not zeros, each with its offset: the first parts of all programs.

        Args:
            code: the restorer's.
            actors: their number in the plan.
        """
        code_size = next_page(len(code))
        code_at = self.entries_size(actors)
        state_at = self.state_offset(code, actors)
        offset = state_at + self.state_size
        entries = [bytes(fillabi.ENTRY.size)] * actors
        for process in self.processes:
            for actor, entry in process.entries(code_size, self.state_size, offset):
                entries[actor] = entry
            made = process.encode(code_size, self.state_size)
            yield offset, made
            offset += len(made)
        yield code_at, code
        yield 0, fillabi.HEAD.pack(code_at, code_size, state_at, self.state_size) + b"".join(entries)

    def state_offset(self, code: bytes, actors: int) -> int:
        """Return the offset of the state in the section, for a restorer and a number of actors."""
        return self.entries_size(actors) + next_page(len(code))

    @staticmethod
    def entries_size(actors: int) -> int:
        """Return the bytes of the head and the entries of a number of actors, whole pages."""
        return next_page(fillabi.HEAD.size + fillabi.ENTRY.size * actors)

    @staticmethod
    def word_offset(word: int) -> int:
        """Return the offset of a word in the state."""
        return fillabi.STATE.size + fillabi.WORD * word

    def step(self, actor: int, index: int) -> tuple[str, About] | None:
        """Return an operation by the actor that takes it and its place in that script, as `FillScript.step`."""
        for process in self.processes:
            if actor in process.actors:
                return process.scripts[process.actors.index(actor)].step(index)
        return None
