/* SPDX-License-Identifier: Apache-2.0 */
/* The guard's main loop, while the tree is built and afterwards. */
#include "guardloop.h"
#include "guardstate.h"
#include "kin.h"
#include "takedown.h"
#include "guardwatcher.h"

#define STUCK_NS 10000000000u

enum stage { BUILDING, STANDING, ACTIVATING, ACTIVE, RELEASING, STOPPING, RUNNING };

static enum stage stage;
static uint32_t expected; /* number of actors that count themselves as released */

static void read_reports(void)
{
	struct report report;
	struct credentials_control control;
	struct span span = {&report, sizeof(report)};

	for (;;) {
		struct message_head head = {
			.spans = &span, .span_count = 1, .control = &control, .control_size = sizeof(control)};

		if (CALL3(recvmsg, FD_REPORTS, &head, MSG_DONTWAIT) != sizeof(report))
			return;
		if (control.level == SOL_SOCKET && control.type == SCM_CREDENTIALS &&
		    report.actor < program.head->actors)
			program.outer[report.actor] = control.pid;
	}
}

static int ready(uint32_t place, uint32_t gate)
{
	const struct program_step *step = &program.steps[place];

	if (step->phase > gate)
		return 0;
	for (uint32_t n = 0; n < step->dependency_count; n++)
		if (!load(&program.done[program.dependencies[step->first_dependency + n]]))
			return 0;
	return 1;
}

/* Return an actor's first step that is not done. */
static uint32_t next_of(uint32_t actor)
{
	const struct program_actor *who = &program.actors[actor];

	for (uint32_t at = who->first_step; at < who->first_step + who->step_count; at++)
		if (!load(&program.done[at]))
			return at;
	return NO_ACTOR;
}

static void look_for_the_dead(void)
{
	for (uint32_t actor = 0; actor < program.head->actors; actor++)
		if (load(&program.alive[actor]) & FUTEX_OWNER_DIED) {
			uint32_t next = next_of(actor);

			note_failure(REASON_DIED, actor, next == NO_ACTOR ? NO_ACTOR : program.steps[next].place, 0, 0);
			return;
		}
}

static void look_for_the_stuck(void)
{
	static uint32_t seen;
	static uint64_t since;
	uint32_t progress = load(&program.state->progress), gate = load(&program.state->gate);
	uint64_t now = now_ns();

	if (progress != seen || !since || stage == STANDING) {
		seen = progress;
		since = now;
		return;
	}
	if (now - since < STUCK_NS)
		return;
	for (uint32_t actor = 0; actor < program.head->actors; actor++) {
		uint32_t next = next_of(actor);

		if (next != NO_ACTOR && ready(next, gate)) {
			note_failure(REASON_STUCK, actor, program.steps[next].place, 0, 0);
			return;
		}
	}
	note_failure(REASON_STUCK, NO_ACTOR, NO_ACTOR, 0, 0);
}

static void answer_asks(void)
{
	if (!load(&program.state->asks))
		return;
	for (uint32_t actor = 0; actor < program.head->actors; actor++) {
		uint32_t what = __atomic_exchange_n(&program.asked[actor], 0, __ATOMIC_ACQ_REL);

		if (!what)
			continue;
		__atomic_sub_fetch(&program.state->asks, 1, __ATOMIC_ACQ_REL);
		/* a thread asks for its whole process */
		signal_descendant(program.outer[program.actors[actor].leader], what == ASK_KILL ? SIGKILL : SIGSTOP);
	}
}

/*
 * SIGSTOP cannot be ignored. A task whose child has it as exit signal must wait for that child, so it gets SIGCONT until it
 * has done so: the signal is sent before the wait is over, and acts after it.
 */
