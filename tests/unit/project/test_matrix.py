# SPDX-License-Identifier: Apache-2.0
"""The matrix of hosts: the output of hosts becomes results, and results become a page that hides nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from bpf.hooks import FEATURES
from tests.matrix import carried
from tests.matrix.__main__ import PAGE, RESULTS, merged
from tests.matrix.cells import CELLS, KERNELS, SETTINGS, STEPS, USERS, named
from tests.matrix.inside import MARK, gather, read
from tests.matrix.table import page

FACTS = {"kernel": "6.12.1-cloud", "machine": "x86_64", "bcc": "0.31.0", "python": "3.13.5"}
HOOKS = {"fork": ["typed_tracepoint:task_newtask"], "reap": ["kprobe:release_task"], "setsid": []}


def results(**more: Any) -> dict[str, Any]:
    """Return the results of a cell whose steps all passed, with these changes."""
    steps = [{"step": step.name, "passed": 7, "failed": [], "hooks": HOOKS, "missing": []} for step in STEPS]
    return {"facts": FACTS, "steps": steps, **more}


def line_of(text: str, name: str) -> str:
    """Return a row of the table."""
    return next(line for line in text.splitlines() if line.startswith(f"| {name} |"))


def test_a_cell_has_a_name_of_its_own_by_which_it_is_found() -> None:
    """The error for an unknown name lists the known ones."""
    assert [named(str(cell)) for cell in CELLS] == list(CELLS)
    with pytest.raises(ValueError, match=r"debian13-6\.12"):
        named("debian11-4.19")


def test_every_cell_is_made_of_what_there_is() -> None:
    """The user space can be made, and the kernel is available."""
    assert {cell.user for cell in CELLS} == set(USERS)
    assert {cell.kernel for cell in CELLS} == {*KERNELS, "here"}


def test_hooks_that_are_left_out_are_hooks() -> None:
    """A misspelt hook would leave the best one in force, unnoticed."""
    known = {str(hook) for feature in FEATURES for way in feature.ways for hook in way}
    other_machines = {"fexit:__x64_sys_prctl", "fexit:__arm64_sys_prctl"}

    assert {name for step in STEPS for name in step.without} <= known | other_machines


def test_every_test_that_is_named_is_there() -> None:
    """The names have file, function and case."""
    from tests.live.scenarios import SCENARIOS

    for step in STEPS:
        for argument in (*step.arguments, *step.emulated):
            if argument.startswith("--"):
                continue
            path, _, test = argument.partition("::")
            function, _, case = test.partition("[")
            assert function in Path(path).read_text()
            assert not case or "scenario" not in function or case.rstrip("]") in SCENARIOS


def test_what_a_host_says_is_gathered_from_among_other_words() -> None:
    """A console has the kernel's messages too."""
    said = [
        "[    0.02] Booting",
        MARK + json.dumps(FACTS),
        "24 passed",
        MARK + json.dumps({"step": "capture", "passed": 24, "failed": []}) + "\r",
        "a test printed " + MARK,
        MARK + json.dumps({"done": True}),
    ]

    assert gather(said) == {"facts": FACTS, "steps": [{"step": "capture", "passed": 24, "failed": []}]}


def test_a_host_that_does_not_come_to_its_end_says_so() -> None:
    """It may end before the first step, or between two."""
    assert gather(["panic"])["reason"] == "it never began"
    assert gather([MARK + json.dumps(FACTS)])["reason"] == "it ended in the middle"


def test_a_step_that_is_run_again_takes_the_place_of_its_earlier_result() -> None:
    """The order of the results is that of the steps."""
    first, second = (step.name for step in STEPS[:2])
    earlier = {"facts": {}, "steps": [{"step": second, "passed": 1}], "reason": "it ended in the middle"}

    assert merged(earlier, {"facts": FACTS, "steps": [{"step": first, "passed": 2}]}) == {
        "facts": FACTS,
        "steps": [{"step": first, "passed": 2}, {"step": second, "passed": 1}],
    }


def test_a_report_of_pytest_is_counted(tmp_path: Path) -> None:
    """A failure of the setup counts as failed; a skipped test counts as neither."""
    path = tmp_path / "report.xml"
    path.write_text(
        "<testsuites><testsuite><testcase name='a'/><testcase name='b'><failure message='1 is 2'>long</failure></testcase>"
        "<testcase name='c'><error message='no daemon'/></testcase><testcase name='d'><skipped/></testcase></testsuite>"
        "</testsuites>"
    )

    assert read(path) == {"passed": 1, "failed": ["b: 1 is 2", "c: no daemon"]}


