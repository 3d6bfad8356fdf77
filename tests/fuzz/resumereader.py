# SPDX-License-Identifier: Apache-2.0
"""The resumer in C, as a reader of tables: compiled with a sanitizer of addresses, on a simulated kernel."""

import re
import struct
from pathlib import Path
from typing import Final

from agent.restart.contents.fillabi import Resumed, ResumeMessage
from agent.restart.contents.resumer import PROGRAM
from tests.fuzz.sanitizedprogram import CALL, SanitizedProgram

_SOURCE: Final = Path(__file__).with_suffix(".c")
_START: Final = re.compile(r"#define PROGRAM_START\(body\).*?\n.*?\n")


class ResumeReader(SanitizedProgram):
    """The reader; use it as a context.

    Args:
        folder: for the program.
    """

    def __init__(self, folder: Path) -> None:
        helper = PROGRAM.parent
        calls = (helper / "kernel_calls.h").read_text()
        calls = _START.sub("#define PROGRAM_START(body)\n", CALL.sub(r"long \1;\n", calls))
        (folder / "kernel_calls.h").write_text(calls)
        for name in ("resume.c", "resume.h", "fill.h", "tracing.h"):
            (folder / name).write_text((helper / name).read_text())
        super().__init__(_SOURCE, folder, helper)

    def read(self, table: bytes) -> ResumeMessage:
        """Have a table read; return the last message.

        Raises:
            AssertionError: the reader has read what is not there; it has said so.
        """
        return ResumeMessage(*self.ask([struct.pack("<I", len(table)) + table], 3))


def is_end(message: ResumeMessage) -> bool:
    """Return True if all threads were resumed, or a component is none of this processor."""
    return message.what in (Resumed.ALL, Resumed.COMPONENT)
