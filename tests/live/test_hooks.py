# SPDX-License-Identifier: Apache-2.0
"""The hooks for birth and death that are second choice, where the first does not load."""

import pytest

from agent.capture.probes import Probes
from agent.capture.snapshots import Snapshots
from agent.capture.watch import Watch
from agent.config import Config
from agent.rootname import parse
from bpf import syscall
from bpf.hooks import FEATURES
from tests.live.compare import assert_matches
from tests.live.treeprog import Tree

TYPED = tuple(str(hook) for feature in FEATURES for way in feature.ways for hook in way if "typed" in hook.kind)
SCRIPT = (
    "fork 0 1 newpid; setsid 1; fork 1 2 newpid; thread 2 3; fork 3 4; fork 2 5; setsid 5; fork 5 6; exit 5; wait 2 5; "
    "fork 1 7; exit 7 3; fork 1 8; kill 8; wait 1 8; thread 1 9"
)


@pytest.mark.parametrize("without", [(), TYPED])
def test_either_way_to_announce_tells_the_same(without: tuple[str, ...]) -> None:
    """Births, deaths, threads and nested namespaces, all of them seen to happen."""
    watch = Watch.begin(Probes(Config().ring_bytes, without))
    snapshots = Snapshots(watch)
    try:
        with Tree() as tree:
            tree.run(SCRIPT)
            assert_matches(snapshots.take(snapshots.find(parse(str(tree.number(1))))), tree, 1)
        hooks = {hook for hooks in watch.probes.hooks.values() for hook in hooks}
    finally:
        watch.close()

    assert TYPED
    assert hooks.isdisjoint(without)
    assert {watch.probes.tried[hook] for hook in without} <= {"left out"}


def test_the_environment_leaves_hooks_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An administrator may suspect a hook, and the daemons of tests leave hooks out."""
    monkeypatch.setenv("CKPTREE_WITHOUT", " ".join((*TYPED, "pid.ino")))
    watch = Watch.begin(Probes(Config().ring_bytes))
    watch.close()

    assert {hook for hook, said in watch.probes.tried.items() if said == "left out"} >= set(TYPED)
    assert "pid.ino" in watch.probes.missing


def test_the_sum_of_skipped_runs_is_read_from_each_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardly any run is skipped, so another word of the same structure stands for their number: the program's id."""
    monkeypatch.setattr(syscall, "_RECURSION_MISSES_AT", 0)  # u32 type, u32 id
    probes = Probes(Config().ring_bytes)
    try:
        programs = [fd for name, fd in probes._descriptors.items() if name.startswith("program:")]
        words = [int.from_bytes(syscall._info(fd, 8), "little") for fd in programs]
        total = syscall.RecursionMisses(programs)

        assert len(set(words)) == len(programs) > 2
        assert [total() for _ in range(3)] == 3 * [sum(words)]
        assert syscall.RecursionMisses(())() == 0
    finally:
        probes.close()