static void continue_the_stopped(void)
{
	uint32_t gate = load(&program.state->gate);

	for (uint32_t actor = 0; actor < program.head->actors; actor++) {
		const struct program_actor *who = &program.actors[actor];
		int32_t process = program.outer[who->leader];

		if (!(who->flags & ACTOR_STOPPED) || process <= 0)
			continue;
		for (uint32_t at = who->first_step; at < who->first_step + who->step_count; at++) {
			const struct program_step *step = &program.steps[at];

			if ((step->op == OP_AWAIT || step->op == OP_REAP) && step->phase <= gate &&
			    !load(&program.done[at]) && program.actors[step->target].exit_signal == SIGSTOP) {
				CALL2(kill, process, SIGCONT);
				break;
			}
		}
	}
}

static int stops(uint32_t actor)
{
	const struct program_actor *who = &program.actors[actor];

	return who->step_count && program.steps[who->first_step + who->step_count - 1].op == OP_STOP;
}

static void release(const struct message *message)
{
	struct run_entry *section = NULL;

	if (message->value == RUN_SECTION) {
		section = map(message->size, MAP_SHARED, FD_PROGRAM, message->offset);
		if (refusal(section)) {
			note_failure(REASON_RUN, NO_ACTOR, NO_ACTOR, (int)-refusal(section), DOING_MMAP);
			return;
		}
	}
	for (uint32_t actor = 0; actor < program.head->actors; actor++) {
		const struct program_actor *who = &program.actors[actor];

		if (who->flags & ACTOR_ENDS)
			continue;
		program.members[who->leader]++;
		program.runs[actor] = section && section[actor].path;
		if (stops(actor) || !((who->flags & ACTOR_THREAD) && section && section[who->leader].path))
			expected++;
	}
	program.state->run_offset = message->offset;
	program.state->run_size = message->size;
	store(&program.state->release, (uint32_t)message->value);
	futex_wake_all(&program.state->release);
	stage = RELEASING;
}

/*
 * Open the folder of the pid file. Another folder may get its path later, so the guard looks for the file, and removes it,
 * in this one alone.
 */
static void keep_folder(char *path)
{
	char *name = path;
	long fd;

	for (char *at = path; *at; at++)
		if (*at == '/')
			name = at + 1;
	if (name == path)
		return;
	name[-1] = 0;
	fd = CALL4(openat, AT_FDCWD, *path ? path : "/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	if (fd >= 0 && fd != FD_FOLDER) {
		CALL3(dup3, fd, FD_FOLDER, O_CLOEXEC);
		CALL1(close, fd);
	}
	if (fd >= 0)
		guard.pidfile = name;
}

static void detach(const struct message *message)
{
	if (message->size) {
		char *path = map(message->size, MAP_PRIVATE, FD_PROGRAM, message->offset);

		if (!refusal(path))
			keep_folder(path);
	}
	for (int stream = 0; guard.null >= 0 && stream < STANDARD_STREAMS; stream++)
		CALL3(dup3, guard.null, stream, 0);
	CALL1(chdir, "/");
	CALL1(close, guard.control);
	guard.control = -1;
}

/* Obey a message; return 0 if the tree must be taken down. */
static int obey(const struct message *message)
{
	switch (message->kind) {
	case SAID_GO:
		stage = ACTIVATING;
		open_gate(PHASE_ACTIVATE);
		drop(PHASE_ACTIVATE);
		break;
	case SAID_RELEASE:
		release(message);
		break;
	case SAID_SIGNAL:
		if (guard.first && !load(&program.state->root_ended))
			signal_descendant(program.outer[program.root], message->value);
		break;
	case SAID_DETACH:
		detach(message);
		break;
	case SAID_KILL:
		return 0;
	}
	return 1;
}

static int listen(void)
{
	struct message message;
	long size;

	while (guard.control >= 0) {
		size = CALL6(recvfrom, guard.control, &message, sizeof(message), MSG_DONTWAIT, 0, 0);
		if (size == -EAGAIN || size == -EINTR)
			return 1;
		if (size != sizeof(message) || !obey(&message))
			return 0;
	}
	return 1;
}

