# SPDX-License-Identifier: Apache-2.0
"""CRIU's action script: the tree that CRIU dumps, written beside the images while CRIU holds it.

CRIU runs an action script at several points of a dump or restore, without arguments, and waits for its end. In the
environment are:

    CRTOOLS_SCRIPT_ACTION   the point. At post-dump all images are written, and CRIU still holds every task of the tree.
    CRTOOLS_INIT_PID        the root of the tree, as CRIU's own pid namespace counts
    CRTOOLS_IMAGE_DIR       /proc/PID/fd/N of CRIU: the folder of the images

A script that fails at post-dump fails the dump, and CRIU lets the tree run on. The script's standard output and error are
CRIU's log. This is in criu/action-scripts.c, criu/cr-dump.c and cr_system() of CRIU. The tree waits meanwhile, so this
module imports little, and parses no command line.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

from agent.cli.message import say
from agent.errors import INCOMPLETE, CkptreeError, UsageError
from agent.protocol.client import Answer, Client
from exporters import store
from exporters.criu import TREE

_ACTION: Final = "CRTOOLS_SCRIPT_ACTION"
_ROOT: Final = "CRTOOLS_INIT_PID"
_FOLDER: Final = "CRTOOLS_IMAGE_DIR"
_ANSWER_S: Final = 10.0
"""Time that a daemon which is there has to answer. The tree is held meanwhile."""


def run(socket: Path | None = None, *, required: bool = False) -> int:
    """Write the snapshot at post-dump; return the exit code. `agent.__main__` ends at once at every other point.

    Args:
        socket: of the daemon; None: the default one.
        required: fail, and with it the dump, where no complete snapshot can be written.
    """
    for name in (_ACTION, _FOLDER):
        if not os.environ.get(name):
            _say(
                f"hook criu: there is no {name} in the environment: CRIU runs this, with --action-script of `criu dump`"
            )
            return UsageError.exit_code
    path = Path(os.environ[_FOLDER], TREE)
    try:
        answer = _written(path, socket)
    except Exception as error:  # noqa: BLE001 - no fault of this program may cost a dump that does not require it
        _say(str(error) if isinstance(error, CkptreeError) else f"internal error: {error!r}")
        _say(f"this dump has no {TREE}")
        _remove_former(path)
        return (error.exit_code if isinstance(error, CkptreeError) else 1) if required else 0
    if answer.workers:
        _say(f"left out, for no rebuild can make them: {answer.workers} threads of the kernel (io workers)")
    if not answer.complete:
        _say(f"{TREE} is incomplete: " + ("; ".join(answer.reasons) or "not verified"))
    return INCOMPLETE if required and not answer.complete else 0


def _written(path: Path, socket: Path | None) -> Answer:
    root = os.environ.get(_ROOT, "")
    if not (root.isascii() and root.isdecimal()):
        raise UsageError(f"hook criu: {_ROOT} is {root!r}: expected the pid of the tree's root")
    with Client(socket, _ANSWER_S) as client:
        # As CRIU dumps: the root and its descendants, without tasks that entered a container from outside.
        answer = client.snapshot(root, mode="subtree")
    store.write(path, answer.data)
    return answer


def _remove_former(path: Path) -> None:
    """Remove the file of an earlier dump into the same folder: the images are of another tree now."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _say(f"cannot remove {path}, which an earlier dump has left: {error.strerror}: remove it")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # of a full disk with CRIU's log on it
        say(text)
