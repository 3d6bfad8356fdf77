/* SPDX-License-Identifier: Apache-2.0 */
/* The watcher, which ends the tree if the guard is killed. */
#include "guardwatcher.h"
#include "guardfilter.h"
#include "guardstate.h"

/* The watcher's descriptors: all others are closed. */
enum { FD_GUARD = FD_HIGH, FD_FIRST, FD_BEHIND };

/* Watch. Everything else is closed, because others wait for the guard's ends of pipes and sockets to be closed. */
static _Noreturn void watch_over(void)
{
	enum { GUARD, FIRST };
	struct poll_fd polled[] = {{0, POLLIN, 0}, {1, POLLIN, 0}};

	/* Move both to high numbers first, above those that are closed. */
	polled[GUARD].fd = (int)CALL3(fcntl, guard.guard_fd, F_DUPFD, FD_BEHIND);
	polled[FIRST].fd = (int)CALL3(fcntl, guard.first_fd, F_DUPFD, FD_BEHIND);
	CALL3(dup3, polled[GUARD].fd, FD_GUARD, O_CLOEXEC);
	CALL3(dup3, polled[FIRST].fd, FD_FIRST, O_CLOEXEC);
	polled[GUARD].fd = FD_GUARD;
	polled[FIRST].fd = FD_FIRST;
	CALL3(close_range, 0, FD_GUARD - 1, 0);
	CALL3(close_range, FD_BEHIND, ~0u, 0);
	CALL0(setsid); /* a signal to the guard's group or session must not kill both */
	CALL1(chdir, "/");
	CALL2(prctl, PR_SET_NAME, "ckptree-watcher");
	confine(); /* the first watcher is older than the guard's filter */
	do
		CALL5(ppoll, polled, 2, 0, 0, 0);
	while (!polled[GUARD].found && !polled[FIRST].found);
	if (!polled[FIRST].found)
		CALL4(pidfd_send_signal, polled[FIRST].fd, SIGKILL, 0, 0);
	for (;;)
		CALL1(exit_group, 0);
}

/* Create the watcher; return a negative errno on failure. Its memory is a copy that no task of the tree shares. */
static long make_watcher(void)
{
	long answer = CALL5(clone, SIGCHLD, 0, 0, 0, 0); /* a filter cannot look at the arguments of clone3() */

	if (!answer)
		watch_over();
	return answer;
}

long begin_watcher(void)
{
	long answer = CALL2(pidfd_open, CALL0(getpid), 0);

	if (answer < 0)
		return answer;
	guard.guard_fd = (int)CALL3(fcntl, answer, F_DUPFD, FD_HIGH);
	CALL1(close, answer);
	if (guard.guard_fd < 0 || guard.first_fd < 0)
		return guard.guard_fd < 0 ? guard.guard_fd : guard.first_fd;
	answer = make_watcher();
	guard.watcher = answer > 0 ? (int32_t)answer : 0;
	return answer;
}

void keep_watcher(void)
{
	long answer;

	if (!(program.head->flags & PROGRAM_PIDNS) || guard.watcher || !guard.first)
		return;
	answer = make_watcher();
	guard.watcher = answer > 0 ? (int32_t)answer : 0;
}

void end_watcher(void)
{
	struct child_info info;

	if (!guard.watcher)
		return;
	CALL2(kill, guard.watcher, SIGKILL);
	while (CALL5(waitid, P_PID, guard.watcher, &info, WEXITED | WALL, 0) == -EINTR)
		;
	guard.watcher = 0;
}
