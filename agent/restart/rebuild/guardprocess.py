# SPDX-License-Identifier: Apache-2.0
"""The process of the helper, the guard of a tree, as its coordinator starts it."""

import fcntl
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from agent.restart.rebuild import helperabi, timenamespace
from agent.restart.rebuild.timenamespace import ClockOffsets


def spawned(
    helper: Path,
    program_file: int,
    control_socket: int,
    group: int | None,
    streams: Mapping[int, int],
    clocks: ClockOffsets,
) -> int:
    """Start the helper with its two descriptors at 3 and 4, and return its pid.

    Args:
        helper: path of the program.
        program_file, control_socket: the two descriptors.
        group: the process group to start it in; None: this process's.
        streams: a descriptor for each standard stream that is not to be this process's.
        clocks: how far those of the tree are ahead of this process's.
    """
    # First move both out of the way: either may have the number that the other is to get.
    high = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 100) for each in (program_file, control_socket)]
    wanted = {**streams, helperabi.FD_PROGRAM: high[0], helperabi.FD_CONTROL: high[1]}
    moves = [(os.POSIX_SPAWN_DUP2, descriptor, place) for place, descriptor in wanted.items()]
    argv = [os.fspath(helper)]
    try:
        if any(clocks):
            return timenamespace.spawned(helper, argv, wanted, group, clocks)
        if group is not None:
            # A session whose leader is gone may have no such group: the verification of the tree finds the difference.
            with suppress(PermissionError):
                return os.posix_spawn(helper, argv, os.environ, file_actions=moves, setpgroup=group)
        return os.posix_spawn(helper, argv, os.environ, file_actions=moves)
    finally:
        for descriptor in high:
            os.close(descriptor)
