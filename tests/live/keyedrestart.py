# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.live.keyedrestart FILE ARGUMENT...``: a restart by a caller with a key in its session keyring.

The key's number is written to FILE. Whoever possesses it may read it, whatever the user.
"""

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

_ADD_KEY, _KEYCTL = 248, 250  # x86-64
_JOIN_SESSION: Final = 1
_SESSION: Final = -3


def main() -> None:
    """Make the key, and become the restart."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_KEYCTL, _JOIN_SESSION, None) < 0:
        sys.exit(f"no session keyring: {os.strerror(ctypes.get_errno())}")
    key = libc.syscall(_ADD_KEY, b"user", b"ckptree-test", b"secret", 6, _SESSION)
    if key < 0:
        sys.exit(f"no key: {os.strerror(ctypes.get_errno())}")
    Path(sys.argv[1]).write_text(str(key))
    os.execv(sys.executable, [sys.executable, "-m", "agent", "restart", *sys.argv[2:]])  # noqa: S606 - the arguments are words


if __name__ == "__main__":
    main()
