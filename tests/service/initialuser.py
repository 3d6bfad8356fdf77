# SPDX-License-Identifier: Apache-2.0
"""A command that can make no user namespace: ``python initialuser.py COMMAND...``.

A systemd that is not pid 1 gives each sandboxed service a user namespace, even root's (seen in systemd 257, not in 252).
There capabilities do not count for BPF. Where the kernel refuses that namespace, systemd goes on without it, as pid 1 does.
"""

import ctypes
import os
import struct
import sys
from typing import Final

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_UNSHARE: Final = {"x86_64": 272, "aarch64": 97}
_CLONE_NEWUSER: Final = 0x10000000
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ERRNO with EPERM
_NUMBER_AT, _FLAGS_AT = 0, 16  # struct seccomp_data: the number of the call, its first argument


def refuse_user_namespaces() -> None:
    """Have the kernel refuse unshare(CLONE_NEWUSER) to this process and its descendants, for good.

    Raises:
        OSError: the kernel takes no filter.
    """
    instructions = (
        (_LOAD, 0, 0, _NUMBER_AT),
        (_EQUAL, 0, 3, _UNSHARE[os.uname().machine]),
        (_LOAD, 0, 0, _FLAGS_AT),
        (_ANY_BIT, 0, 1, _CLONE_NEWUSER),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    )
    code = b"".join([struct.pack("=HBBI", *instruction) for instruction in instructions])
    text = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("@HxxxxxxP", len(instructions), ctypes.addressof(text)))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")


if __name__ == "__main__":
    refuse_user_namespaces()
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - the command that the test names
