# SPDX-License-Identifier: Apache-2.0
"""``ckptree tree``: the current tree. On a terminal the verb follows its changes; else it prints the tree once."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from agent.cli import terminal
from agent.cli.declarations import Argument
from agent.cli.options import ROOT_HELP, AsJson, At, Folder, Mode, ModeName, Socket, Source, SourceName, check_source
from agent.cli.terminal import say
from agent.errors import INCOMPLETE, INTERRUPTED

if TYPE_CHECKING:
    from agent.cli.follow import Follower
    from agent.cli.sources import Taken

TIMEOUT_S = 30.0


def tree(
    root: Annotated[str, Argument(metavar="[ROOT]", help=f"{ROOT_HELP} Without one: 1.")] = "1",
    mode: Mode = ModeName.SUBTREE,
    source: Source = SourceName.AUTO,
    at: At = None,
    record: Folder = None,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """Show the tree below ROOT, and on a terminal follow it. Keys: arrows, Enter to fold, / to search, ? for all, q."""
    from agent.cli import recorded, sources
    from agent.proc import topmost

    check_source(source, socket)
    meant = recorded.check_root(root, at)
    with recorded.opened_at(at, record, source, socket, TIMEOUT_S) as where:

        def ask(fmt: str = "ckpt") -> "list[Taken]":
            return topmost.answered_of_all(
                meant,
                lambda roots: [where.snapshot(each, mode=mode.value, fmt=fmt, outer=fmt == "ckpt") for each in roots],
            )

        if as_json:
            snapshots = ask("json")
            _write([taken.image() for taken in snapshots])
        elif at is not None or not terminal.can_be_taken_over():
            snapshots = ask()
            _print(snapshots, living=at is None)
        else:
            from agent.cli.follow import Follower

            events = topmost.answered_of_all(meant, lambda roots: sources.events_of(where, roots))
            _stay(Follower(str(meant).removeprefix("pid "), ask, events))
            return
    if not all(taken.complete for taken in snapshots):
        reasons = dict.fromkeys(reason for taken in snapshots for reason in taken.reasons)
        say("incomplete: " + ("; ".join(reasons) or "not verified"))
        raise SystemExit(INCOMPLETE)


def _write(documents: list[bytes]) -> None:
    """Write one document as it is, several as one array."""
    data = documents[0] if len(documents) == 1 else b"[" + b",".join(documents) + b"]"
    terminal.write(data, is_json=True)


def _print(snapshots: "list[Taken]", *, living: bool) -> None:
    """Print trees.

    Args:
        snapshots: the trees.
        living: their command lines are added from /proc.
    """
    from agent.proc import users
    from agent.proc.commands import Commands
    from exporters.drawing import treeview

    found = ((taken.load(), taken.outer) for taken in snapshots)
    for place, loaded in enumerate(Commands().added(found) if living else (each for each, _ in found)):
        if place:
            terminal.tell("")
        terminal.draw(treeview.render(loaded, **terminal.abilities(), names=users.names(loaded.boot_id)))


def _stay(follower: "Follower") -> None:
    """Show the tree until a key or a signal ends it; a signal then ends this process with its default action."""
    from agent.cli.screen import Ended, Screen

    follower.refresh()  # before the terminal changes, so that an error is printed as usual
    try:
        with _own_terminal() as descriptor, Screen(descriptor) as screen:
            follower.run(screen)
    except Ended as ended:
        if ended.number == signal.SIGINT:
            raise SystemExit(INTERRUPTED) from ended
        signal.signal(ended.number, signal.SIG_DFL)
        os.kill(os.getpid(), ended.number)


@contextmanager
def _own_terminal() -> Iterator[int]:
    """Open standard output's terminal for keys too: a shell may have opened it for writing alone."""
    try:
        descriptor = os.open(os.ttyname(sys.stdout.fileno()), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # the terminal has no name in this mount namespace
        descriptor = os.dup(sys.stdout.fileno())
    try:
        yield descriptor
    finally:
        os.close(descriptor)
