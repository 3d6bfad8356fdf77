/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a tree. A namespace goes as a whole with its init. Without one, whoever descends from the reaper is killed,
 * again and again until there is nobody: it is a subreaper, so nobody can get away from under it. That is the work of the
 * reaper itself, for should the guard be killed meanwhile, it goes on. What it has left the guard does, in the same way.
 */
#include "guard.h"

#define MOST_PIDS (4 * 1024 * 1024)	/* PID_MAX_LIMIT */
#define REAPER_PATIENCE_NS 5000000000u

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

static int32_t number_in(const char *text)
{
	int32_t number = 0;

	if (*text < '1' || *text > '9')
		return 0;
	for (; *text >= '0' && *text <= '9'; text++)
		number = number * 10 + (*text - '0');
	return *text && *text != ' ' ? 0 : number;
}

/* The name of a process may hold anything, also parentheses: the last one ends it. */
static int32_t parent_of(const char *pid)
{
	char path[32] = "/proc/", text[512], *at;
	size_t used = 6;
	long fd, size;

	while (*pid && used < 20)
		path[used++] = *pid++;
	memcpy(path + used, "/stat", 6);
	fd = CALL4(openat, -100, path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return 0;
	size = CALL3(read, fd, text, sizeof(text) - 1);
	CALL1(close, fd);
	if (size <= 0)
		return 0;
	text[size] = 0;
	for (at = text + size; at > text && *at != ')'; at--)
		;
	return at > text && at + 4 < text + size ? number_in(at + 4) : 0;
}

static void read_parents(int32_t *parents, int32_t *pids, uint32_t *count)
{
	char entries[16384];
	long fd = CALL4(openat, -100, "/proc", O_RDONLY | O_CLOEXEC, 0), size;

	*count = 0;
	while (fd >= 0 && (size = CALL3(getdents64, fd, entries, sizeof(entries))) > 0)
		for (long at = 0; at < size; at += *(uint16_t *)(entries + at + 16)) {
			int32_t pid = number_in(entries + at + 19);

			if (pid > 0 && pid < MOST_PIDS) {
				parents[pid] = parent_of(entries + at + 19);
				pids[(*count)++] = pid;
			}
		}
	CALL1(close, fd);
}

/* Each one's ancestor just below the guard is found once; then whoever has a doomed parent is doomed. */
static void kill_descendants(int32_t *parents, int32_t *pids, int32_t self)
{
	uint32_t count;
	int more = 1;

	read_parents(parents, pids, &count);
	while (more) {
		more = 0;
		for (uint32_t n = 0; n < count; n++) {
			int32_t parent = parents[pids[n]];

			if (parent > 0 && (parent == self || parents[parent] == -1)) {
				CALL2(kill, pids[n], SIGKILL);
				parents[pids[n]] = -1;
				more = 1;
			}
		}
	}
	for (uint32_t n = 0; n < count; n++)
		parents[pids[n]] = 0;
}

/* SIGTERM is what it also gets when the guard dies. */
static void leave_it_to_the_reaper(void)
{
	struct child_info info = {0};
	uint64_t begin = now_ns();

	CALL2(kill, guard.first, SIGTERM);
	while (CALL5(waitid, P_PID, guard.first, &info, WEXITED | WNOHANG | WNOWAIT | WALL, 0) == 0 && !info.pid
	       && now_ns() - begin < REAPER_PATIENCE_NS)
		sleep_ns(500000);
}

/* Another tree may have put its own guard's pid there meanwhile. */
void remove_pidfile(void)
{
	char text[16] = {0};
	long fd, size;

	if (!guard.pidfile)
		return;
	fd = CALL4(openat, -100, guard.pidfile, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC, 0);
	if (fd < 0)
		return;
	size = CALL3(read, fd, text, sizeof(text) - 1);
	CALL1(close, fd);
	if (size > 0 && text[size - 1] == '\n')
		text[size - 1] = 0;
	if (number_in(text) == (int32_t)CALL0(getpid))
		CALL3(unlinkat, -100, guard.pidfile, 0);
}

void take_down(void)
{
	size_t size = MOST_PIDS * sizeof(int32_t);
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	int32_t *parents, *pids, self = (int32_t)CALL0(getpid);
	struct child_info info;

	if (program.head->flags & PROGRAM_PIDNS) {
		if (guard.first) {
			CALL2(kill, guard.first, SIGKILL);
			wait_for(guard.first);
			guard.first = 0;
		}
		return;
	}
	if (guard.first && (program.head->flags & PROGRAM_REAPER))
		leave_it_to_the_reaper();
	parents = map(size, flags, -1, 0);
	pids = map(size, flags, -1, 0);
	for (;;) {
		long answer;

		if (!refusal(parents) && !refusal(pids))
			kill_descendants(parents, pids, self);
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
		sleep_ns(1000000);
	}
}
