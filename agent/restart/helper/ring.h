/* SPDX-License-Identifier: Apache-2.0 */
/* The rings of asynchronous I/O. */
#ifndef CKPTREE_RING_H
#define CKPTREE_RING_H

#include <stdint.h>

/* A ring of asynchronous I/O: the kernel's fs/aio.c. */
struct ring {
	uint32_t id, count, head, tail, others[4];
	uint64_t answers[];
};

/*
 * Make a ring for a number of requests in place of the memory that has the content of one, of `size` bytes. `nowhere` is a descriptor
 * of /dev/null. Return 0 or a negative errno.
 */
long make_ring(uint64_t requests, struct ring *old, uint64_t size, uint32_t nowhere);

#endif
