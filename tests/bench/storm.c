// SPDX-License-Identifier: Apache-2.0
/*
 * A fork storm that keeps its own log (storm_log.h): storm LOG [--seconds S] [--idle N] [--workers W] [--rate R]
 * [--capacity LIVES] [--pid-max P]. It says "ready PID" once the idle tasks stand and the storm begins, runs for S seconds or until
 * SIGTERM, takes everything down and prints its counts as one line of JSON.
 *
 *	root (subreaper) ---- holder ---- idle tasks
 *	   |-- workers ---- scenes: short-lived trees of every kind
 *	   `-- orphans the scenes leave
 *
 * With --pid-max the root is the init of a pid namespace that has no more numbers than that, so that each is used again
 * and again; it says "init PID" first.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
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

static int adopt(uint32_t *i)
{
	int r = reap_any(i);

	if (r > 0)
		count(*i ? &book->adopted : &book->unmatched);
	return r;
}

static void take_down(void)
{
	uint32_t i, one, n = taken() < book->capacity ? taken() : book->capacity;
	uint64_t patience = now() + 5000 * MS;

	book->stop_ns = now();
	for (i = 0; i < n; i++)
		if ((lives[i].kind == KIND_IDLE || lives[i].kind == KIND_HOLDER) && lives[i].tid)
			kill(lives[i].tid,
			     SIGKILL); /* not reaped before the loop below: the number cannot be another task's */
	while (adopt(&one) >= 0)
		if (now() > patience) {
			for (i = 0; i < n; i++)
				if (lives[i].kind == KIND_WORKER && !lives[i].gone_hi)
					kill(lives[i].tid, SIGKILL);
			patience = now() + 5000 * MS;
		}
}

static void report(uint64_t ns)
{
	uint32_t *c = book->counts, n = taken(),
		 storm = n - c[KIND_ROOT] - c[KIND_HOLDER] - c[KIND_IDLE] - c[KIND_WORKER];

	printf("{\"lives\": %u, \"storm\": %u, \"seconds\": %.3f, \"per_second\": %.0f, \"idle\": %u, \"processes\": %u, "
	       "\"vforks\": %u, \"threads\": %u, \"orphans\": %u, \"autoreaped\": %u, \"killed\": %u, \"execs\": %u, "
	       "\"setsids\": %u, \"setpgids\": %u, \"subreapers\": %u, \"namespaces\": %u, \"reaped_by_root\": %u, \"unmatched\": %u, \"full\": %s}\n",
	       n, storm, ns / 1e9, storm / (ns / 1e9), c[KIND_IDLE], c[KIND_PROCESS], c[KIND_VFORK], c[KIND_THREAD],
	       c[KIND_ORPHAN], c[KIND_AUTOREAP], c[KIND_KILLED], book->execs, book->setsids, book->setpgids,
	       book->subreapers, c[KIND_INIT], book->adopted, book->unmatched,
	       n + 4096 >= book->capacity ? "true" : "false");
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

static pid_t inner_root;

static void pass_on(int sig)
{
	kill(inner_root, sig);
}

/* Continue as the init of a namespace with few numbers; the first process waits for its end. Linux 6.14 or later. */
static int enter_namespace(long pid_max)
{
	char text[24];
	int fd, status;

	if (unshare(CLONE_NEWPID | CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return -1;
	inner_root = fork();
	if (inner_root < 0)
		return -1;
	if (inner_root) {
		signal(SIGTERM, pass_on);
		signal(SIGINT, pass_on);
		printf("init %d\n", inner_root);
		fflush(stdout);
		while (waitpid(inner_root, &status, 0) < 0 && errno == EINTR)
			;
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
	}
	snprintf(text, sizeof(text), "%ld", pid_max);
	if (mount("proc", "/proc", "proc", 0, NULL) || (fd = open("/proc/sys/kernel/pid_max", O_WRONLY)) < 0 ||
	    write(fd, text, strlen(text)) < 0)
		return -1;
	return close(fd);
}

int main(int argc, char **argv)
{
	struct itimerval tick = {{0, 20000}, {0, 20000}}; /* so that a blocking wait notices the time */
	struct sigaction act = {.sa_handler = on_signal};
	long seconds = option(argc, argv, "--seconds", 0), idle = option(argc, argv, "--idle", 1000);
	long workers = option(argc, argv, "--workers", 2 * sysconf(_SC_NPROCESSORS_ONLN)), n;
	uint32_t i;
	uint64_t begun;

	if (argc == 5 && !strcmp(argv[1], "--after-exec"))
		return after_exec(argv);
	if (argc < 2 || readlink("/proc/self/exe", self_path, sizeof(self_path) - 1) < 0 ||
	    open_log(argv[1], option(argc, argv, "--capacity", 4000000)))
		return fprintf(stderr, "storm: no log\n"), 2;
	n = option(argc, argv, "--pid-max", 0);
	if (n && enter_namespace(n))
		return fprintf(stderr, "storm: no namespace with %ld numbers: %s\n", n, strerror(errno)), 2;
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
		adopt(&i);
	seconds = now() - begun;
	take_down();
	report(seconds);
	return 0;
}
