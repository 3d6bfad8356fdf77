// SPDX-License-Identifier: Apache-2.0
/*
 * The cost of a call, measured with and without the hooks: bench_hooks LOOP CALLS prints ns per call.
 * LOOP: fork (fork, exit, wait), vfork (vfork, exit, wait), exec (vfork, exec, exit, wait), thread (create, join), setpgid,
 * getppid.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void once_fork(void)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	waitpid(pid, NULL, 0);
}

static void once_vfork(void)
{
	pid_t pid = vfork();

	if (!pid)
		_exit(0);
	waitpid(pid, NULL, 0);
}

static void once_exec(void)
{
	pid_t pid = vfork();

	if (!pid) {
		execl("/proc/self/exe", "bench_hooks", "end", NULL);
		_exit(127);
	}
	waitpid(pid, NULL, 0);
}

static void *nothing(void *arg)
{
	return arg;
}

static void once_thread(void)
{
	pthread_t t;

	if (!pthread_create(&t, NULL, nothing, NULL))
		pthread_join(t, NULL);
}

static void once_setpgid(void)
{
	setpgid(0, 0);
}

static void once_getppid(void)
{
	syscall(SYS_getppid);
}

/* The last CPU: a migration costs more than the measured calls. */
static void stay(void)
{
	int cpu = sysconf(_SC_NPROCESSORS_ONLN) - 1;
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	sched_setaffinity(0, sizeof(one), &one);
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*once)(void);
	} loops[] = {{"fork", once_fork},     {"vfork", once_vfork},	 {"exec", once_exec},
		     {"thread", once_thread}, {"setpgid", once_setpgid}, {"getppid", once_getppid}};
	long calls = argc == 3 ? atol(argv[2]) : 0, n;
	unsigned int i;
	uint64_t begun;

	if (argc == 2 && !strcmp(argv[1], "end"))
		return 0;
	stay();
	for (i = 0; i < sizeof(loops) / sizeof(*loops); i++)
		if (calls > 0 && !strcmp(argv[1], loops[i].name)) {
			for (n = 0; n < calls / 20; n++)
				loops[i].once();
			begun = now();
			for (n = 0; n < calls; n++)
				loops[i].once();
			printf("%.1f\n", (double)(now() - begun) / calls);
			return 0;
		}
	return fprintf(stderr, "bench_hooks fork|vfork|exec|thread|setpgid|getppid CALLS\n"), 2;
}
