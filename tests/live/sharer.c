/* SPDX-License-Identifier: Apache-2.0 */
/* Processes and threads that share what clone() and unshare() let them: prints a name and a tid for each, then waits. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static void tell(const char *name)
{
	char line[64];
	int length = snprintf(line, sizeof(line), "%s %ld\n", name, syscall(SYS_gettid));

	if (write(1, line, length) != length)
		abort();
}

/* A child with these clone flags, as fork() else. */
static void child(const char *name, long flags)
{
	if (syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0) == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		tell(name);
		for (;;)
			pause();
	}
}

static void *plain_thread(void *unused)
{
	tell("thread");
	for (;;)
		pause();
	return unused;
}

static void *own_files(void *unused)
{
	if (unshare(CLONE_FILES | CLONE_FS))
		abort();
	tell("thread-apart");
	for (;;)
		pause();
	return unused;
}

static void *outlives(void *unused)
{
	usleep(100000); /* its leader is gone by then */
	child("of-dead-leader", CLONE_FS);
	tell("outlives");
	for (;;)
		pause();
	return unused;
}

static void begin(void *(*body)(void *))
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, body, NULL))
		abort();
}

int main(void)
{
	tell("root");
	child("files", CLONE_FILES);
	child("fs", CLONE_FS);
	child("nothing", 0);
	begin(plain_thread);
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		tell("vfork");
		if (vfork() == 0) {
			tell("vforked");
			for (;;)
				pause();
		}
	}
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		tell("group");
		begin(own_files);
		for (;;)
			pause();
	}
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		tell("dead-leader");
		begin(outlives);
		pthread_exit(NULL);
	}
	(void)!getchar();
	kill(0, SIGKILL);
}
