# SPDX-License-Identifier: Apache-2.0
"""Real programs that run on after a dump by CRIU and a restart: judged by what they then do."""

from pathlib import Path

import pytest

from tests.live.realprograms import PROGRAMS, dumped, gone_on, running, short_folder


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_goes_on_from_where_it_was_dumped(name: str, daemon_socket: Path) -> None:
    """Each of them counts, and no count is missing or comes twice."""
    real = PROGRAMS[name]
    with short_folder() as folder:
        with running(real, folder) as pid:
            dumped(real, pid, folder, daemon_socket)
        with gone_on(real, folder):
            pass
