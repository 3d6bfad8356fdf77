# SPDX-License-Identifier: Apache-2.0
"""The memory of the command that restarts a tree with contents: it depends little on what the tree has."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.live.dumps import eventually
from tests.live.standing import dumped

FAMILY = """
SIZE = 1 << 20
data = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
name = "0"
for number in range(1, {count}):
    if not os.fork():
        name = str(number)
        break
data[:] = name.encode().ljust(8) * (SIZE // 8)
stand(name, os.getpid)
"""
PIECES = """
SIZE = 128 << 20
data = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
data.madvise(mmap.MADV_NOHUGEPAGE)
for at in range(0, SIZE, 2 * PAGE):
    data[at] = 1
stand("one", os.getpid)
"""
MEASURE = """
import os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
print(usage.ru_maxrss)
sys.exit(status != 0)
"""
"""A command between the test and the measured one: the kernel counts the memory of the process that starts it, too."""
ENOUGH = 60
MOST_OF_PROCESS_KIB = 160
MOST_OF_PIECES_KIB = 6 << 10


def peak_kib(images: Path) -> int:
    """Return the most memory of a restart until its tree runs, which is then taken down."""
    with tempfile.TemporaryDirectory() as folder:
        pidfile = Path(folder) / "guard"
        command = [sys.executable, "-m", "agent", "restart", f"criu:{images}", "--detach", "--pidfile", str(pidfile)]
        ran = subprocess.run([sys.executable, "-c", MEASURE, *command], capture_output=True, text=True, check=True)
        os.kill(int(pidfile.read_text()), signal.SIGTERM)
        eventually(lambda: not pidfile.exists(), "the tree is gone")
    return int(ran.stdout)


@pytest.fixture(scope="module")
def one_kib(tmp_path_factory: pytest.TempPathFactory, daemon_socket: Path) -> int:
    """The memory of the restart of a single process."""
    folder = tmp_path_factory.mktemp("one")
    return peak_kib(dumped(FAMILY.format(count=1), folder, daemon_socket, ("0",)).images)


def test_a_process_more_takes_little_more(tmp_path: Path, daemon_socket: Path, one_kib: int) -> None:
    """Programs are written as they are made, so that none is whole in the memory of the command."""
    names = [str(number) for number in range(ENOUGH)]
    many = peak_kib(dumped(FAMILY.format(count=ENOUGH), tmp_path, daemon_socket, names).images)

    assert many - one_kib < MOST_OF_PROCESS_KIB * (ENOUGH - 1)


def test_a_memory_in_pieces_takes_little_more(tmp_path: Path, daemon_socket: Path, one_kib: int) -> None:
    """Of 16384 pages that have no neighbours."""
    assert peak_kib(dumped(PIECES, tmp_path, daemon_socket).images) - one_kib < MOST_OF_PIECES_KIB
