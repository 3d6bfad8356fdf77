/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Birth, exec and exit: raw tracepoints, which every kernel with BPF has.
 *
 * task_newtask and not sched_process_fork: it has the clone flags, and it alone fires for io workers. It fires at the end
 * of copy_process(), before the child can run. So a child's own records always come after its birth.
 */

/* Announce the request that stands in the scratch buffer. */
static __always_inline void announce_requested(void)
{
	u32 zero = 0, slot;
	u32 *in_use = depth.lookup(&zero);
	struct scratch *s;

	if (!in_use)
		return;
	slot = *in_use - 1;
	s = scratch.lookup(&slot);
	if (s)
		announce(s->task, s->by);
}

/* Never attached: the hooks tail-call it. It is loaded once for each program type, so it cannot use ctx. */
int on_announce(void *ctx)
{
	announce_requested();
	return 0;
}

/* task_newtask(struct task_struct *task, unsigned long clone_flags) */
int on_fork(struct bpf_raw_tracepoint_args *ctx)
{
	if (request(RECORD_FORK, (u32)ctx->args[1], (void *)ctx->args[0], (void *)bpf_get_current_task()))
		raw.call(ctx, 0);
	return 0;
}

/* sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm) */
int on_exec(struct bpf_raw_tracepoint_args *ctx)
{
	if (request(RECORD_EXEC, (u32)ctx->args[1], (void *)ctx->args[0], 0))
		raw.call(ctx, 0);
	return 0;
}

/* sched_process_exit(struct task_struct *p, bool group_dead); the flag since v6.16 */
int on_exit(struct bpf_raw_tracepoint_args *ctx)
{
	const void *task = (void *)ctx->args[0];
	u32 group_dead;

#ifdef HAVE_GROUP_DEAD
	group_dead = ctx->args[1] & 1;
#else
	const void *signal = 0;
	s32 live = 0;

	READ(signal, task, OFF_task_struct_signal);
	READ(live, signal, OFF_signal_struct_live);
	group_dead = live == 0;
#endif
	if (request(RECORD_EXIT, group_dead, task, 0))
		raw.call(ctx, 0);
	return 0;
}

/* sched_process_free(struct task_struct *p): from an RCU callback */
int on_free(struct bpf_raw_tracepoint_args *ctx)
{
	announce_end(RECORD_FREE, (void *)ctx->args[0], 0);
	return 0;
}

/*
 * Birth, exit and free for kernels that tell a program the types of a tracepoint's arguments (BPF_TRACE_RAW_TP, Linux 5.5).
 * They announce in the same program, because a tail call loses the types. An exec is too slow to gain from it.
 */
int on_fork_typed(u64 *ctx)
{
	const void *task = (void *)ctx[0];

	if (request(RECORD_FORK, (u32)ctx[1], task, 0))
		loaded_announce(task, (void *)bpf_get_current_task());
	return 0;
}

int on_exit_typed(u64 *ctx)
{
	const void *task = (void *)ctx[0];
	u32 group_dead;

#ifdef HAVE_GROUP_DEAD
	group_dead = ctx[1] & 1;
#else
	const void *signal = 0;
	s32 live = 0;

	LOAD(u64, signal, task, OFF_task_struct_signal);
	if (signal)
		LOAD(u32, live, signal, OFF_signal_struct_live);
	group_dead = live == 0;
#endif
	if (request(RECORD_EXIT, group_dead, task, 0))
		loaded_announce(task, 0);
	return 0;
}

int on_free_typed(u64 *ctx)
{
	loaded_announce_end(RECORD_FREE, (void *)ctx[0], 0);
	return 0;
}
