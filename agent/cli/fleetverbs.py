# SPDX-License-Identifier: Apache-2.0
"""The verbs of many hosts that ask their relays: hosts and snapshot."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from agent.cli import terminal
from agent.cli.declarations import Option
from agent.cli.options import AsJson, At, Mode, ModeName, Nats
from agent.cli.terminal import say
from agent.errors import INCOMPLETE, CkptreeError, UsageError

if TYPE_CHECKING:
    from agent.fleet.fleetclient import Present, Replied
    from agent.fleet.gathering import Gathered, Wanted
    from agent.fleet.manifest import FleetSet
    from agent.fleet.sets import SetPlace

SET_HELP = "A set: nats://BUCKET/NAME, s3://BUCKET/KEY, oci://REGISTRY/REPO:TAG or a file."
_PRESENCE_S = 2.0
_HELLO_S = 5.0
_GATHERING = 0.8  # share of the deadline; the rest is for the store
_LAST_S = 1.0

Result = TypeVar("Result")


def hosts(nats: Nats = None, as_json: AsJson = False) -> None:
    """Show the hosts whose relays are connected, and what each allows."""
    import asyncio

    from agent.fleet import fleetclient, hostanswers, lag, messages, natsserver

    async def ask() -> "tuple[list[Present], list[dict[str, Any]], dict[str, Replied | CkptreeError]]":
        async with fleetclient.opened(natsserver.server_of(nats)) as asked:
            found, standbys = await asyncio.gather(asked.present(_PRESENCE_S), asked.standbys(_PRESENCE_S))
            answers = await asked.ask_all(messages.HELLO, {each.host: {} for each in found}, _HELLO_S)
            return found, standbys, answers

    present, standbys, answers = asyncio.run(ask())
    if not present and not standbys:  # a stand-by is a relay, too, and is named below
        say("no relay is connected to this NATS server: `ckptree relay` on a host connects it")
    rows: list[dict[str, Any]] = []
    bounds: dict[str, int] = {}
    for host, replied in answers.items():
        row = dict.fromkeys(("host", "version", "kernel", "tasks", "allow", "clock_offset_ns"))
        if isinstance(replied, CkptreeError):
            say(str(replied))
            rows.append(row | {"host": host})
        else:
            rows.append(row | {"host": host, "clock_offset_ns": replied.clock.ns})
            bounds[host] = replied.clock.bound_ns
            try:
                rows[-1] |= hostanswers.hello(replied.answer)
            except (KeyError, TypeError, ValueError) as error:
                say(f"{host}: its relay answered hello without {error}: it is of another version, or at fault")
        if (several := sum(each.host == host for each in present)) > 1:
            say(f"{host}: {several} relays say that they have this name: each host needs a name of its own")
    _add_standbys(rows, standbys)
    if as_json:
        terminal.tell_json(rows)
        return
    for row in rows:
        terminal.tell_line(_line(row, bounds.get(row["host"], 0)))
        for each in row.get("standbys", ()):
            terminal.tell_line(f"  stand-by on {each['host']}: {lag.in_words(each)}")


def _add_standbys(rows: list[dict[str, Any]], standbys: list[dict[str, Any]]) -> None:
    """Add stand-bys to the rows of their hosts; a host that has one and no relay gets a row."""
    of = {row["host"]: row for row in rows}
    for each in standbys:
        host = each["of"]
        if host not in of:
            say(f"{host}: no relay of that name is connected, and a stand-by is")
            of[host] = dict.fromkeys(("host", "version", "kernel", "tasks", "allow", "clock_offset_ns")) | {
                "host": host
            }
            rows.append(of[host])
        of[host].setdefault("standbys", []).append({key: each[key] for key in each if key != "of"})


def _line(row: dict[str, Any], bound_ns: int) -> str:
    """Return a host as a line.

    Args:
        row: as JSON has it.
        bound_ns: the true offset of its clock is at most so far from the one that is shown.
    """
    if row["version"] is None:
        return f"{row['host']:<24} does not answer{_since(row)}"
    tasks = "no daemon" if row["tasks"] is None else f"{row['tasks']} tasks"
    offset = row["clock_offset_ns"]
    clock = "?" if offset is None else f"{offset / 1e6:+.3f} ms, give or take {bound_ns / 1e6:.3f}"
    allow = ", ".join(map(str, row["allow"] or ())) or "nothing"
    return (
        f"{row['host']:<24} ckptree {row['version'] or '?'}, Linux {row['kernel'] or '?'}, {tasks}, clock {clock}, "
        f"allows {allow}"
    )


def _since(row: dict[str, Any]) -> str:
    """Return since when a host does not answer, as its stand-bys know it; empty: none does."""
    from datetime import UTC, datetime

    heard = [
        (each["silent_s"], each["relay_ended"]) for each in row.get("standbys", ()) if each["silent_s"] is not None
    ]
    if not heard:
        return ""
    silent_s, ended = min(heard)
    at = datetime.fromtimestamp(time.time() - silent_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f" since {at}, {silent_s:.0f} s ago{': its relay ended in order' if ended else ''}"


def snapshot(
    output: Annotated[str, Option("--output", "-o", metavar="SET", help=SET_HELP)],
    names: Annotated[
        str | None,
        Option("--hosts", metavar="A,B", help="The hosts, with commas; HOST=ROOT has a ROOT of its own."),
    ] = None,
    job: Annotated[
        str | None,
        Option(metavar="slurm:JOB[.STEP]", help="The hosts of this job of Slurm; its tree, without --root."),
    ] = None,
    root: Annotated[str | None, Option("--root", metavar="ROOT", help="The tree on each host.")] = None,
    require_all: Annotated[bool, Option("--require-all", help="Write nothing where a host is missing.")] = False,
    deadline: Annotated[
        float, Option(metavar="S", help="Be done, or give up, within so many seconds.", min=0.1, max=3600.0)
    ] = 10.0,
    at: At = None,
    key: Annotated[
        str | None, Option("--id", metavar="ID", help="The id of the request: the same id is the same set.")
    ] = None,
    mode: Mode = ModeName.AUTO,
    with_argv: Annotated[
        bool, Option("--with-argv", help="Add arguments and environments, as far as each relay may read them.")
    ] = False,
    contents: Annotated[
        bool,
        Option("--contents", help="Have CRIU dump the programs, too, where a host's configuration permits it to --as."),
    ] = False,
    end: Annotated[bool, Option("--end", help="With --contents, the programs end with their dump.")] = False,
    requester: Annotated[
        str | None,
        Option(
            "--as",
            metavar="NAME",
            help="With --contents, ask as this requester, whom the server of NATS must know. Without it: the user.",
        ),
    ] = None,
    allow_incomplete: Annotated[
        bool, Option("--allow-incomplete", help="Exit with 0, and not with 6, where the set is incomplete.")
    ] = False,
    sign: Annotated[Path | None, Option(metavar="KEY", help="Sign the set's manifest with this ssh key.")] = None,
    nats: Nats = None,
    as_json: AsJson = False,
) -> None:
    """Take snapshots on many hosts at one instant, and write them as a set. A missing host is named, exit code 6."""
    import secrets

    from agent.fleet import messages, sets
    from agent.fleet.gathering import Wanted

    began_s = time.monotonic()
    wanted = Wanted(
        id=messages.checked_id(key or secrets.token_hex(8)),
        roots=_roots_of_job(job, root) if job is not None and names is None else _roots(names, root, job),
        deadline_ns=int(deadline * _GATHERING * 1e9),
        require_all=require_all,
        mode=mode.value,
        with_argv=with_argv,
        job=job or "",
        past_ns=_past_ns(at, with_argv=with_argv),
        requester=_requester(requester) if contents else "",
        end=end,
    )
    if (end or requester is not None) and not contents:
        raise UsageError("--end and --as are about contents: add --contents")
    if contents and (with_argv or at is not None or mode is not ModeName.AUTO):
        raise UsageError(
            "contents are those of now, and of the tree that criu dumps: leave out --with-argv, --at and --mode"
        )
    until_s = began_s + deadline
    with ExitStack() as stack:
        place = _within(lambda: stack.enter_context(sets.opened(output, nats)), until_s, "was not reached")
        there = _within(lambda: _same(place, wanted), until_s, "was not reached")
        if there is None:
            there = _gathered_into(place, wanted, until_s, nats, sign)
    _report(there, place.shown, as_json=as_json)
    if not there.complete and not allow_incomplete:
        raise SystemExit(INCOMPLETE)


def _requester(name: str | None) -> str:
    """Return the one who asks for contents: the user, where no other is named."""
    import getpass

    from agent.fleet import messages

    return messages.checked_requester(name or getpass.getuser())


def _past_ns(at: str | None, *, with_argv: bool) -> int | None:
    """Return the instant of the past, CLOCK_REALTIME of this host, nanoseconds; None: now."""
    from agent.cli import recorded
    from agent.recorder.instant import ClockTime

    if at is None:
        return None
    if with_argv:
        raise UsageError("--with-argv is read from /proc, which has no past: leave it out, or --at")
    moment = recorded.moment(at)
    if not isinstance(moment, ClockTime):
        raise UsageError(f"--at {at}: the numbers of records are a host's own: name a time")
    return moment.realtime_ns


def _roots_of_job(text: str, root: str | None) -> dict[str, str]:
    """Return the ROOT of each host of a job: the job itself, where no other is named. Slurm says which hosts these are."""
    from agent import rootname
    from agent.fleet import messages
    from agent.proc.slurmhosts import hosts_of_job

    job = rootname.parse_target(text)
    if not isinstance(job, rootname.JobName):
        raise UsageError(f"--job {text}: expected slurm:JOB or slurm:JOB.STEP")
    rootname.parse_target(root or text)
    return {messages.checked_host(host): root or text for host in hosts_of_job(job)}


def _roots(names: str | None, root: str | None, job: str | None) -> dict[str, str]:
    """Return the ROOT of each host that is expected."""
    from agent import rootname
    from agent.fleet import messages

    if not names:
        raise UsageError("name the hosts that are expected: --hosts A,B or --job slurm:JOB")
    if job is not None:
        raise UsageError("--job names the hosts of a job, and --hosts others: leave one of them out")
    found: dict[str, str] = {}
    for each in names.split(","):
        host, _, own = each.partition("=")
        if not (own or root):
            raise UsageError(f"--hosts {each}: name the tree to take there, with --root ROOT or as {host}=ROOT")
        if messages.checked_host(host) in found:
            raise UsageError(f"--hosts: {host} is named twice")
        found[host] = own or root or ""
        rootname.parse_target(found[host])
    return found


def _same(place: "SetPlace", wanted: "Wanted") -> "FleetSet | None":
    """Return the set that the same request has made before; None where there is none.

    Raises:
        SetExistsError: there is a set of another request.
    """
    from agent.fleet.sets import SetExistsError

    there = place.present()
    if there is not None and there.id != wanted.id:
        raise SetExistsError(there.id, place.shown)
    return there


def _gathered_into(
    place: "SetPlace", wanted: "Wanted", until_s: float, nats: str | None, sign: Path | None
) -> "FleetSet":
    import asyncio

    from agent.fleet import manifest

    gathered = asyncio.run(_gather(wanted, nats))
    made = gathered.made
    if gathered.abandoned or not made.hosts:
        # The same request may have come by another way, and may have had more luck.
        if (there := _within(lambda: _same(place, wanted), until_s, "was not reached")) is not None:
            return there
        for each in made.missing:
            say(f"missing: {each.host}: {each.reason}")
        say("nothing is written" + (", as --require-all has it" if gathered.abandoned else ": no host is there"))
        raise SystemExit(INCOMPLETE)
    signed = None
    if sign is not None:
        from agent.cli import signature

        signed = signature.sign(manifest.dumps(made), sign)

    def write() -> "FleetSet":
        place.write(made, gathered.images, signed)
        return place.read()

    there = _within(write, until_s, "did not take the set")
    asyncio.run(_let_go(wanted, nats))
    return there


async def _gather(wanted: "Wanted", nats: str | None) -> "Gathered":
    from agent.fleet import fleetclient, natsserver

    timeout_s = min(natsserver.CONNECT_S, wanted.deadline_ns / 2e9)
    async with fleetclient.opened(natsserver.server_of(nats), timeout_s) as asked:
        return await asked.gather(wanted)


async def _let_go(wanted: "Wanted", nats: str | None) -> None:
    from agent.fleet import fleetclient, natsserver

    try:
        async with fleetclient.opened(natsserver.server_of(nats), _LAST_S) as asked:
            await asked.let_go(wanted.id, wanted.roots)
    except CkptreeError:
        return  # the relays forget by themselves


def _within(work: Callable[[], Result], until_s: float, otherwise: str) -> Result:
    """Do what asks a store, which may hang, in a thread that this process does not await at its end.

    Raises:
        CkptreeError: it took longer than there is time.
    """
    import threading

    done: list[Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised again by the caller's thread
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(max(_LAST_S / 10, until_s - time.monotonic()))
    if failed:
        raise failed[0]
    if not done:
        raise CkptreeError(f"the store {otherwise} by the deadline: there is no set unless it is found there later")
    return done[0]


def _report(there: "FleetSet", shown: str, *, as_json: bool) -> None:
    import json

    from agent.fleet import manifest
    from exporters.content.wording import count

    if as_json:
        terminal.tell_json(json.loads(manifest.dumps(there)))
    for each in there.missing:
        say(f"missing: {each.host}: {each.reason}")
    for host in there.hosts:
        if not host.complete:
            say(f"{host.host} is incomplete: {'; '.join(host.reasons) or 'not verified'}")
    say(
        f"{shown}: {count(len(there.hosts), 'host')}, {count(sum(each.tasks for each in there.hosts), 'task')}, "
        f"at most {there.skew_ns / 1e6:.1f} ms apart"
    )
