# SPDX-License-Identifier: Apache-2.0
"""Arguments that several verbs have in common."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from agent.cli.declarations import Option
from agent.environment import DEFAULT_SOCKET, NATS_VARIABLE, SOCKET_VARIABLE
from agent.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


class ModeName(StrEnum):
    """The extent of the tree."""

    AUTO = "auto"
    CONTAINER = "container"
    SUBTREE = "subtree"


class DialectName(StrEnum):
    """The dialect of an image: the meaning of PIDS.offset."""

    SEED = "seed"
    V23 = "v23"


class SourceName(StrEnum):
    """The source of the tree."""

    AUTO = "auto"
    DAEMON = "daemon"
    BPF = "bpf"
    PROCFS = "procfs"


ROOT_HELP = (
    "A pid, as this process counts, pid:[INUM] or pidns:INUM, cgroup:PATH, unit:NAME, slurm:JOB.STEP, podman:NAME, "
    "docker:NAME or pod:NAMESPACE/POD."
)
AsJson = Annotated[bool, Option("--json", help="Print JSON.")]
DropDying = Annotated[
    bool, Option("--drop-dying", help="Leave out what the kernel was about to end with its pid namespace.")
]
ShellJob = Annotated[bool, Option("--shell-job", help="With contents, the terminal of the tree is that of restart.")]
TcpEstablished = Annotated[
    bool, Option("--tcp-established", help="With contents, make established connections of TCP again.")
]
TcpClose = Annotated[bool, Option("--tcp-close", help="With contents, bring connections of TCP back closed.")]
Mode = Annotated[
    ModeName,
    Option(help="Take a container or a subtree. auto takes a container if ROOT is the init of a pid namespace."),
]
Source = Annotated[
    SourceName, Option(help="Ask this source. auto asks the daemon, and without one uses BPF in this process.")
]
Socket = Annotated[
    Path | None,
    Option(
        help=f"Ask the daemon on this socket. Without the option it is {SOCKET_VARIABLE} of the environment, else "
        f"{DEFAULT_SOCKET}.",
        metavar="PATH",
        readable=False,
    ),
]
Nats = Annotated[
    str | None,
    Option(
        help=f"Ask this NATS server, as in nats://HOST:4222. Without the option it is {NATS_VARIABLE} of the environment.",
        metavar="URL",
    ),
]


Format = Annotated[
    str | None,
    Option(
        "--format",
        "-f",
        help="Write this format: ckpt (default), msgpack, json, criu (a folder), dot, svg or html.",
        metavar="FORMAT",
    ),
]


TIME_HELP = "2026-01-31T03:12:07.250 (local, or with an offset or Z), 03:12:07, -30s, -5m, -2h, -1d, or '#NUMBER'."
At = Annotated[
    str | None,
    Option("--at", help=f"Take the tree as it was then, from a recording: {TIME_HELP}", metavar="TIME"),
]
Folder = Annotated[
    Path | None,
    Option(
        "--record", help="Read the recording in this folder, and not that of the daemon.", metavar="DIR", readable=False
    ),
]
Since = Annotated[str | None, Option("--since", help=f"Begin at this time: {TIME_HELP}", metavar="TIME")]
Until = Annotated[str | None, Option("--until", help="End at this time.", metavar="TIME")]
Kind = Annotated[
    str | None,
    Option(
        help="Print only these kinds, with commas: birth, exec, death, reap, reparent, setsid, setpgid, subreaper, change.",
        metavar="KINDS",
    ),
]


def name_foreign_formats(commands: "Mapping[str, Any]") -> None:
    """Name the formats of other packages in the help of the verbs that write one.

    Args:
        commands: those of click, by verb, which are about to run.
    """
    from exporters import plugins

    names = plugins.names()
    for command in commands.values() if names else ():
        for parameter in command.params:
            if parameter.metavar == "FORMAT":
                parameter.help = f"{parameter.help} Other packages add: {', '.join(names)}."


def check_source(source: SourceName, socket: Path | None) -> None:
    """Refuse a daemon's socket where no daemon is asked."""
    if source in (SourceName.BPF, SourceName.PROCFS) and socket is not None:
        raise UsageError(f"--socket is the daemon's, and --source {source.value} asks no daemon: leave one of them out")
