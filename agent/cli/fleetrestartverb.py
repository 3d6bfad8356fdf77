# SPDX-License-Identifier: Apache-2.0
"""The verb fleet restart: rebuild the trees of a set on other hosts, on all of them or on none."""

import signal
import time
from typing import TYPE_CHECKING, Annotated, NamedTuple

from agent.cli import setcontents, terminal
from agent.cli.declarations import Option
from agent.cli.options import AsJson, Nats
from agent.cli.setverbs import Maps, Requester, SetName, targets
from agent.cli.terminal import say
from agent.errors import CkptreeError, RefusedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from agent.fleet.fleetclient import FleetClient
    from agent.fleet.manifest import HostImage
    from agent.fleet.messages import Message
    from agent.fleet.sets import SetPlace

_LAST_S = 10.0
"""So long at most a last word is said, keep or drop."""
_WORD_S = 2.0
_PLAN_S = 600.0
_AGAIN_S = 25.0


class _Wanted(NamedTuple):
    """A restart that is asked for.

    Attributes:
        id: of the restart.
        requester: who asks.
        options: what is to run, and how.
        until_s: CLOCK_MONOTONIC, seconds: all must stand by then.
        again_s: a relay that has not answered for so long is asked again.
    """

    id: str
    requester: str
    options: "Message"
    until_s: float
    again_s: float

    @property
    def left_s(self) -> float:
        return max(0.1, self.until_s - time.monotonic())


class _RestartEnd(NamedTuple):
    """The end of a restart.

    Attributes:
        results: by host, the ready line or the error.
        kept: hosts whose relay has acknowledged that the tree stays.
        untold: hosts whose relay has not acknowledged that the tree is to be taken down.
    """

    results: "dict[str, Message | CkptreeError]"
    kept: list[str]
    untold: list[str]


def restart(
    name: SetName,
    maps: Maps,
    run: Annotated[
        str, Option(help="Let the tasks do this, as with restart: hold, argv or a command.", metavar="CMD")
    ] = "hold",
    pids: Annotated[bool, Option("--pids/--no-pids", help="Give the tasks the same pids, or any.")] = True,
    pidns: Annotated[
        bool,
        Option("--pidns/--no-pidns", help="Rebuild each tree in a pid namespace of its own, or in the host's."),
    ] = True,
    contents: Annotated[
        bool, Option("--contents", help="Let the programs run on, from the contents that are in the set.")
    ] = False,
    requester: Requester = None,
    deadline: Annotated[
        float, Option(metavar="S", help="All trees must stand within so many seconds.", min=0.1, max=600.0)
    ] = 60.0,
    nats: Nats = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild the trees of a set on other hosts, on all of them or on none; the set must be signed.

    A host refuses unless its own configuration permits it to this requester, for what is to run and for the signer. A
    tree stays as long as ckptree-restart@.service on its host.
    """
    import asyncio

    from agent.fleet import sets

    if contents and (run != "hold" or not pids):
        raise UsageError("with contents the programs run on, with their own pids: leave out --run and --no-pids")
    with sets.opened(name, nats) as place:
        data = place.read_bytes()
        chosen = targets(place.parsed(data), maps)
        if not maps or not chosen:
            raise UsageError("name the host of each tree: --map OLD=NEW")
        if contents:
            setcontents.require(chosen)
        parcels = _parcels(place, data, chosen)
    options: Message = {"run": run, "pids": pids, "pidns": pidns, "contents": contents}
    wanted = _wanted(requester, options, deadline)
    who, does = wanted.requester, "contents" if contents else repr(run)
    where = ", ".join(f"{old.host} on {new}" for new, old in chosen.items())
    note(f"restart {wanted.id} of {place.shown} as {who}: {where}; run {does}")
    try:
        ended = asyncio.run(_restarted(wanted, chosen, parcels, nats))
    except asyncio.CancelledError:  # by SIGTERM
        note(f"restart {wanted.id}: ended by a signal: the relays were told to take all down")
        raise SystemExit(128 + signal.SIGTERM) from None
    failed = {host: result for host, result in ended.results.items() if isinstance(result, CkptreeError)}
    for host, error in failed.items():
        say(f"{host}: {error}" if not str(error).startswith(f"{host}:") else str(error))
    note(f"restart {wanted.id}: {_outcome(ended, failed)}")
    if failed:
        raise SystemExit(min(error.exit_code for error in failed.values()))
    if as_json:
        terminal.tell_json(ended.results)
        return
    from exporters.content.wording import count

    for host, ready in ended.results.items():
        if isinstance(ready, dict):
            tasks = ready["tasks"]
            stand = "stands" if len(tasks) == 1 else "stand"
            terminal.tell_line(f"{host}: {count(len(tasks), 'task')} {stand}; the root is {ready['root']}")


def _outcome(ended: _RestartEnd, failed: "Collection[str]") -> str:
    """Return the state of the trees in words."""
    if not failed:
        return "all stand"
    on = f"failed on {', '.join(failed)}"
    if ended.kept:
        return (
            f"{on}, where it is not known if the tree stands; on {', '.join(ended.kept)} it stands and stays: "
            "`systemctl stop ckptree-restart@…` there ends it"
        )
    if ended.untold:
        return f"{on}: all are taken down, those on {', '.join(ended.untold)} at the deadline at the latest"
    return f"{on}: all are taken down"


def planned(
    name: str, chosen: "dict[str, HostImage]", requester: str | None, nats: str | None, *, pidns: bool
) -> "dict[str, Message | CkptreeError]":
    """Return what each target says that it would refuse of the contents of a set, or why it does not say.

    Args:
        name: of the set, which must be signed.
        chosen: the host of the set whose contents are meant for each target.
        requester: the one who asks; None: the user.
        nats: the option ``--nats``.
        pidns: each tree gets a pid namespace of its own.
    """
    import asyncio

    from agent.fleet import sets

    with sets.opened(name, nats) as place:
        parcels = _parcels(place, place.read_bytes(), chosen)
    options: Message = {"run": "hold", "pids": True, "pidns": pidns, "contents": True, "plan": True}
    return asyncio.run(_restarted(_wanted(requester, options, _PLAN_S), chosen, parcels, nats)).results


def _parcels(place: "SetPlace", data: bytes, chosen: "dict[str, HostImage]") -> "dict[str, dict[str, bytes]]":
    """Return what each target is sent.

    Raises:
        RefusedError: the set is not signed.
    """
    signed = place.signature(data)
    if signed is None:
        raise RefusedError(f"{place.shown} is not signed: `fleet snapshot --sign KEY` signs a set as it is taken")
    return {host: {"manifest": data, "signature": signed, "image": place.image(old)} for host, old in chosen.items()}


def _wanted(requester: str | None, options: "Message", deadline: float) -> _Wanted:
    import getpass
    import secrets

    from agent.fleet import messages

    who = messages.checked_requester(requester or getpass.getuser())
    return _Wanted(secrets.token_hex(8), who, options, time.monotonic() + deadline, _AGAIN_S)


def note(text: str) -> None:
    """Write an audit line: to the system's log, and for whoever sees this program."""
    import syslog

    from agent.daemon.audit import quoted

    syslog.openlog("ckptree", syslog.LOG_PID, syslog.LOG_AUTH)
    syslog.syslog(syslog.LOG_NOTICE, quoted(text))
    say(text)


async def _restarted(
    wanted: _Wanted, chosen: "dict[str, HostImage]", parcels: "dict[str, dict[str, bytes]]", nats: str | None
) -> _RestartEnd:
    """Have all trees made; keep them if all stand, else have all taken down. Whatever ends this before, so are they."""
    import asyncio

    from agent.fleet import fleetclient, natsserver

    if (own := asyncio.current_task()) is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, own.cancel)
    async with fleetclient.opened(natsserver.server_of(nats), min(natsserver.CONNECT_S, wanted.left_s)) as client:
        kept: list[str] = []
        try:
            started = [_start(client, wanted, host, old.host, parcels[host]) for host, old in chosen.items()]
            results: dict[str, Message | CkptreeError] = dict(zip(chosen, await asyncio.gather(*started), strict=True))
            if not wanted.options.get("plan") and not any(isinstance(each, CkptreeError) for each in results.values()):
                said = await _say_to_all(client, wanted, chosen, "keep")
                results |= {host: error for host, error in said.items() if error is not None}
                kept = [host for host, error in said.items() if error is None]
        finally:
            told = await _say_to_all(client, wanted, [host for host in chosen if host not in kept], "drop")
        return _RestartEnd(results, kept, [host for host, error in told.items() if error is not None])


