# SPDX-License-Identifier: Apache-2.0
"""A program that CRIU has dumped goes on from images that went through a store."""

import shutil
from pathlib import Path

import pytest

from tests.live.dumps import dump, eventually, program, restarted
from tests.support import stores
from tests.support.commandline import ckptree

pytestmark = pytest.mark.live
COUNT = "while :; do echo line >> lines; sleep 0.02; done"


@pytest.mark.parametrize("scheme", stores.SCHEMES)
def test_a_program_goes_on_from_a_dump_that_was_in_a_store(scheme: str, tmp_path: Path, daemon_socket: Path) -> None:
    """The first folder is gone by then, so that all comes from the store."""
    with program(["/bin/bash", "-c", COUNT], tmp_path) as pid:
        eventually((tmp_path / "lines").exists, "it writes")
        images = dump(pid, tmp_path / "images", daemon_socket)
    with stores.running(tmp_path / "stores") as there:
        name = f"criu:{there.address(scheme, 'dump')}"
        put = ckptree("convert", f"criu:{images}", name, env=there.environment)
        assert put.returncode == 0, put.stderr.decode()
        shutil.rmtree(images)
        got = ckptree("convert", name, f"criu:{tmp_path / 'back'}", env=there.environment)
        assert got.returncode == 0, got.stderr.decode()
    before = (tmp_path / "lines").stat().st_size
    with restarted(tmp_path / "back"):
        eventually(lambda: (tmp_path / "lines").stat().st_size > before, "it writes on")
