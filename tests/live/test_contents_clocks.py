# SPDX-License-Identifier: Apache-2.0
"""Programs of a host whose clocks are ahead, as after a boot or on another machine: their clocks do not go back."""

import sys
import time
from ast import literal_eval
from pathlib import Path

from tests.live.daemons import ckptree
from tests.live.dumps import dump, eventually, program, restarted
from tests.live.standing import dumped, restored
from tests.support.criuimages import changed

AHEAD_S = 100_000

SLEEPER = """
import time
began = time.clock_gettime(time.CLOCK_MONOTONIC)
while True:
    time.sleep(0.5)  # until a time of CLOCK_MONOTONIC
    open("lines", "a").write(f"{time.clock_gettime(time.CLOCK_MONOTONIC) - began}\\n")
"""
ASKING = """
stand("one", lambda: (time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME), time.time()))
"""
TIMER = """
timer = call("timerfd_create", time.CLOCK_MONOTONIC, 0)
setting = (ctypes.c_long * 4)(0, 0, int(time.monotonic()) + 300, 0)
call("timerfd_settime", timer, 1, ctypes.byref(setting), None)
def left():
    found = (ctypes.c_long * 4)()
    call("timerfd_gettime", timer, ctypes.byref(found))
    return found[2]
stand("one", left)
"""


def of_a_later_host(images: Path) -> None:
    """Change a dump: the clocks were so far ahead of this host's."""

    def ahead(entry: object) -> None:
        for clock in (entry.monotonic, entry.boottime):  # type: ignore[attr-defined]  # a message of protobuf
            clock.tv_sec += AHEAD_S

    changed(images, "timens-0.img", ahead)


def test_the_clocks_go_on_from_the_times_of_the_dump(tmp_path: Path, daemon_socket: Path) -> None:
    """The clock of the day is this host's."""
    standing = dumped(ASKING, tmp_path, daemon_socket)
    before = time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)
    of_a_later_host(standing.images)
    with restored(standing, daemon_socket, compared=False):
        monotonic, boottime, real = literal_eval(standing.ask("one"))

    assert 0 <= monotonic - before[0] - AHEAD_S + 5 < 30
    assert 0 <= boottime - before[1] - AHEAD_S + 5 < 30
    assert abs(real - time.time()) < 30


def test_a_timerfd_keeps_the_time_that_is_left(tmp_path: Path, daemon_socket: Path) -> None:
    """It was armed with a time of the clock, which the kernel takes for one of the tree's clock."""
    standing = dumped(TIMER, tmp_path, daemon_socket)
    of_a_later_host(standing.images)
    with restored(standing, daemon_socket, compared=False):
        left = literal_eval(standing.ask("one"))

    assert 200 < left <= 300


def test_a_tree_is_carried_once_more(tmp_path: Path, daemon_socket: Path) -> None:
    """Its images are then those of a time namespace that was made for it."""
    standing = dumped(ASKING, tmp_path, daemon_socket)
    of_a_later_host(standing.images)
    with restarted(standing.images, "--no-pidns") as ready:
        again = dump(ready["tasks"][0]["pid"], tmp_path / "again", daemon_socket, "--leave-running")
    before = time.monotonic()
    with restarted(again, "--no-pidns"):
        monotonic, _, _ = literal_eval(standing.ask("one"))

    assert 0 <= monotonic - before - AHEAD_S + 5 < 30


def test_a_caller_without_the_right_is_refused(tmp_path: Path, daemon_socket: Path) -> None:
    """Without a time namespace each sleep until a time would last so much longer."""
    standing = dumped(ASKING, tmp_path, daemon_socket)
    of_a_later_host(standing.images)
    drop = ("setpriv", "--bounding-set", "-sys_time", "--inh-caps", "-sys_time")
    refused = ckptree("restart", f"criu:{standing.images}", before=drop)

    assert refused.code == 7
    assert "clock CLOCK_MONOTONIC: this host's is " in refused.err
    assert "a time namespace against that takes CAP_SYS_ADMIN and CAP_SYS_TIME" in refused.err


def test_a_sleep_until_a_time_lasts_no_longer(tmp_path: Path, daemon_socket: Path) -> None:
    """CPython sleeps until a time of CLOCK_MONOTONIC."""
    with program([sys.executable, "-c", SLEEPER], tmp_path) as pid:
        eventually((tmp_path / "lines").exists, "it has slept once")
        images = dump(pid, tmp_path / "images", daemon_socket)
    of_a_later_host(images)
    lines = (tmp_path / "lines").stat().st_size
    with restarted(images):
        eventually(lambda: (tmp_path / "lines").stat().st_size > lines, "it has slept again")
    times = [float(line) for line in (tmp_path / "lines").read_text().split()]

    assert times == sorted(times)
