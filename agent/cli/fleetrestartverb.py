# SPDX-License-Identifier: Apache-2.0
"""The verb fleet restart: rebuild the trees of a set on other hosts, on all of them or on none."""

import time
from typing import TYPE_CHECKING, Annotated, NamedTuple

from agent.cli import setcontents, terminal
from agent.cli.declarations import Option
from agent.cli.options import AsJson, Nats
from agent.cli.setverbs import Maps, Requester, SetName, targets
from agent.cli.terminal import say
from agent.errors import CkptreeError, RefusedError, UsageError

if TYPE_CHECKING:
    from agent.fleet.fleetclient import FleetClient
    from agent.fleet.manifest import HostImage
    from agent.fleet.messages import Message
    from agent.fleet.sets import SetPlace

_KEEP_S = 5.0
_PLAN_S = 600.0
_AGAIN_S = 25.0


class _Wanted(NamedTuple):
    """A restart that is asked for."""

    id: str
    requester: str
    options: "Message"
    until_s: float

    @property
    def left_s(self) -> float:
        return max(0.1, self.until_s - time.monotonic())


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
    results = asyncio.run(_restarted(wanted, chosen, parcels, nats))
    failed = {host: result for host, result in results.items() if isinstance(result, CkptreeError)}
    for host, error in failed.items():
        say(f"{host}: {error}" if not str(error).startswith(f"{host}:") else str(error))
    note(f"restart {wanted.id}: {'failed on ' + ', '.join(failed) + ': all are taken down' if failed else 'all stand'}")
    if failed:
        raise SystemExit(min(error.exit_code for error in failed.values()))
    if as_json:
        terminal.tell_json(results)
        return
    from exporters.content.wording import count

    for host, ready in results.items():
        tasks = ready.get("tasks", []) if isinstance(ready, dict) else []
        root = ready["root"] if isinstance(ready, dict) else "?"
        stand = "stands" if len(tasks) == 1 else "stand"
        terminal.tell(f"{host}: {count(len(tasks), 'task')} {stand}; the root is {root}")


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
    return asyncio.run(_restarted(_wanted(requester, options, _PLAN_S), chosen, parcels, nats))


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
    return _Wanted(secrets.token_hex(8), who, options, time.monotonic() + deadline)


def note(text: str) -> None:
    """Write an audit line: to the system's log, and for whoever sees this program."""
    import syslog

    from agent.daemon.audit import quoted

    syslog.openlog("ckptree", syslog.LOG_PID, syslog.LOG_AUTH)
    syslog.syslog(syslog.LOG_NOTICE, quoted(text))
    say(text)


async def _restarted(
    wanted: _Wanted, chosen: "dict[str, HostImage]", parcels: "dict[str, dict[str, bytes]]", nats: str | None
) -> "dict[str, Message | CkptreeError]":
    """Have all trees made; keep them if all stand, else have all taken down. Return the ready line or error of each."""
    import asyncio

    from agent.fleet import fleetclient, natsserver

    async with fleetclient.opened(natsserver.server_of(nats), min(natsserver.CONNECT_S, wanted.left_s)) as client:
        started = [_start(client, wanted, host, old.host, parcels[host]) for host, old in chosen.items()]
        results = dict(zip(chosen, await asyncio.gather(*started), strict=True))
        failed = any(isinstance(each, CkptreeError) for each in results.values())
        word = "drop" if failed or wanted.options.get("plan") else "keep"
        said = await asyncio.gather(*(_say(client, wanted, host, word) for host in chosen))
        if word == "keep":
            results |= {host: error for host, error in zip(chosen, said, strict=True) if error is not None}
    return results


async def _start(
    client: "FleetClient", wanted: _Wanted, host: str, old: str, parcel: "dict[str, bytes]"
) -> "Message | CkptreeError":
    from agent.fleet import messages
    from agent.fleet.fleetclient import SilentError

    async def ask(**message: object) -> "Message":
        while True:  # the server of NATS may let a relay answer for a minute only: it takes the same question again
            whole = {"id": wanted.id, "left_ns": int(wanted.left_s * 1e9), **message}
            patience_s = min(_AGAIN_S, wanted.left_s)
            try:
                return (await client.ask(host, messages.RESTART, whole, patience_s, wanted.requester)).answer
            except SilentError:
                if time.monotonic() >= wanted.until_s:
                    raise

    try:
        for part, data in parcel.items():
            for offset in range(0, len(data), messages.PIECE):
                await ask(what="part", part=part, offset=offset, data=data[offset : offset + messages.PIECE])
        ready: Message = (await ask(what="start", host=old, **wanted.options))["ready"]
    except CkptreeError as error:
        return error
    return ready


async def _say(client: "FleetClient", wanted: _Wanted, host: str, word: str) -> CkptreeError | None:
    from agent.fleet import messages

    message = {"id": wanted.id, "left_ns": int(_KEEP_S * 1e9), "what": word}
    try:
        await client.ask(host, messages.RESTART, message, _KEEP_S, wanted.requester)
    except CkptreeError as error:
        return error
    return None
