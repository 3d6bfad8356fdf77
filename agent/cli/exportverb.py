# SPDX-License-Identifier: Apache-2.0
"""``ckptree export``: live events in the words of other programs, to a collector or as JSON lines."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

from agent import rootname
from agent.cli import terminal
from agent.cli.daemonverbs import chosen_kinds
from agent.cli.declarations import Argument, Option
from agent.cli.options import ROOT_HELP, Kind, Socket
from agent.cli.terminal import say
from agent.errors import INCOMPLETE, SIGNALLED, UsageError

if TYPE_CHECKING:
    from agent.protocol.client import Event, Subscription

    Sink = Callable[[Event], None]
    """Takes events, one after the other: live ones, or those of a recording."""

_ANSWER_S: Final = 10.0
_IDLE_S: Final = 1.0
_LAST_S: Final = 10.0
"""The longest time for which the end of the verb waits for the collector, seconds."""


class ExportFormat(StrEnum):
    """The words that events are told in."""

    ECS = "ecs"
    OTLP = "otlp"


class _Stopped(Exception):  # noqa: N818 - no error: the user ends the verb
    """A signal asks the verb to end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def export(
    form: Annotated[
        ExportFormat,
        Argument(
            metavar="FORM",
            help="ecs: documents of the Elastic Common Schema, one a line. otlp: log records to a collector of "
            "OpenTelemetry, by OpenTelemetry's own environment variables.",
        ),
    ],
    root: Annotated[str | None, Argument(metavar="[ROOT]", help=f"{ROOT_HELP} Without one: all tasks.")] = None,
    kind: Kind = None,
    with_argv: Annotated[
        bool, Option("--with-argv", help="Tell the arguments of programs, which may have secrets in them.")
    ] = False,
    endpoint: Annotated[
        str | None,
        Option(
            metavar="URL",
            help="Of otlp: send to this collector. Without the option it is OTEL_EXPORTER_OTLP_ENDPOINT of the "
            "environment, else http://localhost:4318.",
        ),
    ] = None,
    socket: Socket = None,
) -> None:
    """Export live events to a program that stores or searches them. Needs the daemon.

    No event waits for a collector: what a slow one does not take is counted, and told to it and on standard error. Exit
    code 6 if events were lost.
    """
    from agent.cli.execlines import Joined, arriving
    from agent.proc import topmost
    from agent.protocol.client import Client

    kinds = chosen_kinds(kind)
    if endpoint is not None and form is not ExportFormat.OTLP:
        raise UsageError(f"--endpoint is of otlp: export {form.value} writes to standard output")
    asked = with_argv and (kinds is None or "exec" in kinds)

    def subscribed(to: list[str] | None) -> "Subscription":
        return Client(socket, _ANSWER_S).subscribe(to, kinds=kinds, snapshot=False, arguments=asked)

    meant = rootname.parse_target(root) if root is not None else None
    lost = 0
    with (
        _stoppable(),
        _ecs() if form is ExportFormat.ECS else _otlp(endpoint) as (sink, losses),
        subscribed(None) if meant is None else topmost.answered_of_all(meant, subscribed) as events,
    ):
        joined: Joined[Event] = Joined(lambda event: [] if event is None else [event], told=events.arguments)
        for found in arriving(events, joined, _IDLE_S):
            if not found and form is ExportFormat.ECS and terminal.is_unread():
                return
            for event in found:
                lost += event.details["count"] if event.kind in ("loss", "dropped") else 0
                sink(event)
    lost += losses()
    if lost:
        raise SystemExit(INCOMPLETE)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGINT end the block in order, and then this process as they always do."""

    def stop(number: int, _frame: object) -> None:
        for each in before:  # a second signal would interrupt what the first one has begun
            signal.signal(each, signal.SIG_IGN)
        raise _Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except _Stopped as stopped:
        raise SystemExit(SIGNALLED + stopped.number) from stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _ecs() -> "Iterator[tuple[Sink, Callable[[], int]]]":
    from agent.telemetry import thishost
    from agent.telemetry.ecs import EcsDocuments
    from agent.telemetry.lives import Lives

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the reader of standard output may leave at any moment
    documents = EcsDocuments(thishost.facts(), Lives(thishost.Executables().find))

    def write(event: "Event") -> None:
        sys.stdout.write(terminal.without_del(f"{documents.line(event)}\n"))
        sys.stdout.flush()

    yield write, lambda: 0


@contextmanager
def _otlp(endpoint: str | None) -> "Iterator[tuple[Sink, Callable[[], int]]]":
    from agent.cli.eventlines import as_line
    from agent.telemetry import thishost
    from agent.telemetry.lives import Lives
    from agent.telemetry.otlprecords import EventRecords
    from agent.telemetry.otlpsender import OtlpSender

    host = thishost.facts()
    records = EventRecords(host, Lives(thishost.Executables().find), as_line)
    sender = OtlpSender(host, records.lost, endpoint, say)
    try:
        yield lambda event: sender.outbox.put(records.record(event)), lambda: sender.outbox.lost
    finally:
        sender.close(_LAST_S)
        if sender.outbox.lost:
            from exporters.content.wording import count

            say(f"{count(sender.outbox.lost, 'event')} did not reach the collector, which was slow or away")
