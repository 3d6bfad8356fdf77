/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Reads of the kernel's structures by the offsets of bpf/layout.py, and the writing of records.
 *
 * bpf_probe_read_kernel() is always explicit: bcc's rewriter turns some plain expressions (an array of pointers inside a
 * structure is one) into reads that silently yield 0. A call takes about 20 ns, so neighbours are read together.
 */
#ifndef CKPTREE_KERNEL_H
#define CKPTREE_KERNEL_H

/* From include/linux/sched.h and include/linux/sched/signal.h. Crash tools rely on the values; they have not changed. */
#define PF_IO_WORKER 0x00000010
#define PF_EXITING 0x00000004
#define PF_USER_WORKER 0x00004000
#define PF_KTHREAD 0x00200000
#define STATE_EXIT_DEAD 0x00000010
#define SIGNAL_STOP_STOPPED 0x00000001
#define SIGNAL_GROUP_EXIT 0x00000004
#define SIGCHLD_NR 17
#define SA_NOCLDWAIT_BIT 0x00000002
#define SIG_IGN_VALUE 1
#define PR_SET_CHILD_SUBREAPER 36
#define WNOWAIT_BIT 0x01000000
#define P_PID_NR 1
#define CLONE_THREAD_BIT 0x00010000
#define PIDNS_ADDING 0x80000000u
#define PIDTYPE_PID 0
#define PIDTYPE_TGID 1
#define PIDTYPE_PGID 2
#define PIDTYPE_SID 3
#define PIDTYPE_MASK 3

#define WAKE_EVERY 4096 /* a power of two: one of so many records wakes the agent */

#define SCRATCH_BYTES 4096 /* power of two above the largest record: 160 + 4 * 33 * 16 = 2272 */
#define SCRATCH_DEPTH 3

#define MMAPABLE (1 << 10) /* BPF_F_MMAPABLE */

/* For the verifier: no level of a pid object is above this mask, though MAX_LEVELS is no power of two. */
#define LEVEL_MASK 63

/* The identity of a pid object without pid->ino: its number above its address, which is aligned to 64 bytes. */
#define ADDRESS_BITS 42
#define ADDRESS_SHIFT 6

/* The offset of an entry in an array of pointers. */
#define ENTRY(n) ((n) * sizeof(void *))

#define READ(to, base, offset) bpf_probe_read_kernel(&(to), sizeof(to), (const void *)((const char *)(base) + (offset)))

/*
 * An announcement under construction. One announcement may begin while another is half-way through on the same CPU: in an
 * interrupt, or after preemption on kernels whose tracepoints allow it. Each has a buffer of its own.
 */
struct scratch {
	u32 kind;
	u32 argument;
	const void *task;
	const void *by;
	u64 offset; /* read back through memory: then the verifier does not track its value on every path */
	const void *roles[MAX_OBJECTS];
	u32 deepest[MAX_OBJECTS]; /* level of each role's object */
	u32 first[MAX_OBJECTS];	  /* number of each role's object on level 0 */
	u8 bytes[SCRATCH_BYTES * 2];
};

BPF_RINGBUF_OUTPUT(ring, 16); /* pages; the loader sets the real size */
BPF_F_TABLE("array", u32, struct page, page, 1, MMAPABLE);
BPF_PERCPU_ARRAY(depth, u32, 1);
BPF_PERCPU_ARRAY(scratch, struct scratch, SCRATCH_DEPTH);
BPF_ARRAY(keep, u32, 1); /* bits of KEEP_* */
BPF_PROG_ARRAY(raw, 1);	 /* on_announce, for raw tracepoint programs: an array holds programs of one type only */
BPF_PROG_ARRAY(perf, 1); /* on_announce, for tracepoint programs */

static __always_inline struct page *counters(void)
{
	u32 zero = 0;

	return page.lookup(&zero);
}

/*
 * Add one and return the value before: unique to each caller, on any CPU. Linux 5.12 has the instruction. LLVM 21 rejects
 * the built-in's result for the processor that bcc names; LLVM 14 lacks the instruction in its assembler.
 */
static __always_inline u64 take_number(__u64 *counter)
{
#if __clang_major__ < 19
	return __sync_fetch_and_add(counter, 1);
#else
	u64 number = 1;

	asm volatile("%0 = atomic_fetch_add((u64 *)(%1 + 0), %0)" : "+r"(number) : "r"(counter) : "memory");
	return number;
#endif
}

/* The time for a record's head. */
static __always_inline u64 record_time(void)
{
	u32 zero = 0, *kept = keep.lookup(&zero);

	return kept && (*kept & KEEP_TIME) ? bpf_ktime_get_boot_ns() : 0;
}

static __always_inline u64 wakeup(u64 seq)
{
	return (seq & (WAKE_EVERY - 1)) ? BPF_RB_NO_WAKEUP : BPF_RB_FORCE_WAKEUP;
}

static __always_inline void lost(struct page *p, u64 seq)
{
	u64 n = take_number(&p->lost) & (LOST_NUMBERS - 1);

	asm volatile("" : "+r"(n));
	if (n < LOST_NUMBERS)
		p->lost_seq[n] = seq;
}

/* The identity of a struct pid. */
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
	id = ((u64)nr << ADDRESS_BITS) | (((u64)pid >> ADDRESS_SHIFT) & ((1ULL << ADDRESS_BITS) - 1));
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
	struct {
		u32 nr;
		u32 hole;
		void *ns;
	} upid = {};

	bpf_probe_read_kernel(&upid, sizeof(upid), (const char *)pid + OFF_pid_numbers + level * SIZE_upid);
	to->nr = upid.nr;
	READ(to->inum, upid.ns, OFF_pid_namespace_ns_inum);
	to->ns_id = namespace_identity(upid.ns);
}

static __always_inline u32 task_flags(u32 pf, u32 signal_flags, u32 exit_state, u32 ptrace, u8 reaper_bits,
				      u8 under_bits)
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
	if (signal_flags & SIGNAL_STOP_STOPPED)
		flags |= TASK_STOPPED;
	if (pf & PF_KTHREAD)
		flags |= TASK_KERNEL;
	if (pf & (PF_IO_WORKER | PF_USER_WORKER))
		flags |= TASK_IO_WORKER;
	if (ptrace)
		flags |= TASK_PTRACED;
	return flags;
}

/*
 * Note the announcement to make. The caller then calls announce() (announce.h), or tail-calls the one program that does.
 * A copy of announce() in every hook would take nine tenths of the loading time.
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

static __always_inline void announce_call(u32 kind, u32 value)
{
	struct page *p = counters();
	struct record_call r = {};
	struct record_call *out = &r;
	u64 seq;

	if (!p)
		return;
	seq = take_number(&p->seq);
	r.head.seq = seq;
	r.head.time_ns = record_time();
	r.head.kind = kind;
	r.task = bpf_get_current_task();
	r.tid = (u32)bpf_get_current_pid_tgid();
	r.value = value;
	if (ring.ringbuf_output(out, sizeof(r), wakeup(seq)))
		lost(p, seq);
}

#endif
