# SPDX-License-Identifier: Apache-2.0
"""Trees of random programs on a simulated kernel: their images never have errors."""

from hypothesis import given
from hypothesis import strategies as st

from agent.errors import RefusedError
from agent.model import Dialect, Mode, Snapshot
from agent.selection.select import resolve_mode, select
from agent.table.objects import TaskStruct
from exporters.checking.check import check
from exporters.content.findings import Finding
from exporters.image import checkpoint
from tests.support.builders import A_HEADER, A_TIME_NS
from tests.support.examples import unexplained
from tests.support.programs import PROGRAMS, Step, played


def captured(root: TaskStruct, mode: Mode) -> Snapshot | None:
    """Return the image of a capture at that root; None if the capture fails because of a leak."""
    try:
        made = select(root, mode, first_tag=1, without_entered=True)
    except RefusedError:
        return None
    return Snapshot(
        mode,
        A_TIME_NS,
        made.pids,
        made.tasks,
        made.namespaces,
        made.ancestors,
        made.squashed,
        made.entered,
        header=A_HEADER,
    )


def errors(snapshot: Snapshot, dialect: Dialect) -> list[Finding]:
    """Return the findings about the image, without warnings."""
    return [found for found in check(checkpoint.dumps(snapshot, dialect)) if found.severity == "error"]


@given(PROGRAMS, st.sampled_from(["seed", "v23"]))
@unexplained
def test_no_tree_of_a_kernel_is_an_error(program: list[Step], dialect: Dialect) -> None:
    """This holds for any captured root, with all its namespaces, ghosts, zombies and adopted tasks, in either
    dialect."""
    pair = played(program, pid_max=60)
    for thread in [thread for thread in pair.kernel.threads if thread.leads]:
        root = pair.table.task(thread.tid)
        if root is None:
            continue  # another test compares the table with the kernel
        modes: set[Mode] = {"subtree", resolve_mode(root, "auto")}
        for mode in modes:
            snapshot = captured(root, mode)
            if snapshot:
                assert errors(snapshot, dialect) == []
