# SPDX-License-Identifier: Apache-2.0
"""Folders of a store on this host: they are there for a verb, and gone after it, however it ends."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from agent.errors import CkptreeError
from agent.fleet.stores import address, errand, keptfolder
from agent.fleet.stores.keptfolder import KeptFolder, remove_left
from agent.fleet.stores.natsstore import NatsStore
from agent.record import replace
from tests.support import servers

pytestmark = pytest.mark.slow
PLACE = address.parse("nats://dumps/web")
PATIENCE_S = 60.0
KEEPS = """
from agent.fleet.stores import address
from agent.fleet.stores.keptfolder import KeptFolder
kept = KeptFolder(address.parse("nats://dumps/web"), None)
print(kept.path, flush=True)
input()
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a server that has a folder; return its address."""
    folder = tmp_path_factory.mktemp("nats")
    dump = folder / "dump"
    dump.mkdir()
    (dump / "pstree.img").write_bytes(b"tree")
    with servers.nats(folder / "data") as server:
        found = f"nats://{server.address}"
        with NatsStore(found, "dumps") as bucket:
            bucket.make_bucket()
        errand.store_folder(PLACE, found, dump)
        yield found


@pytest.fixture(autouse=True)
def kept_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which folders are kept."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@contextmanager
def keeping(url: str) -> Iterator[tuple["subprocess.Popen[str]", psutil.Process, Path]]:
    """Run a process that has fetched the folder; yield it, the process that keeps the folder, and its path."""
    words = [sys.executable, "-c", KEEPS]
    environment = {**os.environ, "CKPTREE_NATS": url}
    with subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            path = Path(process.stdout.readline().rstrip())
            (keeper,) = psutil.Process(process.pid).children()
            yield process, keeper, path
        finally:
            process.kill()


def eventually(true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    until = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_folder_is_there_for_this_user_alone_until_it_is_closed(url: str, kept_in: Path) -> None:
    """It is gone when the call returns; a second call changes nothing."""
    kept = KeptFolder(PLACE, url)
    assert (kept.path / "pstree.img").read_bytes() == b"tree"
    assert stat.S_IMODE(kept.path.parent.stat().st_mode) == 0o700
    assert kept.path.parent.parent == kept_in
    kept.close()
    kept.close()
    assert os.listdir(kept_in) == []


def test_a_folder_that_cannot_be_fetched_leaves_nothing(url: str, kept_in: Path) -> None:
    """The error is that of the store."""
    with pytest.raises(CkptreeError, match="there is no object nats://dumps/none"):
        KeptFolder(replace(PLACE, name="none"), url)
    assert os.listdir(kept_in) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_folder_is_gone_after_a_process_that_a_signal_ends(url: str, kept_in: Path, number: signal.Signals) -> None:
    """The process that keeps it outlives the other one for as long as that takes."""
    with keeping(url) as (process, _, path):
        assert (path / "pstree.img").exists()
        process.send_signal(number)
        assert process.wait(PATIENCE_S) != 0
        eventually(lambda: os.listdir(kept_in) == [])


def test_the_signals_of_a_terminal_do_not_reach_the_keeper(url: str) -> None:
    """It has a session of its own, and takes no signal that asks for an end."""
    with keeping(url) as (_, keeper, path):
        assert os.getsid(keeper.pid) == keeper.pid
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            keeper.send_signal(number)
        assert (path / "pstree.img").exists()


def test_a_folder_whose_keeper_was_killed_is_removed_by_the_verb(url: str, kept_in: Path) -> None:
    """Nobody else takes it away before."""
    kept = KeptFolder(PLACE, url)
    kept._keeper.kill()
    kept._keeper.wait()
    assert remove_left() == []
    assert (kept.path / "pstree.img").exists()
    kept.close()
    assert os.listdir(kept_in) == []


def test_a_folder_whose_processes_were_killed_is_removed_by_the_next(url: str, kept_in: Path) -> None:
    """One that is in use stays, and so does what only has such a name."""
    (kept_in / f"{keptfolder.PREFIX}file").write_bytes(b"")
    used = KeptFolder(PLACE, url)
    with keeping(url) as (process, keeper, path):
        keeper.kill()
        process.kill()
        process.wait()
        assert path.exists()
        eventually(lambda: path.parent in remove_left())
    assert not path.parent.exists()
    assert used.path.exists()
    used.close()
    assert os.listdir(kept_in) == [f"{keptfolder.PREFIX}file"]


def test_a_folder_of_another_user_is_left_alone(kept_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is a name that anybody may give."""
    other = kept_in / f"{keptfolder.PREFIX}other"
    other.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert remove_left() == []
    assert other.exists()


def test_a_place_without_a_folder_for_it_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how to name another one."""
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    with pytest.raises(CkptreeError, match=r"cannot make a folder in /nonexistent: .* TMPDIR names another"):
        KeptFolder(PLACE, url)
