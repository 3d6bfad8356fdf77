// SPDX-License-Identifier: Apache-2.0
/*
 * A fork storm that keeps its own log (storm_log.h): storm LOG [--seconds S] [--idle N] [--workers W] [--rate R]
 * [--capacity LIVES]. It says "ready PID" once the idle tasks stand and the storm begins, runs for S seconds or until
 * SIGTERM, takes everything down and prints its counts as one line of JSON.
 *
 *	root (subreaper) ---- holder ---- idle tasks
 *	   |-- workers ---- scenes: short-lived trees of every kind
 *	   `-- orphans the scenes leave
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "storm_scenes.h"

/* ---- the root ---- */

static volatile sig_atomic_t told;

static void on_signal(int sig)
{
	if (sig == SIGTERM || sig == SIGINT)
		told = 1;
}

/* Take one child away. Its number is looked up while it is a zombie: afterwards the number may be another's. */
static int reap_any(void)
{
	siginfo_t info = { 0 };
	struct life *l;
	uint32_t i;

	if (waitid(P_ALL, 0, &info, WEXITED | WNOWAIT))
		return errno == EINTR ? 0 : -1;
	i = book->by_tid[info.si_pid];
	l = lives + i;
	if (i && l->tid == info.si_pid)
		l->zombie_hi = now();
	else
		l = NULL;
	if (l)
		l->reap_lo = now();
	waitpid(info.si_pid, NULL, 0);
	if (l)
		l->gone_hi = now();
	count(l ? &book->adopted : &book->unmatched);
	return 1;
}

static void hold(uint32_t idle)
{
	uint32_t i, n;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (n = 0; n < idle; n++) {
		if (spawn(KIND_IDLE, &i))
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		count(&book->idle_ready);
		for (;;)
			pause();
	}
	for (;;)
		pause();
}

static void take_down(void)
{
	uint32_t i, n = taken() < book->capacity ? taken() : book->capacity;
	uint64_t patience = now() + 5000 * MS;

	book->stop_ns = now();
	for (i = 0; i < n; i++)
		if ((lives[i].kind == KIND_IDLE || lives[i].kind == KIND_HOLDER) && lives[i].tid)
			kill(lives[i].tid, SIGKILL); /* ours until we reap them below: the number cannot be another's */
	while (reap_any() >= 0)
		if (now() > patience) {
			for (i = 0; i < n; i++)
				if (lives[i].kind == KIND_WORKER && !lives[i].gone_hi)
					kill(lives[i].tid, SIGKILL);
			patience = now() + 5000 * MS;
		}
}

static void report(uint64_t ns)
{
	uint32_t *c = book->counts, n = taken(), storm = n - c[KIND_ROOT] - c[KIND_HOLDER] - c[KIND_IDLE] - c[KIND_WORKER];

	printf("{\"lives\": %u, \"storm\": %u, \"seconds\": %.3f, \"per_second\": %.0f, \"idle\": %u, \"processes\": %u, "
	       "\"vforks\": %u, \"threads\": %u, \"orphans\": %u, \"autoreaped\": %u, \"killed\": %u, \"execs\": %u, "
	       "\"setsids\": %u, \"setpgids\": %u, \"reaped_by_root\": %u, \"unmatched\": %u, \"full\": %s}\n",
	       n, storm, ns / 1e9, storm / (ns / 1e9), c[KIND_IDLE], c[KIND_PROCESS], c[KIND_VFORK], c[KIND_THREAD],
	       c[KIND_ORPHAN], c[KIND_AUTOREAP], c[KIND_KILLED], book->execs, book->setsids, book->setpgids,
	       book->adopted, book->unmatched, n + 4096 >= book->capacity ? "true" : "false");
}

static long option(int argc, char **argv, const char *name, long otherwise)
{
	for (int i = 2; i + 1 < argc; i += 2)
		if (!strcmp(argv[i], name))
			return strtol(argv[i + 1], NULL, 10);
	return otherwise;
}

static int open_log(const char *path, uint32_t capacity)
{
	size_t bytes = sizeof(*book) + (size_t)capacity * sizeof(*lives);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

	if (fd < 0 || ftruncate(fd, bytes) || dup2(fd, LOG_FD) < 0 || map_log(LOG_FD, bytes))
		return -1;
	close(fd);
	book->life_size = sizeof(*lives);
	book->lives_offset = sizeof(*book);
	book->capacity = capacity;
	book->magic = STORM_MAGIC;
	return 0;
}

int main(int argc, char **argv)
{
	struct itimerval tick = { { 0, 20000 }, { 0, 20000 } }; /* so that a blocking wait notices the time */
	struct sigaction act = { .sa_handler = on_signal };
	long seconds = option(argc, argv, "--seconds", 0), idle = option(argc, argv, "--idle", 1000);
	long workers = option(argc, argv, "--workers", 2 * sysconf(_SC_NPROCESSORS_ONLN)), n;
	uint32_t i;
	uint64_t begun;

	if (argc == 5 && !strcmp(argv[1], "--after-exec"))
		return after_exec(argv);
	if (argc < 2 || readlink("/proc/self/exe", self_path, sizeof(self_path) - 1) < 0 ||
	    open_log(argv[1], option(argc, argv, "--capacity", 4000000)))
		return fprintf(stderr, "storm: no log\n"), 2;
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	setsid();
	dice = now() | 1;
	me.sid = getsid(0);
	me.pgid = getpgid(0);
	begin(expect(KIND_ROOT));
	sigaction(SIGTERM, &act, NULL);
	sigaction(SIGINT, &act, NULL);
	sigaction(SIGALRM, &act, NULL);
	if (!spawn(KIND_HOLDER, &i))
		hold(idle);
	while (*(volatile uint32_t *)&book->idle_ready < idle && !told)
		doze(MS);
	for (book->workers = n = workers; n; n--)
		if (!spawn(KIND_WORKER, &i)) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			work(option(argc, argv, "--rate", 0));
		}
	printf("ready %d\n", getpid());
	fflush(stdout);
	setitimer(ITIMER_REAL, &tick, NULL);
	begun = now();
	while (!told && (!seconds || now() - begun < seconds * 1000 * MS) && *(volatile uint32_t *)&book->workers)
		reap_any();
	seconds = now() - begun;
	take_down();
	report(seconds);
	return 0;
}
