# SPDX-License-Identifier: Apache-2.0
"""``ckptree hook``: programs that other programs run at a moment of theirs."""

from enum import StrEnum
from typing import Annotated

from agent.cli.declarations import Argument, Option
from agent.cli.options import Socket


class HookName(StrEnum):
    """The program that runs a hook."""

    CRIU = "criu"


def hook(
    _program: Annotated[HookName, Argument(metavar="criu", help="Act as CRIU's action script.", show_choices=False)],
    required: Annotated[
        bool, Option("--required", help="Fail, and with it the dump, where no complete snapshot can be written.")
    ] = False,
    socket: Socket = None,
) -> None:
    """Write the tree that CRIU dumps beside CRIU's images, as tree.ckpt, while CRIU holds it.

    `ckptree-hook-criu` is the same as one word, for `criu dump --action-script` and the configuration files of CRIU: CRIU
    passes no arguments. Without a daemon a message goes to CRIU's log, and the dump goes on.
    """
    from agent.cli import criuhook

    raise SystemExit(criuhook.run(socket, required=required))
