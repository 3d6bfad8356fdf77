# SPDX-License-Identifier: Apache-2.0
"""The state of threads and processes after a dump by CRIU and a restart: each program tells its own."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.dumps import dump, eventually, program, restarted
from tests.support.criuimages import changed

SOURCES = [
    Path(__file__).with_name(name) for name in ("statekeeper.c", "keepregisters.c", "keepprocess.c", "keepsignals.c")
]


@pytest.fixture(scope="module")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the program."""
    path = tmp_path_factory.mktemp("keeper") / "statekeeper"
    subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", path, *SOURCES], check=True)
    return path


def told(keeper: Path, mode: str, folder: Path, socket: Path | None) -> tuple[str, str]:
    """Return what a program in a mode tells before and after.

    Args:
        keeper: path of the program.
        mode: its state.
        folder: a new folder for its files.
        socket: of a daemon, for a dump and a restart in between; None: it runs on undisturbed.
    """
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)  # some modes give up root's rights
    after = folder / "after"
    with program([keeper, mode], folder) as pid:
        eventually((folder / "ready").exists, f"{mode}: it is ready: {(folder / 'out').read_text()}")
        if socket is None:
            (folder / "go").touch()
            eventually(after.exists, f"{mode}: it tells its state")
            return (folder / "before").read_text() if (folder / "before").exists() else "", after.read_text()
        images = dump(pid, folder.with_name(f"{mode}.images"), socket)
    with restarted(images):
        (folder / "go").touch()
        eventually(after.exists, f"{mode}: it tells its state")
    return (folder / "before").read_text() if (folder / "before").exists() else "", after.read_text()


@pytest.mark.parametrize(
    "mode", ["registers", "process", "capabilities", "filters", "filters-apart", "timers", "rooted"]
)
def test_a_program_tells_the_same_state_as_before(keeper: Path, mode: str, tmp_path: Path, daemon_socket: Path) -> None:
    """Registers of every size in three threads; ids, capabilities, limits, actions, scheduling; filters; timers."""
    before, after = told(keeper, mode, tmp_path / mode, daemon_socket)

    assert after == before


@pytest.mark.parametrize(
    "mode", ["signals", "handler", "disarming", "calls", "strict", "robust", "family", "sequence", "sleeping"]
)
def test_a_program_tells_what_it_would_have_told_without_a_dump(
    keeper: Path, mode: str, tmp_path: Path, daemon_socket: Path
) -> None:
    """Queued signals; a handler on its own stack; interrupted calls; strict seccomp; robust mutexes; a family."""
    expected = told(keeper, mode, tmp_path / "undisturbed", None)
    found = told(keeper, mode, tmp_path / mode, daemon_socket)

    assert found == expected
    assert found[1]


def test_a_sleep_that_was_interrupted_before_the_dump_goes_on(
    keeper: Path, tmp_path: Path, daemon_socket: Path
) -> None:
    """The kernel goes on with it by another call, as after `criu pre-dump`; its number is known by the code alone."""
    with program([keeper, "sleeping"], tmp_path) as pid:
        eventually((tmp_path / "ready").exists, "it is ready")
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: _state(pid) == "T", "it is stopped")
        os.kill(pid, signal.SIGCONT)
        eventually(lambda: _state(pid) == "S", "it sleeps on")
        images = dump(pid, tmp_path.with_name(f"{tmp_path.name}.images"), daemon_socket)
    with restarted(images):
        eventually((tmp_path / "after").exists, "it has slept")
    assert (tmp_path / "after").read_text() == "nanosleep: 0, Success\n"


