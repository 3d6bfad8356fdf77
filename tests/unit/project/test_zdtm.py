# SPDX-License-Identifier: Apache-2.0
"""The runner of CRIU's own suite: which tests it takes, with which options, and the page of their outcomes."""

import json
from pathlib import Path
from typing import Any

from tests.zdtm.__main__ import RESULTS
from tests.zdtm.suite import suite
from tests.zdtm.table import PAGE, numbers, page


def _tree(top: Path, *, built: bool = True, skip: str = "", **descriptions: object) -> Path:
    """Make a tree of CRIU with a test for each description; None for one without."""
    folder = top / "test/zdtm/static"
    folder.mkdir(parents=True)
    for name, description in descriptions.items():
        (folder / f"{name}.c").touch()
        (folder / name).touch(0o755 if built else 0o644)
        if description is not None:
            (folder / f"{name}.desc").write_text(repr(description))
    if skip:
        check = folder / f"{skip}.checkskip"
        check.write_text("#!/bin/sh\nexit 1\n")
        check.chmod(0o755)
    return top


def _results(**outcomes: tuple[str, str]) -> dict[str, Any]:
    """Return results of criu and ckptree for each test, with one reason and one rule of all."""
    tests = {
        name: {by: [kind, "a\nit | died", ["tty: kind"] if kind == "refused" else []] for by, kind in both.items()}
        for name, both in ((name, {"criu": criu, "ckptree": ckptree}) for name, (criu, ckptree) in outcomes.items())
    }
    return {"4.2": {"tests": tests, "aside": {"tun": "is for another processor"}, "kernel": "6.18"}}


def test_options_of_both_go_to_dump_and_restore(tmp_path: Path) -> None:
    """The ones of one of the two follow."""
    said = {"opts": "--file-locks", "dopts": "--a 1", "ropts": "--b", "flags": "suid"}
    (found,) = suite(_tree(tmp_path, locks=said)).trials

    assert found.name == "locks"
    assert found.dump_options == ("--file-locks", "--a", "1")
    assert found.restore_options == ("--file-locks", "--b")


def test_every_test_that_is_left_out_has_a_reason(tmp_path: Path) -> None:
    """A test of namespaces alone, one that CRIU leaves out, one of another processor, one that cannot run here."""
    tree = _tree(
        tmp_path,
        skip="here",
        plain=None,
        here=None,
        cgroup00={"flavor": "h"},
        only={"flavor": "ns uns"},
        out={"flags": "suid noauto"},
        other={"arch": "s390x"},
    )
    found = suite(tree)

    assert [trial.name for trial in found.trials] == ["plain"]
    assert sorted(found.aside) == ["cgroup00", "here", "only", "other", "out"]


def test_a_program_that_is_not_built_is_no_test(tmp_path: Path) -> None:
    """Its source alone does not run."""
    assert suite(_tree(tmp_path, built=False, plain=None)).trials == []


def test_the_numbers_count_each_outcome_of_both() -> None:
    """In the order passed, refused, wrong, not dumped."""
    results = _results(one=("passed", "refused"), two=("passed", "wrong"), three=("not dumped", "not dumped"))

    assert "| 4.2 | criu | 2 | 0 | 0 | 1 |" in numbers(results)
    assert "| 4.2 | ckptree | 0 | 1 | 1 | 1 |" in numbers(results)


def test_the_page_names_what_is_wrong_and_what_is_refused() -> None:
    """With the last line that tells of it, and the tests that have it."""
    text = page(_results(one=("passed", "refused"), two=("passed", "wrong")))

    assert "| tty: kind | 1 | one |" in text
    assert "| two | ckptree | it \\| died |" in text
    assert "| two | passed | wrong |" in text
    assert "* 1 test: each is for another processor" in text


def test_the_page_is_that_of_the_results() -> None:
    """After a change run python -m tests.zdtm --page."""
    assert PAGE.read_text() == page(json.loads(RESULTS.read_text()))
