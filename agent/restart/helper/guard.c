/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guard: it creates actor 0, watches while the actors create each other, reports to the coordinator, and takes the tree
 * down if something fails or the coordinator asks for it. It outlives the tree.
 *
 *     fd 3    the program, see program.h and control.h
 *     fd 4    SOCK_SEQPACKET to the coordinator; its end without SAID_DETACH means that the coordinator has died
 */
#include "actor.h"
#include "guardfilter.h"
#include "guardloop.h"
#include "guardstate.h"
#include "guardwatcher.h"
#include "namespaces.h"
#include "signals.h"
#include "stage.h"
#include "takedown.h"

#define SO_SNDBUF 7
#define SO_SNDBUFFORCE 32
#define CACHE_LINE 64
#define STACK_PAGES 64	 /* pages of the guard's stack on either side of the current frame, at most */
#define REPORT_ROOM 1024 /* bytes; a report took 766 of its channel on x86_64, and the kernel doubles the room itself */
#define MOST_ROOM (1 << 30)
#define STEP_WORDS 2  /* shared words for each step: done, needed */
#define ACTOR_WORDS 6 /* and for each actor: alive, asked, ending, runs, mapped, members */

extern char __bss_start[], _end[]; /* the linker's: all writable data lies between them */

_Noreturn void guard_main(void);
PROGRAM_START(guard_main);

static size_t aligned(size_t size, size_t unit)
{
	return (size + unit - 1) & ~(unit - 1);
}

static void *array(uint32_t **at, size_t count)
{
	void *mine = *at;

	*at += count;
	return mine;
}