async def _start(
    client: "FleetClient", wanted: _Wanted, host: str, old: str, parcel: "dict[str, bytes]"
) -> "Message | CkptreeError":
    from agent.fleet import messages

    try:
        for part, data in parcel.items():
            for offset in range(0, len(data), messages.PIECE):
                piece = data[offset : offset + messages.PIECE]
                await _ask(client, wanted, host, what="part", part=part, offset=offset, data=piece)
        answer = await _ask(client, wanted, host, what="start", host=old, **wanted.options)
    except CkptreeError as error:
        return error
    ready: Message | None = answer.get("ready")
    if isinstance(ready, dict) and (
        wanted.options.get("plan") or (type(ready.get("root")) is int and isinstance(ready.get("tasks"), list))
    ):
        return ready
    return CkptreeError(f"{host}: its relay answered start without the tree: it is of another version, or at fault")


async def _ask(client: "FleetClient", wanted: _Wanted, asked: str, **message: object) -> "Message":
    """Ask a relay until it answers: the server of NATS may let it answer for a minute only, and it takes questions twice.

    Raises:
        CkptreeError: its error, or it does not answer in time.
    """
    from agent.fleet import messages
    from agent.fleet.fleetclient import SilentError

    while True:
        whole = {"id": wanted.id, "left_ns": int(wanted.left_s * 1e9), **message}
        try:
            patience_s = min(wanted.again_s, wanted.left_s)
            replied = await client.ask(asked, messages.RESTART, whole, patience_s, wanted.requester)
        except SilentError:
            if time.monotonic() >= wanted.until_s:
                raise
        else:
            return replied.answer


async def _say_to_all(
    client: "FleetClient", wanted: _Wanted, hosts: "Iterable[str]", word: str
) -> dict[str, CkptreeError | None]:
    """Say a last word to all relays; return the error of each, None for an acknowledgement."""
    import asyncio

    now_s = time.monotonic()
    until_s = max(now_s + _WORD_S, min(wanted.until_s, now_s + _LAST_S))
    last = wanted._replace(until_s=until_s, again_s=_WORD_S)

    async def one(host: str) -> CkptreeError | None:
        try:
            await _ask(client, last, host, what=word)
        except CkptreeError as error:
            return error
        return None

    named = list(hosts)
    return dict(zip(named, await asyncio.gather(*map(one, named)), strict=True))
