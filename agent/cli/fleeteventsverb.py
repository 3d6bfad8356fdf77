# SPDX-License-Identifier: Apache-2.0
"""The verb fleet events: live events of another host, through its relay."""

import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Annotated, Final

from agent import rootname
from agent.cli import terminal
from agent.cli.daemonverbs import chosen_kinds
from agent.cli.declarations import Argument
from agent.cli.message import in_a_line
from agent.cli.options import AsJson, Kind, Nats

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.fleet.fleetclient import FleetClient
    from agent.fleet.messages import Message
    from agent.protocol.replies import Event

ROOT_THERE: Final = "A tree of that host: a pid, as its relay counts, or unit:NAME or another ROOT."
_WAIT_S: Final = 2.0
"""An answer without events comes after so long: then a reader of the output that has gone is noticed."""
_ANSWER_S: Final = 5.0
_AWAY_S: Final = 20.0
"""A relay that is away for longer has forgotten this follower."""
_PAUSE_S: Final = 0.2


def events(
    host: Annotated[str, Argument(metavar="HOST", help="The host, as `ckptree fleet hosts` names it.")],
    root: Annotated[str | None, Argument(metavar="[ROOT]", help=f"{ROOT_THERE} Without one: all tasks.")] = None,
    kind: Kind = None,
    nats: Nats = None,
    as_json: AsJson = False,
) -> None:
    """Print live events of another host, one a line, as watch does there. With --json each line is a JSON object.

    Its relay must allow events. Execs have no arguments.
    """
    import asyncio

    from agent.cli.eventlines import lines_of
    from agent.fleet import messages, natsserver

    lines = lines_of(as_objects=as_json, shortened=sys.stdout.isatty())
    if root is not None:
        rootname.parse_target(root)
    kinds = chosen_kinds(kind)
    wish: Message = {"root": root, "kinds": None if kinds is None else list(kinds)}
    server = natsserver.server_of(nats)
    # The reader of standard output may leave at any moment: then this process ends as every program in a pipe does.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)

    def write(event: "Event | None") -> None:
        if found := lines(event):
            sys.stdout.write(terminal.without_del("".join(f"{in_a_line(line)}\n" for line in found)))
            sys.stdout.flush()
        elif event is None and terminal.is_unread():
            os.kill(os.getpid(), signal.SIGPIPE)

    asyncio.run(_followed(messages.checked_host(host), wish, server, write))


async def _followed(host: str, wish: "Message", server: str, write: "Callable[[Event | None], None]") -> None:
    """Follow a host until the root is gone.

    Args:
        host: its name.
        wish: root and kinds.
        server: of NATS.
        write: takes each event, and None where none has come for a while.

    Raises:
        CkptreeError: its relay refuses, is away for too long, or was started again.
    """
    import contextlib
    import secrets

    from agent.errors import CkptreeError
    from agent.fleet import fleetclient, messages

    key = secrets.token_hex(16)
    async with fleetclient.opened(server) as client:
        after, begins, over = 0, True, False
        try:
            while not over:
                request = {**wish, "id": key, "after": after, "begins": begins, "wait_ns": int(_WAIT_S * 1e9)}
                answer = await _asked(client, host, request)
                begins, over = False, answer.get("over") is True
                for said in _new(host, answer, after):
                    write(said)
                    after += 1
                if not over:
                    write(None)
        finally:
            with contextlib.suppress(CkptreeError):  # the relay forgets it by itself
                await client.ask(host, messages.EVENTS, {"id": key, "done": True}, _PAUSE_S)


def _new(host: str, answer: "Message", after: int) -> "list[Event]":
    """Return the events of an answer that have not come before.

    Raises:
        CkptreeError: they make no sense.
    """
    from agent.cli.eventlines import as_line
    from agent.errors import CkptreeError
    from agent.fleet import hostanswers

    try:
        found = hostanswers.events(answer, after)
        for event in found:
            as_line(event)  # it needs the fields of its kind
    except (KeyError, TypeError, ValueError) as error:
        raise CkptreeError(
            f"{host}: its relay answered events without {error}: it is of another version, or at fault"
        ) from error
    return found


async def _asked(client: "FleetClient", host: str, request: "Message") -> "Message":
    """Ask for events; a relay that does not answer is asked again for a while."""
    import asyncio

    from agent.fleet import messages
    from agent.fleet.fleetclient import NobodyError, SilentError

    until_s = time.monotonic() + (_ANSWER_S if request["begins"] else _AWAY_S)
    while True:
        try:
            return (await client.ask(host, messages.EVENTS, request, _WAIT_S + _ANSWER_S)).answer
        except (NobodyError, SilentError):
            if time.monotonic() >= until_s:
                raise
            await asyncio.sleep(_PAUSE_S)
