# SPDX-License-Identifier: Apache-2.0
"""What root gets of a daemon while other users' processes attack it: the short form of ``make hostile``."""

from pathlib import Path

import pytest

from agent.client import Client
from tests.hostile.everything import FOUR
from tests.hostile.measure import ATTACKS, attacked, measure
from tests.live.daemons import a_daemon

pytestmark = pytest.mark.live

SECONDS = 1.0
# On a machine whose two CPUs have other work to do as well; a daemon that is blinded takes seconds, or gives no answer.
MEDIAN_MS, TURN_MS, RESIDENT_MB = 100, 500, 60


@pytest.mark.parametrize("kinds", [*((kind,) for kind in ATTACKS), FOUR], ids="+".join)
def test_root_is_answered_and_nothing_of_others_is_lost_beside(kinds: tuple[str, ...], tmp_path: Path) -> None:
    """Nor is an event left out of what root follows."""
    with a_daemon(tmp_path) as daemon:
        outcome = measure(daemon.socket, daemon.process.pid, kinds, SECONDS)

    assert outcome.median_ms < MEDIAN_MS
    assert outcome.longest_turn_ms < TURN_MS
    assert outcome.resident_mb < RESIDENT_MB
    assert (outcome.lost, outcome.untold) == (0, 0)


@pytest.mark.parametrize("kind", ["same-subreaper", "same-group"])
def test_calls_that_change_nothing_are_not_announced(kind: str, tmp_path: Path) -> None:
    """A million of them make no record at all, but for the first."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        with attacked(daemon.socket, [kind], SECONDS) as (noise,):
            noise.wait()
        metrics = client.metrics()

    assert metrics["withheld"] == 0
    assert metrics["records"]["group"] + metrics["records"]["subreaper"] < 100


def test_a_change_is_announced_or_goes_beyond_its_users_allowance_and_is_counted(tmp_path: Path) -> None:
    """And the log names whose it is. How much noise there is depends on how busy the machine is otherwise."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        with attacked(daemon.socket, ["flip-subreaper"], 3 * SECONDS) as (noise,):
            calls = int(noise.communicate()[0])
        metrics = client.metrics()
        log = daemon.log.read_text()

    told, withheld = metrics["records"]["subreaper"], metrics["withheld"]
    assert 0 < told < 4 * 50_000 + 25_000
    assert abs(told + withheld - calls) < calls / 100 + 100  # the first of every 500 changes nothing
    assert ("processes of user 65534 change their process groups" in log) is (withheld > 0)
