# SPDX-License-Identifier: Apache-2.0
"""Every field of CRIU's messages about processes and namespaces: what a restart does with it.

A field that is new in the tables must be decided here: restored, refused where it says something that is not, or left
alone, with the reason.
"""

from exporters.criu.criuschema import MESSAGES, fields
from exporters.criu.processmessages import MESSAGES as OF_PROCESSES

RESTORED = {
    "pstree_entry": "pid ppid pgid sid threads",  # compared with the tree
    "task_core_entry": (
        "task_state personality blk_sigset timers rlimits signals_s old_seccomp_mode old_seccomp_filter comm loginuid "
        "oom_score_adj sigactions child_subreaper exit_code stop_signo membarrier_registration_mask"
    ),
    "thread_sas_entry": "ss_sp ss_size ss_flags",
    "thread_core_entry": (
        "futex_rla futex_rla_len sched_nice sched_policy sched_prio blk_sigset sas pdeath_sig signals_p creds "
        "seccomp_mode seccomp_filter comm rseq_entry"
    ),
    "task_rlimits_entry": "rlimits",
    "core_entry": "thread_info tc ids thread_core",
    "user_x86_regs_entry": (
        "r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss fs_base gs_base ds es fs gs"
    ),
    "user_x86_xsave_entry": "xstate_bv ymmh_space bndreg_state bndcsr_state opmask_reg zmm_upper hi16_zmm pkru",
    "user_x86_fpregs_entry": "cwd swd twd fop rip rdp mxcsr st_space xmm_space xsave",
    "thread_info_x86": "clear_tid_addr gpregs fpregs",
    "rlimit_entry": "cur max",
    "itimer_entry": "isec iusec vsec vusec",
    "posix_timer_entry": ("it_id clock_id si_signo it_sigev_notify sival_ptr isec insec vsec vnsec notify_thread_id"),
    "task_timers_entry": "real virt prof posix",
    "creds_entry": (
        "uid gid euid egid suid sgid fsuid fsgid cap_inh cap_prm cap_eff cap_bnd secbits groups no_new_privs cap_amb"
    ),
    "sa_entry": "sigaction flags restorer mask",
    "siginfo_entry": "siginfo",
    "signal_queue_entry": "signals",
    "rseq_entry": "rseq_abi_pointer rseq_abi_size signature",
    "fs_entry": "cwd_id root_id umask",
    "seccomp_filter": "filter prev flags",
    "seccomp_entry": "seccomp_filters",
}
REFUSED = {
    "plugins_entry": "plugins",
    "inventory_entry": "img_version fdinfo_per_id ns_per_id root_ids plugins_entry",
    "task_core_entry": "blk_sigset_extended",  # of MIPS
    "task_kobj_ids_entry": (  # what processes share without being threads, and namespaces
        "vm_id files_id fs_id sighand_id net_ns_id ipc_ns_id uts_ns_id mnt_ns_id user_ns_id cgroup_ns_id time_ns_id"
    ),
    "thread_core_entry": "blk_sigset_extended",  # of MIPS
    "core_entry": "mtype ti_aarch64",  # of another processor
    "user_x86_regs_entry": "mode",  # 32 bits
    "user_x86_xsave_entry": "cet",
    "user_x86_cet_entry": "cet ssp",
    "user_desc_t": "seg_not_present",  # a segment that is there
    "thread_info_x86": "tls",
    "creds_entry": "lsm_profile lsm_sockcreate apparmor_data",
    "sa_entry": "compat_sigaction mask_extended",
    "rseq_entry": "rseq_cs_pointer",
}
LEFT_ALONE = {
    "inventory_entry": (
        "root_cg_set lsmtype dump_uptime pre_dump_mode tcp_close network_lock_method dump_criu_run_id allow_uprobes"
    ),  # cgroups are the caller's; the label of each thread is in its credentials; the rest is about the dump itself
    "task_core_entry": "flags cg_set",  # the kernel's own flags; cgroups
    "thread_core_entry": "cg_set",
    "task_kobj_ids_entry": "pid_ns_id",  # of the tree
    "user_x86_fpregs_entry": "mxcsr_mask padding",  # of the processor
    "posix_timer_entry": "overrun",  # a count since the last signal, which nothing can set
    "user_desc_t": (  # of a segment that is not there
        "entry_number base_addr limit seg_32bit contents_h contents_l read_exec_only limit_in_pages usable"
    ),
}
# Kinds of messages that are looked at nowhere: of another processor, of labels that are refused, of cgroups, of the dump.
LEFT_OUT = {
    *("user_aarch64_regs_entry", "user_aarch64_fpsimd_context_entry", "pac_address_keys", "pac_generic_keys"),
    *("pac_keys", "thread_info_aarch64", "aa_policy", "aa_namespace", "apparmor_entry"),
    *("cgroup_perms", "cgroup_prop_entry", "cgroup_dir_entry", "cg_controller_entry", "cg_member_entry"),
    *("cg_set_entry", "cgroup_entry", "cpuinfo_x86_entry", "cpuinfo_entry"),
    *("dump_stats_entry", "restore_stats_entry", "stats_entry"),
}


def test_every_field_is_decided_once() -> None:
    """A field that is in two lists is refused in some cases and restored in the others."""
    decided: dict[str, list[str]] = {}
    for table in (RESTORED, REFUSED, LEFT_ALONE):
        for message, names in table.items():
            decided.setdefault(message, []).extend(names.split())

    assert decided.keys() | LEFT_OUT == OF_PROCESSES.keys()
    assert MESSAGES.keys() >= LEFT_OUT
    for message, listed in decided.items():
        assert sorted(listed) == sorted(field.name for field in fields(message)), message
