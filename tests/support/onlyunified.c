/* SPDX-License-Identifier: Apache-2.0 */
/*
 * To be loaded before a program (LD_PRELOAD): of /proc/PID/cgroup the program sees the line of version 2 alone. Slurm's plugin
 * for that version refuses a host that has hierarchies of version 1 mounted beside it, for it takes their controllers for missing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef int (*opener)(const char *path, int flags, ...);
typedef FILE *(*stream_opener)(const char *path, const char *mode);

/* Return a file with the line of version 2; -1: the path is another one, or cannot be read. */
static int unified(const char *path)
{
	static const char name[] = "/cgroup";
	size_t length = strlen(path);
	char text[1 << 16], *rest = NULL;
	opener real = (opener)dlsym(RTLD_NEXT, "open");
	ssize_t got;
	int from, to;

	if (strncmp(path, "/proc/", 6) != 0 || length < sizeof(name) ||
	    strcmp(path + length - sizeof(name) + 1, name) != 0)
		return -1;
	from = real(path, O_RDONLY | O_CLOEXEC);
	if (from < 0)
		return -1;
	got = read(from, text, sizeof(text) - 1);
	close(from);
	to = memfd_create("cgroup", MFD_CLOEXEC);
	if (got < 0 || to < 0)
		return -1;
	text[got] = 0;
	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		if (strncmp(line, "0::", 3) == 0)
			dprintf(to, "%s\n", line);
	lseek(to, 0, SEEK_SET);
	return to;
}

int open(const char *path, int flags, ...)
{
	int found = unified(path), mode;
	va_list rest;

	va_start(rest, flags);
	mode = va_arg(rest, int);
	va_end(rest);
	return found >= 0 ? found : ((opener)dlsym(RTLD_NEXT, "open"))(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
	int found = unified(path), mode;
	va_list rest;

	va_start(rest, flags);
	mode = va_arg(rest, int);
	va_end(rest);
	return found >= 0 ? found : ((opener)dlsym(RTLD_NEXT, "open64"))(path, flags, mode);
}

FILE *fopen(const char *path, const char *mode)
{
	int found = unified(path);

	return found >= 0 ? fdopen(found, "r") : ((stream_opener)dlsym(RTLD_NEXT, "fopen"))(path, mode);
}

FILE *fopen64(const char *path, const char *mode)
{
	int found = unified(path);

	return found >= 0 ? fdopen(found, "r") : ((stream_opener)dlsym(RTLD_NEXT, "fopen64"))(path, mode);
}
