/* SPDX-License-Identifier: Apache-2.0 */
/* The pages of an image, put into the memory of a task; see pages.h. It is a part of the restorer. */
#include "pages.h"

#include "kernel_calls.h"

#define MOST_SPANS 1024 /* UIO_MAXIOV of preadv() */
#define MADV_SEQUENTIAL 2
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#define LARGE (64u << 10)  /* bytes of a span whose pages are made beforehand */
#define STEP (1u << 20)	   /* bytes that are made and then read, while the processor's cache still has them */
#define WINDOW (4u << 20)  /* bytes of a file that are mapped at once */
#define MERGED (64u << 10) /* bytes that are compared and then written, while the processor's cache still has them */
#define COMPARED 64	   /* bytes that are compared at once: four vectors, a line of the cache */

/* Return the number of spans from the first on that are not large. */
static uint64_t small_spans(const struct span *spans, uint64_t count)
{
	uint64_t n = 0;

	while (n < count && n < MOST_SPANS && spans[n].size < LARGE)
		n++;
	return n;
}

/*
 * Read the next spans. The pages of a large one are made first, which is cheaper than a fault for each. Where the kernel cannot do
 * that, as before Linux 5.14, the faults come.
 */
static long read_some(int file, const struct span *spans, uint64_t count, uint64_t offset)
{
	struct span step = {spans->base, spans->size < STEP ? spans->size : STEP};

	if (spans->size < LARGE)
		return CALL5(preadv, file, spans, small_spans(spans, count), offset, 0);
	CALL3(madvise, step.base, step.size, MADV_POPULATE_WRITE);
	return CALL5(preadv, file, &step, 1, offset, 0);
}

long read_all(struct fill_state *state, int file, struct span *spans, uint64_t count, uint64_t offset)
{
	while (count) {
		long size = read_some(file, spans, count, offset);

		if (size == -EINTR)
			continue;
		if (size <= 0)
			return size ? size : -ENODATA; /* the file ends too early */
		offset += (uint64_t)size;
		__atomic_add_fetch(&state->bytes, (uint64_t)size, __ATOMIC_RELAXED);
		for (; count && (uint64_t)size >= spans->size; spans++, count--)
			size -= (long)spans->size;
		if (size) {
			spans->base = (char *)spans->base + size;
			spans->size -= (size_t)size;
		}
	}
	return 0;
}

typedef uint64_t vector __attribute__((vector_size(16))); /* of any processor's registers */

/* Both pages have their next one behind them in most cases. The processor itself fetches nothing ahead across their border. */
static int same_page(const char *one, const char *two)
{
	for (size_t at = 0; at < PAGE; at += COMPARED) {
		const vector *a = (const vector *)(one + at), *b = (const vector *)(two + at);
		vector other = (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]);

		__builtin_prefetch(one + at + PAGE);
		__builtin_prefetch(two + at + PAGE);
		if (other[0] | other[1])
			return 0;
	}
	return 1;
}

static void copy_page(uint64_t *restrict to, const uint64_t *restrict from)
{
	for (size_t n = 0; n < PAGE / sizeof(*to); n++)
		to[n] = from[n];
}

/* Write those of consecutive pages that differ. The pages of several are made beforehand, as by read_some(). */
static void merge_pages(char *to, const char *from, size_t size)
{
	for (size_t at = 0, end = 0; at < size; end = at) {
		while (end < size && end - at < MERGED && !same_page(to + end, from + end))
			end += PAGE;
		if (end == at)
			at += PAGE;
		if (end > at + PAGE)
			CALL3(madvise, to + at, end - at, MADV_POPULATE_WRITE);
		for (; at < end; at += PAGE)
			copy_page((uint64_t *)(to + at), (uint64_t *)(from + at));
	}
}

/* Return the bytes of spans from a place in the first one on, up to a number. */
static size_t spanned(const struct span *spans, uint64_t count, size_t done, size_t most)
{
	size_t size = 0;

	for (; count && size < most; spans++, count--, done = 0)
		size += spans->size - done;
	return size < most ? size : most;
}

/* Map consecutive pages of a file, all of which are there; an error, if the kernel or the file has none of that. */
static long map_window(int file, uint64_t offset, size_t size)
{
	long at = CALL6(mmap, 0, size, PROT_READ, MAP_PRIVATE, file, offset);
	long answer;

	if (at < 0 && at >= -ERRORS)
		return at;
	CALL3(madvise, at, size, MADV_SEQUENTIAL);
	answer = CALL3(madvise, at, size, MADV_POPULATE_READ);
	if (!answer)
		return at;
	CALL2(munmap, at, size);
	return answer;
}

/* Read pages of a file into new memory, as many as there are; return their number of bytes. */
static long read_window(int file, uint64_t offset, size_t size, long *at)
{
	long answer;

	*at = CALL6(mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (*at < 0 && *at >= -ERRORS)
		return *at;
	while ((answer = CALL4(pread64, file, *at, size, offset)) == -EINTR)
		;
	answer = answer < 0 ? answer : answer & ~(long)(PAGE - 1);
	if (answer <= 0)
		CALL2(munmap, *at, size);
	return answer ? answer : -ENODATA; /* the file ends too early */
}

long merge_all(struct fill_state *state, int file, const struct span *spans, uint64_t count, uint64_t offset)
{
	size_t done = 0; /* bytes of the first span */

	while (count) {
		size_t size = spanned(spans, count, done, WINDOW), mapped = size;
		long at = map_window(file, offset, size);

		if (at < 0 && at >= -ERRORS) {
			long answer;

			mapped = spanned(spans, count, done, MERGED);
			answer = read_window(file, offset, mapped, &at);
			if (answer < 0)
				return answer;
			size = (size_t)answer;
		}
		for (size_t here = 0, some; here < size; here += some) {
			some = spanned(spans, 1, done, size - here);
			merge_pages((char *)spans->base + done, (char *)at + here, some);
			done += some;
			if (done == spans->size) {
				spans++;
				count--;
				done = 0;
			}
		}
		CALL2(munmap, at, mapped);
		offset += size;
		__atomic_add_fetch(&state->bytes, size, __ATOMIC_RELAXED);
	}
	return 0;
}
