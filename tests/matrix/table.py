# SPDX-License-Identifier: Apache-2.0
"""The page of the matrix, from the results of its cells. Pure: text in, text out."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tests.matrix.cells import CELLS, SETTINGS, STEPS, named

_KINDS: Final = {
    "typed_tracepoint": "typed tracepoint",
    "raw_tracepoint": "raw tracepoint",
    "tracepoint": "tracepoint",
    "fentry": "fentry",
    "fexit": "fexit",
    "kprobe": "kprobe",
}
_HEAD: Final = """<!-- SPDX-License-Identifier: Apache-2.0 -->
# Hosts that were tried

Made by `make matrix`, from docs/matrix.json; do not edit. Each row is a user space in which this project's own
`make setup` was run, on a kernel: a distribution's own, in an emulated machine of two processors, or (`-here`) the
kernel of the machine that ran the command. A cell has how many tests passed; what failed or could not be done is told
below. `make matrix CELLS="debian13-6.12 ..."` runs single rows again.
"""
CARRIED_KEYS: Final = ("from", "to", "processor", "program")
"""The keys that tell the results of carried programs apart."""
_CARRIED: Final = """## Programs carried from one kernel to another

Made by `python -m tests.matrix.carried`: programs of Debian 13 that criu 4.1.1 dumped in a machine with one kernel, and
that `ckptree restart criu:DIR` let run on in a machine with another one, and the same files. They are judged by what they
then do: no line or row is missing or twice, numbers are those of the whole history, clocks tell the time and go on.
"""


def _cell(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return "not run"
    if result.get("reason"):
        return "no"
    failed = len(result["failed"])
    return f"{result['passed']} ✓" + (f", {failed} ✗" if failed else "")


def _row(name: str, results: Mapping[str, Any]) -> list[str]:
    steps = {each["step"]: each for each in results["steps"]}
    facts = results.get("facts", {})
    kernel = facts.get("kernel", named(name).kernel)
    return [
        name,
        f"{kernel} {facts.get('machine', '')}".strip(),
        facts.get("bcc", ""),
        facts.get("python", ""),
        *(_cell(steps.get(step.name)) for step in STEPS),
    ]


def _hook(hook: str) -> str:
    kind, _, target = hook.partition(":")
    return f"{_KINDS[kind]} {target}"


def _hooks(step: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{feature} by {' and '.join(map(_hook, hooks)) or 'sweeps alone'}" for feature, hooks in step["hooks"].items()
    )


def _remarks(name: str, results: Mapping[str, Any]) -> list[str]:
    lines = []
    if setting := SETTINGS.get(named(name).kernel):
        lines.append(f"with {': '.join(setting)}")
    told: dict[str, str] = {}
    if results.get("reason"):
        lines.append(f"could not be run to its end: {results['reason']}")
    reasons: dict[str, list[str]] = {}
    for step in results["steps"]:
        if step.get("reason"):
            reasons.setdefault(step["reason"], []).append(step["step"])
    lines += [f"{', '.join(steps)}: {reason}" for reason, steps in reasons.items()]
    for step in results["steps"]:
        alike: dict[str, list[str]] = {}
        for each in step["failed"]:
            test, _, words = each.partition(": ")
            alike.setdefault(words, []).append(test)
        lines += [f"{step['step']}, failed: {', '.join(tests)}: {words}" for words, tests in alike.items()]
        if step.get("hooks"):
            told.setdefault(_hooks(step), step["step"])
    lines += [f"hooks in {step!r}: {hooks}" for hooks, step in told.items()]
    missing = sorted({feature for step in results["steps"] for feature in step.get("missing", ())})
    if missing:
        lines.append(f"the kernel lacks {', '.join(missing)}, and is read all the same")
    return [" ".join(line.replace("|", "¦").replace("`", "'").split()) for line in lines]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)) + "\n"


def _carried(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the section on carried programs; nothing where there are no results."""
    if not results:
        return []
    programs = list(dict.fromkeys(each["program"] for each in results))
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for each in results:
        rows.setdefault((each["from"], each["to"], each["processor"]), {})[each["program"]] = each["fault"]
    marks = [
        [*key, *("not run" if each not in found else "no" if found[each] else "✓" for each in programs)]
        for key, found in rows.items()
    ]
    parts = [_CARRIED, table(("dumped under", "run on under", "processor", *programs), marks)]
    faults = [
        f"* {program}, {origin} to {target}, {processor}: {' '.join(fault.replace('|', '¦').replace('`', chr(39)).split())}"
        for (origin, target, processor), found in rows.items()
        for program, fault in found.items()
        if fault
    ]
    return [*parts, *(["\n".join(faults) + "\n"] if faults else [])]


def page(cells: Mapping[str, Any], carried: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the page.

    Args:
        cells: results by the name of the cell: ``facts``, ``steps``, and a ``reason`` if it ended early.
        carried: results of programs that were carried: `CARRIED_KEYS`, and a ``fault``, empty for none.
    """
    order = {str(cell): n for n, cell in enumerate(CELLS)}
    done = sorted(cells, key=order.__getitem__)
    parts = [_HEAD]
    rows = [_row(name, cells[name]) for name in done]
    parts.append(table(("host", "kernel", "bcc", "Python", *(step.name for step in STEPS)), rows))
    parts.append("\n".join(f"* **{step.name}**: {step.told}." for step in STEPS) + "\n")
    left = [str(cell) for cell in CELLS if str(cell) not in cells]
    if left:
        parts.append(f"Not run yet: {', '.join(left)}.\n")
    parts += _carried(carried)
    for name in done:
        remarks = _remarks(name, cells[name])
        if remarks:
            parts.append(f"## {name}\n\n" + "\n".join(f"* {line}" for line in remarks) + "\n")
    return "\n".join(parts)
