// SPDX-License-Identifier: Apache-2.0
/*
 * A quiet tree: idle_tree TASKS [BREADTH [THREADS [NAMESPACES]]]. TASKS tasks in all, the root and threads included;
 * each process has THREADS threads besides its first and at most BREADTH children (0: all are the root's). Where
 * NAMESPACES is 1 each child of the root is the init of a pid namespace. Says "ready PID" once all tasks run; SIGTERM,
 * or the end of the caller, ends it.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static _Atomic int *standing; /* processes and threads */
static pid_t *pids;	      /* by process, in breadth-first order */
static _Atomic int *failed;   /* a task could not be made: no numbers or no memory are left */
static int processes, breadth, threads, namespaces;
static volatile sig_atomic_t told;

static void *idle(void *arg)
{
	atomic_fetch_add(standing, 1);
	for (;;)
		pause();
	return arg;
}

/* Process `n` makes its children n * breadth + 1 ... and sleeps. */
static void be(int n)
{
	pthread_attr_t attr;
	pthread_t handle;
	int child, last = breadth ? n * breadth + breadth : processes - 1;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!namespaces)
		pids[n] = getpid();
	for (child = breadth ? n * breadth + 1 : n + 1; child <= last && child < processes; child++) {
		pid_t pid = namespaces && !n ? syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0) : fork();

		if (pid > 0 && !n)
			pids[child] = pid; /* by its death all in its namespace die */
		if (pid < 0)
			atomic_store(failed, 1);
		if (!pid) {
			if (!breadth) /* a leaf */
				processes = 0;
			signal(SIGTERM, SIG_DFL);
			be(child);
		}
	}
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 32768);
	for (child = 0; child < threads; child++)
		if (pthread_create(&handle, &attr, idle, NULL))
			atomic_store(failed, 1);
	if (n)
		idle(NULL);
	atomic_fetch_add(standing, 1);
}

static void on_term(int sig)
{
	told = sig;
}

int main(int argc, char **argv)
{
	int tasks = argc > 1 ? atoi(argv[1]) : 1, all, n;
	sigset_t term, before;
	size_t bytes;

	breadth = argc > 2 ? atoi(argv[2]) : 0;
	threads = argc > 3 ? atoi(argv[3]) : 0;
	namespaces = argc > 4 ? atoi(argv[4]) : 0;
	processes = all = tasks / (threads + 1);
	bytes = sizeof(*standing) + sizeof(*failed) + all * sizeof(*pids);
	standing = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (all < 1 || standing == MAP_FAILED)
		return fprintf(stderr, "idle_tree: no tree of %d tasks\n", tasks), 2;
	failed = standing + 1;
	pids = (pid_t *)(failed + 1);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	signal(SIGTERM, on_term);
	be(0);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	while (atomic_load(standing) < all * (threads + 1) && !atomic_load(failed) && !told)
		usleep(500);
	if (atomic_load(failed))
		told = fprintf(stderr, "idle_tree: no room for %d tasks\n", tasks);
	else
		printf("ready %d\n", getpid());
	fflush(stdout);
	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	sigprocmask(SIG_BLOCK, &term, &before);
	while (!told)
		sigsuspend(&before);
	/* This process reaps all, now or after their parent's end: until then no number can be another task's. */
	for (n = all - 1; n > 0; n--)
		if (pids[n] > 0)
			kill(pids[n], SIGKILL);
	while (wait(NULL) > 0)
		;
	return 0;
}
