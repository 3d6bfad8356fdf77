# SPDX-License-Identifier: Apache-2.0
"""The doctor's results on given files and findings; the trials themselves are live tests."""

from pathlib import Path

import pytest

from agent.doctor.capturing import effective, hook, lockdown
from agent.doctor.diagnosis import Diagnosis, as_lines, verdict
from agent.doctor.rebuilding import MOST_PIDS, a_tree, forbidding, pid_max
from agent.restart.planning.search import make_plan
from bpf.hooks import FEATURES


@pytest.mark.parametrize(
    ("text", "state", "found"),
    [
        ("[none] integrity confidentiality\n", "ok", "none"),
        ("none [integrity] confidentiality\n", "ok", "integrity"),
        ("none integrity [confidentiality]\n", "no", "confidentiality: BPF may not read kernel memory"),
    ],
)
def test_only_the_strictest_lockdown_is_in_the_way(tmp_path: Path, text: str, state: str, found: str) -> None:
    """The file lists all modes, with the present one in brackets."""
    (tmp_path / "lockdown").write_text(text)

    assert lockdown(tmp_path / "lockdown")[:3] == (state, "lockdown", found)
    assert lockdown(tmp_path / "absent").state == "ok"


def test_small_pids_are_a_warning_with_the_command_that_mends_it(tmp_path: Path) -> None:
    """An image may come from a host with larger pids."""
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/pid_max").write_text("32768\n")
    found = pid_max(tmp_path, per_namespace=False)
    own = pid_max(tmp_path, per_namespace=True)
    (tmp_path / "sys/kernel/pid_max").write_text(f"{MOST_PIDS}\n")

    assert (found.state, found.mend) == ("warn", "sysctl kernel.pid_max=4194304")
    assert found.found == "32768: numbers of other hosts may be larger, and cannot be given here"
    assert (own.state, own.mend) == ("warn", "sysctl kernel.pid_max=4194304")
    assert own.found == (
        "32768: larger numbers of other hosts can be given in a pid namespace of its own, not with --no-pidns"
    )
    assert pid_max(tmp_path, per_namespace=False) == Diagnosis("ok", "kernel.pid_max", "4194304")


def test_each_setting_that_forbids_user_namespaces_is_named(tmp_path: Path) -> None:
    """Only settings that this kernel has, and that forbid, are named."""
    for name, value in (
        ("kernel/unprivileged_userns_clone", "0"),
        ("user/max_user_namespaces", "1000"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ):
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")

    assert forbidding(tmp_path) == (
        "sysctl kernel.unprivileged_userns_clone=1; sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    )


def test_capabilities_are_those_in_effect(tmp_path: Path) -> None:
    """Permitted capabilities do not count."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text("CapPrm:\tffffffffffffffff\nCapEff:\t0000008000000001\n")

    assert effective(tmp_path) == 1 << 39 | 1


def test_a_line_says_how_to_mend_where_there_is_a_way() -> None:
    """The state comes first, for grep."""
    findings = [Diagnosis("ok", "btf", "is there"), Diagnosis("no", "capture", "is refused", "be root")]

    assert as_lines(findings) == ["ok   btf: is there", "no   capture: is refused — be root"]


def test_both_have_to_work_and_what_was_not_tried_does_not() -> None:
    """A warning is not enough."""
    assert verdict([Diagnosis("ok", "capture", ""), Diagnosis("warn", "restart", "")]) == {
        "capture": True,
        "restart": False,
    }
    assert verdict([Diagnosis("ok", "restart", ""), Diagnosis("no", "btf", "")]) == {"capture": False, "restart": True}


@pytest.mark.parametrize(("numbers", "pidns"), [((1, 4711), True), ((4711,), False)])
def test_the_trees_that_are_tried_can_be_planned(numbers: tuple[int, ...], *, pidns: bool) -> None:
    """So a failure comes from the host."""
    plan = make_plan(a_tree(*numbers), pidns=pidns)

    assert {actor.numbers for actor in plan.actors} >= {(number,) for number in numbers}


def test_a_hook_is_named_with_the_better_ones_that_the_kernel_refused() -> None:
    """If no hook works, the line has the consequence and the remedy."""
    reap = next(feature for feature in FEATURES if feature.name == "reap")
    tried = {"fentry:release_task": "no", "kprobe:release_task": "none here", "fexit:change_pid": "of another feature"}

    assert hook(reap, ["tracepoint:sys_exit_wait4"], tried) == Diagnosis(
        "ok",
        "hook for reap",
        "tracepoint:sys_exit_wait4 (better, and refused: fentry:release_task: no; kprobe:release_task: none here)",
    )
    assert hook(reap, ["fentry:release_task"], {}).found == "fentry:release_task"
    none = hook(reap, [], tried | {"tracepoint:sys_exit_wait4": "no tracefs"})
    assert (none.state, none.mend) == ("warn", "mount -t tracefs tracefs /sys/kernel/tracing")
    assert "tracepoint:sys_exit_wait4: no tracefs): reaps are found when the kernel frees the task" in none.found
