// SPDX-License-Identifier: Apache-2.0
/*
 * A quiet tree of any shape: shaped_tree ROWS READY. The file ROWS has five bytes for each process: 's' if it leads a
 * session, 'g' a group, '-' neither; and the number of its parent, which comes before it. The first one is the caller's
 * to make a session leader. The file READY appears when all stand. By then no process has a file or shared memory, so that
 * CRIU has nothing to do but to make them.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define PATIENCE_US 500

struct __attribute__((packed)) row {
	char leads;
	int parent;
};

static const struct row *rows;
static size_t size;
static int count;
static _Atomic int *standing;
static const char *ready;

static _Noreturn void give_up(const char *what)
{
	perror(what);
	_exit(1);
}

static void tell_when_all_stand(void)
{
	int file;

	while (atomic_load(standing) < count)
		usleep(PATIENCE_US);
	file = open(ready, O_WRONLY | O_CREAT | O_EXCL, 0600);
	if (file < 0)
		give_up(ready);
	close(file);
}

static void lead(int self)
{
	if (self && rows[self].leads == 's' && setsid() < 0)
		give_up("setsid");
	if (rows[self].leads == 'g' && setpgid(0, 0))
		give_up("setpgid");
}

/* Make all processes of the rows; each returns with its own number. Children come after their parents. */
static int make_all(void)
{
	int self = 0;

	for (int n = 1; n < count; n++) {
		pid_t pid = rows[n].parent == self ? fork() : 1;

		if (pid < 0)
			give_up("fork");
		if (!pid)
			lead(self = n);
	}
	return self;
}

int main(int argc, char **argv)
{
	int file = argc == 3 ? open(argv[1], O_RDONLY) : -1;
	off_t end = file < 0 ? -1 : lseek(file, 0, SEEK_END);
	int self;

	if (end < (off_t)sizeof(*rows)) {
		fputs("shaped_tree ROWS READY: no rows\n", stderr);
		return 2;
	}
	size = (size_t)end;
	count = (int)(size / sizeof(*rows));
	ready = argv[2];
	rows = mmap(NULL, size, PROT_READ, MAP_SHARED, file, 0);
	standing = mmap(NULL, sizeof(*standing), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (rows == MAP_FAILED || standing == MAP_FAILED)
		give_up("mmap");
	self = make_all();
	close_range(0, ~0u, 0);
	munmap((void *)rows, size);
	atomic_fetch_add(standing, 1);
	if (!self)
		tell_when_all_stand();
	munmap((void *)standing, sizeof(*standing));
	for (;;)
		pause();
}
