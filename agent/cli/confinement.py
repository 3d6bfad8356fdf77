# SPDX-License-Identifier: Apache-2.0
"""The confinement of a verb that parses an untrusted file as root: it gives up all rights that it does not need.

Theory
------
A verb that only shows the content of a file needs, once the file is read, memory, its standard streams and modules to
import. So it gives up, for good and for all its children:

* capabilities, but for the one to read any file, and gaining others (``no_new_privs``);
* by a seccomp filter: to write, make, rename or remove anything in a file system, or change its mode, owner, times or
  attributes, or to lock it; to run a program; to signal, trace, read, limit or reschedule another process; to open or
  use a socket, shared memory, a semaphore or a message queue; all of ioctl and fcntl but a few harmless commands; and
  the calls that change the system (mounts, modules, namespaces, clocks, names, BPF, keys);
* by Landlock, where the kernel has it: the file system's part once more, by another mechanism.

A refused call fails with EPERM, so that a verb that needs it reports an error. On a kernel without seccomp the other
measures still hold. The filter lists the denied calls: a list of all calls that Python and its libraries make would
never be complete.
"""

import ctypes
import os
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
    "pidfd_open": (434, 434),
    "process_mrelease": (448, 448),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "get_robust_list": (274, 100),
    "setpgid": (109, 154),
    "setsid": (112, 157),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "recvmsg": (47, 212),
    "recvmmsg": (299, 243),
    "setsockopt": (54, 208),
    "shutdown": (48, 210),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "move_mount": (429, 429),
    "mount_setattr": (442, 442),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
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
    "swapoff": (168, 225),
    "acct": (163, 89),
    "syslog": (103, 116),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "adjtimex": (159, 171),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "nfsservctl": (180, 42),
    "lookup_dcookie": (212, 18),
    "personality": (135, 92),
    "seccomp": (317, 277),
    "lsm_set_self_attr": (460, 460),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_setup": (206, 0),
    "io_submit": (209, 2),
    "userfaultfd": (323, 282),
    # Memory that no limit of the process counts, and moves of data within the kernel.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "remap_file_pages": (216, 234),
    "splice": (275, 76),
    "tee": (276, 77),
    "vmsplice": (278, 75),
    "copy_file_range": (326, 285),
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
    "ftruncate": (77, 46),
    "flock": (73, 32),
    "sync": (162, 81),
    "syncfs": (306, 267),
    # Other processes' limits, priorities and memory policy.
    "setrlimit": (160, 164),  # libc takes prlimit64
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "sched_setparam": (142, 118),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "process_madvise": (440, 440),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    # System V and POSIX objects, which other processes share.
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "msgget": (68, 186),
    "msgctl": (71, 187),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "semget": (64, 190),
    "semctl": (66, 191),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182),
    "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184),
    "mq_getsetattr": (245, 185),
}
# Calls that are refused but for some commands, in their second argument. Others of fcntl(2) lock, lease, resize or
# seal what other processes share, or make it send signals.
_COMMANDS: Final[dict[str, tuple[tuple[int, int], tuple[int, ...]]]] = {
    # TCGETS, TCGETS2, TIOCGWINSZ, FIONREAD, FIONCLEX, FIOCLEX
    "ioctl": ((16, 29), (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5450, 0x5451)),
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC
    "fcntl": ((72, 25), (0, 1, 2, 3, 1030)),
}
# clone(2) by its flags: those of new namespaces, and CLONE_PARENT, which gives the caller of this process a child.
_CLONE: Final = (56, 220)
_CLONE_DENIED: Final = 0x7E020000 | 0x00008000
# Flags of clone3(2) are in memory, out of a filter's reach: libc takes clone where the kernel lacks clone3.
_CLONE3: Final = 435
# prlimit64(2) but for 0, which is the process itself: agent.cli.allowance lowers a limit.
_PRLIMIT: Final = (302, 261)
# prctl(2): PR_SCHED_CORE groups other processes.
_PRCTL: Final = (157, 167)
_PR_SCHED_CORE: Final = 62
# Calls with flags of open(2), and the index of that argument.
_OPENING: Final[dict[str, tuple[tuple[int, int | None], int]]] = {"open": ((2, None), 1), "openat": ((257, 56), 2)}
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT: Final = 0x40000000

# struct sock_filter: u16 code, u8 jump if true, u8 jump if false, u32 value
_INSTRUCTION: Final = struct.Struct("=HBBI")
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _REFUSE, _LACK = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38  # SECCOMP_RET_ERRNO with EPERM, and with ENOSYS
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
    code = seccomp_filter(os.uname().machine)
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
    for pair, commands in _COMMANDS.values():
        code += [
            _INSTRUCTION.pack(_EQUAL, 0, 2 * len(commands) + 2, pair[column]),
            _INSTRUCTION.pack(_LOAD, 0, 0, _ARGUMENTS_AT + 8),  # the kernel, too, reads the low half alone
        ]
        for command in commands:
            code += [_INSTRUCTION.pack(_EQUAL, 0, 1, command), _INSTRUCTION.pack(_RETURN, 0, 0, _ALLOW)]
        code.append(_INSTRUCTION.pack(_RETURN, 0, 0, _REFUSE))
    for number, test, value in (
        (_CLONE[column], _ANY_BIT, _CLONE_DENIED),
        (_PRCTL[column], _EQUAL, _PR_SCHED_CORE),
    ):
        code += [
            _INSTRUCTION.pack(_EQUAL, 0, 4, number),
            _INSTRUCTION.pack(_LOAD, 0, 0, _ARGUMENTS_AT),
            _INSTRUCTION.pack(test, 0, 1, value),
            _INSTRUCTION.pack(_RETURN, 0, 0, _REFUSE),
            _INSTRUCTION.pack(_RETURN, 0, 0, _ALLOW),
        ]
    code += [
        _INSTRUCTION.pack(_EQUAL, 0, 4, _PRLIMIT[column]),
        _INSTRUCTION.pack(_LOAD, 0, 0, _ARGUMENTS_AT),
        _INSTRUCTION.pack(_EQUAL, 1, 0, 0),
        _INSTRUCTION.pack(_RETURN, 0, 0, _REFUSE),
        _INSTRUCTION.pack(_RETURN, 0, 0, _ALLOW),
    ]
    code += [_INSTRUCTION.pack(_EQUAL, 0, 1, _CLONE3), _INSTRUCTION.pack(_RETURN, 0, 0, _LACK)]
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
