/* SPDX-License-Identifier: GPL-2.0-only */
/* Questions: all tasks (iterator), one task by address, and a mark in the stream. */

int on_task(struct task_iterator *ctx)
{
	const char *task = ctx->task;
	struct iterator_meta *meta = ctx->meta;
	const void *pid, *pgid, *sid, *signal, *cred;
	u32 pf, signal_flags, exit_state, ptrace, exit_signal;
	u8 reaper_bits, under_bits;
	struct sweep_row row = {};

	if (!task)
		return 0;
	row.task = (u64)task;
	LOAD(u64, row.start_ns, task, OFF_START);
	LOAD(u32, row.tid, task, OFF_task_struct_pid);
	LOAD(u64, row.parent, task, OFF_task_struct_real_parent);
	LOAD(u64, signal, task, OFF_task_struct_signal);
	LOAD(u64, pid, task, OFF_task_struct_thread_pid);
	LOAD(u64, cred, task, OFF_task_struct_cred);
	if (!signal || !cred)
		return 0;
	row.pid = loaded_pid_identity(pid);
	LOAD(u64, pgid, signal, OFF_signal_struct_pids + ENTRY(PIDTYPE_PGID));
	row.pgid = loaded_pid_identity(pgid);
	LOAD(u64, sid, signal, OFF_signal_struct_pids + ENTRY(PIDTYPE_SID));
	row.sid = loaded_pid_identity(sid);
	LOAD(u32, pf, task, OFF_task_struct_flags);
	LOAD(u32, signal_flags, signal, OFF_signal_struct_flags);
	LOAD(u32, exit_state, task, OFF_task_struct_exit_state);
	LOAD(u32, ptrace, task, OFF_task_struct_ptrace);
	LOAD(u8, reaper_bits, signal, OFF_signal_struct_is_child_subreaper);
	LOAD(u8, under_bits, signal, OFF_signal_struct_has_child_subreaper);
	row.flags = task_flags(pf, signal_flags, exit_state, ptrace, reaper_bits, under_bits);
	LOAD(u32, exit_signal, task, OFF_task_struct_exit_signal);
	row.flags |= exit_signal << ROW_SIGNAL_SHIFT;
	if (loaded_pending_namespace(task, pid))
		row.flags |= TASK_MOVING;
	row.ties = loaded_ties(task, signal);
	LOAD(u32, row.uid, cred, OFF_cred_uid);
	LOAD(u32, row.gid, cred, OFF_cred_gid);
	LOAD(u64, *(u64 *)&row.comm[0], task, OFF_task_struct_comm);
	LOAD(u64, *(u64 *)&row.comm[8], task, OFF_task_struct_comm + 8);
	bpf_seq_write(meta->seq_file, &row, sizeof(row));
	return 0;
}

/* Run by BPF_PROG_TEST_RUN with a struct question as context; the answer goes to the ring, in the order of events. */
int state(struct bpf_raw_tracepoint_args *ctx)
{
	const char *task = (void *)ctx->args[0];
	u64 wanted = ctx->args[1], start_ns = 0;
	const char *pid = 0, *owner = 0;

	/*
	 * A living task or zombie is the first PIDTYPE_PID entry of its own pid object. After release_task()
	 * thread_pid is NULL. In memory that holds no task_struct any more the two pointers do not agree.
	 */
	READ(start_ns, task, OFF_START);
	READ(pid, task, OFF_task_struct_thread_pid);
	if (pid)
		READ(owner, pid, OFF_pid_tasks); /* tasks[PIDTYPE_PID].first */
	if (pid && owner == task + OFF_task_struct_pid_links && (!wanted || start_ns == wanted)) {
		if (request(RECORD_STATE, 0, task, (void *)ties(task)))
			raw.call(ctx, 0);
		return 0;
	}
	announce_end(RECORD_GONE, task, wanted);
	return 1;
}

int marker(struct bpf_raw_tracepoint_args *ctx)
{
	struct page *p = counters();
	struct record r = {};
	struct record *out = &r;
	u64 seq;

	if (!p)
		return 0;
	seq = take_number(&p->seq);
	r.seq = seq;
	r.time_ns = record_time();
	r.kind = RECORD_MARKER;
	r.argument = (u32)ctx->args[0];
	if (ring.ringbuf_output(out, sizeof(r), wakeup(seq)))
		lost(p, seq);
	return 0;
}
