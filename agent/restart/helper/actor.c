/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of an actor until the tree stands as planned: it takes its steps one after the other, each when its dependencies
 * are done.
 */
#include "actor.h"
#include "ending.h"
#include "filled.h"
#include "robust.h"
#include "settle.h"
#include "signals.h"
#include "stage.h"

static void set_number(uint32_t actor, uint32_t level, int32_t number)
{
	int32_t *at = &program.numbers[program.actors[actor].first_number + level];

	store((uint32_t *)at, (uint32_t)number);
	futex_wake_all((uint32_t *)at);
}

/* If the kernel chooses the numbers, read an actor's own numbers below the level that its creator sees. */
static void learn_numbers(uint32_t me)
{
	const struct program_actor *actor = &program.actors[me];
	char text[STATUS_BYTES], *at, *line;
	int32_t found[MAX_LEVELS] = {0};
	uint32_t count = 0;
	long size, fd;

	fd = CALL4(openat, AT_FDCWD, "/proc/thread-self/status", O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		fail(REASON_NUMBERS, me, NO_ACTOR, (int)-fd);
	size = CALL3(read, fd, text, sizeof(text) - 1);
	CALL1(close, fd);
	text[size > 0 ? size : 0] = 0;
	for (line = text; *line; line++)
		if (line[0] == '\n' && line[1] == 'N' && line[2] == 'S' && line[3] == 'p' && line[4] == 'i' &&
		    line[5] == 'd')
			break;
	for (at = line + 7; *line && *at && *at != '\n'; at++)
		if (*at >= '0' && *at <= '9') {
			if ((at[-1] < '0' || at[-1] > '9') && ++count > MAX_LEVELS)
				fail(REASON_NUMBERS, me, NO_ACTOR, 0);
			found[count - 1] = found[count - 1] * 10 + (*at - '0');
		}
	if (count < actor->depth + 1)
		fail(REASON_NUMBERS, me, NO_ACTOR, 0);
	for (uint32_t level = 0; level <= actor->depth; level++)
		set_number(me, level, found[count - actor->depth - 1 + level]);
}

/* Return the number of an actor in the namespace of another one; wait until it is known. */
static int32_t number_for(uint32_t by, uint32_t target)
{
	uint32_t *at = (uint32_t *)&program.numbers[program.actors[target].first_number + program.actors[by].depth];

	wait_at_least(at, 1);
	return (int32_t)load(at);
}

/* Set up a new actor before its first step. */
static void come_to_life(uint32_t me, struct robust *robust)
{
	const struct program_actor *actor = &program.actors[me];
	struct report report = {me};

	actor_arm(me, robust);
	if (me && (program.head->flags & (PROGRAM_REAPER | PROGRAM_PIDNS)) == PROGRAM_REAPER)
		handle(SIGNAL_GUARD_GONE, SIG_IGN); /* the handler is the reaper's alone */
	CALL2(prctl, PR_SET_NAME, actor->comm);
	if ((program.head->flags & PROGRAM_ANY_NUMBERS) && actor->depth)
		learn_numbers(me);
	/* The kernel adds the sender's pid, translated for the reader. It translates pids of processes only. */
	if (!(actor->flags & ACTOR_THREAD))
		CALL6(sendto, FD_REPORT, &report, sizeof(report), MSG_NOSIGNAL, 0, 0);
	bump(&program.state->progress);
	drop(PHASE_BUILD);
}

static int32_t next_spare(uint32_t me, uint32_t place)
{
	uint32_t taken = bump(&program.state->spare) - 1;

	if ((int64_t)program.head->spare_first + taken >= program.head->spare_end)
		fail(REASON_SPARE, me, place, 0);
	return program.head->spare_first + (int32_t)taken;
}

static long give_birth(uint32_t me, const struct program_step *step)
{
	const struct program_actor *child = &program.actors[step->target];
	int32_t innermost_first[MAX_LEVELS];
	struct clone_args args = {0};
	int chosen = !(program.head->flags & PROGRAM_ANY_NUMBERS);
	int init = (step->value & (CLONE_BIT_NEWPID | CLONE_BIT_FIRST)) != 0;
	long answer;

	if (step->value & CLONE_BIT_NEWPID)
		args.flags |= CLONE_NEWPID;
	if (step->value & CLONE_BIT_FILES)
		args.flags |= CLONE_FILES;
	if (step->value & CLONE_BIT_PARENT)
		args.flags |= CLONE_PARENT; /* the exit signal is then the creator's: any other is EINVAL */
	else if (!(step->value & CLONE_BIT_THREAD))
		args.exit_signal = (uint64_t)(child->exit_signal >= 0 ? child->exit_signal : SIGCHLD);
	if (chosen) {
		args.set_tid = (uint64_t)(uintptr_t)innermost_first;
		args.set_tid_size = child->depth + 1;
	}
	if (step->value & CLONE_BIT_THREAD)
		args.flags |= CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
	else
		args.flags |= CLONE_CLEAR_SIGHAND;
	do {
		int32_t spare = chosen && (child->flags & ACTOR_SPARE) ? next_spare(me, step->place) : 0;

		for (uint32_t level = 0; chosen && level <= child->depth; level++) {
			if (spare)
				set_number(step->target, level, level == child->depth && init ? 1 : spare);
			innermost_first[child->depth - level] = program.numbers[child->first_number + level];
		}
		answer = clone_actor(&args, actor_run, step->target);
	} while (answer == -EEXIST && chosen && (child->flags & ACTOR_SPARE));
	if (answer > 0 && !chosen)
		set_number(step->target, program.actors[me].depth, (int32_t)answer);
	return answer;
}

static long enter(uint32_t me, uint32_t target)
{
	uint32_t leader = program.actors[target].leader;
	long fd = CALL2(pidfd_open, number_for(me, leader), 0), answer;

	if (fd < 0)
		return fd;
	answer = CALL2(setns, fd, CLONE_NEWPID);
	CALL1(close, fd);
	return answer;
}

static long await(uint32_t me, uint32_t target, int more)
{
	struct child_info info;
	long answer;

	do
		answer = CALL5(waitid, P_PID, number_for(me, target), &info, WEXITED | WALL | more, 0);
	while (answer == -EINTR);
	return answer;
}

static void stop(uint32_t me)
{
	if (CALL0(getpid) == 1)
		ask_guard(me, ASK_STOP);
	else
		CALL2(kill, CALL0(getpid), SIGSTOP);
}

static long take(uint32_t me, const struct program_step *step)
{
	uint32_t target = step->target;

	switch (step->op) {
	case OP_SETSID:
		return CALL0(setsid);
	case OP_SETPGID:
		return CALL2(setpgid, target == NO_ACTOR || target == me ? 0 : number_for(me, target),
			     number_for(me, (uint32_t)step->value));
	case OP_SUBREAPER:
		return CALL5(prctl, PR_SET_CHILD_SUBREAPER, step->value, 0, 0, 0);
	case OP_ENTER:
		return enter(me, target);
	case OP_UNSHARE:
		return CALL1(unshare, CLONE_NEWPID);
	case OP_REAP:
		return await(me, target, 0);
	case OP_AWAIT:
		return await(me, target, WNOWAIT);
	case OP_LINGER:
		return await_ending(target);
	case OP_ACTIVATE:
		return 0;
	default:
		fail(REASON_UNKNOWN, me, step->place, 0);
	}
}

_Noreturn void actor_run(void *index)
{
	uint32_t me = (uint32_t)(uintptr_t)index;
	uint32_t at = program.actors[me].first_step;
	uint32_t end_at = at + program.actors[me].step_count;
	const struct fill_head *contents;
	struct robust robust;
	char *section;
	int reopens;

	come_to_life(me, &robust);
	reopens = dumpable_beside(me);
	for (; at < end_at; at++) {
		const struct program_step *step = &program.steps[at];
		long answer;

		if (step->op == OP_STOP)
			break;
		for (uint32_t n = 0; n < step->dependency_count; n++)
			wait_at_least(&program.done[program.dependencies[step->first_dependency + n]], 1);
		wait_at_least(&program.state->gate, step->phase);
		if (step->op == OP_EXIT)
			actor_end(me, step, &robust);
		answer = step->op == OP_CLONE ? give_birth(me, step) : take(me, step);
		if (answer < 0)
			fail(REASON_STEP, me, step->place, (int)-answer);
		mark_done(at);
	}
	if (reopens)
		reopen_memory();
	wait_at_least(&program.state->release, 1);
	contents = fill_section(me);
	if (contents && fill_entry_of(contents, me)) {
		if (at < end_at)
			mark_done(at); /* the resumer stops it */
		actor_fill(me, contents, fill_entry_of(contents, me));
	}
	stage_drop();
	section = actor_prepare(me);
	if (at < end_at) {
		show_held(me);
		bump(&program.state->released);
		actor_disarm(me);
		wait_at_least(&program.state->gate, PHASE_STOP);
		mark_done(at);
		stop_ignoring();
		stop(me);
	}
	actor_settle(me, section);
}
