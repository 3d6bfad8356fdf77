// SPDX-License-Identifier: Apache-2.0
/*
 * treeprog - an interpreter for scripted process trees.
 *
 * One shared mapping holds a table of nodes. A node is one task: a process or a thread. Each task sleeps on its own
 * node until the controller posts an order there, carries the order out itself, and posts the answer. There are three
 * orders: CALL (any system call), CLONE (a new task that serves another node) and EXEC (this program again; the task
 * that survives goes on serving its node).
 *
 * Tasks made with CLONE_VM share the creator's thread pointer, so nothing that a node runs may touch errno or any
 * other thread-local: below serve() there are bare system calls only.
 *
 * The first process is the keeper. It is no part of the tree: it waits for the end of its standard input, which comes
 * when the controller closes it or dies, and then ends every descendant. Node 0 is its child, and adopts orphans.
 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "treecalls.h"

enum { MAX_LEVELS = 33, STACK_BYTES = 64 * 1024, SCRATCH_BYTES = 128 };
enum { ORDER_CALL = 1, ORDER_CLONE = 2, ORDER_EXEC = 3 };

/* An argument of this value stands for the address of the node's scratch bytes. */
#define SCRATCH_ARGUMENT 0x5c7a7c45c7a7c4LL

/* treeprog.py has the mirror of this; all fields aligned, so no padding. */
struct node {
	uint32_t request;      /* futex: number of the last order posted */
	uint32_t reply;	       /* futex: number of the last order answered */
	uint32_t ready;	       /* futex: 1 once the task serves this node */
	int32_t order;	       /* ORDER_* */
	int64_t argument[6];   /* CALL: number is in argument 0 of `number`; CLONE: flags, child node, exit signal */
	int64_t number;	       /* CALL: number of the system call */
	int64_t result;	       /* what the kernel returned; -errno on failure */
	uint64_t before_ns;    /* CLOCK_MONOTONIC just before the system call */
	uint64_t after_ns;     /* and just after it; 0 while it has not returned */
	int32_t tgid;	       /* as /proc counts, whatever namespace the task is in */
	int32_t tid;	       /* the same */
	uint32_t set_tid_size; /* CLONE: numbers asked for */
	int32_t set_tid[MAX_LEVELS]; /* CLONE: innermost first, as clone3 wants them */
	uint8_t scratch[SCRATCH_BYTES];
};

struct table {
	char program[256]; /* path of this program, for EXEC */
	int32_t fd;	   /* descriptor of the mapping, the same in every task */
	uint32_t nodes;
	struct node node[];
};

static struct table *table;

static void futex_wait(uint32_t *word, uint32_t value)
{
	call(SYS_futex, (long)word, FUTEX_WAIT, value, 0, 0, 0);
}

static void futex_wake(uint32_t *word)
{
	call(SYS_futex, (long)word, FUTEX_WAKE, INT32_MAX, 0, 0, 0);
}

