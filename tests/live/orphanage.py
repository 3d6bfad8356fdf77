# SPDX-License-Identifier: Apache-2.0
"""A program that makes processes whose parents end in every way, for some seconds: ``python orphanage.py SECONDS SEED``.

Parents with threads fork from each of them, and their leaders end first; subreapers stand in subreapers; pid namespaces are
made; programs are started by threads that do not lead; some wait for their children, and some ignore SIGCHLD.
"""

import contextlib
import ctypes
import os
import random
import signal
import sys
import threading
import time

_LIBC = ctypes.CDLL(None)
_SET_CHILD_SUBREAPER = 36
_NEWPID = 0x20000000
_EXIT = 60
_DEEPEST = 2


def child(depth: int) -> int:
    """Fork a process that does what `work` does; return its number, 0 where it cannot be made."""
    seed = random.random()
    try:
        pid = os.fork()
    except OSError:
        return 0
    if not pid:
        try:
            work(depth, seed)
        finally:
            os._exit(random.randrange(10))
    return pid


def work(depth: int, seed: float) -> None:
    """Change what a process can change, have threads and children, and end in some way."""
    random.seed(seed)
    chance = random.random()
    if chance < 0.2:
        os.setsid()
    elif chance < 0.4:
        os.setpgid(0, 0)
    if random.random() < 0.3:
        _LIBC.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if random.random() < 0.15:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if random.random() < 0.2:
        _LIBC.unshare(_NEWPID)
    threads = [threading.Thread(target=aside, args=(depth,), daemon=True) for _ in range(random.randrange(3))]
    for thread in threads:
        thread.start()
    children = [child(depth + 1) for _ in range(random.randrange(3) if depth < _DEEPEST else 0)]
    time.sleep(random.random() * 0.2)
    end = random.random()
    if end < 0.15:
        os.execv("/bin/sleep", ["sleep", "0.1"])  # noqa: S606 - another program, and no shell
    if end < 0.3 and threads:
        _LIBC.syscall(_EXIT, random.randrange(4))
    if end < 0.35:
        os.kill(os.getpid(), signal.SIGKILL)
    if end < 0.7:
        for each in filter(None, children):
            with contextlib.suppress(OSError):
                os.waitpid(each, 0)


def aside(depth: int) -> None:
    """Do what a thread beside the leader does: fork, or exec, or sleep on."""
    if depth < _DEEPEST and random.random() < 0.5:
        child(depth + 1)
    time.sleep(random.random() * 0.3)
    if random.random() < 0.2:
        os.execv("/bin/sleep", ["sleep", "0.1"])  # noqa: S606 - another program, and no shell


def main() -> None:
    """Run until the time is over, and wait for what is there."""
    until = time.monotonic() + float(sys.argv[1])
    random.seed(int(sys.argv[2]))
    _LIBC.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    while time.monotonic() < until:
        for _ in range(3):
            child(0)
        turn = time.monotonic() + 0.7
        with contextlib.suppress(ChildProcessError):
            while time.monotonic() < turn:
                if not os.waitpid(-1, os.WNOHANG)[0]:
                    time.sleep(0.02)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


if __name__ == "__main__":
    main()
