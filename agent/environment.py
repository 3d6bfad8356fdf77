# SPDX-License-Identifier: Apache-2.0
"""The names that daemon and clients have in common: variables, sockets and folders. A client needs no more of the
configuration.
"""

from pathlib import Path
from typing import Final

SYSTEM_FILE: Final = Path("/etc/ckptree/ckptree.toml")
"""The file that the unit names to the daemon, and in which `restart` finds this host's requirements."""
SOCKET_VARIABLE: Final = "CKPTREE_SOCKET"
"""The environment variable with the path of the socket, for daemon and client; an empty value counts as unset."""
DEFAULT_SOCKET: Final = Path("/run/ckptree/ckptree.sock")
"""The daemon's socket, where neither names another one."""
STANDBYS: Final = Path("/var/lib/ckptree-standby")
"""The folder with a folder for each host of which this one is the stand-by."""
NATS_VARIABLE: Final = "CKPTREE_NATS"
"""The environment variable with the address of the NATS server; an empty value counts as unset."""
INBOX_VARIABLE: Final = "CKPTREE_NATS_INBOX"
"""The environment variable with the inbox that the NATS server leaves to this user; an empty value counts as unset."""


def private_socket(public: Path) -> Path:
    """Return the path of the daemon's second socket, for root and the daemon's group, beside the one for all users."""
    return public.with_name(f"{public.name}.private")
