// SPDX-License-Identifier: Apache-2.0
/* The acts of a storm's task: births, ends, sessions and groups, threads, exec. Each call stamps the log. */
#ifndef STORM_TASKS_H
#define STORM_TASKS_H

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "storm_log.h"

#define LOG_FD 200 /* of the log, kept open across exec */
#define MS 1000000ull

static struct log *book;
static struct life *lives;
static struct { /* the process this code runs in */
	uint32_t life, heir;
	int32_t sid, pgid;
	int nested; /* in a namespace below the root's: numbers are read, for what calls return is counted otherwise */
} me;
static uint64_t dice;
static char self_path[4096];

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint32_t roll(uint32_t sides)
{
	dice ^= dice << 13;
	dice ^= dice >> 7;
	dice ^= dice << 17;
	return (dice >> 20) % sides;
}

static void doze(uint64_t ns)
{
	struct timespec t = {ns / 1000000000ull, ns % 1000000000ull};

	nanosleep(&t, NULL);
}

static void count(uint32_t *what)
{
	atomic_fetch_add_explicit((_Atomic uint32_t *)what, 1, memory_order_relaxed);
}

static int map_log(int fd, size_t bytes)
{
	book = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	lives = (struct life *)((char *)book + sizeof(*book));
	return book == MAP_FAILED ? -1 : 0;
}

/* ---- births ---- */

/* Take a life. The stamp comes last: right before the clone() that follows. */
static uint32_t expect(enum kind kind)
{
	uint32_t i = atomic_fetch_add((_Atomic uint32_t *)&book->taken, 1);
	struct life *l = lives + i;

	if (i >= book->capacity) /* the workers stop well before: lives under way always have room */
		_exit(99);
	l->kind = kind;
	l->parent = kind == KIND_THREAD ? lives[me.life].parent : me.life;
	l->leader = kind == KIND_THREAD ? me.life : i;
	l->sid = me.sid;
	l->pgid = me.pgid;
	l->heir = me.heir;
	count(&book->counts[kind]);
	l->birth_lo = now();
	return i;
}

/* Our numbers in the root's namespace: /proc is the root's, TGID/task/TID. */
static void read_numbers(int32_t *tgid, int32_t *tid)
{
	char link[64] = "", *end;

	if (readlink("/proc/thread-self", link, sizeof(link) - 1) < 0)
		_exit(97);
	*tgid = strtol(link, &end, 10);
	*tid = atoi(strrchr(end, '/') + 1);
}

static void begin(uint32_t i)
{
	struct life *l = lives + i;

	l->birth_child = now();
	if (me.nested) {
		read_numbers(&l->tgid, &l->tid);
	} else {
		l->tid = syscall(SYS_gettid);
		l->tgid = getpid();
	}
	book->by_tid[l->tid] = i;
	if (l->kind != KIND_THREAD)
		me.life = i;
}

static pid_t born(uint32_t i, pid_t pid)
{
	uint64_t t = now();

	if (pid < 0) {
		lives[i].kind = KIND_VOID;
		return pid;
	}
	lives[i].birth_parent = t;
	if (!me.nested)
		lives[i].tid = lives[i].tgid = pid;
	return pid;
}

/* clone() with a life, as fork() or with further flags: the child returns 0 after its stamp. */
static pid_t spawn_with(enum kind kind, uint32_t *i, unsigned long flags)
{
	pid_t pid;

	*i = expect(kind);
	pid = flags ? syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0) : fork();
	if (pid)
		return born(*i, pid);
	if (flags & CLONE_NEWPID)
		me.nested = 1;
	begin(*i);
	dice ^= (uint64_t)lives[*i].tid * 0x9e3779b97f4a7c15ull;
	return 0;
}

static pid_t spawn(enum kind kind, uint32_t *i)
{
	return spawn_with(kind, i, 0);
}

/* A task that others may kill at any moment must have logged its number before. */
static void wait_until_noted(uint32_t i)
{
	while (!*(volatile int32_t *)&lives[i].tid)
		sched_yield();
}

/* ---- ends ---- */

static void leave(void)
{
	lives[me.life].death_lo = now();
	_exit(7);
}

static void reap(uint32_t i, pid_t pid)
{
	siginfo_t info;
	long r;

	do {
		lives[i].reap_lo = now();
		r = pid & 1 ? waitpid(pid, NULL, 0) : waitid(P_PID, pid, &info, WEXITED);
	} while (r < 0 && errno == EINTR);
	if (r >= 0)
		lives[i].gone_hi = now();
}

