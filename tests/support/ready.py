# SPDX-License-Identifier: Apache-2.0
"""Programs that say when they are ready."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

ENVIRONMENT = MappingProxyType({"A": "1", "B": "2"})


@contextmanager
def running(*words: str | Path, env: Mapping[str, str] = ENVIRONMENT) -> Iterator[int]:
    """Start a program, and yield its pid when it has written something to standard output; it ends with the block."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=env) as process:
        try:
            assert process.stdout is not None
            process.stdout.read(1)
            yield process.pid
        finally:
            process.kill()
