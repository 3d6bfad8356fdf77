/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The restorer on a simulated kernel, for a sanitizer of addresses: it takes programs of agent/restart/contents/fillprogram.py, of which
 * each part is in its own block of memory, as are the state and the words that all share; all that it reads beyond one is a fault. The
 * stage's maker takes descriptions of agent/restart/contents/staging.py, and may map and read nothing beside the stage.
 * tests/fuzz/restorerreader.py compiles both, with kernel_calls.h whose system call is the one below. No call reaches the kernel.
 *
 *     stdin = (u32 0, u32 bytes, description of a stage | process) *     little endian
 *     process = u32 bytes of the state, u32 threads, u32 parts | (u32 first word, u32 bytes, u64 address, part) *
 *     stdout: for each process a line: operations taken, threads filled, and the failure: 0 or 1, its operation, its error
 *             for each stage a line: files opened, maps made, bytes read, the answer, 0
 *
 * A part is where malloc() puts it, so what is told of its addresses in its starts and in the words is changed. Memory of the image is
 * not there: writes to it go elsewhere, and no page of it is compared.
 */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel_calls.h"

#define clone3_call(args, body, argument) (-ENOSYS) /* so that all is read here */

static const struct fill_operation *current;
static uint32_t taken;

/* The pages of the image are not there; compare() has the real function. */
static void merge_pages(char *to, const char *from, size_t size)
{
	(void)to;
	(void)from;
	(void)size;
}

#include "pages.c"
#include "restorer.c"
#include "ring.c"
#include "stage.c"

#define MOST_BYTES (64u << 20)
#define MOST_AT_ONCE 0x7ffff000ul /* MAX_RW_COUNT of the kernel */
#define MOST_CALLS (1u << 24)	  /* of a program: it does not go on for ever */
#define NO_WORD UINT32_MAX
#define ANSWER 7 /* a descriptor, a number of a process: any answer but an error */
#define IMAGE (1l << 40)
#define ANSWERED 3 /* answers in a ring */
#define MOST_RINGS 1024

static jmp_buf done;
static uint32_t calls;
static volatile unsigned char sum; /* so that what is only read is read */
struct program program;
static char *description; /* of the stage at hand; NULL: a program is taken */
static uint32_t described, opened, mapped;
static uint64_t bytes_read;
static void *rings[MOST_RINGS];
static uint32_t ring_count, elsewhere;

static void look(uint64_t at, uint64_t size)
{
	for (uint64_t n = 0; n < size; n++)
		sum ^= ((unsigned char *)at)[n];
}

static void *ring_of(uint64_t size)
{
	struct ring *made = calloc(1, size);

	made->count = (uint32_t)((size - sizeof(*made)) / sizeof(uint64_t) / ANSWER_WORDS);
	if (ring_count < MOST_RINGS)
		rings[ring_count++] = made;
	return made;
}

/* Read what a call of an operation is given in data, as the kernel would. */
static void look_at_data(long n, const long *with)
{
	uint8_t data = current->from_data;

	switch (n) {
	case __NR_openat:
	case __NR_openat2:
	case __NR_unlinkat:
		if (data & 2)
			look((uint64_t)with[1], strlen((const char *)with[1]) + 1);
		if (n == __NR_openat2 && data & 4)
			look((uint64_t)with[2], (uint64_t)with[3]);
		break;
	case __NR_write:
	case __NR_sendto:
		if (data & 2)
			look((uint64_t)with[1], (uint64_t)with[2]);
		break;
	case __NR_capset:
		look((uint64_t)with[0], 8);
		look((uint64_t)with[1], 24);
		break;
	case __NR_rt_sigaction:
		look((uint64_t)with[1], 32);
		break;
	case __NR_prlimit64:
		look((uint64_t)with[2], 16);
		break;
	case __NR_setgroups:
		look((uint64_t)with[1], 4 * (uint64_t)with[0]);
		break;
	default:
		for (int at = 0; at < FILL_ARGUMENTS; at++)
			if (data >> at & 1)
				look((uint64_t)with[at], 1);
	}
}

static long read_spans(const struct span *spans, uint64_t count)
{
	uint64_t size = 0;

	for (uint64_t n = 0; n < count; n++)
		size += spans[n].size;
	return (long)(size < MOST_AT_ONCE ? size : MOST_AT_ONCE);
}

/* A call that a special operation makes, or one behind the last operation. */
static long call_within(long n, long a, long b, long c, long e)
{
	switch (n) {
	case __NR_ppoll:
		longjmp(done, 1);
	case __NR_futex:
		if (b == FUTEX_WAIT)
			*(uint32_t *)a = UINT32_MAX; /* all others have come as far */
		return 0;
	case __NR_preadv:
		return read_spans((const struct span *)b, (uint64_t)c);
	case __NR_mmap:
		return current->call == FILL_PART ? a : IMAGE;
	case __NR_ioctl:
		*(uint32_t *)c = (uint32_t)current->arguments[2];
		return 0;
	case __NR_io_setup:
		*(uint64_t *)b = (uint64_t)ring_of(current->arguments[2]);
		return 0;
	case __NR_io_submit:
		look(*(uint64_t *)c, sizeof(struct request));
		return b;
	case __NR_mremap:
		return e;
	case __NR_openat:
		look((uint64_t)b, strlen((const char *)b) + 1);
		return ANSWER;
	case __NR_wait4:
		*(uint32_t *)b = 0;
		return a;
	default:
		return 0;
	}
}

static void within_stage(uint64_t at, uint64_t count)
{
	if (at < address || count > size || at - address > size - count) {
		fprintf(stderr, "AddressSanitizer: %#lx+%#lx is outside of the stage\n", at, count);
		exit(1);
	}
}