def test_a_row_has_the_host_and_how_many_tests_passed() -> None:
    """The count is that of each step."""
    row = line_of(page({"debian13-6.12": results()}), "debian13-6.12")

    assert row == "| debian13-6.12 | 6.12.1-cloud x86_64 | 0.31.0 | 3.13.5 |" + " 7 ✓ |" * len(STEPS)


def test_what_failed_stands_in_the_row_and_below_it() -> None:
    """The message is shown; a bar in it ends no cell."""
    broken = results()
    broken["steps"][1] |= {"passed": 5, "failed": ["test_a: x | y\nz"]}
    text = page({"debian13-6.12": broken})

    assert "| 5 ✓, 1 ✗ |" in line_of(text, "debian13-6.12")
    assert f"* {STEPS[1].name}, failed: test_a: x ¦ y z" in text


def test_what_could_not_be_done_has_its_reason() -> None:
    """Examples are a step, a host that ended early, and the steps after that."""
    broken = results(reason="it ended in the middle")
    broken["steps"] = [{"step": STEPS[0].name, "passed": 0, "failed": [], "reason": "no such instruction"}]
    text = page({"debian12-5.10": broken})

    assert line_of(text, "debian12-5.10").endswith("| no |" + " not run |" * (len(STEPS) - 1))
    assert "* could not be run to its end: it ended in the middle" in text
    assert f"* {STEPS[0].name}: no such instruction" in text


def test_a_reason_that_several_steps_share_is_told_once() -> None:
    """The reason names all these steps."""
    broken = results()
    for step in broken["steps"][:2]:
        step["reason"] = "no such instruction"
    text = page({"debian12-5.10": broken})

    assert f"* {STEPS[0].name}, {STEPS[1].name}: no such instruction" in text
    assert text.count("no such instruction") == 1


def test_what_was_set_on_a_kernel_is_told() -> None:
    """The reason is there too; a kernel without settings has no text."""
    (name,) = {cell.kernel for cell in CELLS} & {*SETTINGS}

    assert SETTINGS[name][0] in page({f"debian12-{name}": results()})
    assert SETTINGS[name][0] not in page({"debian12-6.12": results()})


def test_hooks_in_force_are_told_once_and_those_that_are_not_too() -> None:
    """Steps that differ are named."""
    text = page({"debian13-6.12": results()})

    told = "fork by typed tracepoint task_newtask, reap by kprobe release_task, setsid by sweeps alone"
    assert text.count(told) == 1


def test_cells_that_were_not_run_are_named() -> None:
    """A reader must not take them for tested."""
    text = page({"debian13-6.12": results()})
    (left,) = (line for line in text.splitlines() if line.startswith("Not run yet: "))

    assert left.removeprefix("Not run yet: ").rstrip(".").split(", ") == [
        str(cell) for cell in CELLS if str(cell) != "debian13-6.12"
    ]


def a_result(target: str, fault: str = "", program: str = "a writer") -> dict[str, str]:
    """Return the result of a program that was carried from Linux 6.12."""
    return {"from": "6.12.1", "to": target, "processor": "qemu64", "program": program, "fault": fault}


def test_a_program_that_was_carried_has_a_row_for_each_pair_of_kernels() -> None:
    """The words of one that did not run on stand below."""
    results = [a_result("6.1.0"), a_result("7.2.1", "refused:\n a | b"), a_result("7.2.1", program="a pipeline")]
    text = page({}, results)

    assert "| 6.12.1 | 6.1.0 | qemu64 | ✓ | not run |" in text
    assert "| 6.12.1 | 7.2.1 | qemu64 | no | ✓ |" in text
    assert "* a writer, 6.12.1 to 7.2.1, qemu64: refused: a ¦ b\n" in text


def test_a_program_that_is_carried_again_takes_the_place_of_its_earlier_result() -> None:
    """Other pairs of kernels stay."""
    earlier = [a_result("7.2.1", "broken"), a_result("6.1.0")]

    assert carried.merged(earlier, [a_result("7.2.1")]) == [a_result("6.1.0"), a_result("7.2.1")]


def test_the_page_is_that_of_the_results() -> None:
    """After a change run python -m tests.matrix --page."""
    assert PAGE.read_text() == page(json.loads(RESULTS.read_text()), carried.known())
