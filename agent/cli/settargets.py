# SPDX-License-Identifier: Apache-2.0
"""Hosts on which the trees of a set are rebuilt, as plan and restart of a fleet take them from the command line."""

from typing import TYPE_CHECKING, Annotated

from agent.cli.declarations import Argument, Option
from agent.cli.fleetverbs import SET_HELP
from agent.errors import UsageError

if TYPE_CHECKING:
    from agent.fleet.manifest import FleetSet, HostImage

SetName = Annotated[str, Argument(metavar="SET", help=SET_HELP)]
Requester = Annotated[
    str | None,
    Option(
        "--as",
        metavar="NAME",
        help="Ask as this requester, whom the server of NATS must know. Without it: the user.",
    ),
]
Maps = Annotated[
    list[str] | None,
    Option("--map", metavar="OLD=NEW", help="Rebuild the tree of OLD on NEW; several times for several hosts."),
]


def targets(made: "FleetSet", maps: list[str] | None) -> "dict[str, HostImage]":
    """Return for each host on which a tree is to be rebuilt the host of the set whose tree it is.

    Raises:
        UsageError: a map is none, or names a host that is not in the set, or a target twice.
    """
    from agent.fleet import messages

    there = {each.host: each for each in made.hosts}
    if maps is None:
        return there
    found: dict[str, HostImage] = {}
    for each in maps:
        old, sign, new = each.partition("=")
        if not sign or old not in there:
            raise UsageError(f"--map {each}: expected OLD=NEW; hosts of the set are {', '.join(there) or 'none'}")
        if messages.checked_host(new) in found:
            raise UsageError(f"--map {each}: {new} is the target of another host already")
        found[new] = there[old]
    return found
