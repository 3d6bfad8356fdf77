/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * setsid, setpgid, subreaper, reap: the best hook that loads; bpf/hooks.py has the order.
 *
 * The system call tracepoints fire when the call returns, so the state is the new one. sys_exit has no arguments, but they
 * still stand in the caller's saved registers. That saves a hook and a hash at sys_enter.
 */

/* The context of sys_exit_* from perf, defined here so that no format file is needed. */
struct sys_exit {
	u64 common;
	s64 id;
	s64 ret;
};

static __always_inline u64 argument(u32 offset)
{
	u64 value = 0;
	void *regs = (void *)bpf_task_pt_regs((void *)bpf_get_current_task_btf());

	READ(value, regs, offset);
	return value;
}

int on_setsid(struct sys_exit *ctx)
{
	if (ctx->ret >= 0 && request(RECORD_SESSION, 0, (void *)bpf_get_current_task(), 0))
		perf.call(ctx, 0);
	return 0;
}

/* The number of a process at the level of the caller's namespace; 0 if it has none there. */
static __always_inline u32 number_at(const void *leader, u32 level)
{
	const void *pid = 0;
	u32 own_level = 0, nr = 0;

	READ(pid, leader, OFF_task_struct_thread_pid);
	if (!pid)
		return 0;
	READ(own_level, pid, OFF_pid_level);
	if (own_level < level)
		return 0;
	READ(nr, pid, OFF_pid_numbers + (level & LEVEL_MASK) * SIZE_upid + OFF_upid_nr);
	return nr;
}

#define CHILDREN_LOOKED_AT 256
#define OFF_list_head_prev sizeof(void *)

/* A child of the caller by its number, newest first; then children of the other threads, which setpgid() may move too. */
static __always_inline const void *find_child(const void *task, u32 level, u32 wanted)
{
	const void *signal = 0, *thread = task, *list = (const char *)task + OFF_task_struct_children;
	int i;

	READ(signal, task, OFF_task_struct_signal);
#pragma clang loop unroll(disable)
	for (i = 0; i < CHILDREN_LOOKED_AT; i++) {
		const void *entry = 0, *node = 0;

		READ(entry, list, OFF_list_head_prev);
		if (!entry)
			break;
		if (entry != (const char *)thread + OFF_task_struct_children) {
			if (number_at((const char *)entry - OFF_task_struct_sibling, level) == wanted)
				return (const char *)entry - OFF_task_struct_sibling;
			list = entry;
			continue;
		}
		READ(node, thread, OFF_task_struct_thread_node); /* list_head.next */
		if (node == (const char *)signal + OFF_signal_struct_thread_head)
			READ(node, node, 0);
		thread = (const char *)node - OFF_task_struct_thread_node;
		if (!node || thread == task)
			break;
		list = (const char *)thread + OFF_task_struct_children;
	}
	return 0;
}

int on_setpgid(struct sys_exit *ctx)
{
	const void *task = (void *)bpf_get_current_task();
	const void *pid = 0, *leader = 0, *found;
	u32 wanted, level = 0;

	if (ctx->ret != 0)
		return 0;
	wanted = (u32)argument(OFF_ARG0);
	READ(pid, task, OFF_task_struct_thread_pid);
	READ(level, pid, OFF_pid_level);
	READ(leader, task, OFF_task_struct_group_leader);
	found = !wanted || wanted == number_at(leader, level) ? leader : find_child(task, level, wanted);
	if (!found) {
		if (is_allowed())
			announce_call(RECORD_REGROUPED, wanted);
	} else if (is_news(found) && request(RECORD_GROUP, 0, found, 0)) {
		perf.call(ctx, 0);
	}
	return 0;
}

int on_prctl(struct sys_exit *ctx)
{
	if (ctx->ret == 0 && (u32)argument(OFF_ARG0) == PR_SET_CHILD_SUBREAPER &&
	    is_news((void *)bpf_get_current_task()) && request(RECORD_SUBREAPER, 0, (void *)bpf_get_current_task(), 0))
		perf.call(ctx, 0);
	return 0;
}

/*
 * Waits are a hint: they come about 15 ms before the free record. A call that does not return the reaped pid gives no hint,
 * because each one would make the agent ask about every child of the caller, as often as the caller likes.
 */
static __always_inline void announce_wait(u32 number)
{
	if (number && is_allowed())
		announce_call(RECORD_WAITED, number);
}

int on_wait4(struct sys_exit *ctx)
{
	if (ctx->ret > 0)
		announce_wait((u32)ctx->ret);
	return 0;
}

int on_waitid(struct sys_exit *ctx)
{
	/* siginfo_t: si_signo, si_errno, si_code, hole, then si_pid */
	struct {
		s32 signo, error, code, hole;
		u32 pid;
	} info = {};
	const void *to;

	if (ctx->ret != 0 || (argument(OFF_ARG3) & WNOWAIT_BIT))
		return 0;
	to = (void *)argument(OFF_ARG2);
	if (to) {
		bpf_probe_read_user(&info, sizeof(info), to);
		if (info.signo == SIGCHLD_NR) /* else WNOHANG found no child */
			announce_wait(info.pid);
	} else if ((u32)argument(OFF_ARG0) == P_PID_NR) {
		announce_wait((u32)argument(OFF_ARG1));
	}
	return 0;
}

/*
 * change_pid(struct pid **pids, struct task_struct *task, enum pid_type type, struct pid *pid), after it. `pids` is new in
 * v6.15, and only a walk through all of BTF could tell the two signatures apart. A second argument as small as an enum
 * pid_type is the type; any other is a pointer.
 *
 * setsid() calls it twice, first for the session, then for the group (set_special_pids()); the second call completes it.
 * Only setsid() makes a task's own number its session, and a session leader can never change its group.
 */
int after_change_pid(u64 *ctx)
{
	const void *task = (void *)(ctx[1] <= MAX_OBJECTS ? ctx[0] : ctx[1]);
	const void *signal = 0, *own = 0, *pgid = 0, *sid = 0;

	READ(own, task, OFF_task_struct_thread_pid);
	READ(signal, task, OFF_task_struct_signal);
	READ(pgid, signal, OFF_signal_struct_pids + ENTRY(PIDTYPE_PGID));
	READ(sid, signal, OFF_signal_struct_pids + ENTRY(PIDTYPE_SID));
	if (sid == own && pgid != own)
		return 0;
	if (sid != own && !is_news(task))
		return 0;
	if (request(sid == own ? RECORD_SESSION : RECORD_GROUP, 0, task, 0))
		announce(task, 0);
	return 0;
}

/* long __x64_sys_prctl(const struct pt_regs *regs), after it; regs are the caller's registers at entry */
int after_prctl(u64 *ctx)
{
	const void *task = (void *)bpf_get_current_task();
	u64 option = 0;

	READ(option, (void *)ctx[0], OFF_ARG0);
	if (ctx[1] == 0 && (u32)option == PR_SET_CHILD_SUBREAPER && is_news(task) &&
	    request(RECORD_SUBREAPER, 0, task, 0))
		announce(task, 0);
	return 0;
}

/* release_task(struct task_struct *p), before it */
int before_release_task(u64 *ctx)
{
	announce_end(RECORD_RELEASE, (void *)ctx[0], 0);
	return 0;
}

int kprobe_release_task(void *ctx)
{
	u64 task = 0;

	READ(task, ctx, OFF_PARAMETER0);
	announce_end(RECORD_RELEASE, (void *)task, 0);
	return 0;
}
