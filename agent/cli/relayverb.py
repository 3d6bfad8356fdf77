# SPDX-License-Identifier: Apache-2.0
"""The verb relay: carry requests of other hosts to this host's daemon."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from agent.cli.declarations import Argument, Option
from agent.environment import STANDBYS
from agent.errors import UsageError

if TYPE_CHECKING:
    from agent.daemon.journal import Journal
    from agent.fleet.relay import HostRelay
    from agent.fleet.relaysettings import RelaySettings
    from agent.fleet.standby import StandBy


def relay(
    config: Annotated[
        Path | None,
        Option(
            help="Read this TOML file. Without it the relay is seen, and allows nothing.",
            metavar="CONFIG",
            readable=False,
        ),
    ] = None,
    root: Annotated[
        str | None, Argument(metavar="[ROOT]", help="With --follow, the tree on that host: a pid there, or pidns:INUM.")
    ] = None,
    follow: Annotated[
        str | None,
        Option(
            help="Be the stand-by of ROOT on this other host: keep its recording, whose relay allows follow.",
            metavar="HOST",
        ),
    ] = None,
    record: Annotated[
        Path | None,
        Option(
            help=f"With --follow, keep the recording in this folder. Without it: {STANDBYS}/HOST.",
            metavar="DIR",
            readable=False,
        ),
    ] = None,
    serve_restart: Annotated[
        bool,
        Option(
            "--serve-restart",
            help="Carry out the restart that a relay asks for over standard input, as ckptree-restart@.service does.",
        ),
    ] = False,
) -> None:
    """Carry requests that come over NATS to this host's daemon, and answer them, in the foreground.

    A request that the configuration does not allow is refused. A connection that breaks is made again, for ever. With
    --follow it carries none, and keeps the tree of another host ready for `ckptree fleet takeover`.
    """
    if (root is None) != (follow is None) or (record is not None and follow is None):
        raise UsageError("a stand-by needs the other host and its tree: --follow HOST ROOT [--record DIR]")
    if serve_restart:
        from agent.cli import restartservice
        from agent.fleet.relaysettings import SYSTEM_FILE

        raise SystemExit(restartservice.serve(config or SYSTEM_FILE))

    import asyncio
    import signal

    from agent.daemon.journal import Journal
    from agent.fleet import natsserver, relaysettings
    from agent.fleet.hostwork import DaemonWork
    from agent.fleet.relay import HostRelay

    settings = relaysettings.load(config)
    natsserver.server_of(
        settings.nats or None, named_by='nats = "URL" below [relay] in its configuration (--config FILE)'
    )
    log = Journal()

    def made() -> "HostRelay | StandBy":
        if follow is not None and root is not None:
            return _standby(settings, follow, root, record, log)
        work = DaemonWork(settings.socket)
        return HostRelay(settings, work, log, recording=work.recording)

    async def serve() -> None:
        service = made()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, service.end)
        await service.run()

    asyncio.run(serve())


def _standby(settings: "RelaySettings", host: str, root: str, record: Path | None, log: "Journal") -> "StandBy":
    from agent.cli import holding, recorded
    from agent.fleet import messages
    from agent.fleet.standby import FollowedTree, StandBy

    messages.checked_host(host)
    recorded.check_root(root, "the end of the recording")
    place = record or STANDBYS / host
    bounds = settings.copy
    followed = FollowedTree(host, root, place, bounds.most_bytes, bounds.most_age_s)
    return StandBy(settings, followed, holding.command(place), log)
