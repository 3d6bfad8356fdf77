// SPDX-License-Identifier: Apache-2.0
// Calls without a limit for any user, as fast as they return, for this many seconds: noise SECONDS KIND.
//
// same-subreaper, same-group   ask for the present state again
// flip-subreaper, flip-group   change it to and fro
// others-child                 move a child that another thread has forked to and fro
// burns                        make no call, and use all the CPU time
// reaps                        have zombies, and reap one of them 200 times a second without asking which
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LONGEST_S 60
#define CALLS_BETWEEN_LOOKS 500
#define ZOMBIES 2000
#define REAPS_PER_SECOND 200

static pid_t child;

static pid_t a_child(void)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;)
		pause();
}

static void *forks(void *unused)
{
	child = a_child();
	for (;;)
		pause();
	return unused;
}

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static void reap(double end)
{
	static pid_t zombies[ZOMBIES];
	struct timespec pause = {0, 1000000000 / REAPS_PER_SECOND};
	int i;

	for (i = 0; i < ZOMBIES; i++) {
		zombies[i] = fork();
		if (!zombies[i])
			_exit(0);
	}
	for (i = 0; i < ZOMBIES && now_s() < end; i++) {
		waitid(P_PID, zombies[i], NULL, WEXITED);
		nanosleep(&pause, NULL);
	}
}

static void burn(void)
{
	volatile unsigned long n;

	for (n = 0; n < 1000; n++)
		;
}

int main(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 1, end = now_s() + seconds;
	const char *kind = argc > 2 ? argv[2] : "same-group";
	pthread_t other;
	pid_t group = 0;
	unsigned long calls = 0;
	int i;

	if (!(seconds > 0 && seconds <= LONGEST_S))
		return 2;
	alarm(LONGEST_S + 5);
	if (getsid(0) == getpid()) { /* a session leader stays in its group */
		child = fork();
		if (child)
			return waitpid(child, NULL, 0) < 0;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	}
	if (!strcmp(kind, "reaps")) {
		reap(end);
		return 0;
	}
	if (!strcmp(kind, "flip-group")) {
		group = a_child();
		setpgid(group, group);
	} else if (!strcmp(kind, "others-child")) {
		pthread_create(&other, NULL, forks, NULL);
		while (!*(volatile pid_t *)&child)
			usleep(1000);
	}
	while (now_s() < end) {
		for (i = 0; i < CALLS_BETWEEN_LOOKS; i++, calls++) {
			if (!strcmp(kind, "same-subreaper"))
				prctl(PR_SET_CHILD_SUBREAPER, 1);
			else if (!strcmp(kind, "flip-subreaper"))
				prctl(PR_SET_CHILD_SUBREAPER, i & 1);
			else if (!strcmp(kind, "flip-group"))
				setpgid(0, i & 1 ? group : 0);
			else if (!strcmp(kind, "others-child"))
				setpgid(child, i & 1 ? getpgrp() : child);
			else if (!strcmp(kind, "burns"))
				burn();
			else
				setpgid(0, 0);
		}
	}
	printf("%lu\n", calls);
	return 0;
}