/* Read signals; return 0 to take the tree down. Before the detach they are the coordinator's to handle. */
static int heed_signals(void)
{
	char info[SIGNAL_INFO_BYTES];
	int go_on = 1;

	while (CALL3(read, guard.signals, info, sizeof(info)) == sizeof(info))
		if (*(uint32_t *)info != SIGCHLD && guard.control < 0)
			go_on = 0;
	return go_on;
}

/* Wait for orphans that the guard has adopted, and for its watcher; return 0 when actor 0 has ended. */
static int wait_for_children(void)
{
	struct child_info info;

	for (;;) {
		info.pid = 0;
		if (CALL5(waitid, P_ALL, 0, &info, WEXITED | WNOHANG | WALL, 0) || !info.pid)
			return 1;
		if (info.pid == guard.watcher)
			guard.watcher = 0;
		if (info.pid == guard.first) {
			guard.first = 0;
			if (program.head->flags & PROGRAM_REAPER)
				guard.root_status = load(&program.state->root_ended) ? program.state->root_status : -1;
			else
				guard.root_status = raw_status(&info);
			return 0;
		}
	}
}

static void go_on(void)
{
	struct state *state = program.state;

	switch (stage) {
	case BUILDING:
		if (load(&state->left[PHASE_BUILD]))
			break;
		read_reports(); /* each actor has sent its report before it counted */
		program.answer->standing_ns = now_ns();
		stage = STANDING;
		tell((struct message){.kind = SAID_STANDING});
		break;
	case ACTIVATING:
		if (load(&state->left[PHASE_LEAVE]))
			break;
		stage = ACTIVE;
		tell((struct message){.kind = SAID_ACTIVE});
		break;
	case RELEASING:
		if (load(&state->released) < expected)
			break;
		stage = STOPPING;
		open_gate(PHASE_STOP);
		drop(PHASE_STOP);
		break;
	case STOPPING:
		if (load(&state->left[PHASE_STOP]) || load(&state->asks))
			break;
		stage = RUNNING;
		tell((struct message){.kind = SAID_RELEASED});
		break;
	default:
		break;
	}
}

/* Reports are read now and then: a wakeup for each would slow down the build. */
static int64_t longest_nap_ms(void)
{
	switch (stage) {
	case BUILDING:
	case ACTIVATING:
		return 2;
	case RELEASING:
	case STOPPING:
		return 1;
	case RUNNING:
		return 1000;
	default:
		return 5;
	}
}

static void nap(void)
{
	struct poll_fd polled[] = {{FD_WAKE, POLLIN, 0},
				   {guard.signals, POLLIN, 0},
				   {guard.first ? guard.first_fd : -1, POLLIN, 0},
				   {guard.control, POLLIN, 0}};
	int64_t ms = longest_nap_ms();
	struct timespec64 timeout = {ms / MS_PER_S, ms % MS_PER_S * NS_PER_MS};
	uint64_t wakings;

	CALL5(ppoll, polled, guard.control < 0 ? 3 : 4, &timeout, 0, 0);
	CALL3(read, FD_WAKE, &wakings, sizeof(wakings));
}

void guard_loop(void)
{
	struct state *state = program.state;
	struct message gone = {.kind = SAID_GONE};

	for (;;) {
		nap();
		read_reports();
		if (stage < RELEASING)
			look_for_the_dead();
		if (stage == BUILDING || stage == ACTIVATING) {
			continue_the_stopped();
			look_for_the_stuck();
		}
		if (load(&state->failed)) {
			tell(state->failure);
			break;
		}
		answer_asks();
		if (!listen() || !heed_signals())
			break;
		if (!wait_for_children()) {
			if (stage >= RELEASING)
				break;
			note_failure(REASON_DIED, 0, NO_ACTOR, 0, guard.root_status);
			continue;
		}
		keep_watcher();
		go_on();
	}
	take_down();
	remove_pidfile();
	gone.value = guard.root_status;
	tell(gone);
}
