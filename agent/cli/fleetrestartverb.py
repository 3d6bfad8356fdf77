# SPDX-License-Identifier: Apache-2.0
"""The verb fleet restart: rebuild the trees of a set on other hosts, on all of them or on none."""

import signal
import time
from typing import TYPE_CHECKING, Annotated, Final

from agent.cli import setcontents, terminal
from agent.cli.declarations import Option
from agent.cli.options import AsJson, Nats
from agent.cli.settargets import Maps, Requester, SetName, targets
from agent.cli.terminal import say
from agent.errors import CkptreeError, RefusedError, UsageError
from agent.record import NamedTuple

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
_LONGEST_ID = 64  # characters, as agent.fleet.messages has it; a manifest may have any text
_LONGEST_LINE = 4096  # bytes: the hosts on which a tree stays are named in it
_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
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
        doubtful: hosts whose relay was told that the tree stays, and has not acknowledged it: a tree that was kept does
            not end by a later word.
        signal: the number of the signal that ended the restart early; None: it came to its own end.
    """

    results: "dict[str, Message | CkptreeError]"
    kept: list[str]
    untold: list[str]
    doubtful: list[str]
    signal: int | None


class _Signals:
    """The signals that end a restart early, all in the same way: the first cancels the work, and the last word is said.

    The loop takes them. A handler of Python's own would raise KeyboardInterrupt in whatever task runs, and the task
    that reads answers would end.

    Attributes:
        came: the number of the signal that has cancelled the work.
    """

    def __init__(self) -> None:
        import asyncio

        self.came: int | None = None
        self._working = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in _ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves SIGHUP
                loop.add_signal_handler(number, self._come, number)

    def _come(self, number: int) -> None:
        if self._working is not None:
            self.came = number
            self._working.cancel()
        self.pass_over()

    def pass_over(self) -> None:
        """Let signals change nothing from here on: the last word is said within seconds."""
        self._working = None


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
    from exporters.content.instants import instant

    if contents and (run != "hold" or not pids):
        raise UsageError("with contents the programs run on, with their own pids: leave out --run and --no-pids")
    with sets.opened(name, nats) as place:
        data = place.read_bytes()
        made = place.parsed(data)
        chosen = targets(made, maps)
        if not maps or not chosen:
            raise UsageError("name the host of each tree: --map OLD=NEW")
        if contents:
            setcontents.require(chosen)
        parcels = _parcels(place, data, chosen)
    options: Message = {"run": run, "pids": pids, "pidns": pidns, "contents": contents}
    wanted = _wanted(requester, options, deadline)
    who, does = wanted.requester, "contents" if contents else repr(run)
    where = ", ".join(f"{old.host} on {new}" for new, old in chosen.items())
    # A writer of the store may put another set under the name: the id and the time tell which one was read.
    of = f"{place.shown} (set {made.id[:_LONGEST_ID]!r}, {instant(made.at_ns)})"
    note(f"restart {wanted.id} of {of} as {who}: {where}; run {does}")
    ended = asyncio.run(_restarted(wanted, chosen, parcels, nats))
    failed = {host: result for host, result in ended.results.items() if isinstance(result, CkptreeError)}
    for host, error in failed.items():
        say(f"{host}: {error}" if not str(error).startswith(f"{host}:") else str(error))
    note(f"restart {wanted.id}: {_outcome(ended, failed)}; the set is {of}")
    _end_by(ended.signal)
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


def _end_by(number: int | None) -> None:
    """End this program with the exit code of a signal, if one came."""
    if number is not None:
        raise SystemExit(128 + number)


def _outcome(ended: _RestartEnd, failed: "Collection[str]") -> str:
    """Return the state of the trees in words."""
    if not failed and ended.signal is None:
        return "all stand"
    why = f"failed on {', '.join(failed)}" if ended.signal is None else f"ended by {signal.Signals(ended.signal).name}"
    stay = []
    if ended.doubtful:
        stay.append(f"on {', '.join(ended.doubtful)} it is not known if the tree stands")
    if ended.kept:
        on = ", ".join(ended.kept)
        stay.append(f"on {on} the tree stands and stays: `systemctl stop ckptree-restart@…` there ends it")
    if stay:
        return f"{why}: {'; '.join(stay)}"
    if ended.untold:
        return f"{why}: all are taken down, those on {', '.join(ended.untold)} at the deadline at the latest"
    return f"{why}: all are taken down"


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
    ended = asyncio.run(_restarted(_wanted(requester, options, _PLAN_S), chosen, parcels, nats))
    _end_by(ended.signal)
    return ended.results


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
    syslog.syslog(syslog.LOG_NOTICE, quoted(text, _LONGEST_LINE))
    say(text)


async def _restarted(
    wanted: _Wanted, chosen: "dict[str, HostImage]", parcels: "dict[str, dict[str, bytes]]", nats: str | None
) -> _RestartEnd:
    """Have all trees made; keep them if all stand, else have all taken down. Whatever ends this before, so are they."""
    import asyncio

    from agent.fleet import fleetclient, natsserver

    signals = _Signals()
    results: dict[str, Message | CkptreeError] = {}
    kept: list[str] = []
    doubtful: list[str] = []
    untold: list[str] = []
    try:
        async with fleetclient.opened(natsserver.server_of(nats), min(natsserver.CONNECT_S, wanted.left_s)) as client:
            try:
                started = [_start(client, wanted, host, old.host, parcels[host]) for host, old in chosen.items()]
                results |= zip(chosen, await asyncio.gather(*started), strict=True)
                if not wanted.options.get("plan") and not any(
                    isinstance(each, CkptreeError) for each in results.values()
                ):
                    doubtful += chosen
                    results |= await _say_to_all(client, wanted, chosen, "keep", kept)
            finally:
                signals.pass_over()
                doubtful = [host for host in doubtful if host not in kept]
                told: list[str] = []
                others = [host for host in chosen if host not in kept]
                await _say_to_all(client, wanted, others, "drop", told)
                untold = [host for host in others if host not in told]
    except asyncio.CancelledError:
        if signals.came is None:
            raise
    return _RestartEnd(results, [host for host in chosen if host in kept], untold, doubtful, signals.came)


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
    client: "FleetClient", wanted: _Wanted, hosts: "Iterable[str]", word: str, acknowledged: list[str]
) -> dict[str, CkptreeError]:
    """Say a last word to all relays; return the errors by host.

    Args:
        client, wanted: of the restart.
        hosts: of the relays.
        word: keep or drop.
        acknowledged: each host is added as its acknowledgement comes: it counts also where a signal ends the waiting.
    """
    import asyncio

    now_s = time.monotonic()
    until_s = max(now_s + _WORD_S, min(wanted.until_s, now_s + _LAST_S))
    last = wanted._replace(until_s=until_s, again_s=_WORD_S)
    errors: dict[str, CkptreeError] = {}

    async def one(host: str) -> None:
        try:
            await _ask(client, last, host, what=word)
        except CkptreeError as error:
            errors[host] = error
        else:
            acknowledged.append(host)

    await asyncio.gather(*map(one, hosts))
    return errors
