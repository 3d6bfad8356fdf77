// SPDX-License-Identifier: Apache-2.0
/*
 * The rivals in C: a scan of /proc, every thread's stat and status, and the bare read of a BPF task iterator.
 * Both measure their own time, CLOCK_BOOTTIME in ns, so that Python's work on the rows does not count.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct row {
	uint64_t start_ticks;
	int32_t tid, tgid, ppid, sid, pgid;
	int32_t state;
	int32_t depth;	/* numbers that the task has in pid namespaces */
	int32_t number; /* the one at the requested level; 0: none */
};

struct rows {
	uint64_t begun_ns, ended_ns;
	uint64_t count, room;
	uint64_t level; /* requested: 0 is the reader's own */
	struct row *row;
};

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static ssize_t slurp(int dir, const char *path, char *text, size_t room)
{
	int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = read(fd, text, room - 1);
	close(fd);
	if (n > 0)
		text[n] = 0;
	return n;
}

static int parse_stat(const char *text, struct row *r)
{
	const char *p = strrchr(text, ')'); /* the last one: comm may contain others */
	char *end;
	int field;

	if (!p)
		return -1;
	r->state = p[2];
	r->ppid = strtol(p + 4, &end, 10);
	r->pgid = strtol(end, &end, 10);
	r->sid = strtol(end, &end, 10);
	for (field = 7; field < 22; field++)
		strtoll(end, &end, 10);
	r->start_ticks = strtoull(end, &end, 10);
	return 0;
}

static void parse_status(const char *text, struct row *r, uint64_t level)
{
	const char *p = strstr(text, "\nNSpid:");
	char *end;
	long n;

	r->depth = r->number = 0;
	for (p = p ? p + 7 : ""; *p && *p != '\n'; p = end) {
		n = strtol(p, &end, 10);
		if (end == p)
			break;
		if ((uint64_t)r->depth++ == level)
			r->number = n;
	}
}

static void scan_task(int proc, int tgid, const char *tid, struct rows *out)
{
	char path[64], text[8192];
	struct row *r;

	if (out->count == out->room) {
		out->room = out->room ? 2 * out->room : 4096;
		out->row = realloc(out->row, out->room * sizeof(*out->row));
	}
	r = out->row + out->count;
	r->tid = atoi(tid);
	r->tgid = tgid;
	snprintf(path, sizeof(path), "%d/task/%s/stat", tgid, tid);
	if (slurp(proc, path, text, sizeof(text)) <= 0 || parse_stat(text, r))
		return; /* gone meanwhile */
	snprintf(path, sizeof(path), "%d/task/%s/status", tgid, tid);
	if (slurp(proc, path, text, sizeof(text)) <= 0)
		return;
	parse_status(text, r, out->level);
	out->count++;
}

struct dirent64_raw {
	uint64_t ino;
	int64_t off;
	uint16_t length;
	uint8_t type;
	char name[];
};

static void each_number(int dir, char *room, size_t size, void (*what)(const char *, void *), void *arg)
{
	long n, at;

	while ((n = syscall(SYS_getdents64, dir, room, size)) > 0)
		for (at = 0; at < n; at += ((struct dirent64_raw *)(room + at))->length) {
			const char *name = ((struct dirent64_raw *)(room + at))->name;

			if (*name >= '1' && *name <= '9')
				what(name, arg);
		}
}

struct walk {
	int proc, tgid;
	struct rows *out;
};

static void on_thread(const char *name, void *arg)
{
	struct walk *w = arg;

	scan_task(w->proc, w->tgid, name, w->out);
}

static void on_process(const char *name, void *arg)
{
	static char room[32768];
	struct walk *w = arg;
	char path[32];
	int dir;

	snprintf(path, sizeof(path), "%.16s/task", name);
	dir = openat(w->proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return;
	w->tgid = atoi(name);
	each_number(dir, room, sizeof(room), on_thread, w);
	close(dir);
}

/* One scan of /proc into out, whose rows are kept and grown from scan to scan. */
int scan_proc(struct rows *out)
{
	static char room[65536];
	struct walk w = {.out = out};

	out->count = 0;
	out->begun_ns = now();
	w.proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (w.proc < 0)
		return -errno;
	each_number(w.proc, room, sizeof(room), on_process, &w);
	close(w.proc);
	out->ended_ns = now();
	return 0;
}

/* One read of the iterator behind a link, to its end; bytes read, or -errno. -ENOSPC: room is too small. */
long scan_iterator(int link_fd, char *bytes, uint64_t room, uint64_t *begun_ns, uint64_t *ended_ns)
{
	union bpf_attr attr;
	uint64_t got = 0;
	ssize_t n;
	int fd;

	memset(&attr, 0, sizeof(attr));
	attr.iter_create.link_fd = link_fd;
	*begun_ns = now();
	fd = syscall(SYS_bpf, BPF_ITER_CREATE, &attr, sizeof(attr));
	if (fd < 0)
		return -errno;
	do {
		n = read(fd, bytes + got, room - got);
		got += n > 0 ? n : 0;
	} while ((n > 0 && got < room) || (n < 0 && (errno == EAGAIN || errno == EINTR)));
	*ended_ns = now();
	close(fd);
	if (n < 0)
		return -errno;
	return got == room ? -ENOSPC : (long)got;
}
