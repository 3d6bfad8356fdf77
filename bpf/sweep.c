/* SPDX-License-Identifier: GPL-2.0-only */
/* Asking: every task there is (iterator), one task by address, and a mark in the stream. */

struct task_iterator {
	void *meta;
	void *task;
};

struct iterator_meta {
	void *seq_file;
	u64 session_id;
	u64 seq_num;
};

int on_task(struct task_iterator *ctx)
{
	const char *task = ctx->task;
	struct iterator_meta *meta = ctx->meta;
	const void *pid = 0, *signal = 0;
	const void *roles[MAX_OBJECTS] = {};
	u32 pf = 0, state = 0, exit_state = 0, ptrace = 0;
	u8 reaper_bits = 0, under_bits = 0;
	struct sweep_row row = {};
	const void *cred = 0;

	if (!task)
		return 0;
	row.task = (u64)task;
	READ(row.start_ns, task, OFF_START);
	READ(row.tid, task, OFF_task_struct_pid);
	READ(row.parent, task, OFF_task_struct_real_parent);
	READ(signal, task, OFF_task_struct_signal);
	READ(pid, task, OFF_task_struct_thread_pid);
	bpf_probe_read_kernel(roles, sizeof(roles), (const char *)signal + OFF_signal_struct_pids);
	row.pid = pid_identity(pid);
	row.pgid = pid_identity(roles[2]);
	row.sid = pid_identity(roles[3]);
	READ(pf, task, OFF_task_struct_flags);
	READ(state, task, OFF_STATE);
	READ(exit_state, task, OFF_task_struct_exit_state);
	READ(ptrace, task, OFF_task_struct_ptrace);
	READ(reaper_bits, signal, OFF_signal_struct_is_child_subreaper);
	READ(under_bits, signal, OFF_signal_struct_has_child_subreaper);
	row.flags = task_flags(pf, state, exit_state, ptrace, reaper_bits, under_bits);
	if (pending_namespace(task, pid))
		row.flags |= TASK_MOVING;
	READ(cred, task, OFF_task_struct_cred);
	READ(row.uid, cred, OFF_cred_uid);
	READ(row.gid, cred, OFF_cred_gid);
	bpf_probe_read_kernel(row.comm, sizeof(row.comm), task + OFF_task_struct_comm);
	bpf_seq_write(meta->seq_file, &row, sizeof(row));
	return 0;
}

/* Run by BPF_PROG_TEST_RUN with a struct question as context; answers in the ring, in the order of events. */
int state(struct bpf_raw_tracepoint_args *ctx)
{
	const char *task = (void *)ctx->args[0];
	u64 wanted = ctx->args[1], start_ns = 0;
	const char *pid = 0, *owner = 0;

	/*
	 * Alive (or zombie) means: the pid object's first PIDTYPE_PID entry is this very task. After release_task()
	 * thread_pid is NULL; in memory that is no task_struct any more the two pointers do not agree.
	 */
	READ(start_ns, task, OFF_START);
	READ(pid, task, OFF_task_struct_thread_pid);
	if (pid)
		READ(owner, pid, OFF_pid_tasks); /* tasks[PIDTYPE_PID].first */
	if (pid && owner == task + OFF_task_struct_pid_links && (!wanted || start_ns == wanted)) {
		if (request(RECORD_STATE, 0, task, 0))
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
	seq = __sync_fetch_and_add(&p->seq, 1);
	r.seq = seq;
	r.kind = RECORD_MARKER;
	r.argument = (u32)ctx->args[0];
	if (ring.ringbuf_output(out, sizeof(r), wakeup(seq)))
		lost(p, seq);
	return 0;
}