static void map_program(void)
{
	struct program_head head;
	size_t size, state_size, words;
	char *at;
	uint32_t *word;
	long answer = CALL4(pread64, FD_PROGRAM, &head, sizeof(head), 0);

	if (answer != sizeof(head) || head.magic != PROGRAM_MAGIC || head.version != PROGRAM_VERSION || !head.actors)
		give_up(SETUP_PROGRAM, answer < 0 ? answer : 0);
	size = sizeof(head) + head.actors * sizeof(struct program_actor) + head.steps * sizeof(struct program_step) +
	       ((size_t)head.dependencies + head.numbers) * sizeof(uint32_t);
	size = aligned(size, sizeof(uint64_t));
	at = map(size + sizeof(struct answer) + head.actors * sizeof(int32_t), MAP_SHARED, FD_PROGRAM, 0);
	words = STEP_WORDS * (size_t)head.steps + ACTOR_WORDS * (size_t)head.actors;
	state_size = aligned(sizeof(struct state), CACHE_LINE);
	program.state = map(state_size + words * sizeof(uint32_t), MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	program.stacks = map((size_t)head.actors * ACTOR_STACK, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (refusal(at) || refusal(program.state) || refusal(program.stacks))
		give_up(SETUP_PROGRAM, refusal(at)		? refusal(at)
				       : refusal(program.state) ? refusal(program.state)
								: refusal(program.stacks));
	program.head = (struct program_head *)at;
	program.actors = (struct program_actor *)(program.head + 1);
	program.steps = (struct program_step *)(program.actors + head.actors);
	program.dependencies = (uint32_t *)(program.steps + head.steps);
	program.numbers = (int32_t *)(program.dependencies + head.dependencies);
	program.answer = (struct answer *)(at + size);
	program.outer = (int32_t *)(program.answer + 1);
	word = (uint32_t *)((char *)program.state + state_size);
	program.done = array(&word, head.steps);
	program.needed = array(&word, head.steps);
	program.alive = array(&word, head.actors);
	program.asked = array(&word, head.actors);
	program.ending = array(&word, head.actors);
	program.runs = array(&word, head.actors);
	program.mapped = array(&word, head.actors);
	program.members = array(&word, head.actors);
	for (uint32_t n = 0; n < head.dependencies; n++)
		program.needed[program.dependencies[n]] = 1;
	for (uint32_t n = 0; n < head.steps; n++)
		program.state->left[program.steps[n].phase]++;
	for (uint32_t phase = PHASE_ACTIVATE; phase < PHASES; phase++)
		program.state->left[phase]++;
	program.state->left[PHASE_BUILD] += head.actors;
	while (program.root < head.actors - 1 && !(program.actors[program.root].flags & ACTOR_TASK))
		program.root++;
}

/*
 * Let the channel take the reports of all actors before the guard reads the first one. Where it is full, actors sleep in
 * sendto(), and each report that is read wakes all of them.
 */
static void make_room(int reporting)
{
	int size =
		(int)(program.head->actors < MOST_ROOM / REPORT_ROOM ? program.head->actors * REPORT_ROOM : MOST_ROOM);

	/* The second call has a bound, net.core.wmem_max, and takes no capability. */
	if (CALL5(setsockopt, reporting, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
		CALL5(setsockopt, reporting, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

static void open_channels(void)
{
	int pair[2], yes = 1;
	uint64_t all = ~(uint64_t)0, watched = 0;
	static const int numbers[] = {SIGCHLD, SIGTERM, SIGINT, SIGQUIT, SIGHUP};
	long wake = CALL2(eventfd2, 0, O_CLOEXEC | SOCK_NONBLOCK), answer = 0;

	CALL4(rt_sigprocmask, SIG_BLOCK, &all, 0, sizeof(all));
	if (wake < 0 || (answer = CALL4(socketpair, AF_UNIX, SOCK_SEQPACKET | O_CLOEXEC, 0, pair)))
		give_up(SETUP_SOCKETS, wake < 0 ? wake : answer);
	CALL5(setsockopt, pair[0], SOL_SOCKET, SO_PASSCRED, &yes, sizeof(yes));
	make_room(pair[1]);
	/* Move all to high numbers first: each may have a number that another one needs. */
	wake = CALL3(fcntl, wake, F_DUPFD, FD_HIGH);
	pair[0] = (int)CALL3(fcntl, pair[0], F_DUPFD, FD_HIGH);
	pair[1] = (int)CALL3(fcntl, pair[1], F_DUPFD, FD_HIGH);
	CALL3(dup3, pair[0], FD_REPORTS, O_CLOEXEC);
	CALL3(dup3, pair[1], FD_REPORT, O_CLOEXEC);
	CALL3(dup3, wake, FD_WAKE, O_CLOEXEC);
	for (size_t n = 0; n < sizeof(numbers) / sizeof(*numbers); n++)
		watched |= (uint64_t)1 << (numbers[n] - 1);
	guard.signals = (int)CALL4(signalfd4, -1, &watched, sizeof(watched), O_CLOEXEC | SOCK_NONBLOCK);
	CALL3(dup3, guard.signals, FD_SIGNALS, O_CLOEXEC);
	guard.signals = FD_SIGNALS;
	CALL3(close_range, FD_UNUSED, ~0u, 0);
}

/*
 * All memory of the tree is shared, stacks too. For private pages the kernel would keep, for every process, a list of all
 * ancestors that may map the page as well, and copy it at each fork: in a chain of processes the last forks would take a
 * thousand times as long as the first.
 */
static void share_memory(void)
{
	char *begin = (char *)((uintptr_t)__bss_start & ~(uintptr_t)(PAGE - 1));
	size_t size = aligned((size_t)(_end - begin), PAGE);
	char *copy = map(size, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char *stack = (char *)((uintptr_t)guard.stack & ~(uintptr_t)(PAGE - 1));

	if (!refusal(copy)) {
		memcpy(copy, begin, (size_t)(_end - begin));
		CALL5(mremap, copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, begin);
	}
	/* Unmap the guard's stack, above and below the current frame. Pages that are not mapped do no harm. */
	CALL2(munmap, stack - STACK_PAGES * PAGE, STACK_PAGES * PAGE);
	for (int page = 0; page < STACK_PAGES; page++)
		CALL2(munmap, stack + page * PAGE, PAGE);
}

static _Noreturn void end_without_guard(void)
{
	take_down();
	leave(0);
}

/*
 * The guard may be killed. A namespace then goes with its init, and the init with the guard: by the kernel or by the
 * watcher. Without a namespace the reaper must do the guard's work, and only the reaper keeps this handler. The reaper is
 * in the caller's process group, so the signal is one that nobody sends to a group: SIGTERM to that is for the root.
 */
static void outlive_guard(void)
{
	struct signal_stack stack = {map(GUARD_STACK, MAP_SHARED | MAP_ANONYMOUS, -1, 0), 0, GUARD_STACK};
	struct signal_action action = {(uint64_t)(uintptr_t)end_without_guard, SA_ONSTACK | SA_RESTORER,
				       (uint64_t)(uintptr_t)end_without_guard, ~(uint64_t)0};

	if (!refusal(stack.base)) {
		CALL2(sigaltstack, &stack, 0);
		CALL4(rt_sigaction, SIGNAL_GUARD_GONE, &action, 0, SIGNAL_SET_BYTES);
	}
	CALL2(prctl, PR_SET_PDEATHSIG, SIGNAL_GUARD_GONE);
}

/* Set up actor 0, before its life as an actor; all others inherit it. */
static void begin_tree(void *index)
{
	uint64_t nothing = 0;
	long null;

	share_memory();
	program.numbers[program.actors[0].first_number] = (int32_t)CALL0(getpid);
	CALL2(prctl, PR_SET_PDEATHSIG, SIGKILL);
	CALL1(close, FD_CONTROL);
	CALL1(close, FD_REPORTS);
	CALL1(close, guard.signals);
	ignore_signals();
	CALL4(rt_sigprocmask, SIG_SETMASK, &nothing, 0, sizeof(nothing));
	if (guard_is_gone())
		leave(1);
	wait_at_least(&program.state->apart, 1);
	if (program.head->flags & PROGRAM_PIDNS) {
		long answer = make_mounts_private();

		if (answer)
			fail(REASON_SETUP, SETUP_PRIVATE, NO_ACTOR, (int)-answer);
		answer = CALL5(mount, "proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0);
		program.answer->proc_error = (int)-answer;
	} else if (program.head->flags & PROGRAM_REAPER) {
		CALL5(prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
		outlive_guard();
	}
	if (guard_is_gone())
		leave(1);
	if (program.head->flags & PROGRAM_NO_STDIO) {
		null = streams_to_null();
		if (null < 0)
			fail(REASON_SETUP, SETUP_STDIO, NO_ACTOR, (int)-null);
	}
	actor_run(index);
}

static int32_t next_spare(void)
{
	return program.head->spare_first + (int32_t)bump(&program.state->spare) - 1;
}

static long clone_first(uint64_t more_flags)
{
	const struct program_actor *first = &program.actors[0];
	int32_t number = program.numbers[first->first_number];
	struct clone_args args = {0};
	int pidns = program.head->flags & PROGRAM_PIDNS;
	long answer;

	args.flags = more_flags;
	if (!(more_flags & CLONE_PARENT))
		args.exit_signal = (uint64_t)first->exit_signal;
	if (pidns)
		args.flags |= CLONE_NEWPID | CLONE_NEWNS;
	if (program.head->flags & PROGRAM_IPCNS)
		args.flags |= CLONE_NEWIPC;
	if (!(program.head->flags & PROGRAM_ANY_NUMBERS) && !pidns) {
		if (first->flags & ACTOR_SPARE)
			number = program.numbers[first->first_number] = next_spare();
		args.set_tid = (uint64_t)(uintptr_t)&number;
		args.set_tid_size = 1;
	}
	program.answer->first_clone_ns = now_ns();
	do
		answer = clone_actor(&args, begin_tree, 0);
	while (answer == -EEXIST && (first->flags & ACTOR_SPARE) &&
	       (number = program.numbers[first->first_number] = next_spare()) < program.head->spare_end);
	return answer;
}

/* Create actor 0 as the leader of a session that has exited: session and group stay, because actor 0 is in them. */
static _Noreturn void lead_session(void *unused)
{
	(void)unused;
	CALL5(prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	CALL1(close, FD_CONTROL);
	CALL1(close, FD_REPORTS);
	if (guard_is_gone())
		leave(1);
	CALL0(setsid);
	program.state->first = (int32_t)clone_first(CLONE_PARENT);
	leave(0);
}

static long begin_in_new_session(void)
{
	struct clone_args args = {.exit_signal = (uint64_t)program.actors[0].exit_signal, .stack_size = GUARD_STACK};
	void *stack = map(GUARD_STACK, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int is_exact = !(program.head->flags & (PROGRAM_ANY_NUMBERS | PROGRAM_PIDNS));
	struct child_info info;
	int32_t number;
	long answer;

	if (refusal(stack))
		return refusal(stack);
	args.stack = (uint64_t)(uintptr_t)stack;
	if (is_exact) { /* the kernel might choose a number that a task of the tree needs */
		args.set_tid = (uint64_t)(uintptr_t)&number;
		args.set_tid_size = 1;
	}
	do {
		number = is_exact ? next_spare() : 0;
		answer = clone3_call(&args, lead_session, 0);
	} while (answer == -EEXIST && is_exact && number < program.head->spare_end - 1);
	if (answer < 0)
		return answer;
	CALL5(waitid, P_PID, answer, &info, WEXITED | WALL, 0);
	CALL2(munmap, stack, GUARD_STACK);
	if (!program.state->first) /* the leader was killed from outside */
		give_up(SETUP_SESSION, 0);
	return program.state->first;
}

/*
 * The exit signal of actor 0 reaches the guard, which blocks all signals but two; the coordinator refuses those two.
 *
 * Actor 0 begins in the coordinator's session and group, because the tree may have them; or in new ones, if it is to be
 * detached from them. The guard leaves both, so that a signal to them leaves a guard that clears up. Actor 0 does nothing
 * until the guard has left.
 */
static void begin(void)
{
	long answer = program.head->flags & PROGRAM_NEW_SESSION ? begin_in_new_session() : clone_first(0);

	stage_drop();
	if (answer < 0)
		give_up(SETUP_CLONE, answer);
	guard.first = (int32_t)answer;
	answer = CALL2(pidfd_open, guard.first, 0);
	guard.first_fd = answer < 0 ? -1 : (int)CALL3(fcntl, answer, F_DUPFD, FD_HIGH);
	CALL1(close, answer);
	answer = CALL4(openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC, 0);
	guard.null = answer < 0 ? -1 : (int)CALL3(fcntl, answer, F_DUPFD, FD_HIGH);
	CALL1(close, answer);
	CALL0(setsid);
	if (program.head->flags & PROGRAM_PIDNS) {
		answer = begin_watcher();
		if (answer < 0)
			give_up(SETUP_WATCHER, answer);
	}
	store(&program.state->apart, 1);
	futex_wake_all(&program.state->apart);
}

static void make_stage(void)
{
	long answer = stage_make();

	if (answer)
		give_up(SETUP_STAGE, answer);
}

/* Leave the caller's session keyring: tasks of other users would possess it, and so be able to read the keys in it. */
static void leave_keyring(void)
{
	long answer;

	if (!(program.head->flags & PROGRAM_KEYRING))
		return;
	answer = CALL2(keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0);
	/* A kernel without keys has none to read. Where a filter refuses the call, it does so for all of the tree. */
	if (answer < 0 && answer != -ENOSYS && answer != -EPERM)
		give_up(SETUP_KEYRING, answer);
}

_Noreturn void guard_main(void)
{
	guard.control = FD_CONTROL;
	guard.root_status = -1;
	guard.stack = (char *)__builtin_frame_address(0);
	map_program();
	open_channels();
	CALL5(prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	if ((program.head->flags & PROGRAM_PIDNS) && !may_administer())
		enter_user_namespace();
	leave_keyring();
	make_stage();
	begin();
	confine();
	guard_loop();
	leave(0);
}
