/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The numbered records of tasks. Compiled twice (compiler.py): behind helper_reads.h for programs to which a task is an
 * address, and behind typed_loads.h for programs whose task has a type that the verifier knows. So this file has no include
 * guard, and all its functions are called FN(name).
 */

/* Append the numbers of a role's object to the scratch buffer; return their count. */
static __always_inline u8 FN(put_numbers)(struct scratch *s, u32 role)
{
	u64 offset = *(volatile u64 *)&s->offset;
	u32 level = *(volatile u32 *)&s->deepest[role];
	const void *pid = *(const void *volatile *)&s->roles[role];
	struct pid_number *to;
	u32 i;

	if (level >= MAX_LEVELS)
		level = MAX_LEVELS - 1;
	offset &= SCRATCH_BYTES - 1;
	to = (void *)&s->bytes[offset];
	to->nr = s->first[role];
	to->inum = INITIAL_INUM;
	to->ns_id = 0;
	offset += sizeof(*to);
#pragma clang loop unroll(disable)
	for (i = 1; i < MAX_LEVELS; i++) {
		/* clang would merge both conditions into one comparison that the verifier cannot follow */
		asm volatile("" : "+r"(i));
		if (i > level || i >= MAX_LEVELS)
			break;
		offset &= SCRATCH_BYTES - 1;
		read_number((void *)&s->bytes[offset], pid, i);
		offset += sizeof(*to);
	}
	*(volatile u64 *)&s->offset = offset;
	return level + 1;
}

/* Note the facts of a role's object while the verifier still knows its type; return the object's identity. */
static __always_inline u64 FN(note_role)(struct scratch *s, u32 role, const void *pid)
{
	u32 level = 0, nr = 0;

	s->roles[role] = pid;
	if (!pid)
		return 0;
	GET(u32, level, pid, OFF_pid_level);
	GET(u32, nr, pid, OFF_pid_numbers + OFF_upid_nr);
	s->deepest[role] = level;
	s->first[role] = nr;
	return IDENTITY(pid);
}

/* The pid namespace of the next child, if unshare() or setns() has made it another than the task's own; else NULL. */
static __always_inline const void *FN(pending_namespace)(const void *task, const void *pid)
{
	const void *nsproxy = 0, *child_ns = 0, *own_ns = 0;
	u32 level = 0;

	GET(u64, nsproxy, task, OFF_task_struct_nsproxy);
	if (!nsproxy || !pid)
		return 0;
	GET(u32, level, pid, OFF_pid_level);
	if (!level)
		GET(u64, own_ns, pid, OFF_pid_numbers + OFF_upid_ns);
	else
		READ(own_ns, pid, OFF_pid_numbers + (level & LEVEL_MASK) * SIZE_upid + OFF_upid_ns);
	GET(u64, child_ns, nsproxy, OFF_nsproxy_pid_ns_for_children);
	return child_ns != own_ns ? child_ns : 0;
}

/* do_notify_parent(): the kernel reaps the children of a parent that ignores SIGCHLD or has set SA_NOCLDWAIT. */
static __always_inline u32 FN(autoreap)(const void *task)
{
	const void *leader = 0, *parent = 0, *sighand = 0;
	u64 handler = 0, sa_flags = 0;
	s32 exit_signal = 0;
	u32 born_of = 0, execs = 0;

	GET(u64, leader, task, OFF_task_struct_group_leader);
	GET(u32, exit_signal, leader, OFF_task_struct_exit_signal);
	GET(u64, parent, leader, OFF_task_struct_real_parent);
	if (!parent)
		return 0;
	if (exit_signal != SIGCHLD_NR) {
		/* A parent that has called exec() since the child's birth gets SIGCHLD in any case. */
		GET(u32, born_of, leader, OFF_task_struct_parent_exec_id);
		GET(u32, execs, parent, OFF_task_struct_self_exec_id);
		if (born_of == execs)
			return 0;
	}
	GET(u64, sighand, parent, OFF_task_struct_sighand);
	if (!sighand)
		return 0;
	GET(u64, handler, sighand,
	    OFF_sighand_struct_action + (SIGCHLD_NR - 1) * SIZE_k_sigaction + OFF_k_sigaction_sa_sa_handler);
	GET(u64, sa_flags, sighand,
	    OFF_sighand_struct_action + (SIGCHLD_NR - 1) * SIZE_k_sigaction + OFF_k_sigaction_sa_sa_flags);
	return handler == SIG_IGN_VALUE || (sa_flags & SA_NOCLDWAIT_BIT) ? TASK_AUTOREAP : 0;
}