/*
 * Reap any child: 1, with its life or 0; -1 if there is none. Its number is looked up while it is a zombie:
 * afterwards it may be another task's.
 */
static int reap_any(uint32_t *i)
{
	siginfo_t info = {0};
	struct life *l;

	*i = 0;
	if (waitid(P_ALL, 0, &info, WEXITED | WNOWAIT))
		return errno == EINTR ? 0 : -1;
	*i = book->by_tid[info.si_pid];
	l = lives + *i;
	if (*i && l->tid == info.si_pid) {
		l->zombie_hi = now();
		l->reap_lo = now();
	} else {
		*i = 0;
	}
	waitpid(info.si_pid, NULL, 0);
	if (*i)
		l->gone_hi = now();
	return 1;
}

static void watch_go(uint32_t i, pid_t tgid, pid_t tid)
{
	while (syscall(SYS_tgkill, tgid, tid, 0) == 0)
		sched_yield();
	lives[i].gone_hi = now();
}

/* ---- sessions and groups ---- */

/* A failed call leaves no stamps; a lower bound alone means that its caller died during the call. */
static void own_session(void)
{
	struct life *l = lives + me.life;

	l->setsid_lo = now();
	if (setsid() < 0) {
		l->setsid_lo = 0;
		return;
	}
	l->setsid_hi = now();
	me.sid = me.pgid = l->tid;
	count(&book->setsids);
}

static void join_group(pid_t group)
{
	struct life *l = lives + me.life;

	l->new_pgid = group;
	l->setpgid_lo = now();
	if (setpgid(0, group)) {
		l->setpgid_lo = 0;
		return;
	}
	l->setpgid_hi = now();
	me.pgid = group;
	count(&book->setpgids);
}

static void move_to_group(uint32_t i, pid_t pid, pid_t group)
{
	struct life *l = lives + i;

	l->new_pgid = group;
	l->moved_lo = now();
	if (setpgid(pid, group)) {
		l->moved_lo = 0;
		return;
	}
	l->moved_hi = now();
	count(&book->setpgids);
}

/* ---- threads ---- */

struct thread {
	pthread_t handle;
	uint32_t life;
	uint64_t sleep_ns;
	void (*last)(uint32_t life);
};

static void *thread_main(void *arg)
{
	struct thread *t = arg;

	begin(t->life);
	if (t->sleep_ns)
		doze(t->sleep_ns);
	if (t->last)
		t->last(t->life);
	lives[t->life].death_lo = now();
	return NULL;
}

static int spawn_thread(struct thread *t)
{
	static pthread_attr_t attr;
	static int ready;

	if (!ready) {
		pthread_attr_init(&attr);
		pthread_attr_setstacksize(&attr, 32768);
		ready = 1;
	}
	t->life = expect(KIND_THREAD);
	if (pthread_create(&t->handle, &attr, thread_main, t)) {
		lives[t->life].kind = KIND_VOID;
		return -1;
	}
	lives[t->life].birth_parent = now();
	return 0;
}

/* Run this program by exec; the new one closes the two given lives and exits. */
static void become_new(uint32_t leader, uint32_t thread)
{
	char a[16], b[16], size[24];
	char *argv[] = {"storm", "--after-exec", a, b, size, NULL};
	char *env[] = {NULL};

	snprintf(a, sizeof(a), "%u", leader);
	snprintf(b, sizeof(b), "%u", thread);
	snprintf(size, sizeof(size), "%zu", sizeof(*book) + (size_t)book->capacity * sizeof(*lives));
	count(&book->execs);
	if (thread != leader)
		lives[thread].death_lo = now();
	lives[leader].exec_lo = now();
	execve(self_path, argv, env);
	_exit(98);
}

static int after_exec(char **argv)
{
	uint64_t t = now();
	uint32_t leader = atoi(argv[2]), thread = atoi(argv[3]);

	if (map_log(LOG_FD, strtoull(argv[4], NULL, 10)))
		return 1;
	lives[leader].exec_hi = t;
	if (thread != leader)
		lives[thread].gone_hi = t;
	me.life = leader;
	leave();
	return 0;
}

static void exec_from_thread(uint32_t life)
{
	become_new(me.life, life);
}

#endif
