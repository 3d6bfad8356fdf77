# SPDX-License-Identifier: Apache-2.0
"""Restarts of dumps that were edited: states that this machine cannot dump, and hostile ones."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.live.apiclients import an_open_folder
from tests.live.dumps import dump, eventually, program, restarted
from tests.support.criuimages import changed

TOP = Path(__file__).parents[2]
NOBODY = 65534
COUNT = """
import time
while True:
    with open("lines", "a") as file:
        file.write("line\\n")
    time.sleep(0.01)
"""


class Edited(NamedTuple):
    """A dump of a process that appends to a file, and its pid."""

    folder: Path
    images: Path
    pid: int

    def edit(self, change: Callable[[Any], None]) -> None:
        """Change its core."""
        changed(self.images, f"core-{self.pid}.img", change)

    def grows(self) -> None:
        """Wait until its file is longer."""
        lines = self.folder / "lines"
        before = lines.stat().st_size
        eventually(lambda: lines.stat().st_size > before, "it writes on")


@pytest.fixture
def edited(daemon_socket: Path) -> Iterator[Edited]:
    """Dump the process, in a folder that others may enter."""
    with an_open_folder() as folder:
        folder.chmod(0o777)
        with program([sys.executable, "-c", COUNT], folder) as pid:
            eventually((folder / "lines").exists, "it writes")
            for name in ("lines", "out"):  # in this folder a user's process opens them with that user's rights
                (folder / name).chmod(0o666)
            images = dump(pid, folder / "images", daemon_socket)
        yield Edited(folder, images, pid)


def restart(edited: Edited) -> "subprocess.CompletedProcess[str]":
    """Restart it, and wait for its end."""
    return subprocess.run(
        [sys.executable, "-m", "agent", "restart", f"criu:{edited.images}", "--json"],
        cwd=TOP,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def as_user(core: Any) -> None:
    """Give a process the ids of nobody, and no rights."""
    creds = core.thread_core.creds
    for name in ("uid", "euid", "suid", "fsuid", "gid", "egid", "sgid", "fsgid"):
        setattr(creds, name, NOBODY)
    for name in ("cap_inh", "cap_prm", "cap_eff", "cap_amb", "groups"):
        creds.ClearField(name)


def test_a_user_restarts_a_process_of_its_own(edited: Edited) -> None:
    """In a user namespace. Helpers are programs that the user must reach, and images files that it may read."""
    edited.edit(as_user)
    only = "-all,+dac_read_search"  # for the images, and for Python's packages
    with an_open_folder() as folder:
        for package in ("agent", "exporters", "bpf"):
            shutil.copytree(TOP / package, folder / package)
        process = subprocess.Popen(
            [
                *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
                *(f"--inh-caps={only}", f"--ambient-caps={only}", f"--bounding-set={only}"),
                *(sys.executable, "-m", "agent", "restart", f"criu:{edited.images}", "--json"),
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline(), process.stderr.read()
            edited.grows()
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM, said


def test_a_user_without_rights_gets_no_more_than_it_had(edited: Edited) -> None:
    """Ids, groups, and no capability; it goes on within them."""

    def of_a_user(core: Any) -> None:
        creds = core.thread_core.creds
        creds.uid, creds.euid, creds.suid, creds.fsuid = 1234, 1235, 1236, 1237
        creds.gid, creds.egid, creds.sgid, creds.fsgid = 2234, 2235, 2236, 2237
        for name in ("cap_inh", "cap_prm", "cap_eff", "cap_amb", "groups"):
            creds.ClearField(name)
        creds.groups.extend([9, 99])

    edited.edit(of_a_user)
    with restarted(edited.images) as ready:
        edited.grows()
        lines = Path(f"/proc/{ready['root']}/status").read_text().splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    assert status["Uid"] == ["1234", "1235", "1236", "1237"]
    assert status["Gid"] == ["2234", "2235", "2236", "2237"]
    assert status["Groups"] == ["9", "99"]
    assert {int(status[name][0], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}


def test_an_instruction_of_the_kernel_ends_the_program_alone(edited: Edited) -> None:
    """The processor refuses to go on there."""
    edited.edit(lambda core: setattr(core.thread_info.gpregs, "ip", 0xFFFFFFFF81000000))

    assert restart(edited).returncode == 128 + signal.SIGSEGV


def test_thread_local_storage_of_the_kernel_is_refused(edited: Edited) -> None:
    """The kernel refuses such registers; the tree is taken down before anything has run."""
    edited.edit(lambda core: setattr(core.thread_info.gpregs, "fs_base", 0xFFFFFFFF81000000))
    before = (edited.folder / "lines").stat().st_size
    done = restart(edited)

    assert done.returncode == 125
    assert "its registers are refused: Input/output error" in done.stderr
    assert done.stdout == ""
    assert (edited.folder / "lines").stat().st_size == before


def test_a_pending_signal_ends_the_program_when_it_runs(edited: Edited) -> None:
    """Not before the ready line."""
    info = signal.SIGTERM.to_bytes(4, "little").ljust(128, b"\0")
    edited.edit(lambda core: core.tc.signals_s.signals.add(siginfo=info))
    done = restart(edited)

    assert done.returncode == 128 + signal.SIGTERM
    assert done.stdout
