# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.matrix.prepared``: what criu needs of an emulated machine, whose user space has neither kmod nor ip.

It loads the modules in /modules, in the order of their names, and brings the loopback interface up.
"""

import ctypes
import fcntl
import os
import platform
import socket
import struct
from pathlib import Path
from typing import Final

MODULES: Final = Path("/modules")
_INIT_MODULE: Final = {"x86_64": 175, "aarch64": 105}
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1


def load() -> None:
    """Load the modules; one that does not load is named on stdout."""
    libc = ctypes.CDLL(None, use_errno=True)
    for path in sorted(MODULES.glob("*.ko")):
        data = path.read_bytes()
        if libc.syscall(_INIT_MODULE[platform.machine()], data, ctypes.c_ulong(len(data)), b""):
            print(f"{path.name}: {os.strerror(ctypes.get_errno())}")


def bring_up(interface: bytes = b"lo") -> None:
    """Bring an interface up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", interface, _IFF_UP))


if __name__ == "__main__":
    load()
    bring_up()
