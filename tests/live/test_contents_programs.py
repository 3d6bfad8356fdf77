# SPDX-License-Identifier: Apache-2.0
"""Real programs that run on after a dump by CRIU and a restart: judged by what they then do."""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.live.programlist import PROGRAMS
from tests.live.realprograms import dumped, gone_on, running, short_folder
from tests.live.serverprograms import connected, increased
from tests.live.standing import alike, dumped_at_a_stop


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_goes_on_from_where_it_was_dumped(name: str, daemon_socket: Path) -> None:
    """Each of them counts, and no count is missing or comes twice."""
    real = PROGRAMS[name]
    with short_folder() as folder:
        with running(real, folder) as pid:
            dumped(real, pid, folder, daemon_socket)
        with gone_on(real, folder):
            pass


def test_a_client_of_redis_stays_connected_and_others_connect(daemon_socket: Path) -> None:
    """Its connection is out of the tree, and established, when CRIU dumps."""
    options = ("--tcp-established", "--network-lock", "skip")
    real = PROGRAMS["redis, TCP"]._replace(options=options, restart=("--tcp-established",))
    with short_folder() as folder, running(real, folder) as pid:
        client = connected(folder)
        with client:
            before = int(increased(client))
            dumped(real, pid, folder, daemon_socket)
            with gone_on(real._replace(judge=lambda _: None), folder):
                after = int(increased(client))
    assert after == before + 1 + real.further + 1


def test_a_terminal_whose_number_is_taken_is_restored_in_a_devpts_of_its_own(daemon_socket: Path) -> None:
    """Without one it is refused, by its path."""
    real = PROGRAMS["tmux"]
    with short_folder() as folder, ExitStack() as opened:
        with running(real, folder) as pid:
            dumped(real, pid, folder, daemon_socket)
        for _ in range(64):  # of the first free number each
            for descriptor in os.openpty():
                opened.callback(os.close, descriptor)
        refused = pytest.raises(AssertionError, match=r"ended with 7.*/dev/pts/\d+ is another terminal")
        with refused, gone_on(real._replace(within=()), folder):
            pass
        with gone_on(real, folder):
            pass


@pytest.mark.parametrize(
    "name",
    [
        "Python, 3 threads",
        "bash pipeline",
        "sqlite, WAL",
        "sqlite, journal",
        "multiprocessing",
        "redis",
        "redis, TCP",
        "nginx",
        "node",
        "gunicorn",
        "PostgreSQL",
        "tmux",
    ],
)
def test_a_stopped_program_is_the_same_in_a_second_dump(name: str, daemon_socket: Path) -> None:
    """CRIU finds the memory, registers, files and sockets that it found before the restart."""
    real = PROGRAMS[name]
    with short_folder() as folder:
        with running(real, folder) as pid:
            images = dumped_at_a_stop(
                pid, folder / "images", daemon_socket, *real.options, suite=real.suite, before=real.before
            )
        with alike(images, daemon_socket, *real.options, restart=real.restart, suite=real.suite, before=real.before):
            pass
