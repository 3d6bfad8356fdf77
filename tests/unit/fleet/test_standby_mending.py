# SPDX-License-Identifier: Apache-2.0
"""A stand-by whose copy was damaged, with a real server of NATS and a real relay."""

from contextlib import closing
from pathlib import Path

import pytest

from agent.recorder import folder
from agent.recorder.recording import Recording
from tests.support import servers
from tests.support.standbys import Original, a_standby

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("cut", [False, True])
def test_a_copy_that_is_damaged_is_mended_from_the_stream(tmp_path: Path, *, cut: bool) -> None:
    """Its end is lost, or bytes of it are changed, while no stand-by runs."""
    with (
        servers.nats(tmp_path / "nats") as nats,
        closing(Original(tmp_path)) as original,
        original.relay(url := f"nats://{nats.address}"),
        a_standby(tmp_path, "new", url, "old", "1") as standby,
    ):
        for _ in range(3):
            standby.await_have(original.go_on())
        standby.process.terminate()
        standby.process.wait(20)
        newest = folder.stored(standby.place)[-1].path
        data = bytearray(newest.read_bytes())
        if cut:
            del data[-200:]
        else:
            data[-200] ^= 1
        newest.write_bytes(data)
        standby.start_again()
        said = standby.await_have(original.go_on())
        copied = {each.path.name: each.path.read_bytes() for each in folder.stored(standby.place)}
        assert copied == {each.path.name: each.path.read_bytes() for each in folder.stored(original.recording)}
        assert (said["gap"], said["gaps"]) == ("", 0)
    assert Recording(standby.place).gaps == ()
