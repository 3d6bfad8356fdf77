# SPDX-License-Identifier: Apache-2.0
"""The loading of the kernel side by a helper process (bpf.loader), which passes descriptors back and exits."""

import json
import os
import select
import socket
import sys
from collections.abc import Callable, Iterable

from agent import interpreter
from agent.errors import HostError
from agent.proc import host
from agent.record import NamedTuple
from bpf.hooks import left_out

_MAX_DESCRIPTORS = 128
_HELPER = "from bpf.loader import main; main(sys.argv[1:])"
_WAIT_S = 5.0
_FAULTS = 3  # of the compiler's errors, in a message


class Loaded(NamedTuple):
    """The kernel side as the helper passes it on.

    Attributes:
        descriptors: by name.
        hooks, tried, missing: as in Probes.
    """

    descriptors: dict[str, int]
    hooks: dict[str, list[str]]
    tried: dict[str, str]
    missing: list[str]


class Loading:
    """A helper process at work. Its maker may do other things until it needs the result.

    Args:
        ring_bytes: size of the ring, a power of two of pages.
        without: kernel features to treat as missing, and hooks not to load: for tests and measurements.

    Raises:
        HostError: this process is not in the initial pid namespace.
        UsageError: the environment leaves out a hook that does not exist.
    """

    def __init__(self, ring_bytes: int, without: Iterable[str] = ()) -> None:
        if not host.in_initial_pid_namespace():
            raise HostError(
                "not in the initial pid namespace: the kernel would show this process only a part of the tasks. "
                "Run ckptree on the host (in a container: share the host's pid namespace)"
            )
        names = {*without, *left_out()}
        self._answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._complaints = os.memfd_create("ckptree-loader")
        null = os.open(os.devnull, os.O_RDWR)
        try:
            os.set_inheritable(theirs.fileno(), True)
            arguments = interpreter.command(_HELPER, str(theirs.fileno()), str(ring_bytes), *names, at_once=True)
            self._helper = os.posix_spawn(
                sys.executable,
                arguments,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, null, 0),
                    (os.POSIX_SPAWN_DUP2, null, 1),
                    (os.POSIX_SPAWN_DUP2, self._complaints, 2),
                ],
            )
        except BaseException:
            self._close()
            raise
        finally:
            theirs.close()
            os.close(null)

    def result(self, waiting: Callable[[], None] = lambda: None) -> Loaded:
        """Wait for the helper's answer; ask once.

        Args:
            waiting: called every few seconds meanwhile.

        Raises:
            HostError: the helper reports an error, or dies.
        """
        try:
            while not select.select([self._answers], [], [], _WAIT_S)[0]:
                waiting()
            message, descriptors, _, _ = socket.recv_fds(self._answers, 1 << 16, _MAX_DESCRIPTORS)
            os.waitpid(self._helper, 0)
            said = os.pread(self._complaints, 1 << 14, 0).decode(errors="replace").strip()
        finally:
            self._close()
        if not message:
            last = said.splitlines()[-1] if said else "it said nothing"
            raise HostError(f"the helper that loads BPF died: {last}")
        document = json.loads(message)
        if "error" in document:
            # The compiler writes its errors to standard error.
            faults = [line for line in said.splitlines() if " error: " in line][:_FAULTS]
            raise HostError(": ".join((document["error"], *faults)))
        named = dict(zip(document["names"], descriptors, strict=True))
        return Loaded(named, document["hooks"], document["tried"], document["missing"])

    def _close(self) -> None:
        self._answers.close()
        os.close(self._complaints)
