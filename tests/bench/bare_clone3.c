/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lower bound for the cost of children with chosen numbers: in a new pid namespace its init makes N of them with
 * clone3() and set_tid, one after the other. Prints nanoseconds from the first clone3() until the last one has returned.
 */
#define _GNU_SOURCE
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

static long clone_as(pid_t number, uint64_t flags)
{
	struct clone_args args = {
		.flags = flags, .exit_signal = SIGCHLD, .set_tid = (uint64_t)(uintptr_t)&number, .set_tid_size = 1};

	return syscall(SYS_clone3, &args, sizeof(args));
}

int main(int argc, char **argv)
{
	int count = argc > 1 ? atoi(argv[1]) : 1000;
	uint64_t begun = now();
	long init = clone_as(1, CLONE_NEWPID);

	if (init < 0) {
		perror("clone3");
		return 1;
	}
	if (init) {
		waitpid((pid_t)init, NULL, 0);
		return 0;
	}
	for (int n = 0; n < count; n++) {
		long child = clone_as(1000 + n, 0);

		if (child < 0) {
			perror("clone3");
			_exit(1);
		}
		if (!child)
			for (;;)
				pause();
	}
	printf("%llu\n", (unsigned long long)(now() - begun));
	fflush(stdout);
	_exit(0); /* all children die with the init */
}
