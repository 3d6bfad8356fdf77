# SPDX-License-Identifier: Apache-2.0
"""The verb relay: carry requests of other hosts to this host's daemon."""

from pathlib import Path
from typing import Annotated

from agent.cli.declarations import Option


def relay(
    config: Annotated[
        Path | None,
        Option(
            help="Read this TOML file. Without it the relay is seen, and allows nothing.",
            metavar="CONFIG",
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

    A request that the configuration does not allow is refused. A connection that breaks is made again, for ever.
    """
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
    natsserver.server_of(settings.nats or None)

    async def serve() -> None:
        made = HostRelay(settings, DaemonWork(settings.socket), Journal())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, made.end)
        await made.run()

    asyncio.run(serve())