/* Announce the whole state of a task, for the reason that request() has noted. */
static __always_inline void FN(announce)(const void *task, const void *by)
{
	u32 zero = 0, slot, pf = 0, exit_state = 0, ptrace = 0, signal_flags = 0, code = 0;
	struct page *p = counters();
	u32 *in_use = depth.lookup(&zero);
	const void *pid = 0, *group = 0, *signal = 0, *cred = 0, *parent = 0, *leader = 0, *child_ns;
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
	r = (void *)s->bytes;

	seq = take_number(&p->seq);
	r->head.seq = seq;
	r->head.time_ns = record_time();
	r->head.kind = s->kind;
	r->head.argument = s->argument;
	r->task = (u64)task;
	GET(u64, r->start_ns, task, OFF_START);
	GET(u32, r->tid, task, OFF_task_struct_pid);
	GET(u64, parent, task, OFF_task_struct_real_parent);
	r->parent = (u64)parent;
	r->parent_tid = 0;
	if (parent)
		GET(u32, r->parent_tid, parent, OFF_task_struct_pid);
	GET(u64, leader, task, OFF_task_struct_group_leader);
	r->leader = (u64)leader;
	GET(u32, r->exit_signal, task, OFF_task_struct_exit_signal);
	GET_COMM(r->comm, task);
	r->by = (u64)by;
	r->by_tid = s->kind == RECORD_FORK ? (u32)bpf_get_current_pid_tgid() : 0;
	r->uid = r->gid = 0;
	GET(u64, cred, task, OFF_task_struct_cred);
	if (cred) {
		GET(u32, r->uid, cred, OFF_cred_uid);
		GET(u32, r->gid, cred, OFF_cred_gid);
	}

	GET(u32, pf, task, OFF_task_struct_flags);
	GET(u32, exit_state, task, OFF_task_struct_exit_state);
	GET(u32, ptrace, task, OFF_task_struct_ptrace);
	GET(u64, signal, task, OFF_task_struct_signal);
	GET(u64, pid, task, OFF_task_struct_thread_pid);
	(&r->pid)[PIDTYPE_PID] = FN(note_role)(s, PIDTYPE_PID, pid);
	if (signal) {
		GET(u8, reaper_bits, signal, OFF_signal_struct_is_child_subreaper);
		GET(u8, under_bits, signal, OFF_signal_struct_has_child_subreaper);
		/* wait_task_zombie(): after a group exit all threads have one status */
		GET(u32, signal_flags, signal, OFF_signal_struct_flags);
		if (signal_flags & SIGNAL_GROUP_EXIT)
			GET(u32, code, signal, OFF_signal_struct_group_exit_code);
		else
			GET(u32, code, task, OFF_task_struct_exit_code);
		/* signal->pids[PIDTYPE_PID] is always NULL; the task's own pid is thread_pid */
		GET(u64, group, signal, OFF_signal_struct_pids + ENTRY(PIDTYPE_TGID));
		r->tgid = FN(note_role)(s, PIDTYPE_TGID, group);
		GET(u64, group, signal, OFF_signal_struct_pids + ENTRY(PIDTYPE_PGID));
		r->pgid = FN(note_role)(s, PIDTYPE_PGID, group);
		GET(u64, group, signal, OFF_signal_struct_pids + ENTRY(PIDTYPE_SID));
		r->sid = FN(note_role)(s, PIDTYPE_SID, group);
	}
	r->flags = task_flags(pf, signal_flags, exit_state, ptrace, reaper_bits, under_bits);
	r->exit_code = code;
	if (s->kind == RECORD_EXIT && s->argument)
		r->flags |= FN(autoreap)(task);

	/* a new process has no entry in the map, and an ended one needs none */
	if (s->kind == RECORD_FORK ? s->argument & CLONE_THREAD_BIT : s->kind != RECORD_EXIT || !s->argument)
		settle_told(r);

	r->child_inum = 0;
	r->child_ns_id = 0;
	child_ns = FN(pending_namespace)(task, pid);
	if (child_ns) {
		r->flags |= TASK_MOVING;
		READ(r->child_inum, child_ns, OFF_pid_namespace_ns_inum);
		r->child_ns_id = namespace_identity(child_ns);
#ifdef OFF_pid_namespace_pid_allocated
		/* zap_pid_ns_processes() clears this bit for good; alloc_pid() then fails with ENOMEM */
		u32 allocated = PIDNS_ADDING;

		READ(allocated, child_ns, OFF_pid_namespace_pid_allocated);
		if (!(allocated & PIDNS_ADDING))
			r->flags |= TASK_MOVING_NOWHERE;
#endif
	}

	*(volatile u64 *)&s->offset = sizeof(*r);
#pragma clang loop unroll(disable)
	for (i = 0; i < MAX_OBJECTS; i++) {
		const void *role;

		asm volatile("" : "+r"(i));
		if (i >= MAX_OBJECTS)
			break;
		role = s->roles[i];
		/* a single-threaded session leader has the same object in all four roles */
		if (!role || (i > 0 && role == s->roles[0]) || (i > 1 && role == s->roles[1]) ||
		    (i > 2 && role == s->roles[2]))
			r->levels[i] = 0;
		else
			r->levels[i] = FN(put_numbers)(s, i);
	}

	size = *(volatile u64 *)&s->offset;
	asm volatile("" : "+r"(size));
	size &= SCRATCH_BYTES - 1;
	if (ring.ringbuf_output(r, size, wakeup(seq)))
		lost(p, seq);
	*in_use = slot;
}

/* Announce the end of a task: a short record without its state. */
static __always_inline void FN(announce_end)(u32 kind, const void *task, u64 start_ns)
{
	struct page *p = counters();
	struct record_end r = {};
	struct record_end *out = &r;
	u64 seq;

	if (!p)
		return;
	seq = take_number(&p->seq);
	r.head.seq = seq;
	r.head.time_ns = record_time();
	r.head.kind = kind;
	r.task = (u64)task;
	r.start_ns = start_ns;
	if (kind != RECORD_GONE) {
		GET(u64, r.start_ns, task, OFF_START);
		GET(u32, r.tid, task, OFF_task_struct_pid);
		GET(u32, r.exit_code, task, OFF_task_struct_exit_code);
	}
	if (ring.ringbuf_output(out, sizeof(r), wakeup(seq)))
		lost(p, seq);
}

#undef FN
#undef GET
#undef GET_COMM
#undef IDENTITY