static uint64_t monotonic_ns(void)
{
	struct timespec now;

	call(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&now, 0, 0, 0, 0);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* /proc belongs to the initial namespace, so its links name a task as that namespace counts, wherever the task is. */
static void announce(struct node *self)
{
	char link[64];
	long length = call(SYS_readlinkat, AT_FDCWD, (long)"/proc/thread-self", (long)link, sizeof(link), 0, 0);
	int32_t number[2] = {0, 0};
	int at = 0;

	for (long i = 0; i < length; i++) {
		if (link[i] >= '0' && link[i] <= '9')
			number[at] = number[at] * 10 + (link[i] - '0');
		else if (number[0])
			at = 1;
	}
	self->tgid = number[0];
	self->tid = number[1];
	__atomic_store_n(&self->ready, 1, __ATOMIC_RELEASE);
	futex_wake(&self->ready);
}

static void answer(struct node *self, long result)
{
	self->result = result;
	self->after_ns = monotonic_ns();
	__atomic_store_n(&self->reply, self->request, __ATOMIC_RELEASE);
	futex_wake(&self->reply);
}

static void serve(struct node *self);

static void begin(struct node *self)
{
	announce(self);
	serve(self);
}

static long order_clone(struct node *self)
{
	struct node *child = &table->node[self->argument[1]];
	struct clone_args args = {.flags = (uint64_t)self->argument[0]};

	if (!(args.flags & CLONE_THREAD))
		args.exit_signal = (args.flags & CLONE_PARENT) ? 0 : (uint64_t)self->argument[2];
	if (args.flags & CLONE_VM) {
		/* Never given back: a task cannot unmap the stack it dies on. */
		long stack = call(SYS_mmap, 0, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (stack < 0 && stack > -4096)
			return stack;
		args.stack = (uint64_t)stack;
		args.stack_size = STACK_BYTES;
	}
	if (self->set_tid_size) {
		args.set_tid = (uint64_t)(uintptr_t)self->set_tid;
		args.set_tid_size = self->set_tid_size;
	}
	return spawn(&args, begin, child);
}

static char *decimal(char *end, unsigned long value)
{
	*--end = '\0';
	do
		*--end = (char)('0' + value % 10);
	while (value /= 10);
	return end;
}

static long order_exec(struct node *self)
{
	char fd[24], node[24];
	char *argv[4] = {table->program, decimal(fd + sizeof(fd), (unsigned long)table->fd),
			 decimal(node + sizeof(node), (unsigned long)(self - table->node)), NULL};
	char *envp[1] = {NULL};

	__atomic_store_n(&self->ready, 0, __ATOMIC_RELEASE);
	return call(SYS_execve, (long)table->program, (long)argv, (long)envp, 0, 0, 0);
}

static long order_call(struct node *self)
{
	long a[6];

	for (int i = 0; i < 6; i++)
		a[i] = self->argument[i] == SCRATCH_ARGUMENT ? (long)self->scratch : self->argument[i];
	return call(self->number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static void serve(struct node *self)
{
	for (;;) {
		uint32_t done = self->reply;
		long result;

		while (__atomic_load_n(&self->request, __ATOMIC_ACQUIRE) == done)
			futex_wait(&self->request, done);
		self->after_ns = 0;
		self->before_ns = monotonic_ns();
		switch (self->order) {
		case ORDER_CLONE:
			result = order_clone(self);
			break;
		case ORDER_EXEC:
			result = order_exec(self);
			break;
		default:
			result = order_call(self);
		}
		answer(self, result);
	}
}

struct process {
	int pid, ppid;
	unsigned long long start; /* clock ticks */
	int ours;
};

static int read_process(int pid, struct process *p)
{
	char path[64], text[1024], *rest;
	int fd;
	ssize_t length;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	length = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (length <= 0)
		return -1;
	text[length] = '\0';
	rest = strrchr(text, ')'); /* the name before it may hold anything */
	p->pid = pid;
	p->ours = 0;
	return rest && sscanf(rest + 2,
			      "%*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
			      &p->ppid, &p->start) == 2
		       ? 0
		       : -1;
}

/* A number may have changed hands since it was read: the descriptor and the start time settle whose it is. */
static void end_process(const struct process *p)
{
	struct process again;
	int fd = (int)syscall(SYS_pidfd_open, p->pid, 0);

	if (fd < 0)
		return;
	if (!read_process(p->pid, &again) && again.start == p->start)
		syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
	close(fd);
}

static void end_descendants(void)
{
	static struct process processes[32768];
	int count = 0, found = 1, self = getpid();
	struct dirent *entry;
	DIR *proc = opendir("/proc");

	if (!proc)
		return;
	while ((entry = readdir(proc)) && count < 32768)
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' &&
		    !read_process(atoi(entry->d_name), &processes[count]))
			count++;
	closedir(proc);
	while (found) {
		found = 0;
		for (int i = 0; i < count; i++) {
			int parent = processes[i].ppid;

			for (int j = 0; j < count && !processes[i].ours; j++)
				if (parent == self || (processes[j].pid == parent && processes[j].ours))
					found = processes[i].ours = 1;
		}
	}
	for (int i = 0; i < count; i++)
		if (processes[i].ours) /* a zombie too: it may be a leader whose threads live on */
			end_process(&processes[i]);
}

static int keep(void)
{
	struct timespec nap = {.tv_nsec = 50000};
	char byte;

	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	for (unsigned int round = 0;; round++) {
		pid_t pid;

		if (round % 200 == 0)
			end_descendants();
		do
			pid = waitpid(-1, NULL, WNOHANG | __WALL);
		while (pid > 0);
		if (pid < 0)
			return 0;
		nanosleep(&nap, NULL);
	}
}

int main(int argc, char **argv)
{
	struct rlimit no_core = {0, 0};
	struct stat status;
	pid_t first;
	int fd;

	if (argc < 2)
		return 2;
	fd = atoi(argv[1]);
	if (fstat(fd, &status))
		return 2;
	table = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (table == MAP_FAILED)
		return 2;
	if (argc > 2) { /* the far side of EXEC */
		struct node *self = &table->node[atoi(argv[2])];

		announce(self);
		answer(self, 0);
		serve(self);
	}
	setrlimit(RLIMIT_CORE, &no_core);
	/* A stopped group that loses its last link to its session gets SIGHUP and SIGCONT: be continued, not ended. */
	signal(SIGHUP, SIG_IGN);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	first = fork();
	if (first < 0)
		return 1;
	if (!first) {
		prctl(PR_SET_CHILD_SUBREAPER, 1);
		begin(&table->node[0]);
	}
	return keep();
}
