# SPDX-License-Identifier: Apache-2.0
"""The bare task iterator as a rival: ckptree's own iterator program, read alone, with no events to mend it.

Run as ``python -m tests.bench.iterator FD`` this module loads the program and sends its link through the socket FD, so
that the measuring process has neither hooks nor a compiler.
"""

import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

from agent.table import wire
from tests.bench.judge import Row
from tests.bench.scanners import IteratorRead, Scan, scan_iterator

_ROW = wire.reader(wire.SWEEP_ROW, "task", "start_ns", "parent", "pid", "pgid", "sid", "tid", "flags")
_TASK_EXITED = 1 << 2
_REPOSITORY = Path(__file__).parents[2]


def _rows(data: bytes) -> list[Row]:
    """Return addresses and pid identities as the numbers of those rows that have them; None where no row has."""
    raw = list(_ROW.iter_unpack(data))
    by_task = {task: tid for task, _, _, _, _, _, tid, _ in raw}
    by_pid = {pid: tid for _, _, _, pid, _, _, tid, _ in raw if pid}  # 0: released already
    return [
        Row(tid, None, by_task.get(parent), by_pid.get(sid), by_pid.get(pgid), bool(flags & _TASK_EXITED), start, start)
        for _, start, parent, _, pgid, sid, tid, flags in raw
    ]


class BareIterator:
    """A reader of the iterator behind one link, which stays open. A call is one scan."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            command = [sys.executable, "-m", "tests.bench.iterator", str(theirs.fileno())]
            with subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=_REPOSITORY) as helper:
                theirs.close()
                _, descriptors, _, _ = socket.recv_fds(ours, 16, 1)
                helper.wait()
        if not descriptors:
            raise RuntimeError("the iterator could not be loaded")
        self._link = descriptors[0]

    def read(self) -> IteratorRead:
        """Read once and return the bytes: struct sweep_row, one after the other."""
        return scan_iterator(self._link)

    def __call__(self) -> Scan:
        """Make one scan."""
        read = self.read()
        return Scan(read.begun_ns, read.ended_ns, partial(_rows, read.data))

    def close(self) -> None:
        """Close the link."""
        os.close(self._link)


def _hand_over(fd: int) -> None:
    from agent.capture.probes import Probes  # only the helper needs it

    probes = Probes(1 << 20)
    with socket.socket(fileno=fd) as peer:
        socket.send_fds(peer, [b"link"], [probes._descriptors["iterator"]])
    probes.close()  # detaches every hook: only the iterator is left


if __name__ == "__main__":
    _hand_over(int(sys.argv[1]))
