# SPDX-License-Identifier: Apache-2.0
"""Trees rebuilt in the caller's own pid namespace: containers, with any numbers; and what an ordinary user may have."""

import os
import signal
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.model import Snapshot
from agent.restart.planning import guest
from agent.restart.planning.search import make_plan
from exporters import registry
from tests.live.compare import Capture
from tests.live.rebuilds import assert_gone, free_number, status, verified
from tests.live.restartverb import TOP, command, ran, running, soon
from tests.live.scenarios import SCENARIOS
from tests.live.treeprog import Tree
from tests.support import usernamespace
from tests.support.builders import a_snapshot, a_task

LARGE = {"two_hundred_tasks", "four_hundred_nested", "six_hundred_pids"}
"""Scenarios that are about their size, which is the same everywhere."""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def again_here(capture: Capture, snapshot: Snapshot) -> tuple[Snapshot, dict[int, int]]:
    """The tree rebuilt here, compared with /proc, and captured; and which of its tags is which of the snapshot's."""
    plan = make_plan(snapshot, pidns=False)
    with verified(snapshot, plan, pidns=False, any_numbers=True) as rebuild:
        made = capture(rebuild.pids[plan.tasks[0]], "subtree")
    assert_gone([*rebuild.pids, rebuild.guard])
    tags = {numbers[0]: actor.tag for actor, numbers in zip(plan.actors, rebuild.numbers, strict=True)}
    return made, {tag: tags[pid.numbers[0]] for tag, pid in enumerate(made.pids, made.first_tag)}


def rows(snapshot: Snapshot, tag_of: dict[int, int]) -> dict[int, tuple[object, ...]]:
    """Return the fields of each task of an image, with ids as tags of another image."""

    def tags(one: tuple[int, ...]) -> Iterator[int]:
        return (tag_of[tag] if tag > 0 else tag for tag in one)

    return {
        tag_of[task.pid]: (
            *tags(task[:5]),
            *(task.depth, task.state, None if task.exit_code is None else task.exit_code & ~0x80, task.subreaper),
        )
        for task in snapshot.tasks
    }


@pytest.mark.parametrize("name", SCENARIOS.keys() - LARGE)
def test_a_tree_comes_again_here_and_a_root_that_was_an_init_is_a_subreaper(name: str, capture: Capture) -> None:
    """All but the numbers is as it was, in the namespaces inside, too."""
    with Tree() as tree:
        target = SCENARIOS[name](tree)
        snapshot = capture(tree.number(target.root), "subtree" if target.leaks else target.mode)
    expected = guest.as_guest(snapshot) if guest.is_init(snapshot) else snapshot
    made, tag_of = again_here(capture, expected)

    assert rows(made, tag_of) == rows(expected, {tag: tag for tag in tag_of.values()})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A container with another one inside, and a subtree without."""
    nested = [a_task(1, 0), a_task(2, 1), a_task(3, 1, depth=1), a_task(4, 3, depth=1)]
    flat = [a_task(1, 0), a_task(2, 1)]
    folder = tmp_path_factory.mktemp("images")
    found = {}
    first = free_number(21)
    for name, snapshot in {
        "nested": a_snapshot([(1,), (20,), (30, 1), (31, 2)], nested, mode="container"),
        "flat": a_snapshot([(first,), (first + 20,)], flat),
    }.items():
        found[name] = folder / f"{name}.ckpt"
        found[name].write_bytes(registry.image(snapshot, "ckpt"))
    return found


def test_a_container_with_its_own_numbers_is_refused_here_with_what_else_there_is(images: dict[str, Path]) -> None:
    """The caller's namespace has an init already; the rebuild does not begin."""
    done = ran(images["nested"], "--no-pidns")

    assert done.returncode == 7
    assert "the number 1 is taken by the init of the caller's namespace: take any numbers with --no-pids" in done.stderr
    assert "stand" not in done.stderr


