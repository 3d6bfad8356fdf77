# SPDX-License-Identifier: Apache-2.0
"""A context that runs a quiet tree of a known size (idle_tree.c)."""

import subprocess
from types import TracebackType
from typing import Self

from tests.bench.compiled import compiled
from tests.support.dying import die_with_parent


class IdleTree:
    """Sleeping tasks under one root.

    Args:
        tasks: how many in all: root, processes and threads.
        breadth: children of each process; 0: all are the root's.
        threads: of each process, besides its first.
        namespaces: True where each child of the root is the init of a pid namespace.

    Attributes:
        root: number of the root, while the context is active.
    """

    def __init__(self, tasks: int, *, breadth: int = 0, threads: int = 0, namespaces: bool = False) -> None:
        if tasks % (threads + 1):
            raise ValueError(f"{tasks} tasks do not make processes of {threads + 1} each")
        self._options = (str(tasks), str(breadth), str(threads), str(int(namespaces)))
        self._process: subprocess.Popen[str] | None = None
        self.root = 0

    def __enter__(self) -> Self:
        command = [str(compiled("idle_tree", "-static")), *self._options]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=die_with_parent
        )
        self.root = self._process.pid
        if self._process.stdout is None or not self._process.stdout.readline().startswith("ready"):
            self._process.communicate()
            raise RuntimeError("the tree did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.communicate()
