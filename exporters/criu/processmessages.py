# SPDX-License-Identifier: Apache-2.0
"""CRIU's messages about processes: tree, registers, signals, credentials. Notation: exporters.criu.criuschema."""

from typing import Final

MESSAGES: Final = {
    "plugins_entry": "plugins*12:bytes",
    "inventory_entry": (
        "img_version!1 fdinfo_per_id?2:bool root_ids?3:task_kobj_ids_entry ns_per_id?4:bool root_cg_set?5 lsmtype?6 "
        "dump_uptime?8:uint64 pre_dump_mode?9 tcp_close?10:bool network_lock_method?11 plugins_entry?12:plugins_entry "
        "dump_criu_run_id?13:bytes allow_uprobes?14:bool"
    ),
    "pstree_entry": "pid!1 ppid!2 pgid!3 sid!4 threads*5",
    "task_core_entry": (
        "task_state!1 exit_code!2 personality!3 flags!4 blk_sigset!5:uint64 comm!6:bytes timers?7:task_timers_entry "
        "rlimits?8:task_rlimits_entry cg_set?9 signals_s?10:signal_queue_entry old_seccomp_mode?11 "
        "old_seccomp_filter?12 loginuid?13 oom_score_adj?14:int32 sigactions*15:sa_entry child_subreaper?18:bool "
        "blk_sigset_extended?20:uint64 stop_signo?21 membarrier_registration_mask?22"
    ),
    "task_kobj_ids_entry": (
        "vm_id!1 files_id!2 fs_id!3 sighand_id!4 pid_ns_id?5 net_ns_id?6 ipc_ns_id?7 uts_ns_id?8 mnt_ns_id?9 "
        "user_ns_id?10 cgroup_ns_id?11 time_ns_id?12"
    ),
    "thread_sas_entry": "ss_sp!1:uint64 ss_size!2:uint64 ss_flags!3",
    "thread_core_entry": (
        "futex_rla!1:uint64 futex_rla_len!2 sched_nice?3:sint32 sched_policy?4 sched_prio?5 blk_sigset?6:uint64 "
        "sas?7:thread_sas_entry pdeath_sig?8 signals_p?9:signal_queue_entry creds?10:creds_entry seccomp_mode?11 "
        "seccomp_filter?12 comm?13:bytes blk_sigset_extended?14:uint64 rseq_entry?15:rseq_entry cg_set?16"
    ),
    "task_rlimits_entry": "rlimits*1:rlimit_entry",
    "core_entry": (
        "mtype!1 thread_info?2:thread_info_x86 tc?3:task_core_entry ids?4:task_kobj_ids_entry "
        "thread_core?5:thread_core_entry ti_aarch64?8:thread_info_aarch64"
    ),
    "user_x86_regs_entry": (
        "r15!1:uint64 r14!2:uint64 r13!3:uint64 r12!4:uint64 bp!5:uint64 bx!6:uint64 r11!7:uint64 r10!8:uint64 "
        "r9!9:uint64 r8!10:uint64 ax!11:uint64 cx!12:uint64 dx!13:uint64 si!14:uint64 di!15:uint64 orig_ax!16:uint64 "
        "ip!17:uint64 cs!18:uint64 flags!19:uint64 sp!20:uint64 ss!21:uint64 fs_base!22:uint64 gs_base!23:uint64 "
        "ds!24:uint64 es!25:uint64 fs!26:uint64 gs!27:uint64 mode?28"
    ),
    "user_x86_cet_entry": "cet!1:uint64 ssp!2:uint64",
    "user_x86_xsave_entry": (
        "xstate_bv!1:uint64 ymmh_space*2 bndreg_state*3:uint64 bndcsr_state*4:uint64 opmask_reg*5:uint64 "
        "zmm_upper*6:uint64 hi16_zmm*7:uint64 pkru*8 cet?9:user_x86_cet_entry"
    ),
    "user_x86_fpregs_entry": (
        "cwd!1 swd!2 twd!3 fop!4 rip!5:uint64 rdp!6:uint64 mxcsr!7 mxcsr_mask!8 st_space*9 xmm_space*10 padding*11 "
        "xsave?13:user_x86_xsave_entry"
    ),
    "user_desc_t": (
        "entry_number!1 base_addr!2 limit!3 seg_32bit!4:bool contents_h!5:bool contents_l!6:bool read_exec_only!7:bool "
        "limit_in_pages!8:bool seg_not_present!9:bool usable!10:bool"
    ),
    "thread_info_x86": (
        "clear_tid_addr!1:uint64 gpregs!2:user_x86_regs_entry fpregs!3:user_x86_fpregs_entry tls*4:user_desc_t"
    ),
    "user_aarch64_regs_entry": "regs*1:uint64 sp!2:uint64 pc!3:uint64 pstate!4:uint64",
    "user_aarch64_fpsimd_context_entry": "vregs*1:uint64 fpsr!2 fpcr!3",
    "pac_address_keys": (
        "apiakey_lo!1:uint64 apiakey_hi!2:uint64 apibkey_lo!3:uint64 apibkey_hi!4:uint64 apdakey_lo!5:uint64 "
        "apdakey_hi!6:uint64 apdbkey_lo!7:uint64 apdbkey_hi!8:uint64 pac_enabled_key!9:uint64"
    ),
    "pac_generic_keys": "apgakey_lo!1:uint64 apgakey_hi!2:uint64",
    "pac_keys": "pac_address_keys?6:pac_address_keys pac_generic_keys?7:pac_generic_keys",
    "thread_info_aarch64": (
        "clear_tid_addr!1:uint64 tls!2:uint64 gpregs!3:user_aarch64_regs_entry "
        "fpsimd!4:user_aarch64_fpsimd_context_entry pac_keys?5:pac_keys"
    ),
    "rlimit_entry": "cur!1:uint64 max!2:uint64",
    "itimer_entry": "isec!1:uint64 iusec!2:uint64 vsec!3:uint64 vusec!4:uint64",
    "posix_timer_entry": (
        "it_id!1 clock_id!2 si_signo!3 it_sigev_notify!4 sival_ptr!5:uint64 overrun!6 isec!7:uint64 insec!8:uint64 "
        "vsec!9:uint64 vnsec!10:uint64 notify_thread_id?11:int32"
    ),
    "task_timers_entry": "real!1:itimer_entry virt!2:itimer_entry prof!3:itimer_entry posix*4:posix_timer_entry",
    "creds_entry": (
        "uid!1 gid!2 euid!3 egid!4 suid!5 sgid!6 fsuid!7 fsgid!8 cap_inh*9 cap_prm*10 cap_eff*11 cap_bnd*12 secbits!13 "
        "groups*14 lsm_profile?15:bytes lsm_sockcreate?16:bytes apparmor_data?17:bytes no_new_privs?18 cap_amb*19"
    ),
    "sa_entry": (
        "sigaction!1:uint64 flags!2:uint64 restorer!3:uint64 mask!4:uint64 compat_sigaction?5:bool "
        "mask_extended?6:uint64"
    ),
    "siginfo_entry": "siginfo!1:bytes",
    "signal_queue_entry": "signals*1:siginfo_entry",
    "rseq_entry": "rseq_abi_pointer!1:uint64 rseq_abi_size!2 signature!3 rseq_cs_pointer?4:uint64",
    "fs_entry": "cwd_id!1 root_id!2 umask?3",
    "seccomp_filter": "filter!1:bytes prev?2 flags?3",
    "seccomp_entry": "seccomp_filters*1:seccomp_filter",
    "aa_policy": "name!1:bytes blob!2:bytes",
    "aa_namespace": "name!1:bytes policies*2:aa_policy namespaces*3:aa_namespace",
    "apparmor_entry": "namespaces*1:aa_namespace",
    "cgroup_perms": "mode!1 uid!2 gid!3",
    "cgroup_prop_entry": "name!1:bytes value!2:bytes perms?3:cgroup_perms",
    "cgroup_dir_entry": (
        "dir_name!1:bytes children*2:cgroup_dir_entry properties*3:cgroup_prop_entry dir_perms?4:cgroup_perms"
    ),
    "cg_controller_entry": "cnames*1:bytes dirs*2:cgroup_dir_entry is_threaded?3:bool",
    "cg_member_entry": "name!1:bytes path!2:bytes cgns_prefix?3",
    "cg_set_entry": "id!1 ctls*2:cg_member_entry",
    "cgroup_entry": "sets*1:cg_set_entry controllers*2:cg_controller_entry",
    "cpuinfo_x86_entry": (
        "vendor_id!1 cpu_family!2 model!3 stepping!4 capability_ver!5 capability*6 model_id?7:bytes "
        "xfeatures_mask?8:uint64 xsave_size?9 xsave_size_max?10"
    ),
    "cpuinfo_entry": "x86_entry*1:cpuinfo_x86_entry",
    "dump_stats_entry": (
        "freezing_time!1 frozen_time!2 memdump_time!3 memwrite_time!4 pages_scanned!5:uint64 "
        "pages_skipped_parent!6:uint64 pages_written!7:uint64 irmap_resolve?8 pages_lazy!9:uint64 page_pipes?10:uint64 "
        "page_pipe_bufs?11:uint64 shpages_scanned?12:uint64 shpages_skipped_parent?13:uint64 shpages_written?14:uint64"
    ),
    "restore_stats_entry": (
        "pages_compared!1:uint64 pages_skipped_cow!2:uint64 forking_time!3 restore_time!4 pages_restored?5:uint64"
    ),
    "stats_entry": "dump?1:dump_stats_entry restore?2:restore_stats_entry",
}