def test_the_root_of_a_container_adopts_orphans_here_and_its_end_is_that_of_all(
    images: dict[str, Path], tmp_path: Path
) -> None:
    """The root adopts orphans as the init that it was; restart prints the differences, and the new numbers."""
    file = tmp_path / "orphan"
    orphan = f"(sleep 100 & echo $! > {file}.new; mv {file}.new {file})"
    text = f"sh -c 'test $CKPTREE_TAG = 2 && {orphan}; test $CKPTREE_TAG = 1 && trap \"exit 7\" TERM; sleep 100 & wait'"
    with running(images["nested"], "--no-pidns", "--no-pids", "--run", text) as (process, ready):
        assert process.stderr is not None
        told = process.stderr.readline()
        assert soon(file.exists)
        number = int(file.read_text())
        pids = [task["pid"] for task in ready["tasks"]]

        assert guest.NOTE in told
        assert status(number).ppid == ready["root"] == pids[0]
        assert [task["numbers"][0] for task in ready["tasks"]] == pids
        assert [task["numbers"][1:] for task in ready["tasks"]] == [[], [], [1], [2]]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 7
    assert_gone([*pids, number])


@pytest.mark.parametrize(
    ("before", "allowed"),
    [((), False), (("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"), True)],
    ids=["another's pid namespace", "its own"],
)
def test_root_of_a_user_namespace_has_the_numbers_of_its_own_pid_namespaces_alone(
    images: dict[str, Path], before: tuple[str, ...], *, allowed: bool
) -> None:
    """It has all capabilities, and over the numbers of another user namespace none of them holds."""
    words = [*usernamespace.WORDS, *before, *command(images["flat"], "--no-pidns", "--run", "true")]
    done = subprocess.run(
        words, cwd=TOP, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == (0 if allowed else 125), done.stderr
    assert ("rights over this pid namespace, which is another user namespace's" in done.stderr) != allowed
    assert "step" not in done.stderr


@pytest.fixture
def as_nobody(images: dict[str, Path]) -> Iterator[Run]:
    """The verb as an ordinary user has it, who may not look to where the checkout is."""
    script = """
        mount --bind "$1" code && mount --bind "$2" packages && shift 2 && PYTHONPATH=$PWD/packages && export PYTHONPATH &&
        cd code && exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all "$@"
    """
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        for each in ("code", "packages"):
            Path(name, each).mkdir()

        def run(image: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
            words = ["unshare", "--mount", "sh", "-c", script, "sh", os.fspath(TOP), sysconfig.get_path("purelib")]
            words += ["/usr/bin/python3", *command("-", *arguments)[1:]]
            with images[image].open("rb") as file:
                return subprocess.run(
                    words, cwd=name, stdin=file, capture_output=True, text=True, timeout=30, check=False
                )

        yield run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nested", "--no-pidns", "--no-pids"), "the tree has pid namespaces of its own, which takes CAP_SYS_ADMIN"),
        (("flat", "--no-pidns"), "to choose numbers here takes CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE"),
    ],
)
def test_what_an_ordinary_user_may_not_have_here_is_refused_before_anything_is_made(
    arguments: tuple[str, ...], said: str, as_nobody: Run
) -> None:
    """With what to do."""
    done = as_nobody(*arguments, "--run", "true")

    assert said in done.stderr
    assert "leave out --no-pidns" in done.stderr
    assert done.returncode == 125


def test_an_ordinary_user_has_nested_namespaces_within_a_user_namespace(as_nobody: Run) -> None:
    """Numbers too."""
    done = as_nobody("nested", "--run", "sh -c 'echo $CKPTREE_NUMBERS; sleep 0.2'")
    if "a user namespace for the tree is refused" in done.stderr:
        pytest.skip("this host lets nobody but root have a user namespace")

    assert (done.returncode, sorted(done.stdout.split())) == (0, ["1", "20", "30,1", "31,2"])
