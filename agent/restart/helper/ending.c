/* SPDX-License-Identifier: Apache-2.0 */
/* The end of an actor: by exit() or by a signal, at once or after a wait within its exit; and the wait for that end. */
#include "ending.h"

#include "rights.h"
#include "signals.h"

#define LOOK_AGAIN_NS 50000

/* Return the number of threads that /proc lists of this process; -1 without /proc. */
static int threads(void)
{
	char entries[1024];
	long fd = CALL4(openat, AT_FDCWD, "/proc/self/task", O_RDONLY | O_CLOEXEC, 0), size;
	int count = 0;

	if (fd < 0)
		return -1;
	while ((size = CALL3(getdents64, fd, entries, sizeof(entries))) > 0)
		for (long at = 0; at < size; at += *(uint16_t *)(entries + at + ENTRY_SIZE_AT))
			count += entries[at + ENTRY_NAME_AT] != '.';
	CALL1(close, fd);
	return count;
}

/* Return 1 if this process's leader is a zombie; -1 without /proc. The name in parentheses may contain ')': the last one ends it. */
static int leader_is_dead(void)
{
	char text[256], *at;
	long fd = CALL4(openat, AT_FDCWD, "/proc/self/stat", O_RDONLY | O_CLOEXEC, 0), size;

	if (fd < 0)
		return -1;
	size = CALL3(read, fd, text, sizeof(text));
	CALL1(close, fd);
	for (at = text + size - 3; size > 2 && at > text && *at != ')'; at--)
		;
	return size > 2 && at > text && at[2] == 'Z';
}

/*
 * A namespace dies with the last thread of its init that reaches exit_notify(), and that thread waits there. Wait until the
 * other threads, which have begun to exit, are zombies or are not listed any more.
 */
static void await_the_others(uint32_t me)
{
	const struct timespec64 pause = {0, LOOK_AGAIN_NS};
	int is_thread = (program.actors[me].flags & ACTOR_THREAD) != 0, count;

	while ((count = threads()) > 1 && !(is_thread && count == 2 && leader_is_dead() > 0))
		CALL5(ppoll, 0, 0, &pause, 0, 0);
}

int dumpable_beside(uint32_t me)
{
	uint32_t leader = program.actors[me].leader;

	if (leader == me || (program.actors[leader].flags & (ACTOR_IDS | ACTOR_LINGERS)) != ACTOR_IDS)
		return 0;
	return CALL5(prctl, PR_GET_DUMPABLE, 0, 0, 0, 0) == 1;
}

void reopen_memory(void)
{
	const struct timespec64 pause = {0, LOOK_AGAIN_NS};
	int dead;

	wait_at_least(&program.state->gate, PHASE_LEAVE);
	while (!(dead = leader_is_dead()))
		CALL5(ppoll, 0, 0, &pause, 0, 0);
	if (dead > 0)
		CALL5(prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
}

static void part(uint32_t me, struct robust *robust)
{
	if (program.actors[me].flags & ACTOR_LINGERS)
		actor_arm_ending(me, robust);
	else
		actor_disarm(me);
}

/* Raise a signal by a fault: a namespace's init is immune to signals from inside, but not to its own faults. */
static void commit_fault(int number)
{
	long fd;
	char *page;
	char *volatile nowhere = NULL;
	const struct filter_step deadly = {BPF_RET_VALUE, 0, 0, SECCOMP_RET_KILL_PROCESS};
	const struct filter all_are_deadly = {1, &deadly};

	switch (number) {
	case SIGSEGV:
		*(volatile char *)nowhere = 0;
		break;
	case SIGILL:
		ILLEGAL_INSTRUCTION();
		break;
	case SIGFPE:
		DIVISION_BY_ZERO();
		break;
	case SIGTRAP:
		BREAKPOINT();
		break;
	case SIGSYS:
		CALL2(prctl, PR_SET_NO_NEW_PRIVS, 1);
		CALL3(prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &all_are_deadly);
		CALL0(getpid);
		break;
	case SIGBUS:
		fd = CALL2(memfd_create, "", 0); /* an empty file has no page to touch */
		page = map(PAGE, MAP_SHARED, (int)fd, 0);
		if (!refusal(page))
			*(volatile char *)page = 0;
		break;
	}
}

_Noreturn void actor_end(uint32_t me, const struct program_step *step, struct robust *robust)
{
	uint64_t no_core[2] = {0, 0}, nothing = 0;
	int number = step->value & STATUS_SIGNAL;
	int init = CALL0(getpid) == 1;

	if (program.actors[me].flags & ACTOR_LINGERS)
		await_the_others(me);
	if (program.actors[me].flags & ACTOR_IDS) {
		long answer = take_last_ids(me);

		if (answer < 0)
			fail(REASON_STEP, me, step->place, (int)-answer);
	}
	if (!number || (program.actors[me].flags & (ACTOR_THREAD | ACTOR_LINGERS)) == ACTOR_THREAD) {
		mark_done((uint32_t)(step - program.steps));
		part(me, robust);
		for (;;)
			CALL1(exit, number ? 0 : step->value >> STATUS_CODE_SHIFT & STATUS_CODE);
	}
	CALL4(prlimit64, 0, RLIMIT_CORE, no_core, 0);
	CALL2(prctl, PR_SET_DUMPABLE, 0); /* a core pattern that is a pipe ignores the limit */
	mark_done((uint32_t)(step - program.steps));
	part(me, robust);
	handle(number, SIG_DFL);
	CALL4(rt_sigprocmask, SIG_SETMASK, &nothing, 0, sizeof(nothing));
	if (init && number == SIGKILL)
		ask_guard(me, ASK_KILL);
	else if (init)
		commit_fault(number);
	else
		CALL2(kill, CALL0(getpid), number);
	if (!init || number != SIGKILL) {
		note_failure(REASON_SURVIVED, me, step->place, 0, number);
		for (;;)
			CALL4(ppoll, 0, 0, 0, 0);
	}
	for (;;)
		CALL4(ppoll, 0, 0, 0, 0);
}
