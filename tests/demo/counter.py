# SPDX-License-Identifier: Apache-2.0
"""A restorer at its smallest: an application that saves its own memory and takes it up again.

Started by hand it becomes a tree: itself, a child, and a daemon in a session of its own whose parent has exited. Each
process counts. On SIGUSR1 each writes its count to FOLDER/PID. Started by `ckptree restart --run`, each process of the
rebuilt tree is this program anew, under the pid that it had; it finds CKPTREE_TAG in its environment, forks no process,
because all of them exist already, and continues the count that is saved under its pid.

    counter.py FOLDER
    ckptree snapshot PID -o tree.ckpt; kill -USR1 PID...; kill -KILL PID...
    ckptree restart tree.ckpt --run 'counter.py FOLDER'
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

TICK_S = 0.01
PR_SET_CHILD_SUBREAPER = 36


class Counter:
    """The memory of a process: one number."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / str(os.getpid())
        self.value = int(self.file.read_text()) if "CKPTREE_TAG" in os.environ else 0

    def save(self, *_: object) -> None:
        """Save the count, whole or not at all."""
        unfinished = self.file.with_suffix(".new")
        unfinished.write_text(str(self.value))
        unfinished.rename(self.file)

    def run(self) -> None:
        """Count for ever."""
        signal.signal(signal.SIGUSR1, self.save)
        while True:
            time.sleep(TICK_S)
            self.value += 1


def grow() -> None:
    """Become three processes; the daemon remains a descendant, as that of a supervisor does."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.fork() == 0:
        return
    middle = os.fork()
    if middle == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        return
    os.waitpid(middle, 0)


def main() -> None:
    """Start a tree, or continue one after a restart."""
    folder = Path(sys.argv[1])
    if "CKPTREE_TAG" not in os.environ:
        grow()
    Counter(folder).run()


if __name__ == "__main__":
    main()
