# SPDX-License-Identifier: Apache-2.0
"""A root that has changed its ids: the kernel forgets that it is to die with the guard, and a second process sees to it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from exporters import registry
from tests.live.guardprocesses import guards, kill_session, left_over
from tests.live.rebuilds import assert_gone, is_gone
from tests.live.restartverb import TOP, command, ran, running, soon
from tests.support.builders import a_snapshot, a_task

OTHER_IDS = ("--run", "setpriv --reuid 65534 --clear-groups sleep 78")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A container of one process."""
    path = tmp_path / "tree.ckpt"
    path.write_bytes(registry.image(a_snapshot([(1,)], [a_task(1, 0)], mode="container"), "ckpt"))
    return path


def changed(pid: int) -> bool:
    """It has other ids, and runs."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text() == "sleep\n" and Path(f"/proc/{pid}").stat().st_uid == 65534
    return False


def watcher(guard: int) -> int:
    """The child of the guard that is none of the tree, once it watches: it is made early, but may be slow to run."""
    found: list[int] = []

    def watches() -> bool:
        for pid in guards(guard):
            with suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text() == "ckptree-watcher\n":
                    found.append(pid)
        return bool(found)

    assert soon(watches)
    return found[0]


def root_of(guard: int) -> int:
    """Its other child, once that has changed its ids."""
    assert soon(lambda: any(changed(pid) for pid in guards(guard)))
    return next(pid for pid in guards(guard) if changed(pid))


@contextmanager
def cleared(*pids: int) -> Iterator[None]:
    """Kill the rest at the end, also after a test that fails."""
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def kill_alone(guard: int) -> None:
    """By its pid."""
    os.kill(guard, signal.SIGKILL)


def kill_its_group(guard: int) -> None:
    """All that is in it."""
    os.killpg(guard, signal.SIGKILL)


def kill_its_session(guard: int) -> None:
    """All that is in it, one after the other."""
    kill_session(guard)


def kill_watcher_and_later_the_guard(guard: int) -> None:
    """It gets another one."""
    first = watcher(guard)
    os.kill(first, signal.SIGKILL)
    assert soon(lambda: watcher(guard) != first)
    os.kill(guard, signal.SIGKILL)


@pytest.mark.parametrize("end", [kill_alone, kill_its_group, kill_its_session, kill_watcher_and_later_the_guard])
def test_a_detached_tree_whose_root_has_changed_its_ids_ends_with_its_guard(
    end: Callable[[int], None], image: Path, tmp_path: Path
) -> None:
    """By a second process, which is in no group or session of the guard's."""
    others = left_over(set())
    file = tmp_path / "pid"
    done = ran(image, *OTHER_IDS, "--detach", "--pidfile", file)
    assert done.returncode == 0, done.stderr
    guard = int(file.read_text())
    root = root_of(guard)
    with cleared(root):
        assert watcher(guard)
        end(guard)

        assert_gone([guard, root])
        assert soon(lambda: not left_over(others))


def test_a_restart_whose_guard_is_killed_says_that_the_tree_is_gone_when_it_is(image: Path) -> None:
    """The root has changed its ids, and the watcher is gone: the coordinator ends the root."""
    process = subprocess.Popen(command(image, *OTHER_IDS), cwd=TOP, stderr=subprocess.PIPE, text=True)
    assert soon(lambda: guards(process.pid), within=20)
    guard = guards(process.pid)[0]
    root = root_of(guard)
    with cleared(root, process.pid):
        found = watcher(guard)
        os.kill(guard, signal.SIGSTOP)
        os.kill(found, signal.SIGKILL)
        os.kill(guard, signal.SIGKILL)
        told = process.communicate(timeout=20)[1]

        assert is_gone(root)
        assert "the guard of the tree was killed, and the tree with it" in told
        assert process.returncode == 125


@pytest.mark.parametrize("both", [True, False], ids=["guard and restart", "guard"])
def test_nothing_is_left_of_a_root_that_has_changed_its_ids(*, both: bool, image: Path) -> None:
    """If restart is killed as well, the watcher ends the tree."""
    others = left_over(set())
    with running(image, *OTHER_IDS) as (process, ready):
        guard = guards(process.pid)[0]
        root = root_of(guard)
        assert root == ready["root"]
        with cleared(root):
            if both:
                os.kill(process.pid, signal.SIGSTOP)
            os.kill(guard, signal.SIGKILL)
            if both:
                process.kill()

            assert_gone([guard, root])
            assert soon(lambda: not left_over(others))


def test_the_watcher_holds_nothing_that_others_wait_for_and_ends_with_the_tree(image: Path) -> None:
    """Its descriptors are the two that it watches; SIGTERM does not reach it."""
    with running(image, *OTHER_IDS) as (process, ready):
        guard = guards(process.pid)[0]
        assert root_of(guard) == ready["root"]  # it runs: a kill before that would have made the restart fail
        found = watcher(guard)
        links = [os.readlink(each) for each in Path(f"/proc/{found}/fd").iterdir()]
        assert len(links) == 2
        assert all("pidfd" in link for link in links), links
        os.kill(found, signal.SIGTERM)
        os.kill(found, signal.SIGSTOP)
        os.kill(ready["root"], signal.SIGTERM)
        os.kill(ready["root"], signal.SIGKILL)

        assert process.wait(20) == 128 + signal.SIGKILL
        assert_gone([guard, found, ready["root"]])


def test_a_signal_for_the_group_of_restart_ends_the_root_and_its_status_is_told() -> None:
    """As `timeout` sends it: the process above the root is of that group, and goes on."""
    image = registry.image(a_snapshot([(1,)], [a_task(1, 0)]), "ckpt")
    words = ("restart", "-", "--no-pids", "--no-pidns", "--run", "sleep 79")
    begun = [sys.executable, "-m", "agent", *words]
    process = subprocess.Popen(begun, cwd=TOP, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    assert process.stdin
    process.stdin.write(image)
    process.stdin.close()

    def sleeps() -> bool:
        below = [process.pid]
        for pid in below:
            with suppress(OSError):
                below += guards(pid)
        return any(Path(f"/proc/{pid}/comm").read_text() == "sleep\n" for pid in below)

    assert soon(sleeps, within=20)
    os.killpg(process.pid, signal.SIGTERM)

    assert process.wait(20) == 128 + signal.SIGTERM
