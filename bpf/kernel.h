/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Reading the kernel's structures by the offsets of bpf/layout.py, and writing records.
 *
 * Explicit bpf_probe_read_kernel() throughout: bcc's rewriter turns some plain expressions into reads that silently
 * yield 0 (an array of pointers inside a structure is one). About 20 ns each, so neighbours are read together.
 */
#ifndef CKPTREE_KERNEL_H
#define CKPTREE_KERNEL_H

/* From include/linux/sched.h and include/linux/sched/signal.h; values are ABI towards crash tools and have not moved. */
#define PF_IO_WORKER	0x00000010
#define PF_EXITING	0x00000004
#define PF_USER_WORKER	0x00004000
#define PF_KTHREAD	0x00200000
#define STATE_STOPPED	0x00000004	/* __TASK_STOPPED */
#define STATE_TRACED	0x00000008	/* __TASK_TRACED */
#define STATE_EXIT_DEAD	0x00000010
#define SIGNAL_GROUP_EXIT 0x00000004
#define SIGCHLD_NR	17
#define SA_NOCLDWAIT_BIT 0x00000002
#define SIG_IGN_VALUE	1
#define PR_SET_CHILD_SUBREAPER 36
#define WNOWAIT_BIT	0x01000000
#define PIDTYPE_PID	0
#define PIDTYPE_TGID	1

#define WAKE_EVERY	4096	/* a power of two: one record in so many wakes the agent */

#define SCRATCH_BYTES	4096	/* power of two above the largest record: 152 + 4 * 33 * 16 = 2264 */
#define SCRATCH_DEPTH	3

#define READ(to, base, offset) bpf_probe_read_kernel(&(to), sizeof(to), (const void *)((const char *)(base) + (offset)))

/*
 * What is to be announced, and room to write it. One announcement may begin while another is half-way through on the
 * same CPU: an interrupt, or preemption on kernels whose tracepoints allow it. Each takes a buffer of its own.
 */
struct scratch {
	u32 kind;
	u32 argument;
	const void *task;
	const void *by;
	u64 offset;		/* read back through memory: the verifier then does not count every path's own value */
	const void *roles[MAX_OBJECTS];
	u8 bytes[SCRATCH_BYTES * 2];
};

BPF_RINGBUF_OUTPUT(ring, 16); /* pages; the loader makes it as large as it is told */
BPF_F_TABLE("array", u32, struct page, page, 1, 1 << 10 /* BPF_F_MMAPABLE */);
BPF_PERCPU_ARRAY(depth, u32, 1);
BPF_PERCPU_ARRAY(scratch, struct scratch, SCRATCH_DEPTH);
BPF_PROG_ARRAY(raw, 1);	/* on_announce, for programs of raw tracepoints: an array serves one type only */
BPF_PROG_ARRAY(perf, 1);	/* the same for tracepoints */

static __always_inline struct page *counters(void)
{
	u32 zero = 0;

	return page.lookup(&zero);
}

static __always_inline u64 wakeup(u64 seq)
{
	return (seq & (WAKE_EVERY - 1)) ? BPF_RB_NO_WAKEUP : BPF_RB_FORCE_WAKEUP;
}

static __always_inline void lost(struct page *p, u64 seq)
{
	u64 n = __sync_fetch_and_add(&p->lost, 1) & (LOST_NUMBERS - 1);

	asm volatile("" : "+r"(n));
	if (n < LOST_NUMBERS)
		p->lost_seq[n] = seq;
}

/* The identity of a struct pid. Without pid->ino: its number in 22 bits, its address (64-byte aligned) in 42. */
static __always_inline u64 pid_identity(const void *pid)
{
	u64 id = 0;

	if (!pid)
		return 0;
#ifdef OFF_pid_ino
	READ(id, pid, OFF_pid_ino);
#else
	u32 nr = 0;

	READ(nr, pid, OFF_pid_numbers + OFF_upid_nr);
	id = ((u64)nr << 42) | (((u64)pid >> 6) & ((1ULL << 42) - 1));
#endif
	return id;
}

