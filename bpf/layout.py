# SPDX-License-Identifier: Apache-2.0
"""The facts about the running kernel's structures, as ``-D`` flags for the compiler of the BPF programs.

Every offset comes from BTF and nothing is guessed from a version number. A member that a kernel lacks has no flag, and
``kernel.h`` compiles the way without it. The names are ``OFF_<struct>_<member>``, dots as underscores; a member that is
or may be a bit field also gets ``MASK_...``; structures whose size matters get ``SIZE_<struct>``.
"""

from collections.abc import Collection
from typing import Final

from agent.errors import HostError
from agent.record import record
from bpf.btf import Btf

# struct -> members without which no capture is possible
_REQUIRED = {
    "task_struct": (
        "pid",
        "tgid",
        "real_parent",
        "group_leader",
        "exit_code",
        "exit_signal",
        "parent_exec_id",
        "self_exec_id",
        "exit_state",
        "flags",
        "comm",
        "thread_pid",
        "signal",
        "nsproxy",
        "cred",
        "pid_links",
        "children",
        "sibling",
        "thread_node",
        "sighand",
        "ptrace",
    ),
    "signal_struct": (
        "pids",
        "flags",
        "group_exit_code",
        "is_child_subreaper",
        "has_child_subreaper",
        "live",
        "thread_head",
    ),
    "pid": ("level", "numbers", "tasks"),
    "upid": ("nr", "ns"),
    "pid_namespace": ("ns.inum", "child_reaper"),
    "nsproxy": ("pid_ns_for_children",),
    "cred": ("uid", "gid", "user_ns"),
    "user_namespace": ("parent", "owner"),
    "sighand_struct": ("action",),
    "k_sigaction": ("sa.sa_handler", "sa.sa_flags"),
}

# Features: name -> (struct, member). A comment tells the loss without it.
_OPTIONAL = {
    "pid.ino": ("pid", "ino"),  # else a pid object is identified by its number and address
    "pid_namespace.pid_allocated": (
        "pid_namespace",
        "pid_allocated",
    ),  # else a dead one that waits is taken for a new one
    "pid_namespace.ns_id": ("pid_namespace", "ns.ns_id"),  # else a namespace is identified by the start of its init
}

# Ties by feature: each needs these members, listed under all names they have had. If one member is missing the feature is
# left out.
# Linux kernel commit "tty: cumulate and document tty_struct::ctrl* members" (in v5.14)
# Linux kernel commit "file: reclaim 24 bytes from f_owner" (in v6.12): file->f_owner became a pointer. Only before it is
# `f_owner.pid` a member, which tells the two apart.
_TIES: dict[str, tuple[tuple[str, str, tuple[str, ...]], ...]] = {
    "terminals": (
        ("signal_struct_tty", "signal_struct", ("tty",)),
        ("signal_struct_tty_old_pgrp", "signal_struct", ("tty_old_pgrp",)),
        ("tty_struct_name", "tty_struct", ("name",)),
        ("tty_struct_pgrp", "tty_struct", ("ctrl.pgrp", "pgrp")),
    ),
    "owners": (
        ("task_struct_files", "task_struct", ("files",)),
        ("files_struct_fdt", "files_struct", ("fdt",)),
        ("files_struct_fdtab", "files_struct", ("fdtab",)),
        ("files_struct_open_fds_init", "files_struct", ("open_fds_init",)),
        ("files_struct_fd_array", "files_struct", ("fd_array",)),
        ("fdtable_max_fds", "fdtable", ("max_fds",)),
        ("fdtable_fd", "fdtable", ("fd",)),
        ("fdtable_open_fds", "fdtable", ("open_fds",)),
        ("file_f_owner", "file", ("f_owner",)),
        ("fown_struct_pid", "fown_struct", ("pid",)),
        ("fown_struct_pid_type", "fown_struct", ("pid_type",)),
    ),
    "sharing": (
        ("task_struct_mm", "task_struct", ("mm",)),
        ("task_struct_fs", "task_struct", ("fs",)),
        ("task_struct_files", "task_struct", ("files",)),
        ("mm_struct_mm_users", "mm_struct", ("mm_users",)),
        ("fs_struct_users", "fs_struct", ("users",)),
        ("files_struct_count", "files_struct", ("count",)),
    ),
}

# In the form of `_TIES`: features that need several members each.
_FEATURES = {
    **_TIES,
    "arguments": (  # else it is not known if a process has overwritten its arguments
        ("task_struct_mm", "task_struct", ("mm",)),
        *((f"mm_struct_{name}", "mm_struct", (name,)) for name in ("arg_start", "arg_end", "env_start", "env_end")),
    ),
}

OPTIONAL: Final = (*_OPTIONAL, *_FEATURES)
"""The features of the kernel's structures without which there still is a capture."""

# One member under the names it has had; the first existing one is taken.
# Linux kernel commit cf25e24db61c "time: Rename tsk->real_start_time to ->start_boottime" (in v5.5)
_RENAMED = {
    "START": ("task_struct", ("start_boottime", "real_start_time")),
}

