# SPDX-License-Identifier: Apache-2.0
"""The restorer and the stage's maker in C, as readers: compiled with a sanitizer of addresses, on a simulated kernel."""

import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from agent.restart.contents.filling import RESTORER
from tests.fuzz.sanitizedprogram import CALL, SanitizedProgram

_SOURCE: Final = Path(__file__).with_suffix(".c")
_CLONE: Final = re.compile(r"static inline long clone3_call\(.*?\n\}\n", re.DOTALL)
_SOURCES: Final = (
    *("restorer.c", "pages.c", "pages.h", "ring.c", "ring.h", "fill.h"),
    *("stage.c", "stage.h", "state.h", "control.h", "program.h"),
)
_CHANGED: Final = (
    ("pages.c", "static void merge_pages(", "static void real_merge_pages("),
    ("restorer.c", "answer = operation->call ==", "taken++, current = operation, answer = operation->call =="),
)
"""The changes of a source: its text before, and behind. The simulated kernel must know the operation at hand."""
_FIRST: Final = 0xFFFFFFFF
_HEAD: Final = struct.Struct("<3I")
_PART: Final = struct.Struct("<2IQ")
_STAGE: Final = struct.Struct("<2I")


class ProgramPart(NamedTuple):
    """A part of a process's program.

    Attributes:
        word: the first word of what tells of it; None of the first part.
        at: its address.
        content: its bytes.
    """

    word: int | None
    at: int
    content: bytes


class Taken(NamedTuple):
    """The end of a program.

    Attributes:
        operations: number of those that were taken.
        filled: number of the threads that have taken all of theirs.
        failed: 1 if one has failed.
        operation, error: of the failure.
    """

    operations: int
    filled: int
    failed: int
    operation: int
    error: int


class Staged(NamedTuple):
    """A stage that was made: numbers of files that were opened and of maps, bytes that were read, and the answer."""

    opened: int
    mapped: int
    read: int
    answer: int


class RestorerReader(SanitizedProgram):
    """The reader; use it as a context.

    Args:
        folder: for the program.
    """

    def __init__(self, folder: Path) -> None:
        helper = RESTORER.parent
        calls = (helper / "kernel_calls.h").read_text()
        (folder / "kernel_calls.h").write_text(_CLONE.sub("", CALL.sub(r"long \1;\n", calls)))
        for name in _SOURCES:
            text = (helper / name).read_text()
            for source, before, behind in _CHANGED:
                if source == name:
                    assert text.count(before) == 1, f"{name} has no {before!r}"
                    text = text.replace(before, behind)
            (folder / name).write_text(text)
        super().__init__(_SOURCE, folder)

    def take(self, state_bytes: int, threads: int, parts: Sequence[ProgramPart]) -> Taken:
        """Have a process's program taken by all its threads, one after the other, where each call succeeds.

        Args:
            state_bytes: of the state and the words that all share.
            threads: of the process.
            parts: of the program, the first one first.

        Raises:
            AssertionError: the restorer has read what is not there; it has said so.
        """
        told = [_HEAD.pack(state_bytes, threads, len(parts))]
        for word, at, content in parts:
            told += (_PART.pack(_FIRST if word is None else word, len(content), at), content)
        return Taken(*self.ask(told, len(Taken._fields)))

    def make_stage(self, section: bytes) -> Staged:
        """Have the stage of a tree made.

        Args:
            section: its description, as the helper reads it.

        Raises:
            AssertionError: the helper has read what is not there, or would map or read beside the stage; it has said so.
        """
        *found, _ = self.ask([_STAGE.pack(0, len(section)), section], len(Taken._fields))
        return Staged(*found)
