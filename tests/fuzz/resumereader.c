/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The resumer on a simulated kernel, for a sanitizer of addresses: it reads tables of agent/restart/contents/resumer.py, each from its
 * own block of memory, and all that it reads beyond one is a fault. tests/fuzz/resumereader.py compiles it, with kernel_calls.h whose
 * system call is the one below.
 *
 *     stdin = (u32 bytes, table) *     little endian
 *     stdout: for each table a line, the last message and its thread and error
 */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "resume.c"

#define MOST_BYTES (64u << 20)
#define MOST_MAPS 8
#define EXTENT 8192 /* bytes of the floating point state of this processor */
#define STOP(event, signal) ((uint32_t)(event) << 16 | (uint32_t)(signal) << 8 | 0x7f)

static unsigned char *file;
static size_t file_size;
static struct resume_message last;
static uint32_t *pending, *asked; /* of each thread: the stop that it is in, and the signal that it got */
static jmp_buf ended;
static volatile unsigned char sum; /* so that what is only read is read */
static void *made[MOST_MAPS];
static uint32_t maps;

static long take_message(const void *from, size_t size)
{
	memcpy(&last, from, size);
	if (last.what != RESUMED_READY)
		longjmp(ended, 1);
	return (long)size;
}

/* A map of the table ends where the file ends. */
static long map_file(size_t size, long descriptor)
{
	void *map = descriptor == FD_TABLE ? malloc(file_size) : calloc(1, size);

	if (descriptor == FD_TABLE)
		memcpy(map, file, file_size);
	else
		((struct fill_state *)map)->filled = UINT32_MAX;
	made[maps++ % MOST_MAPS] = map;
	return (long)map;
}

static long registers_of(long request, struct span *area)
{
	if (request == PTRACE_GETREGSET) {
		area->size = area->size < EXTENT ? area->size : EXTENT;
		memset(area->base, 0, area->size);
	}
	for (size_t at = 0; at < area->size; at++)
		sum ^= ((unsigned char *)area->base)[at];
	return 0;
}

static long traced(long request, long tid, long data)
{
	uint32_t thread = find(tid);

	if (thread == table->threads)
		return -ESRCH;
	switch (request) {
	case PTRACE_INTERRUPT:
		pending[thread] = STOP(PTRACE_EVENT_STOP, SIGTRAP);
		return 0;
	case PTRACE_SYSCALL:
		pending[thread] = STOP(0, SIGTRAP);
		return 0;
	case PTRACE_CONT:
		pending[thread] = data ? STOP(PTRACE_EVENT_STOP, data) : STOP(0, asked[thread]);
		return 0;
	case PTRACE_GETREGSET:
	case PTRACE_SETREGSET:
		return registers_of(request, (struct span *)data);
	case PTRACE_SETSIGMASK:
		sum ^= *(unsigned char *)data;
		return 0;
	default:
		return 0;
	}
}

static long next_stop(uint32_t *status)
{
	for (uint32_t n = 0; n < table->threads; n++)
		if (pending[n]) {
			*status = pending[n];
			pending[n] = 0;
			return threads[n].tid;
		}
	return 0;
}

long call6(long n, long a, long b, long c, long d, long e, long f)
{
	(void)f;
	switch (n) {
	case __NR_pread64:
		if ((size_t)d + (size_t)c > file_size)
			return -EINVAL;
		memcpy((void *)b, file + d, (size_t)c);
		return c;
	case __NR_mmap:
		return map_file((size_t)b, e);
	case __NR_ptrace:
		return traced(a, b, d);
	case __NR_kill:
		asked[find(a)] = (uint32_t)b;
		return 0;
	case __NR_wait4:
		return next_stop((uint32_t *)b);
	case __NR_sendto:
		return take_message((const void *)b, (size_t)c);
	case __NR_recvfrom:
		*(char *)b = '!';
		return 1;
	case __NR_exit_group:
		longjmp(ended, 1);
	default:
		return 0;
	}
}

int main(void)
{
	uint32_t size;

	while (fread(&size, sizeof(size), 1, stdin) == 1 && size <= MOST_BYTES) {
		file = malloc(size);
		file_size = fread(file, 1, size, stdin);
		pending = calloc(size, sizeof(*pending)); /* as many as a table of so many bytes can have, and more */
		asked = calloc(size, sizeof(*asked));
		memset(&last, 0, sizeof(last));
		if (!setjmp(ended))
			resume_main();
		printf("%u %u %d\n", last.what, last.thread, last.error);
		fflush(stdout);
		while (maps)
			free(made[--maps]);
		free(pending);
		free(asked);
		free(file);
		table = NULL;
		state = NULL;
	}
	return 0;
}
