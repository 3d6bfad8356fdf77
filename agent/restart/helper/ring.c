/* SPDX-License-Identifier: Apache-2.0 */
/* The rings of asynchronous I/O, which a task makes anew. */
#include "ring.h"

#include "kernel_calls.h"

#define IO_WRITE 1     /* IOCB_CMD_PWRITE */
#define ANSWER_WORDS 4 /* of eight bytes, in struct io_event */

struct request { /* struct iocb of linux/aio_abi.h */
	uint64_t data;
	uint32_t key, flags;
	uint16_t operation, priority;
	uint32_t file;
	uint64_t buffer, bytes, offset, reserved, others;
};

/*
 * The kernel keeps its own count of the answers that wait, so the ring gets as many as the old one has ever had in this turn, and the
 * program's place is moved on behind them. It then takes the place of the memory that has the old content.
 */
long make_ring(uint64_t requests, struct ring *old, uint64_t size, uint32_t nowhere)
{
	struct request write = {.operation = IO_WRITE, .file = nowhere, .buffer = (uintptr_t)old, .bytes = 1};
	struct request *one = &write;
	uint64_t context = 0, answers = (size - sizeof(*old)) / sizeof(uint64_t);
	uint32_t count = old->tail + (old->tail < old->head ? old->count : 0);
	struct ring *ring;
	long answer = CALL2(io_setup, requests, &context);

	ring = (struct ring *)context;
	if (answer)
		return answer;
	if (ring->count != old->count || answers / ANSWER_WORDS != old->count || old->head >= old->count ||
	    old->tail >= old->count)
		return -EINVAL;
	for (uint32_t done = 0; done < count; ring->head = done < old->head ? done : old->head) {
		answer = CALL3(io_submit, context, 1, &one);
		if (answer != 1)
			return answer < 0 ? answer : -EIO;
		done++;
	}
	for (uint64_t at = 0; at < answers; at++)
		ring->answers[at] = old->answers[at];
	answer = CALL5(mremap, context, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, old);
	return answer == (long)(uintptr_t)old ? 0 : answer < 0 && answer >= -ERRORS ? answer : -EIO;
}
