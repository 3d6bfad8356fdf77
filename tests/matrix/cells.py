# SPDX-License-Identifier: Apache-2.0
"""The hosts of the matrix: a user space, a kernel, an architecture; and the steps that run on each.

A cell's name says all of it: ``debian13-6.12``, ``debian13-6.12-arm64``, ``ubuntu24.04-here`` (the kernel that runs
here).
"""

from typing import Final, NamedTuple

HERE: Final = "here"

# Distributions by our name: the suite of the user space.
USERS: Final = {"debian12": "bookworm", "ubuntu24.04": "noble", "debian13": "trixie", "sid": "sid"}
# Kernels by our name: the suite that has them, Debian's, or Ubuntu's where Debian has no such version.
KERNELS: Final = {"5.10": "bullseye", "5.15": "jammy", "6.1": "bookworm", "6.12": "trixie", "newest": "sid"}
# Settings of a kernel before the first step, with their reasons.
SETTINGS: Final = {
    "5.15": (
        "kernel.unprivileged_bpf_disabled=0",
        "with another value the daemon, which gives up every right, may not ask this kernel, and says so at its start",
    ),
}
MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}


class Cell(NamedTuple):
    """A host of the matrix.

    Attributes:
        user: its user space, of `USERS`.
        kernel: of `KERNELS`, or `HERE`.
        machine: its architecture, as Debian calls it.
    """

    user: str
    kernel: str
    machine: str = "amd64"

    def __str__(self) -> str:
        return f"{self.user}-{self.kernel}" + ("" if self.machine == "amd64" else f"-{self.machine}")


CELLS: Final = (
    *(Cell(user, HERE) for user in USERS),
    *(
        Cell(user, kernel)
        for kernel in KERNELS
        for user in USERS
        if user != "ubuntu24.04" and (kernel not in SETTINGS or user == "debian12")
    ),
    Cell("debian13", "6.12", "arm64"),
)


def named(name: str) -> Cell:
    """Return the cell of a name.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    for cell in CELLS:
        if str(cell) == name:
            return cell
    raise ValueError(f"no cell is called {name}; there are {' '.join(map(str, CELLS))}")


class Step(NamedTuple):
    """A test run on a host, by pytest or by a module.

    Attributes:
        name: its column.
        told: its description, for the page.
        arguments: of pytest.
        without: hooks that the step disables.
        emulated: arguments of pytest on an emulated machine, where the whole step would take too long.
        seconds: its time limit; on an emulated machine a step takes ten times as long, and far longer beside other work.
    """

    name: str
    told: str
    arguments: tuple[str, ...]
    without: tuple[str, ...] = ()
    emulated: tuple[str, ...] = ()
    seconds: int = 900


_TRACED: Final = ("fexit:change_pid", "fentry:release_task")
_PRCTL: Final = ("fexit:__x64_sys_prctl", "fexit:__arm64_sys_prctl")
_TYPED: Final = tuple(
    f"typed_tracepoint:{name}" for name in ("task_newtask", "sched_process_exit", "sched_process_free")
)
_CAPTURE: Final = "tests/live/test_capture_scenarios.py::test_a_capture_of_a_scenario_is_the_tree"
# Each way for a task to change its place in the tree, and each way to end.
_SCENARIOS: Final = (
    *("linear_nested_namespace", "sibling_namespaces", "group_of_a_dead_namespace", "unshare_then_fork"),
    *("entered_from_outside_is_refused", "threads", "child_of_a_thread_that_dies", "dead_group_leader", "zombies"),
    *("orphan_of_a_dead_session_leader", "fork_before_setsid_twice", "subreaper_adopts_a_daemon", "subreaper_flags"),
    *("sibling_by_clone_parent", "groups_swapped", "job_of_a_shell", "exec_by_a_thread", "vfork_over", "stopped"),
    *("autoreaped_children", "double_fork_daemons", "controlling_terminal", "owners_of_files", "pid_reuse"),
)
_LONG: Final = "tests/live/test_rebuild.py::test_a_chain_twice_as_long_takes_about_twice_as_long"  # too slow
_TREES: Final = tuple(f"{_CAPTURE}[{name}]" for name in _SCENARIOS)

STEPS: Final = (
    Step(
        "programs",
        "every program is compiled, looked at, and loaded; on `-here` in every shape that other kernels ask for",
        ("tests/live/test_programs.py", "tests/live/test_refused.py"),
        emulated=(
            "tests/live/test_programs.py::test_every_program_is_one_that_kernels_take[this kernel's]",
            "tests/live/test_refused.py",
        ),
    ),
    Step("capture", "trees against the kernel's own answer and the log of their births, with the best hooks", _TREES),
    Step(
        "without fexit",
        "the same, with the kprobe and the system calls' tracepoints",
        _TREES,
        (*_TRACED, *_PRCTL),
    ),
    Step(
        "raw alone",
        "the same, with raw tracepoints for births and deaths, and tracepoints for waits instead of the kprobe",
        _TREES,
        (*_TRACED, *_PRCTL, *_TYPED, "kprobe:release_task"),
    ),
    Step(
        "restart",
        "trees rebuilt and verified, live and from their numbers alone",
        ("tests/live/test_restart.py", "tests/live/test_rebuild.py"),
        emulated=("tests/live/test_restart.py", "tests/live/test_rebuild.py", "--deselect", _LONG),
    ),
    Step(
        "storm",
        "snapshots of a storm of 200 births a second, judged by the storm's own log",
        ("tests/matrix/storm.py::test_no_snapshot_of_a_slow_storm_is_torn_stale_or_failed",),
    ),
    Step(
        "loss",
        "a ring that is far too small: what is lost is told of those whom it concerns, and repaired",
        ("tests/matrix/storm.py::test_loss_in_a_slow_storm_is_told_of_exactly_those_it_concerns_and_repaired",),
    ),
    Step(
        "contents",
        "programs that criu 4.1.1 dumped run on in the rebuilt tree: memory, state, users, clocks, calls of the vdso",
        (
            *("tests/live/test_contents.py", "tests/live/test_contents_memory.py", "tests/live/test_contents_state.py"),
            "tests/live/test_contents_users.py",
            *("tests/live/test_contents_vdso.py", "tests/live/test_contents_clocks.py"),
            "tests/live/test_contents_programs.py::test_a_program_goes_on_from_where_it_was_dumped[sqlite, WAL]",
        ),
        seconds=1800,
    ),
)
