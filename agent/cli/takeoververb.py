# SPDX-License-Identifier: Apache-2.0
"""The verb fleet takeover: rebuild here the tree of a host that died, from what its stand-by has."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from agent.cli.declarations import Argument, Option
from agent.cli.options import AsJson, DropDying, Mode, ModeName, Nats
from agent.cli.terminal import say
from agent.environment import STANDBYS, SYSTEM_FILE
from agent.errors import INCOMPLETE, CkptreeError, RefusedError, UsageError
from agent.record import NamedTuple

if TYPE_CHECKING:
    from agent.fleet.messages import Message

_PRESENCE_S = 0.25
_CONNECT_S = 2.0


class _Taken(NamedTuple):
    """The image of a tree as a stand-by has it.

    Attributes:
        root: the ROOT of the tree.
        data: the image.
        order: number of the first record that it does not have.
        complete, reasons: as of a snapshot.
        present: a word of agent.fleet.standbylink on the host's relay.
    """

    root: str
    data: bytes
    order: int
    complete: bool
    reasons: tuple[str, ...]
    present: str


def takeover(
    host: Annotated[str, Argument(metavar="HOST", help="The host that died, as its relay was called.")],
    root: Annotated[
        str | None, Argument(metavar="[ROOT]", help="Its tree, as of then. Without it: the one that is followed.")
    ] = None,
    record: Annotated[
        Path | None,
        Option(help=f"The folder of the stand-by. Without it: {STANDBYS}/HOST.", metavar="DIR", readable=False),
    ] = None,
    force: Annotated[
        bool,
        Option("--force", help="Rebuild it although the host may be alive: its relay answers, or no server can tell."),
    ] = False,
    mode: Mode = ModeName.AUTO,
    allow_incomplete: Annotated[
        bool, Option("--allow-incomplete", help="Exit with 0, and not with 6, where the tree is incomplete.")
    ] = False,
    pids: Annotated[bool, Option("--pids/--no-pids", help="Give the tasks the same pids, or any.")] = True,
    pidns: Annotated[
        bool,
        Option("--pidns/--no-pidns", help="Rebuild the tree in a pid namespace of its own, or in the caller's."),
    ] = True,
    run: Annotated[
        str, Option(help="Let the tasks do this, as with restart: hold, argv or a command.", metavar="CMD")
    ] = "hold",
    detach: Annotated[bool, Option("--detach", help="Return when the tree is active. A guard stays with it.")] = False,
    pidfile: Annotated[
        Path | None,
        Option(help="With --detach, write the guard's pid to this file.", metavar="FILE"),
    ] = None,
    drop_dying: DropDying = False,
    keep_rights: Annotated[
        bool, Option("--keep-rights", help="Leave tasks that hold, and CMD, all rights of the caller.")
    ] = False,
    nats: Nats = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild here the tree of a host that died, as the stand-by on this host has it, and stay with it until it ends.

    Refused with exit code 7 while the host's relay answers: two hosts would have the tree. Cut a host off that may be
    alive before.
    """
    from agent.cli import restartverb
    from agent.cli.restartwish import TakenFile
    from agent.fleet import messages

    if run == "argv":
        raise UsageError("--run argv: no recording has the arguments of a process: name a command, as in --run CMD")
    place = record or STANDBYS / messages.checked_host(host)
    _check_trust(host, place)
    taken = _taken(place, host, root, mode.value, nats)
    _check_presence(host, taken.present, force=force)
    _note(f"takeover of {host}, {taken.root}, up to #{taken.order - 1}; its relay: {taken.present}; run {run!r}")
    for reason in taken.reasons:
        say(f"incomplete: {reason}")
    # Not in the folder of the stand-by, which another user may own.
    with tempfile.TemporaryDirectory(prefix="ckptree-takeover.") as folder:
        image = Path(folder, f"{host}.ckpt")
        with open(os.open(image, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(taken.data)
        restartverb.restart(
            TakenFile(image),
            pids=pids,
            pidns=pidns,
            run=run,
            detach=detach,
            pidfile=pidfile,
            drop_dying=drop_dying,
            keep_rights=keep_rights,
            as_json=as_json,
        )
    if not taken.complete and not allow_incomplete:
        raise SystemExit(INCOMPLETE)


def _check_trust(host: str, place: Path) -> None:
    """Refuse what nobody has signed, where this host asks for signatures and does not trust its stand-by of the host.

    Raises:
        RefusedError: it asks for one, and does not trust the stand-by, or the folder is not that of the stand-by.
    """
    from agent import config

    if (keys := config.required_signers()) is None:
        return
    asks = f"this host asks for a signature by {keys}, and nobody signs what a stand-by has"
    if host not in config.trusted_standbys():
        raise RefusedError(
            f'{asks}: trust_standby_of = ["{host}"] below [restart] in {SYSTEM_FILE} permits it without one'
        )
    if place != STANDBYS / host:
        raise RefusedError(f"{asks}: the configuration trusts what is in {STANDBYS / host} alone: leave out --record")


def _taken(place: Path, host: str, root: str | None, mode: str, nats: str | None) -> _Taken:
    """Return the tree from the stand-by that runs, or out of its folder."""
    from agent.cli import recorded
    from agent.fleet import standbylink

    if root is not None:
        recorded.check_root(root, "the end of the recording")
    answer = standbylink.ask(place, {"do": "takeover", "root": root or "", "mode": mode})
    if answer is None:
        say("no stand-by runs: its folder is read, which takes longer")
        answer = _read(place, root, mode) | {"present": _presence(host, nats)}
    if answer.get("of", host) != host:
        raise UsageError(f"{place}: it is the folder of a stand-by of {answer['of']}: name that host")
    return _Taken(
        str(answer["root"]),
        bytes(answer["data"]),
        int(answer["order"]),
        bool(answer["complete"]),
        tuple(map(str, answer["reasons"])),
        str(answer["present"]),
    )


def _read(place: Path, root: str | None, mode: str) -> "Message":
    """Return the answer that a stand-by would give, out of its folder; a confined child reads that."""
    from agent.cli import apart, holding
    from agent.fleet import messages, standbyfacts, standbylink

    facts = standbyfacts.read(place)
    asked = {"do": "image", "root": root or facts.root, "mode": mode}
    try:
        data = apart.made(lambda: messages.pack(holding.answered(place, asked)), say)
    except apart.EndedError as ended:
        raise SystemExit(ended.code) from ended
    if not isinstance(data, bytes):
        raise CkptreeError(f"{place}: its reader gave no answer")
    answer = messages.unpack(data, standbylink.MOST_ANSWER)
    return {**answer, "root": asked["root"], "of": facts.host}


def _presence(host: str, nats: str | None) -> str:
    """Ask the host's relay for a sign of life."""
    import asyncio

    from agent.fleet import fleetclient, messages, natsserver, standbylink

    async def ask() -> str:
        async with fleetclient.opened(natsserver.server_of(nats), _CONNECT_S) as client:
            try:
                await client.ask(host, messages.HELLO, {}, _PRESENCE_S)
            except fleetclient.NobodyError:
                return standbylink.NOBODY
            except fleetclient.SilentError:
                return standbylink.SILENT
            return standbylink.ANSWERS

    try:
        return asyncio.run(ask())
    except CkptreeError as error:
        say(str(error))
        return standbylink.UNKNOWN


def _check_presence(host: str, present: str, *, force: bool) -> None:
    """Refuse a take-over from a host that may be alive.

    Raises:
        RefusedError: its relay answers, or it cannot be asked.
    """
    from agent.fleet import standbylink

    if present in (standbylink.NOBODY, standbylink.SILENT):
        return
    why = (
        f"the relay of {host} answers: the host is alive, and has the tree itself"
        if present == standbylink.ANSWERS
        else f"no NATS server can be asked if {host} is alive"
    )
    if not force:
        raise RefusedError(f"{why}; --force rebuilds it all the same, and both hosts may have it then")
    say(f"{why}; it is rebuilt all the same, as --force has it")


def _note(text: str) -> None:
    """Write an audit line: to the system's log, and for whoever sees this program."""
    from agent.cli.fleetrestartverb import note

    note(text)