static __always_inline u64 namespace_identity(const void *ns)
{
	u64 id = 0;
#ifdef OFF_pid_namespace_ns_ns_id
	READ(id, ns, OFF_pid_namespace_ns_ns_id);
#else
	void *init = 0;

	READ(init, ns, OFF_pid_namespace_child_reaper);
	if (init)
		READ(init, init, OFF_task_struct_group_leader);
	if (init)
		READ(id, init, OFF_START);
#endif
	return id;
}

/* One number of a pid object. */
static __always_inline void read_number(struct pid_number *to, const void *pid, u32 level)
{
	struct { u32 nr; u32 hole; void *ns; } upid = {};

	bpf_probe_read_kernel(&upid, sizeof(upid), (const char *)pid + OFF_pid_numbers + level * SIZE_upid);
	to->nr = upid.nr;
	READ(to->inum, upid.ns, OFF_pid_namespace_ns_inum);
	to->ns_id = namespace_identity(upid.ns);
}

/* Append the numbers of a pid object to the scratch buffer; returns how many. */
static __always_inline u8 put_numbers(struct scratch *s, const void *pid)
{
	u32 level = 0;
	u64 offset = *(volatile u64 *)&s->offset;
	u32 i;

	READ(level, pid, OFF_pid_level);
	if (level >= MAX_LEVELS)
		level = MAX_LEVELS - 1;
#pragma clang loop unroll(disable)
	for (i = 0; i < MAX_LEVELS; i++) {
		struct pid_number *to;

		/* clang would fold both exits into one comparison that the verifier cannot follow */
		asm volatile("" : "+r"(i));
		if (i > level || i >= MAX_LEVELS)
			break;
		offset &= SCRATCH_BYTES - 1;
		to = (void *)&s->bytes[offset];
		read_number(to, pid, i);
		offset += sizeof(*to);
	}
	*(volatile u64 *)&s->offset = offset;
	return level + 1;
}

static __always_inline u32 task_flags(u32 pf, u32 state, u32 exit_state, u32 ptrace, u8 reaper_bits, u8 under_bits)
{
	u32 flags = 0;

	if (reaper_bits & MASK_signal_struct_is_child_subreaper)
		flags |= TASK_SUBREAPER;
	if (under_bits & MASK_signal_struct_has_child_subreaper)
		flags |= TASK_UNDER_SUBREAPER;
	if (exit_state)
		flags |= TASK_EXITED;
	if (exit_state & STATE_EXIT_DEAD)
		flags |= TASK_RELEASED;
	if (pf & PF_EXITING)
		flags |= TASK_EXITING;
	if (state & STATE_STOPPED)
		flags |= TASK_STOPPED;
	if (state & STATE_TRACED)
		flags |= TASK_TRACING_STOP;
	if (pf & PF_KTHREAD)
		flags |= TASK_KERNEL;
	if (pf & (PF_IO_WORKER | PF_USER_WORKER))
		flags |= TASK_IO_WORKER;
	if (ptrace)
		flags |= TASK_PTRACED;
	return flags;
}

/* The namespace of the next child, where unshare() or setns() has made it another than the task's own; else NULL. */
static __always_inline const void *pending_namespace(const void *task, const void *pid)
{
	const void *nsproxy = 0, *child_ns = 0, *own_ns = 0;
	u32 level = 0;

	READ(nsproxy, task, OFF_task_struct_nsproxy);
	if (!nsproxy || !pid)
		return 0;
	READ(level, pid, OFF_pid_level);
	READ(own_ns, pid, OFF_pid_numbers + (level & 63) * SIZE_upid + OFF_upid_ns);
	READ(child_ns, nsproxy, OFF_nsproxy_pid_ns_for_children);
	return child_ns != own_ns ? child_ns : 0;
}

