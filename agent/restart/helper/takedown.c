/* SPDX-License-Identifier: Apache-2.0 */
/* The end of a tree. */
#include "takedown.h"
#include "guardstate.h"
#include "kin.h"
#include "guardwatcher.h"

#define MOST_PIDS (4 * 1024 * 1024) /* PID_MAX_LIMIT */
#define REAPER_PATIENCE_NS 5000000000u
#define REAPER_LOOK_NS 500000
#define ROUND_NS 1000000 /* between two rounds */

static void wait_for(int32_t pid)
{
	struct child_info info;
	long answer;

	do {
		info.pid = 0;
		answer = CALL5(waitid, P_PID, pid, &info, WEXITED | WALL, 0);
	} while (answer == -EINTR);
	if (!answer && !(program.head->flags & PROGRAM_REAPER))
		guard.root_status = raw_status(&info);
}

struct family {				       /* the processes of one scan, by number */
	int32_t *parents, *first, *next, *fds; /* first child; next child of the same parent */
	int32_t *pids;			       /* the listed numbers */
	uint32_t count;
};

static void read_parents(struct family *family)
{
	char entries[16384];
	long fd = CALL4(openat, AT_FDCWD, "/proc", O_RDONLY | O_CLOEXEC, 0), size;

	family->count = 0;
	while (fd >= 0 && (size = CALL3(getdents64, fd, entries, sizeof(entries))) > 0)
		for (long at = 0; at < size; at += *(uint16_t *)(entries + at + ENTRY_SIZE_AT)) {
			int32_t pid = number_in(entries + at + ENTRY_NAME_AT), parent;

			if (pid <= 0 || pid >= MOST_PIDS || family->count >= MOST_PIDS)
				continue;
			parent = parent_of(entries + at + ENTRY_NAME_AT);
			if (parent <= 0 || parent >= MOST_PIDS)
				continue;
			family->parents[pid] = parent;
			family->next[pid] = family->first[parent];
			family->first[parent] = pid;
			family->pids[family->count++] = pid;
		}
	CALL1(close, fd);
}

/*
 * Walk down from the caller, and kill on the way up: only a living parent proves that its children are of the tree. A
 * process that is skipped, because an ancestor died meanwhile or no descriptor is left, is met in the next round,
 * with a parent further up.
 */
static void kill_descendants(struct family *family, int32_t self)
{
	int32_t at = self, child;
	long fd;

	read_parents(family);
	for (;;) {
		child = family->first[at];
		if (child) {
			family->first[at] = family->next[child];
			fd = child == self ? -ESRCH : open_child(child, at, at == self ? -1 : family->fds[at]);
			if (fd >= 0) {
				family->fds[child] = (int32_t)fd;
				at = child;
			}
			continue;
		}
		if (at == self)
			break;
		CALL4(pidfd_send_signal, family->fds[at], SIGKILL, 0, 0);
		CALL1(close, family->fds[at]);
		at = family->parents[at];
	}
	for (uint32_t n = 0; n < family->count; n++)
		family->first[family->parents[family->pids[n]]] = 0;
}

/* Allow as many descriptors as possible: the walk needs one for each level of the tree. */
static void raise_limit(void)
{
	uint64_t limit[2];

	if (CALL4(prlimit64, 0, RLIMIT_NOFILE, 0, limit))
		return;
	limit[0] = limit[1];
	CALL4(prlimit64, 0, RLIMIT_NOFILE, limit, 0);
}

/* Let the reaper kill the tree, by its signal for the death of the guard. */
static void leave_it_to_the_reaper(void)
{
	struct child_info info = {0};
	uint64_t begin = now_ns();

	CALL2(kill, guard.first, SIGNAL_GUARD_GONE);
	while (CALL5(waitid, P_PID, guard.first, &info, WEXITED | WNOHANG | WNOWAIT | WALL, 0) == 0 && !info.pid &&
	       now_ns() - begin < REAPER_PATIENCE_NS)
		sleep_ns(REAPER_LOOK_NS);
}

void remove_pidfile(void)
{
	char text[16] = {0};
	long fd, size;

	if (!guard.pidfile)
		return;
	fd = CALL4(openat, FD_FOLDER, guard.pidfile, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC, 0);
	if (fd < 0)
		return;
	size = CALL3(read, fd, text, sizeof(text) - 1);
	CALL1(close, fd);
	if (size > 0 && text[size - 1] == '\n')
		text[size - 1] = 0;
	if (number_in(text) == (int32_t)CALL0(getpid))
		CALL3(unlinkat, FD_FOLDER, guard.pidfile, 0);
}

void take_down(void)
{
	const size_t size = MOST_PIDS * sizeof(int32_t);
	int32_t self = (int32_t)CALL0(getpid), *all;
	struct family family = {0};
	struct child_info info;

	if (program.head->flags & PROGRAM_PIDNS) {
		if (guard.first) {
			CALL2(kill, guard.first, SIGKILL);
			wait_for(guard.first);
			guard.first = 0;
		}
		end_watcher();
		return;
	}
	if (guard.first && (program.head->flags & PROGRAM_REAPER))
		leave_it_to_the_reaper();
	all = map(5 * size, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (!refusal(all))
		family = (struct family){
			all, all + MOST_PIDS, all + 2 * MOST_PIDS, all + 3 * MOST_PIDS, all + 4 * MOST_PIDS, 0};
	raise_limit();
	for (;;) {
		long answer;

		if (!refusal(all) && proc_is_own())
			kill_descendants(&family, self);
		else if (guard.first)
			CALL2(kill, guard.first, SIGKILL);
		do {
			info.pid = 0;
			answer = CALL5(waitid, P_ALL, 0, &info, WEXITED | WNOHANG | WALL, 0);
			if (!answer && info.pid && info.pid == guard.first) {
				guard.first = 0;
				if (!(program.head->flags & PROGRAM_REAPER))
					guard.root_status = raw_status(&info);
			}
		} while (!answer && info.pid);
		if (answer == -ECHILD)
			return;
		sleep_ns(ROUND_NS);
	}
}
