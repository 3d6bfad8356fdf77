# SPDX-License-Identifier: Apache-2.0
"""The program as a process that a test interrupts."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

DELAYS_S = [step * 0.012 for step in range(14)]  # the imports of a verb take about a tenth of a second

# It prints `!` at its first step after interrupts take effect.
_PROGRAM = """
import sys, agent.__main__ as program
fill = program.fill_standard_streams
program.fill_standard_streams = lambda: (sys.stdout.write("!"), sys.stdout.flush(), fill())
program.run()
"""


@contextmanager
def begun(*arguments: str | os.PathLike[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Yield the program, in a process group of its own, when its code runs and the interpreter's start is over."""
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
        env=os.environ | {"CKPTREE_SOCKET": "/nonexistent/socket"},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"!"
        yield process
