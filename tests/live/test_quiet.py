# SPDX-License-Identifier: Apache-2.0
"""Calls that change nothing: silent after a numbered record has told the state, and announced before."""

import ctypes
import os
import struct

import pytest

from agent.capture.probes import Probes
from agent.capture.watch import Watch
from agent.config import Config
from agent.daemon import metrics
from bpf import syscall

pytestmark = pytest.mark.live

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
