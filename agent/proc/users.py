# SPDX-License-Identifier: Apache-2.0
"""The names of users, for snapshots of this host: on another one an id may belong to another user."""

import pwd
from functools import cache
from pathlib import Path
from typing import Final

from agent.proc import host
from exporters.content.identity import UserName, nameless

_ALL_IDS: Final = ["0", "0", "4294967295"]
"""The map of a user namespace in which all ids are those of the initial one."""


def names(boot_id: str, proc: Path = Path("/proc")) -> UserName:
    """Return the function that names users of the initial user namespace.

    Args:
        boot_id: of the snapshot; one of another boot or host has no names.
        proc: where procfs is mounted.
    """
    try:
        mapped = (proc / "self/uid_map").read_text().split()
    except OSError:
        return nameless
    return _name if boot_id and boot_id == host.boot_id(proc) and mapped == _ALL_IDS else nameless


@cache
def _name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return None
