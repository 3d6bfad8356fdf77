# SPDX-License-Identifier: Apache-2.0
"""A program of the helper in C as a process of its own: compiled with a sanitizer of addresses, on a simulated kernel."""

import re
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from agent.errors import CkptreeError

CALL: Final = re.compile(r"static inline long (call6\([^)]*\))\n\{.*?\n\}\n", re.DOTALL)
"""The one function of kernel_calls.h that makes system calls: a simulated kernel takes its place."""
_OPTIONS: Final = ("-std=gnu11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-w")


class SanitizedProgram:
    """The process; use it as a context. It answers each question with a line of numbers.

    Args:
        source: the C file that includes the helper's.
        folder: for the program, and with copies of the helper's files.
        include: further folders of headers.

    Raises:
        CkptreeError: it cannot be compiled.
    """

    def __init__(self, source: Path, folder: Path, *include: Path) -> None:
        program = folder / source.stem
        folders = [f"-I{each}" for each in (folder, *include)]
        made = subprocess.run(
            ["gcc", *_OPTIONS, *folders, "-o", program, source], capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise CkptreeError(made.stderr)
        self._name = source.name
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the program."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        self._process.wait()

    def ask(self, told: Sequence[bytes], numbers: int) -> list[int]:
        """Return the answer to a question.

        Args:
            told: the question.
            numbers: their count in the answer.

        Raises:
            AssertionError: the program has ended, for it has read what is not there; it has said so.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.writelines(told)
            self._process.stdin.flush()
        words = self._process.stdout.readline().split()
        assert len(words) == numbers, f"{self._name}: the helper in C has read what is not there"
        return list(map(int, words))
