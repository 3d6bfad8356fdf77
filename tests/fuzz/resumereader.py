# SPDX-License-Identifier: Apache-2.0
"""The resumer in C, as a reader of tables: compiled with a sanitizer of addresses, on a simulated kernel."""

import re
import struct
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from agent.errors import CkptreeError
from agent.restart.contents.fillabi import Resumed, ResumeMessage
from agent.restart.contents.resumer import PROGRAM

_SOURCE: Final = Path(__file__).with_suffix(".c")
_CALL: Final = re.compile(r"static inline long (call6\([^)]*\))\n\{.*?\n\}\n", re.DOTALL)
_START: Final = re.compile(r"#define PROGRAM_START\(body\).*?\n.*?\n")
_OPTIONS: Final = ("-std=gnu11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-w")


class ResumeReader:
    """The reader; use it as a context.

    Args:
        folder: for the program.
    """

    def __init__(self, folder: Path) -> None:
        helper = PROGRAM.parent
        calls = (helper / "kernel_calls.h").read_text()
        calls = _START.sub("#define PROGRAM_START(body)\n", _CALL.sub(r"long \1;\n", calls))
        (folder / "kernel_calls.h").write_text(calls)
        program = folder / "resumereader"
        options = (*_OPTIONS, f"-I{folder}", f"-I{helper}", "-o", program)
        for name in ("resume.c", "resume.h", "fill.h", "tracing.h"):
            (folder / name).write_text((helper / name).read_text())
        made = subprocess.run(["gcc", *options, _SOURCE], capture_output=True, text=True, check=False)
        if made.returncode:
            raise CkptreeError(made.stderr)
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

    def read(self, table: bytes) -> ResumeMessage:
        """Have a table read; return the last message.

        Raises:
            AssertionError: the reader has read what is not there; it has said so.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(struct.pack("<I", len(table)) + table)
        self._process.stdin.flush()
        words = self._process.stdout.readline().split()
        assert len(words) == 3, "the resumer in C has read what is not there"
        return ResumeMessage(*map(int, words))


def is_end(message: ResumeMessage) -> bool:
    """Return True if all threads were resumed, or a component is none of this processor."""
    return message.what in (Resumed.ALL, Resumed.COMPONENT)
