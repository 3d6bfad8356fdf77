# SPDX-License-Identifier: Apache-2.0
"""ckptree restart as a program: its line, its exit codes, its signals."""

import json
import os
import re
import signal
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from agent.model import CKPT_PID_ROOT
from agent.restart.rebuild.taskanswers import read_status
from exporters import registry
from tests.live.daemons import ckptree
from tests.live.rebuilds import free_number
from tests.live.rebuilds import is_gone as gone
from tests.live.restartverb import TOP, command, ran, running, soon
from tests.support.builders import a_snapshot, a_task


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a child that has a second thread, and a zombie."""
    tasks = [
        a_task(1, 0),
        a_task(2, 1),
        a_task(3, 1, tgid=2),
        a_task(4, 1, state="zombie", exit_code=3 << 8),
    ]
    snapshot = a_snapshot([(100,), (110,), (111,), (120,)], tasks)
    path = tmp_path_factory.mktemp("image") / "tree.ckpt"
    path.write_bytes(registry.image(snapshot, "ckpt"))
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_tree_that_holds_is_taken_down_by_a_signal_with_exit_code_0(image: Path, number: signal.Signals) -> None:
    """The line has one entry for each task, threads and zombies too, by tag, with pids as this process sees them."""
    with running(image) as (process, ready):
        pids = [task["pid"] for task in ready["tasks"]]
        assert [(task["tag"], task["numbers"]) for task in ready["tasks"]] == [
            *((1, [100]), (2, [110]), (3, [111]), (4, [120])),
        ]
        assert ready["root"] == pids[0]
        assert soon(lambda: read_status(pids[3]).state == "Z")  # type: ignore[union-attr]
        assert [read_status(pid).tgid for pid in pids] == [pids[0], pids[1], pids[1], pids[3]]  # type: ignore[union-attr]
        process.send_signal(number)

        assert process.wait(10) == 0
        assert all(gone(pid) for pid in pids)


def test_the_end_of_a_root_that_was_to_hold_is_a_failure(image: Path) -> None:
    """Another process has killed it."""
    with running(image) as (process, ready):
        time.sleep(0.2)
        os.kill(ready["root"], signal.SIGKILL)

        assert process.wait(10) == 1
        assert gone(ready["tasks"][1]["pid"])


def test_the_exit_status_of_a_command_is_that_of_the_root(image: Path) -> None:
    """By tag, each knows who it is; the others go with the root, in their namespace."""
    text = "sh -c 'test $CKPTREE_TAG = 1 && exit 7; sleep 100'"

    assert ran(image, "--run", text).returncode == 7


def test_a_signal_is_forwarded_and_its_death_told(image: Path) -> None:
    """128 and the signal, as shells have it."""
    with running(image, "--run", "sleep 100") as (process, ready):
        assert soon(lambda: Path(f"/proc/{ready['root']}/comm").read_text() == "sleep\n")
        time.sleep(0.1)
        process.send_signal(signal.SIGUSR1)

        assert process.wait(10) == 128 + signal.SIGUSR1


def test_a_second_sigterm_kills(image: Path) -> None:
    """The root ignores the first one."""
    text = "sh -c 'trap \"\" TERM; while :; do sleep 0.05; done'"
    with running(image, "--run", text) as (process, ready):
        assert soon(lambda: Path(f"/proc/{ready['root']}/comm").read_text() == "sh\n")
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)

        assert process.wait(10) == 128 + signal.SIGKILL
        assert all(gone(task["pid"]) for task in ready["tasks"])


def test_the_first_sigterm_says_that_an_init_may_ignore_it(tmp_path: Path) -> None:
    """A root below a reaper is no init: SIGTERM ends it."""
    for number, said, code in ((1, True, 128 + signal.SIGKILL), (100, False, 128 + signal.SIGTERM)):
        path = tmp_path / f"{number}.ckpt"
        path.write_bytes(registry.image(a_snapshot([(number,)], [a_task(1, 0)]), "ckpt"))
        with running(path, "--run", "sleep 100") as (process, ready):
            assert soon(lambda ready=ready: Path(f"/proc/{ready['root']}/comm").read_text() == "sleep\n")
            time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            told = (line for line in process.stderr if "which ignores it unless it has a handler; a second" in line)
            if said:
                assert next(told)
                assert process.poll() is None
                process.send_signal(signal.SIGTERM)
            assert process.wait(10) == code
            assert list(told) == []


def test_an_interrupt_that_ends_the_root_says_nothing(tmp_path: Path) -> None:
    """Of one that does not, a second SIGTERM is named as the way to end the tree."""
    path = tmp_path / "tree.ckpt"
    path.write_bytes(registry.image(a_snapshot([(100,)], [a_task(1, 0)]), "ckpt"))
    for words, ignored in (("sleep 100", False), ("sh -c 'trap \"\" INT; exec sleep 100'", True)):
        with running(path, "--run", words) as (process, ready):
            assert soon(lambda ready=ready: Path(f"/proc/{ready['root']}/comm").read_text() == "sleep\n")
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            told = (line for line in process.stderr if "a second SIGTERM to this process kills the tree" in line)
            if ignored:
                assert next(told)
                process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 128 + (signal.SIGTERM if ignored else signal.SIGINT)
            assert list(told) == []


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--detach",), 128 + signal.SIGTERM)])
def test_a_signal_before_a_tree_is_active_is_no_success_of_detach(
    image: Path, options: tuple[str, ...], code: int
) -> None:
    """No tree was left to a guard. The ready line goes into a pipe that is full, so the tree waits before it is active."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write, b"\n" * 512)
    os.set_blocking(write, True)
    process = subprocess.Popen(command(image, "--json", *options), cwd=TOP, stdout=write, start_new_session=True)
    try:
        assert soon(lambda: "pipe_write" in Path(f"/proc/{process.pid}/wchan").read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == code
    finally:
        process.kill()
        process.wait()
        os.close(read)
        os.close(write)


def test_own_failures_have_codes_of_their_own_unless_a_command_has_the_exit_code(image: Path, tmp_path: Path) -> None:
    """Then the code is 125, which differs from the command's codes. Wrong options always give 2."""
    bad = tmp_path / "bad"
    bad.write_bytes(b"no image")

    assert ran(bad).returncode == 8
    assert ran(bad, "--run", "true").returncode == 125
    assert ran(tmp_path / "none").returncode == 1
    assert ran(image, "--run", "no-such-program").returncode == 125
    assert ran(image, "--pidfile", tmp_path / "pid").returncode == 2
    assert ran(image, "--pidfile", tmp_path / "pid", "--run", "true").returncode == 2
    assert ran(image, "--run", "").returncode == 2
    refused = ran(image, "--run", "argv")
    assert (refused.returncode, "--with-argv" in refused.stderr) == (7, True)


def test_a_detached_tree_has_a_guard_that_a_signal_ends(image: Path, tmp_path: Path) -> None:
    """restart itself returns, and its output ends with it."""
    pidfile = tmp_path / "pid"
    done = ran(image, "--detach", "--pidfile", pidfile, "--json")
    ready = json.loads(done.stdout)
    guard = int(pidfile.read_text())

    assert done.returncode == 0
    assert not gone(ready["root"])
    assert Path(f"/proc/{guard}/comm").read_text() == "ckptree-rebuild\n"
    os.kill(guard, signal.SIGTERM)
    assert soon(lambda: gone(guard) and gone(ready["root"]))
    assert not pidfile.exists()


@pytest.mark.parametrize("space", [(), ("--no-pidns",), ("--no-pidns", "--no-pids")])
def test_a_detached_tree_outlives_the_group_and_session_of_its_caller(space: tuple[str, ...], tmp_path: Path) -> None:
    """The launching shell's group may be killed as a whole. The reaper stands between the guard and the root."""
    first = free_number()
    file, pidfile = tmp_path / "tree.ckpt", tmp_path / "pid"
    tasks = [a_task(1, 0, pgid=1, sid=1), a_task(2, 1, pgid=1, sid=1)]
    file.write_bytes(registry.image(a_snapshot([(first,), (first + 1,)], tasks), "ckpt"))
    words = command(file, *space, "--detach", "--pidfile", pidfile, "--json")
    shell = subprocess.Popen(
        ["sh", "-c", '"$@"; echo; exec sleep 1000', "sh", *words],
        cwd=TOP, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert shell.stdout is not None
    ready = json.loads(shell.stdout.readline())
    assert shell.stdout.readline() == "\n"
    guard, pids = int(pidfile.read_text()), [task["pid"] for task in ready["tasks"]]
    reaper = read_status(pids[0]).ppid  # type: ignore[union-attr]
    assert read_status(reaper).ppid == guard  # type: ignore[union-attr]
    assert shell.pid not in {os.getsid(reaper), os.getpgid(reaper)}
    os.killpg(shell.pid, signal.SIGKILL)
    shell.communicate()
    time.sleep(0.3)

    assert not any(gone(pid) for pid in (guard, reaper, *pids))
    os.kill(guard, signal.SIGTERM)
    assert soon(lambda: all(gone(pid) for pid in (guard, reaper, *pids)))


def test_a_guard_removes_its_pid_file_and_no_other_ones(image: Path, tmp_path: Path) -> None:
    """It does so too if the root ends by itself. It removes a link's target, but no file with another pid."""
    own, link, changed = (tmp_path / name for name in ("own", "link", "changed"))
    link.symlink_to(own)
    for file in (link, changed):
        done = ran(image, "--detach", "--pidfile", file, "--run", "sleep 1000", "--json")
        guard, root = int(file.read_text()), json.loads(done.stdout)["root"]
        if file is changed:
            changed.write_text(f"{guard}0\n")
        os.kill(root, signal.SIGKILL)
        assert soon(lambda guard=guard: gone(guard))

    assert not own.exists()
    assert changed.exists()


@pytest.mark.parametrize("name", ["pid", "other"])
def test_a_guard_removes_its_pid_file_in_the_folder_where_that_was_written(
    image: Path, tmp_path: Path, name: str
) -> None:
    """Another folder that has got the path since keeps its file, even one with the guard's pid."""
    folder, moved = tmp_path / "folder", tmp_path / "moved"
    folder.mkdir()
    ran(image, "--detach", "--pidfile", folder / "pid")
    guard = int((folder / "pid").read_text())
    folder.rename(moved)
    folder.mkdir()
    (folder / name).write_text(f"{guard}\n")
    os.kill(guard, signal.SIGTERM)
    assert soon(lambda: gone(guard))

    assert os.listdir(moved) == []
    assert os.listdir(folder) == [name]


def test_a_snapshot_from_standard_input_is_rebuilt_here_with_any_numbers(image: Path) -> None:
    """The line has the numbers that they got."""
    with image.open("rb") as file:
        words = command("-", "--no-pids", "--no-pidns", "--json")
        process = subprocess.Popen(words, cwd=TOP, stdin=file, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    process.terminate()

    assert process.wait(10) == 0
    process.stdout.close()
    assert all(task["numbers"] == [task["pid"]] for task in ready["tasks"])
    assert all(gone(task["pid"]) for task in ready["tasks"])


def test_a_pid_file_is_no_device_and_belongs_to_one_tree(image: Path, tmp_path: Path) -> None:
    """A device stays one. A second tree does not take the file of the first. No tree is built that must end at once."""
    device = tmp_path / "full"
    os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, 7))
    refused = ran(image, "--detach", "--pidfile", device)
    nowhere = ran(image, "--detach", "--pidfile", tmp_path / "none" / "pid")

    assert (refused.returncode, nowhere.returncode) == (1, 1)
    assert "No space left" in refused.stderr
    assert stat.S_ISCHR(device.stat().st_mode)
    assert "is no folder" in nowhere.stderr
    assert "tasks stand" not in nowhere.stderr

    file = tmp_path / "guard.pid"
    first = ran(image, "--detach", "--pidfile", file)
    guard = int(file.read_text())
    second = ran(image, "--detach", "--pidfile", file)
    os.kill(guard, signal.SIGTERM)

    assert (first.returncode, second.returncode) == (0, 1)
    assert f"guard, {guard}" in first.stderr
    assert f"names the guard {guard} of a tree that stands" in second.stderr
    assert soon(lambda: gone(guard))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_with_any_numbers_the_mapping_is_told(image: Path, tmp_path: Path) -> None:
    """One line for each task: its tag, what it was, what it is now, and the pid as the caller sees it."""
    file = tmp_path / "guard.pid"
    done = ran(image, "--no-pids", "--detach", "--pidfile", file)
    os.kill(int(file.read_text()), signal.SIGTERM)
    lines = re.findall(r"tag (\d+): (\d+) is now \d+, pid \d+", done.stderr)

    assert done.returncode == 0
    assert lines == [("1", "100"), ("2", "110"), ("3", "111"), ("4", "120")]


def test_a_tree_with_any_numbers_is_compared_with_its_image_by_the_line_that_restart_prints(
    image: Path, tmp_path: Path, daemon_socket: Path
) -> None:
    """The ready line is the map."""
    with subprocess.Popen(
        command("--no-pids", "--no-pidns", "--json", image), cwd=TOP, stdout=subprocess.PIPE
    ) as restart:
        assert restart.stdout
        ready = restart.stdout.readline()
        (tmp_path / "map").write_bytes(ready)
        root, again = json.loads(ready)["root"], tmp_path / "again.ckpt"
        taken = ckptree("snapshot", str(root), "--mode", "subtree", "--socket", daemon_socket, "-o", again)
        by_map = ckptree("diff", image, again, "--map", tmp_path / "map")
        without = ckptree("diff", image, again)
        restart.send_signal(signal.SIGTERM)

    assert taken.code == 0, taken.err
    assert (by_map.code, without.code) == (0, 1), by_map.out.decode()


@pytest.mark.parametrize("pgid", [0, CKPT_PID_ROOT])
def test_a_tree_that_inherited_a_session_of_its_namespace_inherits_one_also_where_the_shell_has_none(
    pgid: int, tmp_path: Path
) -> None:
    """In a container whose session is the host's, the number of that is 0."""
    tasks = [a_task(1, 0, sid=CKPT_PID_ROOT, pgid=pgid), a_task(2, 1, sid=CKPT_PID_ROOT, pgid=pgid)]
    path = tmp_path / "tree.ckpt"
    path.write_bytes(registry.image(a_snapshot([(1000,), (1001,)], tasks), "ckpt"))
    inside = ["unshare", "--pid", "--fork", "--mount-proc", *command("--no-pidns", "--run", "true", path)]

    done = subprocess.run(inside, cwd=TOP, capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 0, done.stderr
