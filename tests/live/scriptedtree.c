// SPDX-License-Identifier: Apache-2.0
/*
 * A process tree by a script, without a driver: no descriptor or memory leads out of it, so CRIU can dump it.
 *
 *     scriptedtree 'fork 0 1; setsid 1; fork 1 2 sibling; exit 1 3; wait 0 1' [lenient]
 *     scriptedtree 'fork 0 1; exec 1' PROGRAM [ARGUMENT]...
 *
 * A node is a task; node 0 is the program itself. Every task knows the whole script, and carries out the steps that are
 * its own, each when all steps before it are done. A count in shared memory says how many are. When all are done, node 0
 * takes the name "ready", and every task sleeps for ever. A step that fails ends the tree, but for a lenient one.
 *
 *     fork PARENT CHILD [sibling | thread | newpid | signal=N]     setsid NODE     setpgid NODE OWNER     subreaper NODE
 *     wait PARENT CHILD     dead PARENT CHILD (waits, and leaves the zombie)     exit NODE STATUS
 *     kill NODE SIGNAL (itself)     stop NODE (itself)     leave NODE (exits, and its threads live on)
 *     exec NODE (becomes the program)
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_STEPS 256
#define MOST_NODES 256
#define STACK_BYTES 16384

struct step {
	char verb[16], word[16];
	int node, other;
};

struct board {
	volatile int done;
	volatile pid_t pids[MOST_NODES];
};

static struct step steps[MOST_STEPS];
static int count;
static struct board *board;
static char **program;

static void act(int node);

static int run_thread(void *node)
{
	act((int)(long)node);
	return 0;
}

static int lenient;

static void fail(const struct step *step)
{
	if (lenient)
		return;
	perror(step->verb);
	kill(board->pids[0], SIGKILL);
	_exit(125);
}

static void give_birth(const struct step *step)
{
	int child = step->other, signal = SIGCHLD;
	unsigned long flags = 0;
	char *stack;

	if (!strcmp(step->word, "thread")) {
		stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
		board->pids[child] = clone(run_thread, stack + STACK_BYTES, (int)flags, (void *)(long)child);
		if (board->pids[child] < 0)
			fail(step);
		return;
	}
	if (!strcmp(step->word, "sibling"))
		flags = CLONE_PARENT;
	else if (!strcmp(step->word, "newpid"))
		flags = CLONE_NEWPID;
	sscanf(step->word, "signal=%d", &signal);
	long pid = syscall(SYS_clone, flags | (flags == CLONE_PARENT ? 0 : (unsigned long)signal), 0, 0, 0, 0);
	if (pid < 0)
		fail(step);
	if (!pid) {
		act(child);
		_exit(0);
	}
	board->pids[child] = (pid_t)pid;
	return;
}

static void carry_out(const struct step *step)
{
	siginfo_t info;
	int wrong = 0;

	if (!strcmp(step->verb, "fork"))
		give_birth(step);
	else if (!strcmp(step->verb, "setsid"))
		wrong = setsid() < 0;
	else if (!strcmp(step->verb, "setpgid"))
		wrong = setpgid(0, board->pids[step->other]);
	else if (!strcmp(step->verb, "subreaper"))
		wrong = prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	else if (!strcmp(step->verb, "wait"))
		wrong = waitpid(board->pids[step->other], NULL, __WALL) < 0;
	else if (!strcmp(step->verb, "dead"))
		wrong = waitid(P_PID, (id_t)board->pids[step->other], &info, WEXITED | WNOWAIT);
	else {
		/* The last of a task: the others go on at once. */
		__sync_fetch_and_add(&board->done, 1);
		if (!strcmp(step->verb, "exit"))
			_exit(step->other);
		else if (!strcmp(step->verb, "leave"))
			syscall(SYS_exit, 0);
		else if (!strcmp(step->verb, "stop"))
			raise(SIGSTOP);
		else if (!strcmp(step->verb, "exec")) {
			execvp(program[0], program);
			fail(step);
		} else if (!strcmp(step->verb, "kill")) {
			signal(step->other, SIG_DFL);
			kill(getpid(), step->other);
			for (;;)
				pause();
		}
		return;
	}
	if (wrong)
		fail(step);
	__sync_fetch_and_add(&board->done, 1);
}

static void act(int node)
{
	for (;;) {
		int next = board->done;

		if (next == count)
			break;
		if (steps[next].node == node)
			carry_out(&steps[next]);
		else
			usleep(200);
	}
	if (!node)
		prctl(PR_SET_NAME, "ready");
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	const struct rlimit none = {0, 0};
	char *line, *rest = argc > 1 ? argv[1] : "";

	setrlimit(RLIMIT_CORE, &none);
	lenient = argc > 2 && !strcmp(argv[2], "lenient");
	program = argv + 2;
	while ((line = strsep(&rest, ";")) && count < MOST_STEPS) {
		struct step *step = &steps[count];

		if (sscanf(line, "%15s %d %d %15s", step->verb, &step->node, &step->other, step->word) >= 2)
			count++;
	}
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	board->pids[0] = getpid();
	act(0);
	return 0;
}