# Bit fields that later kernels have as a bool of one byte: seen in Linux 7.2.
_FLAGS = ("signal_struct_is_child_subreaper", "signal_struct_has_child_subreaper")

# Arguments of a system call in the saved registers, x86-64 and arm64. arm64 keeps the first one in orig_x0, because
# regs[0] is the return value when the call ends.
_ARGUMENT_REGISTERS = ({0: "di", 1: "si", 2: "dx", 3: "r10"}, {0: "orig_x0"})


@record
class Layout:
    """The compiler flags for one kernel.

    Attributes:
        flags: ``-DNAME=VALUE``, in a fixed order.
        missing: names of the features that this kernel lacks.
    """

    flags: tuple[str, ...]
    missing: tuple[str, ...]


def _define(flags: dict[str, int], btf: Btf, structs: dict[str, int], struct: str, path: str, name: str) -> bool:
    member = btf.member(structs[struct], path) if struct in structs else None
    if member is None:
        return False
    flags[f"OFF_{name}"] = member.offset
    if member.mask:
        flags[f"MASK_{name}"] = member.mask
    elif name in _FLAGS:
        flags[f"MASK_{name}"] = 0xFF
    return True


def _registers(flags: dict[str, int], btf: Btf, structs: dict[str, int]) -> None:
    """Define OFF_ARG0.. for this machine's architecture."""
    regs = structs["pt_regs"]
    names = next((names for names in _ARGUMENT_REGISTERS if btf.member(regs, names[0])), None)
    if names is None:
        raise HostError(
            "BTF: struct pt_regs is of an architecture that ckptree does not know (x86-64 and arm64 it does)"
        )
    for number in range(4):
        if number in names:
            member = btf.member(regs, names[number])
            offset = member.offset if member else None
        else:  # arm64: u64 regs[31]
            member = btf.member(regs, "regs")
            offset = member.offset + 8 * number if member else None
        if offset is None:
            raise HostError(f"BTF: struct pt_regs has no place for system call argument {number}")
        flags[f"OFF_ARG{number}"] = offset
    # The arguments of a kernel function have not passed a system call's entry, which alone sets orig_x0.
    first = btf.member(regs, names[0]) if names[0] != "orig_x0" else btf.member(regs, "regs")
    if first is None:
        raise HostError("BTF: struct pt_regs has no place for a function's first argument")
    flags["OFF_PARAMETER0"] = first.offset


def _tie(flags: dict[str, int], btf: Btf, structs: dict[str, int], feature: str) -> bool:
    """Define the flags of a feature and its HAVE_... flag, or nothing if a member is missing."""
    found: dict[str, int] = {}
    for name, struct, candidates in _FEATURES[feature]:
        if not any(_define(found, btf, structs, struct, path, name) for path in candidates):
            return False
    if feature == "owners" and btf.member(structs["file"], "f_owner.pid"):
        found["HAVE_EMBEDDED_OWNER"] = 1
    flags |= found | {f"HAVE_{feature.upper()}": 1}
    return True


def layout(btf: Btf, without: Collection[str] = ()) -> Layout:
    """Look up all flags for the programs.

    Args:
        btf: the running kernel's types.
        without: features to treat as missing although the kernel has them, for tests of the way without them.

    Raises:
        HostError: a required member does not exist.
    """
    wanted = {*_REQUIRED, "pt_regs"}
    structs = btf.structs(wanted | {struct for members in _FEATURES.values() for _, struct, _ in members})
    flags: dict[str, int] = {}
    lost = sorted(wanted - structs.keys())
    for struct, members in _REQUIRED.items():
        for path in members:
            if not _define(flags, btf, structs, struct, path, f"{struct}_{path.replace('.', '_')}"):
                lost.append(f"{struct}.{path}")
    for name, (struct, candidates) in _RENAMED.items():
        if not any(_define(flags, btf, structs, struct, path, name) for path in candidates):
            lost.append(f"{struct}.{candidates[0]}")
    if lost:
        raise HostError(f"BTF: this kernel has no {', '.join(lost)}; ckptree cannot read its tasks")

    missing = [
        feature
        for feature, (struct, path) in _OPTIONAL.items()
        if feature in without or not _define(flags, btf, structs, struct, path, f"{struct}_{path.replace('.', '_')}")
    ]
    missing += [feature for feature in _FEATURES if feature in without or not _tie(flags, btf, structs, feature)]
    _registers(flags, btf, structs)
    flags["SIZE_upid"] = btf.size(structs["upid"])
    flags["SIZE_k_sigaction"] = btf.size(structs["k_sigaction"])
    # Linux kernel commit "exit: add group_dead to sched_process_exit" (in v6.16): before it, signal->live tells the same.
    exit_arguments = btf.tracepoint_arguments("sched_process_exit")
    if exit_arguments is not None and exit_arguments >= 2:
        flags["HAVE_GROUP_DEAD"] = 1
    return Layout(tuple(f"-D{name}={value}" for name, value in flags.items()), tuple(missing))
