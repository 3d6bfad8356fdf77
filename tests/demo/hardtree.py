# SPDX-License-Identifier: Apache-2.0
"""A process tree that is hard to read: the program prints the number of its root and ends it with standard input.

The root is the init of a new pid namespace, so that one signal to it ends all of them. Below it are::

    threads         two threads, one of which forked a child
    no-leader       its main thread has exited, another one lives on
    exited-3        a zombie
    killed-9        a zombie, by a signal
    stopped         by SIGSTOP
    in-session      its session's leader is dead and reaped
    in-group        so is its group's
    subreaper       has adopted a daemon whose parent is gone
    parent, sibling one was cloned by the other, with CLONE_PARENT
    west, east      have a pid namespace of their own below them: the same numbers in both
    deep            in one of these, a namespace further down
"""

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36
CLONE_NEWUSER, CLONE_NEWPID, CLONE_PARENT = 0x1000_0000, 0x2000_0000, 0x8000
# clone and exit by the machine's own numbers: libc's wrappers do too much
_SYS_CLONE, _SYS_EXIT = {"x86_64": (56, 60), "aarch64": (220, 93)}.get(os.uname().machine, (0, 0))

_libc = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock, which a cloned child has to hold too
_libc_unlocked = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: int | bytes) -> int:
    """Call a function of libc.

    Raises:
        OSError: the function failed.
    """
    result = int(getattr(_libc, name)(*arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def stay() -> NoReturn:
    """Sleep until a signal comes."""
    while True:
        signal.pause()


def leave() -> NoReturn:
    """Exit with 0."""
    os._exit(0)


def leave_with_3() -> NoReturn:
    """Exit with 3."""
    os._exit(3)


def end_main_thread() -> NoReturn:
    """End this thread and not the process."""
    _libc_unlocked.syscall(_SYS_EXIT, 0)
    raise AssertionError("unreachable")


def clone_sibling() -> int:
    """Fork a child whose parent is this process's parent."""
    return call("syscall", _SYS_CLONE, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)


def nothing() -> None:
    """Build nothing."""


def child(
    title: str,
    build: Callable[[], object] = nothing,
    then: Callable[[], NoReturn] = stay,
    fork: Callable[[], int] = os.fork,
) -> int:
    """Fork a child, let it build its subtree, and return its number when the subtree is complete."""
    reader, writer = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            call("prctl", PR_SET_NAME, title.encode())
            build()
            os.write(writer, b".")
            os.close(writer)
            os.close(reader)
            then()
        except OSError:
            traceback.print_exc()
        finally:
            os._exit(70)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    return pid


def thread(title: str, work: Callable[[], object] = nothing) -> None:
    """Start a thread; return when its work is done. The thread stays."""
    done = threading.Event()

    def body() -> None:
        call("prctl", PR_SET_NAME, title.encode())
        work()
        done.set()
        threading.Event().wait()

    threading.Thread(target=body, daemon=True).start()
    done.wait()


def threads() -> None:
    """Start two threads, of which the second forks a child."""
    thread("thread-1")
    thread("thread-2", lambda: child("of-thread-2"))


def without_leader() -> None:
    """Build a process whose main thread is a zombie while another thread lives."""
    reader, writer = os.pipe()

    def outlive() -> None:
        call("prctl", PR_SET_NAME, b"survivor")
        while Path("/proc/self/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.001)
        os.write(writer, b".")
        threading.Event().wait()

    def start() -> None:
        threading.Thread(target=outlive, daemon=True).start()

    child("no-leader", start, end_main_thread)
    os.read(reader, 1)


def zombies() -> None:
    """Build two zombies that no process waits for, and one stopped process."""
    dead = [child("exited-3", then=leave_with_3), child("killed-9")]
    os.kill(dead[1], signal.SIGKILL)
    for pid in dead:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    stopped = child("stopped")
    os.kill(stopped, signal.SIGSTOP)
    os.waitid(os.P_PID, stopped, os.WSTOPPED)


def lead_session() -> None:
    """Build a session with a child in it."""
    os.setsid()
    child("in-session")


def lead_group() -> None:
    """Build a process group with a child in it."""
    os.setpgid(0, 0)
    child("in-group")


def adopt() -> None:
    """Become a subreaper and adopt a grandchild."""
    call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    between = child("between", lambda: child("adopted", os.setsid), leave)
    os.waitpid(between, 0)


def numbered_alike() -> None:
    """Become the init of a namespace with one child: numbers 1 and 2."""
    os.setsid()
    child("second")


def numbered_alike_and_deeper() -> None:
    """Build the same, and a namespace one level down."""
    numbered_alike()
    child("deep", lambda: namespace("deep-init", numbered_alike))


def namespace(title: str, build: Callable[[], None]) -> None:
    """Build a pid namespace below this process, which itself stays in its own."""
    call("unshare", CLONE_NEWPID)
    child(title, build)


def grow() -> None:
    """Build all of it below the init."""
    os.setsid()
    child("threads", threads)
    without_leader()
    zombies()
    for lead in (lead_session, lead_group):
        os.waitpid(child("leader", lead, leave), 0)
    child("subreaper", adopt)
    child("parent", lambda: child("sibling", fork=clone_sibling))
    child("west", lambda: namespace("west-init", numbered_alike))
    child("east", lambda: namespace("east-init", numbered_alike_and_deeper))


def init() -> None:
    """Run the root; it dies with the process that holds the tree."""
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
    os.close(0)
    os.close(1)
    grow()


def main() -> int:
    """Build the tree and hold it; return the exit code."""
    if not _SYS_EXIT:
        print(f"hardtree: does not know the system calls of {os.uname().machine}", file=sys.stderr)
        return 1
    try:
        call("unshare", CLONE_NEWPID if os.geteuid() == 0 else CLONE_NEWUSER | CLONE_NEWPID)
    except OSError as error:
        print(f"hardtree: cannot make a pid namespace: {error.strerror}", file=sys.stderr)
        return 1
    root = child("init", init)
    try:
        print(root, flush=True)
        sys.stdin.buffer.read()
    finally:
        os.kill(root, signal.SIGKILL)
        os.waitpid(root, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