/* do_notify_parent(): a parent that ignores SIGCHLD, or said SA_NOCLDWAIT, has its children reaped for it. */
static __always_inline u32 autoreap(const void *task)
{
	const void *leader = 0, *parent = 0, *sighand = 0;
	u64 handler = 0, sa_flags = 0;
	s32 exit_signal = 0;

	READ(leader, task, OFF_task_struct_group_leader);
	READ(exit_signal, leader, OFF_task_struct_exit_signal);
	if (exit_signal != SIGCHLD_NR)
		return 0;
	READ(parent, leader, OFF_task_struct_real_parent);
	READ(sighand, parent, OFF_task_struct_sighand);
	if (!sighand)
		return 0;
	READ(handler, sighand, OFF_sighand_struct_action + (SIGCHLD_NR - 1) * SIZE_k_sigaction + OFF_k_sigaction_sa_sa_handler);
	READ(sa_flags, sighand, OFF_sighand_struct_action + (SIGCHLD_NR - 1) * SIZE_k_sigaction + OFF_k_sigaction_sa_sa_flags);
	return handler == SIG_IGN_VALUE || (sa_flags & SA_NOCLDWAIT_BIT) ? TASK_AUTOREAP : 0;
}

/*
 * Say what to announce. The caller then tail-calls the one program that does it: compiled into every hook it would be
 * nine tenths of the time that loading takes.
 */
static __always_inline int request(u32 kind, u32 argument, const void *task, const void *by)
{
	u32 zero = 0, slot;
	u32 *in_use = depth.lookup(&zero);
	struct page *p = counters();
	struct scratch *s;

	if (!p || !in_use)
		return 0;
	slot = *in_use;
	s = scratch.lookup(&slot);
	if (!s) {
		__sync_fetch_and_add(&p->nested, 1);
		return 0;
	}
	*in_use = slot + 1;
	s->kind = kind;
	s->argument = argument;
	s->task = task;
	s->by = by;
	return 1;
}

