# SPDX-License-Identifier: Apache-2.0
"""The privileges that the daemon gives up for good once all descriptors are open and mapped."""

import ctypes
import errno
import os
from typing import Final

from agent.errors import CkptreeError

_CAPABILITY_VERSION: Final = 0x20080522
_MOST_CAPABILITIES: Final = 64
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_SECUREBITS, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 23, 24, 28, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_SECURE: Final = 0b1110_1111
"""SECBIT_NOROOT, _NO_SETUID_FIXUP, _NO_CAP_AMBIENT_RAISE, all locked; _KEEP_CAPS locked as unset (capabilities(7))."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def drop() -> None:
    """Give up all capabilities, and every way to regain them by exec: as root, by setuid, by file capabilities.

    Without CAP_SETPCAP the bounding set and the securebits stay as they are; no_new_privs is set all the same.

    Raises:
        CkptreeError: the kernel refuses a call that needs no capability.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def prctl(what: int, *arguments: int, right: bool = False) -> int:
        answer = int(libc.prctl(what, *map(ctypes.c_ulong, (*arguments, *[0] * (4 - len(arguments))))))
        number = ctypes.get_errno()
        if answer < 0 and not (right and number == errno.EPERM) and not (what == _PR_CAPBSET_READ):
            raise CkptreeError(f"cannot give up rights: prctl {what}: {os.strerror(number)}")
        return answer

    for capability in range(_MOST_CAPABILITIES):
        there = prctl(_PR_CAPBSET_READ, capability)
        if there < 0:
            break  # the kernel has no capability of that number, nor a larger one
        if there:
            prctl(_PR_CAPBSET_DROP, capability, right=True)
    prctl(_PR_SET_SECUREBITS, _SECURE, right=True)
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    none = (ctypes.c_uint32 * 6)()  # two times effective, permitted, inheritable
    if libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION, 0)), none):
        raise CkptreeError(f"cannot drop capabilities: {os.strerror(ctypes.get_errno())}")
