# SPDX-License-Identifier: Apache-2.0
"""The verbs that show a daemon's state, events and figures: status, watch, metrics."""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from agent import rootname
from agent.cli import terminal
from agent.cli.declarations import Argument, Option
from agent.cli.options import ROOT_HELP, AsJson, Kind, Socket
from agent.environment import STANDBYS
from agent.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.protocol.client import Subscription

_ANSWER_S = 10.0
_LOOK_S = 1.0  # interval of the check that standard output still has a reader


_REMARKS = {
    "lost": "records that the ring had no room for: a sweep followed each gap",
    "withheld": "changes beyond their user's allowance: what is still so at the next sweep is found, as an anomaly",
    "anomalies": "differences that no event explained, found and repaired; what a withheld change left is among them",
}
"""Meanings of the counts of ``status`` that a reader may take for a fault, by key."""


def status(socket: Socket = None, as_json: AsJson = False) -> None:
    """Show the daemon's state, and its hooks."""
    from agent.protocol.client import Client

    with Client(socket, _ANSWER_S) as client:
        found = client.status()
    if as_json:
        terminal.tell_json(found)
        return
    hooks, tried, missing = found.pop("hooks"), found.pop("tried"), found.pop("missing")
    recording = found.pop("recording", {})
    for key, value in found.items():
        remark = f"  {_REMARKS[key]}" if value and key in _REMARKS else ""
        terminal.tell(f"{key:<16} {value}{remark}")
    for key, value in recording.items():
        terminal.tell(f"recording {key:<16} {value}")
    for feature, used in hooks.items():
        terminal.tell(f"hook {feature:<11} {', '.join(used) or 'none: changes are found by the next sweep'}")
    for hook, said in tried.items():
        terminal.tell(f"tried            {hook}: {said}")
    for feature in missing:
        terminal.tell(f"kernel lacks     {feature}")


def chosen_kinds(text: str | None) -> list[str] | None:
    """Read the kinds of events that a user wants; None: all.

    Raises:
        UsageError: one of them is none.
    """
    from agent.events.subscriber import KINDS

    kinds = None if text is None else [word for word in text.split(",") if word]
    if kinds == [] or not set(kinds or ()) <= set(KINDS):
        raise UsageError(f"--kind {text}: expected some of {', '.join(KINDS)}, with commas")
    return kinds


def watch(
    root: Annotated[str | None, Argument(metavar="[ROOT]", help=f"{ROOT_HELP} Without one: all tasks.")] = None,
    kind: Kind = None,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """Print live events, one a line. With --json each line is a JSON object.

    On a terminal, one line counts the changes that are found after a loss, where they are more than a few.
    """
    from agent.cli.eventlines import lines_of
    from agent.cli.execlines import Joined, arriving
    from agent.proc import topmost
    from agent.protocol.client import Client

    kinds = chosen_kinds(kind)
    plain = lines_of(as_objects=as_json, shortened=sys.stdout.isatty())
    executions = kinds is None or "exec" in kinds

    def subscribed(to: list[str] | None) -> "Subscription":
        return Client(socket, _ANSWER_S).subscribe(to, kinds=kinds, snapshot=False, arguments=executions)

    meant = rootname.parse_target(root) if root is not None else None
    # The reader of standard output may leave at any moment: then this process ends as every program in a pipe does.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    with subscribed(None) if meant is None else topmost.answered_of_all(meant, subscribed) as events:
        lines = Joined(plain, told=events.arguments)
        try:
            for found in arriving(events, lines, _LOOK_S):
                if not found and terminal.is_unread():
                    os.kill(os.getpid(), signal.SIGPIPE)
                _write(found)
        finally:
            _write(lines.lines(None))


def _write(lines: list[str]) -> None:
    if lines:
        sys.stdout.write(terminal.without_del("".join(f"{line}\n" for line in lines)))
        sys.stdout.flush()


def metrics(
    listen: Annotated[
        str | None,
        Option(help="Stay, and serve the figures to scrapers over HTTP at HOST:PORT or unix:PATH.", metavar="ADDRESS"),
    ] = None,
    standby: Annotated[
        str | None,
        Option(help="Print the figures of this host's stand-by of HOST, and not the daemon's.", metavar="HOST"),
    ] = None,
    record: Annotated[
        Path | None,
        Option(
            help=f"With --standby, the folder of the stand-by. Without it: {STANDBYS}/HOST.",
            metavar="DIR",
            readable=False,
        ),
    ] = None,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """Print the daemon's figures in the format OpenMetrics, or serve them."""
    if listen is not None and as_json:
        raise UsageError("--listen serves OpenMetrics: leave out --json")
    if standby is None and record is not None:
        raise UsageError("--record names the folder of a stand-by: add --standby HOST")
    if standby is not None and socket is not None:
        raise UsageError("--standby asks no daemon: leave out --socket")
    ask, render = _figures(socket) if standby is None else _figures_of_standby(standby, record)
    if listen is not None:
        from agent.cli import scrape

        scrape.serve(listen, lambda: render(ask()))
    elif as_json:
        terminal.tell_json(ask())
    else:
        terminal.write(render(ask()).encode())


def _figures(socket: Path | None) -> "tuple[Callable[[], dict[str, Any]], Callable[[dict[str, Any]], str]]":
    """Return what asks the daemon for its figures, and what makes OpenMetrics of them."""
    from agent.cli import openmetrics
    from agent.protocol.client import Client

    def ask() -> dict[str, Any]:
        with Client(socket, _ANSWER_S) as client:
            return client.metrics()

    return ask, openmetrics.render


def _figures_of_standby(
    host: str, record: Path | None
) -> "tuple[Callable[[], dict[str, Any]], Callable[[dict[str, Any]], str]]":
    """Return what asks a stand-by for its figures, and what makes OpenMetrics of them."""
    from agent.cli import standbymetrics
    from agent.fleet import messages

    own = STANDBYS / messages.checked_host(host)
    place = record or own
    return lambda: standbymetrics.ask(place, host), standbymetrics.render
