# SPDX-License-Identifier: Apache-2.0
"""The confinement of a verb that parses an untrusted file as root: it gives up all rights that it does not need.

Theory
------
A verb that only shows the content of a file needs, once the file is read, memory, its standard streams and modules to
import. So it gives up, for good and for all its children:

* capabilities, but for the one to read any file, and gaining others (``no_new_privs``);
* by a seccomp filter: to write, make, rename or remove anything in a file system, or change its mode, owner, times or
  attributes; to run a program; to signal, trace, limit or reschedule another process; to open a socket or shared
  memory; and the calls that change the system (mounts, modules, namespaces, BPF, keys);
* by Landlock, where the kernel has it: the file system's part once more, by another mechanism.

A refused call fails with EPERM, so that a verb that needs it reports an error. On a kernel without seccomp the other
measures still hold. The filter lists the denied calls: a list of all calls that Python and its libraries make would
never be complete.
"""

import ctypes
import os
import platform
import struct
from typing import Final

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_LINUX_CAPABILITY_VERSION_3: Final = 0x20080522
_CAP_DAC_READ_SEARCH: Final = 1 << 2  # modules are imported when they are needed, from wherever they are installed

# Number of each call on x86-64 and on arm64, which lacks the older ones.
_DENIED: Final[dict[str, tuple[int, int | None]]] = {
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_writev": (311, 271),
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "setns": (308, 268),
    "unshare": (272, 97),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "open_by_handle_at": (304, 265),
    "io_uring_setup": (425, 425),
    "userfaultfd": (323, 282),
    # In a file system. open and openat are checked by their flags; those of openat2 are in memory, out of a filter's
    # reach.
    "openat2": (437, 437),
    "creat": (85, None),
    "truncate": (76, 45),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "fchmodat2": (452, 452),
    "file_setattr": (469, 469),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "fallocate": (285, 47),
    # Other processes' limits, priorities and memory policy.
    "prlimit64": (302, 261),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "sched_setparam": (142, 118),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "process_madvise": (440, 440),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
}
# fcntl(2) by its command: those that make a descriptor send signals to other processes.
_FCNTL: Final = (72, 25)
_FCNTL_DENIED: Final = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX
# Calls with flags of open(2), and the index of that argument.
_OPENING: Final[dict[str, tuple[tuple[int, int | None], int]]] = {"open": ((2, None), 1), "openat": ((257, 56), 2)}
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT: Final = 0x40000000

# struct sock_filter: u16 code, u8 jump if true, u8 jump if false, u32 value
_INSTRUCTION: Final = struct.Struct("=HBBI")
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ERRNO with EPERM
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16  # struct seccomp_data

_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446  # the same on both
_LANDLOCK_VERSION: Final = 1
_READING: Final = 1 << 2 | 1 << 3  # of files and folders: stays allowed
# Rights that each version of Landlock's interface knows, from 1 on: 13 at first, then REFER, TRUNCATE and IOCTL_DEV.
_RIGHTS: Final = ((1 << 13) - 1, (1 << 14) - 1, (1 << 15) - 1, (1 << 15) - 1, (1 << 16) - 1)

_libc = ctypes.CDLL(None, use_errno=True)


def confine_root() -> None:
    """Give up all rights but reading, where this process is root's; other users have few rights to give up."""
    if os.geteuid() == 0:
        read_only()


def read_only() -> list[str]:
    """Give up all rights but reading, for good.

    Returns:
        The measures that worked: ``capabilities``, ``seccomp``, ``landlock``; a kernel may lack the last two.
    """
    given_up = []
    if _drop_capabilities():
        given_up.append("capabilities")
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return given_up
    if _landlock():  # before the filter, so that the filter need not allow the call
        given_up.append("landlock")
    code = seccomp_filter(platform.machine())
    if code and _seccomp(code):
        given_up.append("seccomp")
    return given_up


def seccomp_filter(machine: str) -> bytes:
    """Assemble the filter for a machine, as uname names it: struct sock_filter, one after the other; empty: unknown."""
    arch = _AUDIT_ARCH.get(machine)
    if arch is None:
        return b""
    column = 0 if machine == "x86_64" else 1
    code = [
        _INSTRUCTION.pack(_LOAD, 0, 0, _ARCH_AT),
        _INSTRUCTION.pack(_EQUAL, 1, 0, arch),
        _INSTRUCTION.pack(_RETURN, 0, 0, _REFUSE),  # 32-bit calls have other numbers
        _INSTRUCTION.pack(_LOAD, 0, 0, _NUMBER_AT),
        _INSTRUCTION.pack(_ANY_BIT, 0, 1, _X32_BIT if column == 0 else 0),
        _INSTRUCTION.pack(_RETURN, 0, 0, _REFUSE),
    ]
    for numbers in _DENIED.values():
        if (number := numbers[column]) is not None:
            code += [_INSTRUCTION.pack(_EQUAL, 0, 1, number), _INSTRUCTION.pack(_RETURN, 0, 0, _REFUSE)]
    for numbers, argument in _OPENING.values():
        if (number := numbers[column]) is not None:
            code += [
                _INSTRUCTION.pack(_EQUAL, 0, 4, number),
                _INSTRUCTION.pack(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument),  # the low half: both are little endian
                _INSTRUCTION.pack(_ANY_BIT, 0, 1, _WRITING),
                _INSTRUCTION.pack(_RETURN, 0, 0, _REFUSE),
                _INSTRUCTION.pack(_RETURN, 0, 0, _ALLOW),
            ]
    count = len(_FCNTL_DENIED)
    code += [
        _INSTRUCTION.pack(_EQUAL, 0, 2 * count + 1, _FCNTL[column]),
        _INSTRUCTION.pack(_LOAD, 0, 0, _ARGUMENTS_AT + 8),
    ]
    for command in _FCNTL_DENIED:
        code += [_INSTRUCTION.pack(_EQUAL, 0, 1, command), _INSTRUCTION.pack(_RETURN, 0, 0, _REFUSE)]
    return b"".join([*code, _INSTRUCTION.pack(_RETURN, 0, 0, _ALLOW)])


def _seccomp(code: bytes) -> bool:
    instructions = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(
        struct.pack("@HxxxxxxP", len(code) // _INSTRUCTION.size, ctypes.addressof(instructions))
    )
    return not _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0)


def _landlock() -> bool:
    version = _libc.syscall(_LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return False
    handled = _RIGHTS[min(version, len(_RIGHTS)) - 1] & ~_READING
    attributes = ctypes.create_string_buffer(struct.pack("=Q", handled), 8)
    ruleset = _libc.syscall(_LANDLOCK_CREATE, attributes, 8, 0)
    if ruleset < 0:
        return False
    try:
        return not _libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _drop_capabilities() -> bool:
    header = ctypes.create_string_buffer(struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0), 8)
    own = (ctypes.c_uint32 * 6)()  # two times effective, permitted, inheritable
    if _libc.capget(header, own):
        return False
    own[0] &= _CAP_DAC_READ_SEARCH
    own[1] &= _CAP_DAC_READ_SEARCH
    own[2] = own[3] = own[4] = own[5] = 0
    return not _libc.capset(header, own)
