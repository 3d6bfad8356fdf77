/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Changes that are not announced: calls without effect, and changes more frequent than a reader can follow.
 *
 * setpgid() and prctl() return in a fraction of a microsecond, with or without effect. A process may call them a million
 * times a second, and that must not cost other users' records. A fork, an exec, an exit or a reap takes long enough for the
 * ring to keep up.
 *
 * Without effect: the group, session and subreaper flag of a process are compared with the last announcement. The map is a
 * cache: a process without an entry is announced. Any record that contradicts the entry (after a 32-bit call, say) removes
 * it. So the map never holds a state that a later record has replaced.
 *
 * Too frequent: each user has an allowance. A change beyond it takes no number; it is counted in the user's entry and in
 * struct page. A sweep, or the question that every snapshot asks about each task, finds the new state.
 */
#ifndef CKPTREE_QUIET_H
#define CKPTREE_QUIET_H

/*
 * A user may spend a tenth of the daemon's time. A daemon that takes 12 us for a record, or less, leaves the allowance at
 * ALLOWED_PER_SECOND; a slower one sets a higher price for each record. An eighth of a second's allowance may be spent at
 * once: that keeps nobody waiting for longer than a turn of the daemon's loop. Root may stop the daemon anyway.
 */
#define USER_LEVELS 33 /* user namespaces nest 32 deep at most */
#define TOLD_PROCESSES 4096
#define USERS 1024 /* with an allowance of their own, at a time */
#define SECOND_NS 1000000000ull
#define ALLOWED_PER_SECOND 8000
#define ALLOWED_AT_ONCE 1000
#define ALLOWED_TO_ROOT_PER_SECOND 50000
#define ALLOWED_TO_ROOT_AT_ONCE 25000

/* The last announced state of a process, by the address of its leader. */
struct told {
	u64 start_ns; /* of the leader: another process may get the same address later */
	u64 pgid;
	u64 sid;
	u64 subreaper;
	u64 announcing; /* 1 until a record of this state has its number */
};

BPF_TABLE("lru_hash", u64, struct told, told, TOLD_PROCESSES);
BPF_TABLE("lru_hash", u32, struct allowance, allowances, USERS);
BPF_ARRAY(price, u32, 1); /* the part of its second that a user spends on a record, ns, as the agent has it */

/* The price of a record. However low the agent's is, a user is allowed no more than ALLOWED_PER_SECOND. */
static __always_inline u64 price_of_record(void)
{
	u32 zero = 0, *set = price.lookup(&zero);
	u64 least = SECOND_NS / ALLOWED_PER_SECOND;

	return set && *set > least ? *set : least;
}

/* The user to charge: the owner of the outermost user namespace below the initial one, so sub-ids count as their user. */
static __always_inline u32 charged_user(const void *task)
{
	const void *cred = 0, *ns = 0, *parent = 0, *above = 0;
	u32 uid = 0;
	int i;

	READ(cred, task, OFF_task_struct_cred);
	if (!cred)
		return 0;
	READ(uid, cred, OFF_cred_uid);
	READ(ns, cred, OFF_cred_user_ns);
#pragma clang loop unroll(disable)
	for (i = 0; i < USER_LEVELS; i++) {
		if (!ns)
			break;
		READ(parent, ns, OFF_user_namespace_parent);
		if (!parent)
			break;
		READ(above, parent, OFF_user_namespace_parent);
		if (!above) {
			READ(uid, ns, OFF_user_namespace_owner);
			break;
		}
		ns = parent;
	}
	return uid;
}

/* Charge the current task's user for a record; return 0 if the allowance is used up. */
static __always_inline int is_allowed(void)
{
	u32 uid = charged_user((void *)bpf_get_current_task());
	u64 now = bpf_ktime_get_ns(), until;
	u64 cost = price_of_record();
	u64 most = uid ? ALLOWED_AT_ONCE * (SECOND_NS / ALLOWED_PER_SECOND)
		       : ALLOWED_TO_ROOT_AT_ONCE * (SECOND_NS / ALLOWED_TO_ROOT_PER_SECOND);
	struct allowance fresh = {}, *a;
	struct page *p = counters();

	if (!uid)
		cost = cost * ALLOWED_PER_SECOND / ALLOWED_TO_ROOT_PER_SECOND;
	a = allowances.lookup(&uid);
	if (!a) {
		fresh.spent_until_ns = now + cost;
		allowances.update(&uid, &fresh);
		return 1;
	}
	until = a->spent_until_ns;
	if (until < now)
		until = now;
	if (until - now > most) {
		__sync_fetch_and_add(&a->withheld, 1);
		if (p)
			__sync_fetch_and_add(&p->withheld, 1);
		return 0;
	}
	a->spent_until_ns = until + cost;
	return 1;
}

static __always_inline void read_told(struct told *to, const void *leader)
{
	const void *signal = 0, *pid = 0;
	u8 bits = 0;

	READ(to->start_ns, leader, OFF_START);
	READ(signal, leader, OFF_task_struct_signal);
	READ(pid, signal, OFF_signal_struct_pids + ENTRY(PIDTYPE_PGID));
	to->pgid = pid_identity(pid);
	READ(pid, signal, OFF_signal_struct_pids + ENTRY(PIDTYPE_SID));
	to->sid = pid_identity(pid);
	READ(bits, signal, OFF_signal_struct_is_child_subreaper);
	to->subreaper = bits & MASK_signal_struct_is_child_subreaper;
}

static __always_inline int is_same(const struct told *a, const struct told *b)
{
	return a->start_ns == b->start_ns && a->pgid == b->pgid && a->sid == b->sid && a->subreaper == b->subreaper;
}

/*
 * Return 1 if a call that may have changed a task's group or subreaper flag must be announced.
 *
 * A call that finds the state as it was asked for may end while the call that made it is on its way to its number, for both
 * end outside of the kernel's lock. So the second one is announced too, unless a record with the state has its number: else
 * the caller would know of a change that no numbered record tells.
 */
static __always_inline int is_news(const void *task)
{
	struct told now = {}, after = {}, *before;
	const void *leader = 0;
	u64 key;

	READ(leader, task, OFF_task_struct_group_leader);
	key = (u64)leader;
	read_told(&now, leader);
	before = told.lookup(&key);
	if (before && !before->announcing && is_same(before, &now))
		return 0;
	if (!is_allowed()) {
		told.delete(&key);
		return 0;
	}
	now.announcing = 1;
	told.update(&key, &now);
	/* Another CPU may have changed the state again, and written to the map before this CPU did. */
	read_told(&after, leader);
	if (!is_same(&now, &after))
		told.delete(&key);
	return 1;
}

/* Settle a process's entry by a record that has its number: remove it if the record contradicts it. */
static __always_inline void settle_told(const struct record_task *r)
{
	u64 key = r->leader;
	struct told *t = told.lookup(&key);

	if (t && (t->pgid != r->pgid || t->sid != r->sid || !t->subreaper != !(r->flags & TASK_SUBREAPER)))
		told.delete(&key);
	else if (t)
		t->announcing = 0;
}

#endif
