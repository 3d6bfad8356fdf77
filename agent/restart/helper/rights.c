/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rights of a task that runs its program: fewer than an actor's, and never more than the recorded ones. A task that
 * only holds its place has none. Each call must succeed; a failure ends the whole tree.
 */
#include "rights.h"

#define NOT_RUN 127	/* the exit code of a shell that cannot run a command */
#define CAPABILITIES 64 /* bits of a set */
#define HALF 32		/* of which struct capability_data holds one half */

_Noreturn void cannot_run(uint32_t me, enum doing what, long answer)
{
	note_failure(REASON_RUN, me, NO_ACTOR, (int)-answer, what);
	for (;;)
		CALL1(exit_group, NOT_RUN);
}

static void must(uint32_t me, enum doing what, long answer)
{
	if (answer < 0)
		cannot_run(me, what, answer);
}

static void set_capabilities(uint32_t me, uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
	struct capability_head head = {CAPABILITY_VERSION, 0};
	struct capability_data data[2] = {
		{(uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable},
		{(uint32_t)(effective >> HALF), (uint32_t)(permitted >> HALF), (uint32_t)(inheritable >> HALF)},
	};

	must(me, DOING_CAPSET, CALL2(capset, &head, data));
}

struct capabilities {
	uint64_t effective;
	uint64_t permitted;
	uint64_t inheritable;
};

static struct capabilities own_capabilities(uint32_t me)
{
	struct capability_head head = {CAPABILITY_VERSION, 0};
	struct capability_data data[2] = {0};

	must(me, DOING_CAPGET, CALL2(capget, &head, data));
	return (struct capabilities){data[0].effective | (uint64_t)data[1].effective << HALF,
				     data[0].permitted | (uint64_t)data[1].permitted << HALF,
				     data[0].inheritable | (uint64_t)data[1].inheritable << HALF};
}

/* Set the inheritable capabilities while they are in the bounding set; afterwards the kernel refuses to add them. */
static void make_inheritable(uint32_t me, uint64_t inheritable)
{
	struct capabilities own = own_capabilities(me);

	set_capabilities(me, own.effective, own.permitted, inheritable);
}

static void bound(uint32_t me, uint64_t bounding)
{
	for (uint32_t bit = 0; bit < CAPABILITIES; bit++) {
		long there = CALL5(prctl, PR_CAPBSET_READ, bit, 0, 0, 0);

		if (there < 0)
			break; /* the kernel has no more capabilities */
		if (there && !(bounding >> bit & 1))
			must(me, DOING_CAPBSET_DROP, CALL5(prctl, PR_CAPBSET_DROP, bit, 0, 0, 0));
	}
}

/* Drop capabilities from the bounding set. A task without CAP_SETPCAP cannot; no_new_privs keeps it from gaining any. */
static void keep_only(uint32_t me, const struct capabilities *own, uint64_t bounding)
{
	if (own->effective >> CAP_SETPCAP & 1)
		bound(me, bounding);
}

static void gain_nothing(uint32_t me)
{
	must(me, DOING_NO_NEW_PRIVS, CALL5(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

/* Set the death signal again, because a change of ids clears it; end if the guard has died in between. */
static void die_with_guard(uint32_t me)
{
	must(me, DOING_PDEATHSIG, CALL5(prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0));
	if (guard_is_gone())
		for (;;)
			CALL1(exit_group, NOT_RUN);
}

/* Take ids and groups. The memory is shared with the guard, so a process with the same ids must not be able to trace it. */
static void take_ids(uint32_t me, const char *section, const struct run_entry *entry)
{
	if (entry->flags & RIGHTS_GROUPS)
		must(me, DOING_SETGROUPS, CALL2(setgroups, entry->group_count, section + entry->groups));
	must(me, DOING_SETRESGID, CALL3(setresgid, entry->gid, entry->egid, entry->egid));
	must(me, DOING_SETRESUID, CALL3(setresuid, entry->uid, entry->euid, entry->euid));
	must(me, DOING_DUMPABLE, CALL2(prctl, PR_SET_DUMPABLE, 0));
	if (!me)
		die_with_guard(me);
}

/*
 * Give up all rights of a task that only holds its place. Root with fewer rights than the guard could trace it, unless it
 * is root of the tree's user namespace only.
 */
static void lose_rights(uint32_t me, const char *section)
{
	const struct run_entry *entry = section ? &((const struct run_entry *)section)[me] : NULL;
	struct capabilities own = own_capabilities(me);
	int keeps = (program.head->flags & PROGRAM_KEEP_RIGHTS) != 0;

	if (!keeps)
		keep_only(me, &own, 0);
	if (entry && entry->flags & RIGHTS_IDS)
		take_ids(me, section, entry);
	if (keeps)
		return;
	set_capabilities(me, 0, 0, 0);
	gain_nothing(me);
	if (own.permitted && !program.answer->user_namespace)
		must(me, DOING_DUMPABLE, CALL2(prctl, PR_SET_DUMPABLE, 0));
}

/* Give up the capabilities that the recorded task did not have; the caller's own program keeps the others. */
static void give_up_what_it_had_not(uint32_t me, const struct run_entry *entry)
{
	struct capabilities own = own_capabilities(me);
	uint64_t kept = entry->bounding;

	keep_only(me, &own, kept);
	set_capabilities(me, own.effective & kept, own.permitted & kept, own.inheritable & kept);
	if (entry->flags & RIGHTS_NO_NEW_PRIVS)
		gain_nothing(me);
}

/* Enter the working directory, which must be the one that was checked: its path may lead elsewhere by now. */
static void enter_folder(uint32_t me, const char *section, const struct run_entry *entry)
{
	struct statx found;

	must(me, DOING_CHDIR, CALL1(chdir, section + entry->cwd));
	if (!entry->cwd_inode)
		return;
	must(me, DOING_CHDIR, CALL5(statx, AT_FDCWD, ".", 0, STATX_INO, &found));
	if (found.stx_dev_major != entry->cwd_major || found.stx_dev_minor != entry->cwd_minor ||
	    found.stx_ino != entry->cwd_inode)
		cannot_run(me, DOING_FOLDER, 0);
}

long take_last_ids(uint32_t me)
{
	const struct program_actor *actor = &program.actors[me];
	long answer = CALL2(setgroups, 0, 0);

	if (answer >= 0)
		answer = CALL3(setresgid, actor->groups[0], actor->groups[1], actor->groups[2]);
	if (answer >= 0)
		CALL1(setfsgid,
		      actor->groups[3]); /* the ids for files have no answer; the comparison of the tree sees them */
	if (answer >= 0)
		answer = CALL3(setresuid, actor->users[0], actor->users[1], actor->users[2]);
	if (answer >= 0)
		CALL1(setfsuid, actor->users[3]);
	return answer < 0 ? answer : CALL2(prctl, PR_SET_DUMPABLE, 0);
}

void take_rights(uint32_t me, const char *section)
{
	const struct run_entry *entry = &((const struct run_entry *)section)[me];

	if (!program.runs[me]) {
		lose_rights(me, section);
		return;
	}
	if (entry->flags & RIGHTS_BOUND)
		give_up_what_it_had_not(me, entry);
	if (entry->flags & RIGHTS_GIVEN) {
		CALL1(umask, entry->umask);
		if (entry->flags & RIGHTS_GROUPS)
			must(me, DOING_SETGROUPS, CALL2(setgroups, entry->group_count, section + entry->groups));
		/* The ids for files follow the effective ones, as with exec(). */
		must(me, DOING_SETRESGID, CALL3(setresgid, entry->gid, entry->egid, entry->egid));
		must(me, DOING_CAP_AMBIENT, CALL5(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
		make_inheritable(me, entry->inheritable);
		bound(me, entry->bounding);
		/* A change from root to another user would clear all capabilities. exec() resets the flag. */
		must(me, DOING_KEEPCAPS, CALL5(prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0));
		must(me, DOING_SETRESUID, CALL3(setresuid, entry->uid, entry->euid, entry->euid));
		set_capabilities(me, entry->effective, entry->permitted, entry->inheritable);
		for (uint32_t bit = 0; bit < CAPABILITIES; bit++)
			if (entry->ambient >> bit & 1)
				must(me, DOING_CAP_AMBIENT,
				     CALL5(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, bit, 0, 0));
		if (entry->flags & RIGHTS_NO_NEW_PRIVS)
			gain_nothing(me);
		if (!me)
			die_with_guard(me);
	}
	if (entry->cwd)
		enter_folder(me, section, entry);
}
