# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.live.wrongrestart FAULT FILE``: a restart whose tasks do not get the rights of the images."""

import sys
from collections.abc import Callable
from typing import Any, Final
from unittest.mock import patch

from agent.__main__ import run
from agent.restart.contents import credentials

_RESTORE: Final = credentials.restore


def _without_groups(script: Any, program: Any, creds: Any, host: Any) -> None:
    _RESTORE(script, program, creds, host)
    if not creds.uid:
        script.call("setgroups", 0, 0)


def _bounded(script: Any, program: Any, creds: Any, host: Any) -> None:
    """Drop CAP_CHOWN from the bounding set."""
    kept = _copy(creds)
    kept.cap_bnd[0] &= ~1
    _RESTORE(script, program, kept, host)


def _of_root(script: Any, program: Any, creds: Any, host: Any) -> None:
    """Keep the ids of the restart."""
    kept = _copy(creds)
    for name in ("uid", "euid", "suid", "fsuid"):
        setattr(kept, name, 0)
    _RESTORE(script, program, kept, host)


def _copy(creds: Any) -> Any:
    made = type(creds)()
    made.CopyFrom(creds)
    return made


FAULTS: Final[dict[str, Callable[[Any, Any, Any, Any], None]]] = {
    "groups": _without_groups,
    "bounding": _bounded,
    "user": _of_root,
}


if __name__ == "__main__":
    fault, image = sys.argv[1:]
    sys.argv = ["ckptree", "restart", image, "--json"]
    with patch.object(credentials, "restore", FAULTS[fault]):
        run()