/* The numbered record with the whole state of a task that request() asked for. */
static __always_inline void announce(void)
{
	u32 zero = 0, slot, pf = 0, state = 0, exit_state = 0, ptrace = 0, signal_flags = 0, code = 0;
	struct page *p = counters();
	u32 *in_use = depth.lookup(&zero);
	const void *pid = 0, *signal = 0, *cred = 0, *child_ns, *task, *by;
	u8 reaper_bits = 0, under_bits = 0;
	struct scratch *s;
	struct record_task *r;
	u64 seq, size;
	u32 i;

	if (!p || !in_use)
		return;
	slot = *in_use - 1;
	s = scratch.lookup(&slot);
	if (!s)
		return;
	task = s->task;
	by = s->by;
	r = (void *)s->bytes;

	seq = __sync_fetch_and_add(&p->seq, 1);
	r->head.seq = seq;
	r->head.kind = s->kind;
	r->head.argument = s->argument;
	r->task = (u64)task;
	READ(r->start_ns, task, OFF_START);
	READ(r->tid, task, OFF_task_struct_pid);
	READ(r->parent, task, OFF_task_struct_real_parent);
	READ(r->leader, task, OFF_task_struct_group_leader);
	READ(r->parent_tid, r->parent, OFF_task_struct_pid);
	READ(r->exit_signal, task, OFF_task_struct_exit_signal);
	bpf_probe_read_kernel(r->comm, sizeof(r->comm), (const char *)task + OFF_task_struct_comm);
	r->by = (u64)by;
	r->by_tid = 0;
	if (s->kind == RECORD_FORK && by)
		READ(r->by_tid, by, OFF_task_struct_pid);
	READ(cred, task, OFF_task_struct_cred);
	READ(r->uid, cred, OFF_cred_uid);
	READ(r->gid, cred, OFF_cred_gid);

	READ(pf, task, OFF_task_struct_flags);
	READ(state, task, OFF_STATE);
	READ(exit_state, task, OFF_task_struct_exit_state);
	READ(ptrace, task, OFF_task_struct_ptrace);
	READ(signal, task, OFF_task_struct_signal);
	READ(reaper_bits, signal, OFF_signal_struct_is_child_subreaper);
	READ(under_bits, signal, OFF_signal_struct_has_child_subreaper);
	r->flags = task_flags(pf, state, exit_state, ptrace, reaper_bits, under_bits);
	/* wait_task_zombie(): a group that was told to exit has one status for all */
	READ(signal_flags, signal, OFF_signal_struct_flags);
	if (signal_flags & SIGNAL_GROUP_EXIT)
		READ(code, signal, OFF_signal_struct_group_exit_code);
	else
		READ(code, task, OFF_task_struct_exit_code);
	r->exit_code = code;
	if (s->kind == RECORD_EXIT && s->argument)
		r->flags |= autoreap(task);

	/* signal->pids[PIDTYPE_PID] is always NULL: the task's own is thread_pid */
	bpf_probe_read_kernel(s->roles, sizeof(s->roles), (const char *)signal + OFF_signal_struct_pids);
	READ(pid, task, OFF_task_struct_thread_pid);

	r->child_inum = 0;
	r->child_ns_id = 0;
	child_ns = pending_namespace(task, pid);
	if (child_ns) {
		r->flags |= TASK_MOVING;
		READ(r->child_inum, child_ns, OFF_pid_namespace_ns_inum);
		r->child_ns_id = namespace_identity(child_ns);
	}

	s->roles[PIDTYPE_PID] = pid;
	*(volatile u64 *)&s->offset = sizeof(*r);
#pragma clang loop unroll(disable)
	for (i = 0; i < MAX_OBJECTS; i++) {
		asm volatile("" : "+r"(i));
		if (i >= MAX_OBJECTS)
			break;
		pid = s->roles[i];
		(&r->pid)[i] = pid_identity(pid);
		/* a single-threaded leader of its own session has one object in all four roles */
		if (!pid || (i > 0 && pid == s->roles[0]) || (i > 1 && pid == s->roles[1]) || (i > 2 && pid == s->roles[2]))
			r->levels[i] = 0;
		else
			r->levels[i] = put_numbers(s, pid);
	}

	size = *(volatile u64 *)&s->offset;
	asm volatile("" : "+r"(size));
	size &= SCRATCH_BYTES - 1;
	if (ring.ringbuf_output(r, size, wakeup(seq)))
		lost(p, seq);
	*in_use = slot;
}

/* A short record about a task that has no state worth telling. */
static __always_inline void announce_end(u32 kind, const void *task, u64 start_ns)
{
	struct page *p = counters();
	struct record_end r = {};
	struct record_end *out = &r;
	u64 seq;

	if (!p)
		return;
	seq = __sync_fetch_and_add(&p->seq, 1);
	r.head.seq = seq;
	r.head.kind = kind;
	r.task = (u64)task;
	r.start_ns = start_ns;
	if (kind != RECORD_GONE) {
		READ(r.start_ns, task, OFF_START);
		READ(r.tid, task, OFF_task_struct_pid);
		READ(r.exit_code, task, OFF_task_struct_exit_code);
	}
	if (ring.ringbuf_output(out, sizeof(r), wakeup(seq)))
		lost(p, seq);
}

static __always_inline void announce_call(u32 kind, u32 value)
{
	struct page *p = counters();
	struct record_call r = {};
	struct record_call *out = &r;
	const void *task = (void *)bpf_get_current_task();
	u64 seq;

	if (!p)
		return;
	seq = __sync_fetch_and_add(&p->seq, 1);
	r.head.seq = seq;
	r.head.kind = kind;
	r.task = (u64)task;
	READ(r.tid, task, OFF_task_struct_pid);
	r.value = value;
	if (ring.ringbuf_output(out, sizeof(r), wakeup(seq)))
		lost(p, seq);
}

#endif
