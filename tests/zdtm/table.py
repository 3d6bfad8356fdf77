# SPDX-License-Identifier: Apache-2.0
"""The page of the results of CRIU's own suite. Pure: results in, text out."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

PAGE: Final = Path(__file__).parents[2] / "docs" / "contents-zdtm.md"
KINDS: Final = ("passed", "refused", "wrong", "not dumped")
_HEAD: Final = """<!-- SPDX-License-Identifier: Apache-2.0 -->
# CRIU's own tests, restored by both

Made by `python -m tests.zdtm TREE --page`, from docs/contents-zdtm.json; do not edit. CRIU has a suite of small programs
(`test/zdtm/static`), each of which prepares some state, is dumped and restored, and then says whether its state came back.
Here each is started twice. CRIU dumps it, with the tree beside the images. Then once `criu restore` restores it, and once
`ckptree restart criu:DIR`.

| outcome | |
| --- | --- |
| passed | the program says that its state came back |
| refused | the restore ends with an error before the program runs; ckptree names each object that it cannot restore |
| wrong | the program says that its state is another one, or it dies or hangs; of ckptree also any other failure |
| not dumped | the program does not start on this machine, or CRIU does not dump it |
"""
_REFUSED: Final = """The kind of an object, and the word for the reason, as `plan criu:DIR --json` has them. A test may have
several.
"""


def numbers(results: Mapping[str, Any]) -> str:
    """Return a table of how many tests had which outcome."""
    lines = [_row("criu", "restored by", *KINDS), _row(*["---"] * (len(KINDS) + 2))]
    for version, run in sorted(results.items()):
        for by in ("criu", "ckptree"):
            counted = Counter(each[by][0] for each in run["tests"].values() if by in each)
            lines.append(_row(version, by, *(counted[kind] for kind in KINDS)))
    return "\n".join(lines)


def page(results: Mapping[str, Any]) -> str:
    """Return the page: numbers of every version of criu, and all tests of the newest."""
    version = max(results, key=lambda each: [int(part) for part in each.split(".")])
    run = results[version]
    tests: Mapping[str, Any] = run["tests"]
    parts = [
        _HEAD,
        numbers(results),
        f"\nThe kernel was {run['kernel']}. What follows is of the dumps of criu {version}.\n",
    ]
    parts += ["## Refused by ckptree\n", _REFUSED, _refused(tests), "\n## Wrong\n", _wrong(tests)]
    parts += ["\n## Every test\n", _row("test", "criu", "ckptree"), _row("---", "---", "---")]
    parts += [
        _row(name, *(each.get(by, ("not run",))[0] for by in ("criu", "ckptree")))
        for name, each in sorted(tests.items())
    ]
    parts += ["\n## Left out\n"]
    for reason, count in Counter(run["aside"].values()).most_common():
        parts.append(f"* {count} {'test' if count == 1 else 'tests'}: each {reason}")
    return "\n".join(parts) + "\n"


def _refused(tests: Mapping[str, Any]) -> str:
    by_rule: defaultdict[str, list[str]] = defaultdict(list)
    for name, each in sorted(tests.items()):
        for rule in each.get("ckptree", ("", "", ()))[2]:
            by_rule[rule].append(name)
    rows = [
        _row(rule, len(names), ", ".join(names))
        for rule, names in sorted(by_rule.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    return "\n".join([_row("object: rule", "tests", ""), _row("---", "---", "---"), *rows]) if rows else "None."


def _wrong(tests: Mapping[str, Any]) -> str:
    rows = []
    for by in ("ckptree", "criu"):
        for name, each in sorted(tests.items()):
            kind, text, _ = each.get(by, ("", "", ()))
            if kind == "wrong":
                rows.append(_row(name, by, _cell(text.splitlines()[-1] if text else "")))
    return "\n".join([_row("test", "restored by", "last line"), _row("---", "---", "---"), *rows]) if rows else "None."


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
