# SPDX-License-Identifier: Apache-2.0
"""Calls that change nothing are silent after a numbered record has told the state, and announced before; changes have an
allowance that follows the daemon's speed."""

import ctypes
import os
import struct
import sys
import time
from pathlib import Path

import pytest

from agent.capture.allowance import MOST, SHARE
from agent.capture.probes import Probes
from agent.capture.watch import Watch
from agent.config import Config
from agent.daemon import metrics
from agent.table.wire import Kind
from bpf import syscall
from tests.hostile.measure import attacked

_MAP_UPDATE = 2  # BPF_MAP_UPDATE_ELEM of enum bpf_cmd
_TOLD = ["start_ns", "pgid", "sid", "subreaper", "announcing"]
"""Fields of struct told in bpf/quiet.h, each a u64."""


def groups(watch: Watch) -> int:
    """Return the count of records of process groups so far."""
    watch.drain()
    return int(metrics.of_watch(watch)["records"]["group"])


def leave_without_number(watch: Watch, pid: int) -> None:
    """Make a process's entry as it is while the call that made its group has no number yet."""
    told = watch.probes._descriptors["map:told"]
    start_ns = next(each.start_ns for each in watch.table.tasks() if each.pid.numbers[0] == pid)
    for key, value in syscall.map_items(told, 4096):
        fields = dict(zip(_TOLD, struct.unpack("=5Q", value), strict=True))
        if fields["start_ns"] == start_ns:
            fields["announcing"] = 1
            at, entry = ctypes.create_string_buffer(key, len(key)), struct.pack("=5Q", *fields.values())
            to = ctypes.create_string_buffer(entry, len(entry))
            attributes = struct.pack("<I4xQQQ", told, ctypes.addressof(at), ctypes.addressof(to), 0)
            syscall._bpf(_MAP_UPDATE, attributes, "BPF_MAP_UPDATE_ELEM")
            return
    raise AssertionError(f"no entry of {pid}")


def test_a_call_that_finds_its_group_made_is_announced_until_the_group_has_a_numbered_record() -> None:
    """The caller goes on, and knows the group: a snapshot must not be cut between."""
    watch = Watch.begin(Probes(Config().ring_bytes))
    asked, told = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        while os.read(asked[0], 1):
            os.setpgid(0, 0)
            os.write(told[1], b"x")
        os._exit(0)

    def call() -> int:
        before = groups(watch)
        os.write(asked[1], b"x")
        os.read(told[0], 1)
        return groups(watch) - before

    try:
        first, second = call(), call()
        # fexit of change_pid() runs within the kernel's lock, and not at all for a call that changes nothing.
        by_call = any("sys_exit" in str(hook) for hook in watch.probes.hooks["setpgid"])
        leave_without_number(watch, child)
        third, fourth = call(), call()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        for end in (*asked, *told):
            os.close(end)
        watch.close()

    assert (first, second, third, fourth) == (1, 0, int(by_call), 0)


SECONDS, ROUNDS = 0.5, 4  # of noise
AT_ONCE_S = 0.125  # of its allowance that a user may spend at once
SLOW_US = 200  # for a record, which is a hundred times as long as here
DRAIN_S = 0.05  # as the daemon does


def told_of_noise(watch: Watch) -> tuple[int, int, float]:
    """Let a user change a flag as often as it can; return the changes told and withheld, and the duration in s."""
    told, withheld = watch.stream.kinds[Kind.SUBREAPER], watch.probes.page.withheld
    begin = time.monotonic()
    with attacked(Path(os.devnull), ["flip-subreaper"], SECONDS) as (noise,):
        while noise.poll() is None:
            watch.drain()
            time.sleep(DRAIN_S)
    watch.catch_up()
    return (
        watch.stream.kinds[Kind.SUBREAPER] - told,
        watch.probes.page.withheld - withheld,
        time.monotonic() - begin,
    )


def price_ns(watch: Watch) -> int:
    """Return the part of a user's second that a record takes, as the programs read it."""
    ((_, value),) = syscall.map_items(watch.probes._descriptors["map:price"], 2)
    return int.from_bytes(value, sys.byteorder)


def test_the_kernel_allows_a_user_as_much_as_the_daemons_speed_affords(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the daemon's clock each record takes as long as on a slow machine, and then as long as on a fast one."""
    watch = Watch.begin(Probes(Config().ring_bytes))

    def told_of_noise_at(each_us: int) -> tuple[int, int, float]:
        monkeypatch.setattr("time.thread_time", lambda: watch.stream.records * each_us * 1e-6)
        for _ in range(ROUNDS):  # in the course of which the price is found
            told_of_noise(watch)
        return told_of_noise(watch)

    try:
        slow, slow_price_ns = told_of_noise_at(SLOW_US), price_ns(watch)
        fast, fast_price_ns = told_of_noise_at(1), price_ns(watch)
    finally:
        watch.close()

    allowed = round(SHARE / (SLOW_US * 1e-6))
    told, withheld, seconds = slow
    assert 1e9 / allowed / 1.3 < slow_price_ns <= 1e9 / allowed
    assert fast_price_ns == 1e9 / MOST
    assert withheld > 0
    assert told <= 1.3 * allowed * (seconds + AT_ONCE_S) + 1
    assert fast[0] > told
