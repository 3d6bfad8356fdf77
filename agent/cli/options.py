# SPDX-License-Identifier: Apache-2.0
"""Arguments that several verbs have in common."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from agent.config import SOCKET_VARIABLE
from agent.errors import UsageError
from agent.protocol.client import DEFAULT_SOCKET


class ModeName(StrEnum):
    """The extent of the tree."""

    AUTO = "auto"
    CONTAINER = "container"
    SUBTREE = "subtree"


class SourceName(StrEnum):
    """The source of the tree."""

    AUTO = "auto"
    DAEMON = "daemon"
    BPF = "bpf"
    PROCFS = "procfs"


ROOT_HELP = "A pid, as this process counts, pid:[INUM] or pidns:INUM, cgroup:PATH or unit:NAME."
Mode = Annotated[ModeName, typer.Option(help="auto: container iff ROOT is init of a pid namespace.")]
Source = Annotated[SourceName, typer.Option(help="auto: the daemon, else BPF in this process.")]
Socket = Annotated[
    Path | None,
    typer.Option(
        help=f"The daemon's socket (default: {SOCKET_VARIABLE} of the environment, else {DEFAULT_SOCKET}).",
        metavar="PATH",
        readable=False,
    ),
]


def check_source(source: SourceName, socket: Path | None) -> None:
    """Refuse a daemon's socket where no daemon is asked."""
    if source in (SourceName.BPF, SourceName.PROCFS) and socket is not None:
        raise UsageError(f"--socket is the daemon's, and --source {source.value} asks no daemon: leave one of them out")