BY_REGISTER = """
import ctypes, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.argtypes = [ctypes.c_long] * 7
seconds = (ctypes.c_long * 2)(2, 0)
rest = (ctypes.c_long * 2)()
word, polled = (ctypes.c_int * 2)(5, 0), (ctypes.c_int * 2)(-1, 0)
time_at, rest_at, word_at, polled_at = (ctypes.addressof(each) for each in (seconds, rest, word, polled))
calls = {
    "clock_nanosleep": (230, 1, 0, time_at, rest_at, 0, 0),
    "poll": (7, polled_at, 1, 2000, 0, 0, 0),
    "futex": (202, word_at, 128, 5, time_at, 0, 0),
}
open("ready", "w").close()
begun = time.monotonic()
answer = libc.syscall(*calls[sys.argv[1]]), ctypes.get_errno()
with open("telling", "w") as file:
    print(*answer, time.monotonic() - begun >= 1.9, file=file)
import os
os.rename("telling", "after")
time.sleep(100)
"""


@pytest.mark.parametrize(
    ("name", "answer"), [("clock_nanosleep", "0 0"), ("poll", "0 0"), ("futex", f"-1 {errno.ETIMEDOUT}")]
)
def test_a_call_whose_number_was_in_a_register_alone_goes_on(
    name: str, answer: str, tmp_path: Path, daemon_socket: Path
) -> None:
    """It was interrupted before the dump, so the kernel does not tell which one it was; its arguments do."""
    with program([sys.executable, "-c", BY_REGISTER, name], tmp_path) as pid:
        eventually((tmp_path / "ready").exists, "it is ready")
        eventually(lambda: _state(pid) == "S", "it waits")
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: _state(pid) == "T", "it is stopped")
        os.kill(pid, signal.SIGCONT)
        eventually(lambda: _state(pid) == "S", "it waits on")
        assert Path(f"/proc/{pid}/syscall").read_text().split()[0] == "219"  # restart_syscall()
        images = dump(pid, tmp_path / "images", daemon_socket)
    with restarted(images):
        eventually((tmp_path / "after").exists, "it has waited")
    assert (tmp_path / "after").read_text() == f"{answer} True\n"


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP])
def test_a_stopped_process_is_stopped(
    keeper: Path, tmp_path: Path, daemon_socket: Path, number: signal.Signals
) -> None:
    """All its threads stand, SIGCONT lets them go on. Its group is an orphaned one, which SIGTSTP would not stop."""
    with program([keeper, "robust"], tmp_path) as pid:
        eventually((tmp_path / "ready").exists, "it is ready")
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: _state(pid) == "T", "it is stopped")
        images = dump(pid, tmp_path.with_name(f"{tmp_path.name}.images"), daemon_socket)
    changed(images, f"core-{pid}.img", lambda core: setattr(core.tc, "stop_signo", number))
    (tmp_path / "go").touch()
    with restarted(images) as ready:
        root = int(ready["root"])
        tasks = [int(task.name) for task in Path(f"/proc/{root}/task").iterdir()]
        eventually(lambda: {_state(root, tid) for tid in tasks} == {"T"}, "all its threads are stopped")
        assert len(tasks) == 2
        assert not (tmp_path / "after").exists()
        os.kill(root, signal.SIGCONT)
        eventually((tmp_path / "after").exists, "it goes on")


TRAPPED = """
import os, signal, time
seen = []
signal.signal(signal.SIGTRAP, lambda *_: seen.append("handled"))
open("ready", "w").close()
while not os.path.exists("go"):
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGTRAP)
time.sleep(0.01)
with open("telling", "w") as file:
    print(*seen, file=file)
os.rename("telling", "after")
time.sleep(100)
"""


def test_the_handler_of_sigtrap_survives_the_tracer(tmp_path: Path, daemon_socket: Path) -> None:
    """A kernel that forces this signal on a thread that blocks it takes its handler away."""
    with program([sys.executable, "-c", TRAPPED], tmp_path) as pid:
        eventually((tmp_path / "ready").exists, "it is ready")
        images = dump(pid, tmp_path / "images", daemon_socket)
    (tmp_path / "go").touch()
    with restarted(images):
        eventually((tmp_path / "after").exists, "it goes on after its SIGTRAP")
    assert (tmp_path / "after").read_text() == "handled\n"


def _state(pid: int, tid: int = 0) -> str:
    return Path(f"/proc/{pid}/task/{tid or pid}/stat").read_text().rpartition(")")[2].split()[0]
