# SPDX-License-Identifier: Apache-2.0
"""The credentials of a thread: ids, groups, capabilities, secure bits.

The order is the kernel's: an ambient capability must be permitted and inheritable, an inheritable one within the bounding
set unless it was so before, and the secure bits and the bounding set need CAP_SETPCAP. So a thread keeps that one until
its last call.
"""

import struct
from collections.abc import Iterable
from typing import Any, Final

from agent.restart.contents.fillabi import Demand
from agent.restart.contents.fillprogram import About, Data, FillScript, ProcessProgram
from agent.restart.contents.hostfacts import HostFacts

PR_CAPBSET_DROP: Final = 24
PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 28, 38, 47
PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 2, 4
NO_SETUID_FIXUP: Final = 1 << 2
CAP_SETPCAP: Final = 8
_VERSION: Final = 0x20080522
_WORD_BITS: Final = 32
_WORD: Final = (1 << _WORD_BITS) - 1


def restore(script: FillScript, program: ProcessProgram, creds: Any, host: HostFacts) -> None:
    """Take the ids, groups, capabilities and secure bits of a creds_entry.

    Args:
        script: the thread's.
        program: of its process.
        creds: the message.
        host: this host; where it lets no groups be given, the task has those of the image already.
    """
    script.about = About("credentials", "")
    script.call("prctl", PR_SET_SECUREBITS, NO_SETUID_FIXUP, 0, 0, 0)
    if host.groups is None:
        groups = struct.pack(f"<{len(creds.groups)}I", *creds.groups)
        script.call("setgroups", len(creds.groups), program.data(groups))
    script.call("setresgid", int(creds.gid), int(creds.egid), int(creds.sgid))
    script.call("setresuid", int(creds.uid), int(creds.euid), int(creds.suid))
    set_file_ids(script, int(creds.fsuid), int(creds.fsgid))
    permitted, inheritable, ambient = mask(creds.cap_prm), mask(creds.cap_inh), mask(creds.cap_amb)
    head = program.data(struct.pack("<II", _VERSION, 0))
    working = permitted | 1 << CAP_SETPCAP
    _capset(script, program, head, (working, working, inheritable))
    script.call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for bit in _bits(ambient):
        script.call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, bit, 0, 0)
    for bit in _bits(host.bounding & ~mask(creds.cap_bnd)):
        script.call("prctl", PR_CAPBSET_DROP, bit, 0, 0, 0)
    script.call("prctl", PR_SET_SECUREBITS, int(creds.secbits), 0, 0, 0)
    _capset(script, program, head, (mask(creds.cap_eff), permitted, inheritable))
    if creds.no_new_privs:
        script.call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def set_file_ids(script: FillScript, uid: int, gid: int) -> None:
    """Add the calls that set the ids by which the kernel decides on access to files."""
    # Each call answers the id before; a second one asks if it took effect.
    for name, wanted in (("setfsgid", gid), ("setfsuid", uid)):
        script.call(name, wanted, demand=Demand.ANY)
        script.exact(name, wanted, wanted=wanted)


def mask(words: Iterable[int]) -> int:
    """Return the words of a set of capabilities as one mask."""
    return sum(int(word) << _WORD_BITS * index for index, word in enumerate(words))


def _bits(of: int) -> list[int]:
    return [bit for bit in range(of.bit_length()) if of >> bit & 1]


def _capset(script: FillScript, program: ProcessProgram, head: Data, sets: tuple[int, ...]) -> None:
    words = [each >> shift & _WORD for shift in (0, _WORD_BITS) for each in sets]
    script.call("capset", head, program.data(struct.pack("<6I", *words)))