/* A call that the stage's maker makes. */
static long call_of_stage(long n, long a, long b, long c, long d, long f)
{
	switch (n) {
	case __NR_pread64:
		if (a != FD_PROGRAM) {
			within_stage((uint64_t)b, (uint64_t)c);
			bytes_read += (uint64_t)c;
			return c;
		}
		memcpy((void *)b, description, described < (uint32_t)c ? described : (uint32_t)c);
		return described < (uint32_t)c ? described : c;
	case __NR_mmap:
		if (!a) { /* the description ends where its file ends */
			program.head = malloc((size_t)b < described ? (size_t)b : described);
			memcpy(program.head, description, (size_t)b < described ? (size_t)b : described);
			return (long)program.head;
		}
		if (d & MAP_ANONYMOUS)
			return a;
		within_stage((uint64_t)a, (uint64_t)b);
		mapped++;
		return a;
	case __NR_munmap:
		free((void *)a);
		return 0;
	case __NR_openat:
		look((uint64_t)b, strlen((const char *)b) + 1);
		opened++;
		return ANSWER;
	case __NR_madvise:
		within_stage((uint64_t)a, (uint64_t)b);
		return 0;
	default:
		return 0;
	}
}

long call6(long n, long a, long b, long c, long d, long e, long f)
{
	const long with[FILL_ARGUMENTS] = {a, b, c, d, e, f};

	if (++calls > MOST_CALLS)
		exit(1);
	if (description)
		return call_of_stage(n, a, b, c, d, f);
	if (!current || current->call != (uint32_t)n)
		return call_within(n, a, b, c, e);
	look_at_data(n, with);
	return current->demand == FILL_EXACT ? (long)current->wanted : ANSWER;
}

/* Give an operation memory of its own in place of the image's. */
static void move_memory(struct fill_operation *operation)
{
	if (operation->call == FILL_STORE && !(operation->from_data & 1))
		operation->arguments[0] = (uint64_t)&elsewhere;
	if (operation->call == FILL_RING) {
		struct ring *old = ring_of(operation->arguments[2]);

		old->tail = old->count > ANSWERED ? ANSWERED : 0;
		operation->arguments[1] = (uint64_t)old;
	}
}

static void move(char *part, uint64_t at, uint64_t state, uint32_t threads)
{
	uint64_t by = (uint64_t)part - at;

	for (uint32_t n = 0; n < threads; n++) {
		struct fill_start *start = (struct fill_start *)part + n;

		start->state = state;
		start->operations += by;
		start->slots += by;
		start->data += by;
		for (uint32_t each = 0; each < start->count; each++)
			move_memory((struct fill_operation *)start->operations + each);
	}
}

static uint32_t number(void)
{
	uint32_t found = 0;

	if (fread(&found, sizeof(found), 1, stdin) != 1)
		exit(0);
	return found;
}

static void take_process(uint32_t state_size)
{
	char *state_block = calloc(1, state_size);
	struct fill_state *state = (struct fill_state *)state_block;
	uint32_t threads = number(), parts = number();
	char **blocks = calloc(parts, sizeof(*blocks));

	for (uint32_t n = 0; n < parts; n++) {
		uint32_t word = number(), size = number();
		uint64_t at;

		if (size > MOST_BYTES || fread(&at, sizeof(at), 1, stdin) != 1)
			exit(1);
		blocks[n] = malloc(size);
		if (fread(blocks[n], 1, size, stdin) != size)
			exit(1);
		move(blocks[n], at, (uint64_t)state, threads);
		if (word != NO_WORD) {
			struct fill_part *told = (struct fill_part *)word_at(state, word);

			*told = (struct fill_part){.ready = 1, .size = size, .address = (uint64_t)blocks[n]};
		}
	}
	taken = calls = 0;
	for (volatile uint32_t n = 0; n < threads; n++) {
		current = NULL;
		if (!setjmp(done))
			restorer((struct fill_start *)blocks[0] + n);
	}
	printf("%u %u %u %u %d\n", taken, state->filled, state->failed, state->operation, state->error);
	fflush(stdout);
	for (uint32_t n = 0; n < parts; n++)
		free(blocks[n]);
	while (ring_count)
		free(rings[--ring_count]);
	free(blocks);
	free(state_block);
}

static void take_stage(uint32_t count)
{
	struct program_head head = {.stage = 1};
	long answer;

	if (count > MOST_BYTES)
		exit(1);
	description = malloc(count);
	described = (uint32_t)fread(description, 1, count, stdin);
	calls = opened = mapped = 0;
	bytes_read = 0;
	program.head = &head;
	answer = stage_make();
	printf("%u %u %lu %ld 0\n", opened, mapped, bytes_read, answer);
	fflush(stdout);
	free(description);
	description = NULL;
}

/* Have pages of all kinds of differences merged; exit unless they are the same then. */
static void compare(void)
{
	for (uint32_t pages = 1; pages < 3 * MERGED / PAGE; pages += 5) {
		char *to = aligned_alloc(PAGE, pages * PAGE), *from = aligned_alloc(PAGE, pages * PAGE);

		for (uint32_t at = 0; at < pages * PAGE; at++)
			to[at] = from[at] = (char)(at * 7 >> 3);
		for (uint32_t page = 0; page < pages; page++)
			if (page % 5 < 3)
				from[page * PAGE + page * 977 % PAGE] ^= 1;
		real_merge_pages(to, from, pages * PAGE);
		if (memcmp(to, from, pages * PAGE))
			exit(2);
		free(to);
		free(from);
	}
}

int main(void)
{
	compare();
	for (;;) {
		uint32_t first = number();

		if (first)
			take_process(first);
		else
			take_stage(number());
	}
}
