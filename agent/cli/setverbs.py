# SPDX-License-Identifier: Apache-2.0
"""The verbs that work on sets: show, check, diff, plan. A set is fetched first; then the rights to fetch are given up."""

import json
from typing import TYPE_CHECKING, Annotated, Any

from agent.cli import setcontents, terminal
from agent.cli.declarations import Argument, Option
from agent.cli.fleetverbs import SET_HELP
from agent.cli.namedfile import MOST_BYTES
from agent.cli.options import AsJson, Nats
from agent.cli.settargets import Maps, Requester, SetName, targets
from agent.cli.terminal import say
from agent.errors import DIFFERENT, CkptreeError, FormatError, NotRebuildableError, RefusedError
from agent.record import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agent.fleet.manifest import FleetSet
    from agent.model import Snapshot

RANKS = ("SLURM_PROCID", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
"""Variables with the rank of a process in its job: of Slurm, of PMIx, of Open MPI."""
_ASKING_S = 10.0
_SHOWN_HASH = 19


class FetchedSet(NamedTuple):
    """A set, and its images.

    Attributes:
        made: the set.
        images: bytes by host.
        faults: by host: why its image is not there.
        shown: the address.
        contents: by host: what is wrong with its contents; empty unless it was asked for.
    """

    made: "FleetSet"
    images: dict[str, bytes]
    faults: "dict[str, FormatError | CkptreeError]"
    shown: str
    contents: "dict[str, CkptreeError]"

    def snapshot(self, host: str) -> "Snapshot":
        """Return a host's tree; an error names host and set."""
        from agent.cli import allowance
        from exporters import registry

        if (fault := self.faults.get(host)) is not None:
            raise fault
        data = self.images[host]
        try:
            with allowance.bounded(f"{self.shown}: {host}", len(data)):
                return registry.load(data)
        except FormatError as error:
            raise FormatError(f"{self.shown}: {host}: {error.path}", error.message, error.offset) from error


def fetched(name: str, nats: str | None, *, contents: bool = False) -> FetchedSet:
    """Fetch a set with all its images. A process of its own reaches a store, and ends: this one may confine itself.

    Args:
        name: of the set.
        nats: the option ``--nats``.
        contents: read the contents, too, and note what is wrong with them.
    """
    from agent.fleet import sets
    from agent.fleet.stores import address as addresses
    from agent.fleet.stores import errand

    images: dict[str, bytes] = {}
    faults: dict[str, FormatError | CkptreeError] = {}
    if addresses.is_address(name):
        where = addresses.parse(name)
        got = errand.fetch(where, nats)
        place = sets.at(where, sets.FetchedStore(got))
        names = {place.beside(each.image): MOST_BYTES for each in place.read().hosts}
        got |= errand.fetch(where, nats, names)
    else:
        with sets.opened(name, nats) as place:
            pass
    made = place.read()
    for each in made.hosts:
        try:
            images[each.host] = place.image(each)
        except CkptreeError as error:
            faults[each.host] = error
    return FetchedSet(made, images, faults, place.shown, setcontents.faults(made, nats) if contents else {})


def _confined(*names: str, nats: str | None, contents: bool = False) -> list[FetchedSet]:
    """Fetch sets, and give up all rights that reading them does not need."""
    from agent.cli.confinement import confine_root

    found = [fetched(name, nats, contents=contents) for name in names]
    confine_root()
    return found


def ranks(snapshot: "Snapshot") -> "Iterator[tuple[int, str, int, str]]":
    """Yield rank, its variable, pid and name of each process whose environment has a rank, topmost ones alone.

    A process inherits the environment: of a process and its descendants with the same rank only the topmost is one.
    """
    from exporters.content import wording

    told: dict[int, tuple[str, int]] = {}
    for task in snapshot.tasks:
        own = _rank(task.env) if task.env is not None else None
        above = told.get(task.ppid)
        if own is not None:
            told[task.pid] = own
            if own != above:
                yield own[1], own[0], snapshot.number(task.pid), wording.name(task)
        elif above is not None:
            told[task.pid] = above


def _rank(env: tuple[bytes, ...]) -> tuple[str, int] | None:
    """Return the variable and the rank in an environment; None where it has none."""
    found = dict(each.split(b"=", 1) for each in env if b"=" in each)
    for variable in RANKS:
        value = found.get(variable.encode(), b"")
        if value.isdigit() and len(value) < 10:
            return variable, int(value)
    return None


def show(name: SetName, nats: Nats = None, as_json: AsJson = False) -> None:
    """Show the hosts of a set, the skew, missing hosts, and the ranks of a job where images have environments."""
    from agent.fleet import manifest

    (found,) = _confined(name, nats=nats)
    rows = []
    for host in found.images:
        for rank, variable, pid, comm in ranks(found.snapshot(host)):
            rows.append({"host": host, "rank": rank, "variable": variable, "pid": pid, "comm": comm})
    rows.sort(key=lambda row: (row["rank"], row["host"]))
    if as_json:
        terminal.tell_json(json.loads(manifest.dumps(found.made)) | {"ranks": rows})
        return
    for line in _lines(found):
        terminal.tell_line(line)
    for row in rows:
        terminal.tell_line(
            f"rank {row['rank']:<6} {row['host']:<24} pid {row['pid']} {row['comm']}  ({row['variable']})"
        )


def _lines(found: FetchedSet) -> "Iterator[str]":
    from datetime import UTC, datetime

    from exporters.content.wording import count

    made = found.made
    at = datetime.fromtimestamp(made.at_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    job = f" of {made.job}" if made.job else ""
    yield (
        f"set {made.id}{job}: {count(len(made.hosts), 'host')}, {count(sum(each.tasks for each in made.hosts), 'task')}, "
        f"at {at}, at most {made.skew_ns / 1e6:.1f} ms apart"
    )
    for each in made.hosts:
        doubt = "" if each.complete else f"  incomplete: {'; '.join(each.reasons) or 'not verified'}"
        fault = f"  {found.faults[each.host]}" if each.host in found.faults else ""
        yield (
            f"{each.host:<24} {each.root}: {count(each.tasks, 'task')}, {each.image[:_SHOWN_HASH]}, within "
            f"{(each.after_ns - each.before_ns) / 1e6:.1f} ms, clock {each.clock.ns / 1e6:+.1f} ms, "
            f"give or take {each.clock.bound_ns / 1e6:.1f}{setcontents.described(each.contents)}{doubt}{fault}"
        )
    for gone in made.missing:
        yield f"{gone.host:<24} missing: {gone.reason}"


def check(name: SetName, nats: Nats = None, as_json: AsJson = False) -> None:
    """Find everything that is wrong with a set, its images and its contents. Exit code 8 where anything is an error."""
    from agent.cli import allowance
    from exporters.checking.check import check as find_all
    from exporters.content import findings
    from exporters.content.wording import count

    (found,) = _confined(name, nats=nats, contents=True)
    document: dict[str, Any] = {"missing": [each.host for each in found.made.missing], "hosts": {}}
    errors = warnings = 0
    for each in found.made.hosts:
        if (fault := found.faults.get(each.host)) is not None:
            rows: Any = [{"severity": "error", "name": "no-image", "text": str(fault)}]
        else:
            data = found.images[each.host]
            with allowance.bounded(f"{found.shown}: {each.host}", len(data)):
                rows = findings.to_document(find_all(data))
        if each.host in found.contents:
            rows = [*rows, {"severity": "error", "name": "no-contents", "text": str(found.contents[each.host])}]
        document["hosts"][each.host] = rows
        for row in rows:
            errors += row["severity"] == "error"
            warnings += row["severity"] == "warning"
            if not as_json:
                terminal.tell_line(f"{each.host}: {row['severity']} {row['name']}: {row['text']}")
    warnings += len(found.made.missing)
    if as_json:
        terminal.tell_json(document)
    for gone in found.made.missing:
        say(f"missing: {gone.host}: {gone.reason}")
    say(
        f"{found.shown}: {count(errors, 'error')}, {count(warnings, 'warning')}"
        if errors + warnings
        else f"{found.shown}: sound"
    )
    if errors:
        raise SystemExit(FormatError.exit_code)


def diff(
    a: Annotated[str, Argument(metavar="A", help=SET_HELP)],
    b: Annotated[str, Argument(metavar="B", help=SET_HELP)],
    nats: Nats = None,
    as_json: AsJson = False,
) -> None:
    """Compare two sets, host by host. Exit code 0 where all trees are equal, 1 where not."""
    from exporters.comparing import difference

    first, second = _confined(a, b, nats=nats)
    names = [{each.host for each in found.made.hosts} for found in (first, second)]
    document: dict[str, Any] = {
        "only_a": sorted(names[0] - names[1]),
        "only_b": sorted(names[1] - names[0]),
        "hosts": {},
    }
    equal = names[0] == names[1]
    for host in sorted(names[0] & names[1]):
        found = difference.difference(first.snapshot(host), second.snapshot(host))
        equal = equal and found.equal
        document["hosts"][host] = difference.to_document(found)
        if not as_json:
            for line in difference.lines(found, unicode=terminal.unicode()):
                terminal.tell_line(f"{host}: {line}")
    if as_json:
        terminal.tell_json(document)
    else:
        for host in document["only_a"]:
            terminal.tell_line(f"{host}: only in {a}")
        for host in document["only_b"]:
            terminal.tell_line(f"{host}: only in {b}")
    if not equal:
        raise SystemExit(DIFFERENT)


def plan(
    name: SetName,
    maps: Maps = None,
    pidns: Annotated[
        bool,
        Option("--pidns/--no-pidns", help="Plan for pid namespaces of the trees' own, or for those of the relays."),
    ] = True,
    contents: Annotated[
        bool,
        Option("--contents", help="Have each target tell what it would refuse of the contents; as --as, who asks."),
    ] = False,
    requester: Requester = None,
    nats: Nats = None,
    as_json: AsJson = False,
) -> None:
    """Tell whether the trees of a set can be rebuilt, and with --no-pidns which pids are taken on each target.

    With --contents each target fetches the contents of its tree, and asks its host for files and addresses. Exit code 7
    where a tree cannot be rebuilt, or contents are refused; 5 where a pid is taken.
    """
    import asyncio

    from agent.cli import apart

    found = fetched(name, nats)
    chosen = targets(found.made, maps)
    if contents:
        setcontents.require(chosen)

    def work() -> apart.Made:
        return json.dumps({new: _planned(found, old.host, pidns=pidns) for new, old in chosen.items()}).encode()

    try:
        made = apart.made(work, say)
    except apart.EndedError as ended:
        raise SystemExit(ended.code) from None
    document: dict[str, Any] = json.loads(made) if isinstance(made, bytes) else {}
    for host, (taken, error) in asyncio.run(_taken(document, nats)).items():
        document[host] |= {"taken": taken, "unasked": error}
    if contents:
        from agent.cli import fleetrestartverb

        answers = fleetrestartverb.planned(name, chosen, requester, nats, pidns=pidns)
        for host, row in setcontents.refusals(answers).items():
            document[host] |= row
    for host, row in document.items():
        row["from"] = chosen[host].host
        del row["numbers"]
        if not as_json:
            _tell_plan(host, row)
    if as_json:
        terminal.tell_json(document)
    if any(row["not_rebuildable"] or row.get("refused") or row.get("unplanned") for row in document.values()):
        raise SystemExit(RefusedError.exit_code)
    if any(row.get("taken") for row in document.values()):
        raise SystemExit(5)


def _planned(found: FetchedSet, host: str, *, pidns: bool) -> dict[str, Any]:
    """Plan a tree; return what is to be told of it, and the numbers that it needs in the target's own namespace."""
    from agent.restart.planning.search import decide

    try:
        _, made = decide(found.snapshot(host), pidns=pidns, any_numbers=False)
    except NotRebuildableError as error:
        return {"not_rebuildable": str(error), "tasks": 0, "steps": 0, "numbers": []}
    numbers = sorted({actor.numbers[0] for actor in made.actors if actor.numbers}) if not made.pidns else []
    return {"not_rebuildable": None, "tasks": len(made.tasks), "steps": len(made.steps), "numbers": numbers}


async def _taken(of: "Mapping[str, Any]", nats: str | None) -> dict[str, tuple[dict[str, str], str | None]]:
    """Ask the relays of targets which numbers are taken there; a host that cannot be asked has the reason."""
    from agent.fleet import fleetclient, messages, natsserver

    wanted = {host: row["numbers"] for host, row in of.items() if row["numbers"]}
    if not wanted:
        return {}
    found: dict[str, tuple[dict[str, str], str | None]] = {host: ({}, None) for host in wanted}
    async with fleetclient.opened(natsserver.server_of(nats)) as asked:
        for start in range(0, max(map(len, wanted.values())), messages.MOST_NUMBERS):
            parts = {host: row[start : start + messages.MOST_NUMBERS] for host, row in wanted.items()}
            requests = {host: {"numbers": part} for host, part in parts.items() if part}
            for host, replied in (await asked.ask_all(messages.TAKEN, requests, _ASKING_S)).items():
                if isinstance(replied, CkptreeError):
                    found[host] = found[host][0], str(replied)
                else:
                    pairs = zip(replied.answer["numbers"], replied.answer["holders"], strict=True)
                    found[host][0].update({str(number): str(holder) for number, holder in pairs})
    return found


def _tell_plan(host: str, row: "Mapping[str, Any]") -> None:
    from exporters.content.wording import count

    where = host if row["from"] == host else f"{host} (from {row['from']})"
    if row["not_rebuildable"]:
        terminal.tell_line(f"{where}: {row['not_rebuildable']}")
        return
    terminal.tell_line(f"{where}: {count(row['tasks'], 'task')} in {count(row['steps'], 'step')}")
    for number, holder in (row.get("taken") or {}).items():
        terminal.tell_line(f"{where}: pid {number} is taken by {holder}")
    for text in [*row.get("refused", ()), *([row["unplanned"]] if row.get("unplanned") else ())]:
        terminal.tell_line(f"{where}: {text}")
    if row.get("unasked"):
        say(f"{where}: not asked which pids are taken: {row['unasked']}")
