# SPDX-License-Identifier: Apache-2.0
"""``python usernamespace.py PROGRAM [ARGUMENT]...`` runs a program as root of a new user namespace of root's.

All ids are in it, as they are outside. Its owner is root, who has all capabilities over the processes in it, also those
that root has not otherwise: cap_capable() in the kernel's security/commoncap.c.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Final

WORDS: Final = (sys.executable, __file__)
"""Words in front of a command that is to run so."""
_CLONE_NEWUSER: Final = 0x10000000
_IDS: Final = "0 0 4294967295\n"


def _map_when_told(process: int, told: int) -> None:
    """Write the maps of a process once something can be read; only a process outside of the namespace may do so."""
    os.read(told, 1)
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{process}/{name}").write_text(_IDS)


def _enter() -> None:
    """Enter a new user namespace with all ids."""
    told, tell = os.pipe()
    process = os.getpid()
    if not (mapper := os.fork()):
        os.close(tell)
        _map_when_told(process, told)
        os._exit(0)
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER):
        os.kill(mapper, signal.SIGKILL)
        sys.exit(f"no user namespace: {os.strerror(ctypes.get_errno())}")
    os.write(tell, b"1")
    os.close(told)
    os.close(tell)
    if os.waitpid(mapper, 0)[1]:
        sys.exit("the ids of the user namespace cannot be mapped")


if __name__ == "__main__":
    _enter()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606  # the words are the test's
