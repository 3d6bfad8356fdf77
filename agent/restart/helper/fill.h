/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fill of a tree: each task puts the contents of its image into itself. agent/restart/contents/fillabi.py is the mirror; a test
 * compiles this header and compares.
 *
 *     fill section = struct fill_head | struct fill_entry * actors | padding to a page
 *                    | code of the restorer | struct fill_state, u32 word * n | (first part of a process's program) *
 *
 * Code, state and programs begin on pages; offsets count from the start of the section. At the release each process maps a region
 * of its own at an address that its image leaves free:
 *
 *     region = code | state, shared by all | first part, private | (stack of a thread) * | (later part, private) *
 *
 * Then every thread of the process jumps into the restorer with its struct fill_start, which is in the first part.
 * From there on nothing of the helper is needed, and the first thread unmaps it. A thread takes its operations in order, each one
 * system call or one of enum fill_special. When the last of them is done it counts itself in fill_state.filled and waits.
 * The resumer (resume.c), which traces all threads, then sets registers and signal masks, unmaps the region, and lets all run.
 */
#ifndef CKPTREE_FILL_H
#define CKPTREE_FILL_H

#include <stdint.h>

#define FILL_STACK 20480      /* bytes for each thread: for itself, and for its helper processes */
#define FILL_ASIDE_STACK 4096 /* bytes of these for each */
#define FILL_NO_SLOT 0xffffu
#define FILL_ARGUMENTS 6

struct fill_head {
	uint64_t code_offset;
	uint64_t code_size;
	uint64_t state_offset;
	uint64_t state_size;
};

struct fill_entry {
	uint64_t base; /* address of the region; 0: the actor is not filled, and holds */
	uint64_t program_offset;
	uint64_t program_size;
	uint64_t start;	  /* address of the struct fill_start */
	uint64_t stack;	  /* address of the end of the stack */
	uint32_t threads; /* of the process */
	uint32_t reserved;
};

struct fill_start {
	uint64_t state; /* addresses */
	uint64_t operations;
	uint64_t slots; /* of s64 for each slot of the process */
	uint64_t data;
	uint32_t count; /* of operations */
	uint32_t actor;
	uint32_t first; /* number of operations of the thread in earlier parts */
	uint32_t reserved;
};

/* Another part of a process's program, once it is written. */
struct fill_part {
	uint32_t ready;
	uint32_t reserved;
	uint64_t offset; /* in the shared file */
	uint64_t size;
	uint64_t address; /* where it is to be mapped */
};

struct fill_state {
	uint32_t filled;  /* number of threads that have done all their operations */
	uint32_t failing; /* set by the first thread that fails */
	uint32_t failed;  /* the three below are complete */
	uint32_t actor;
	uint32_t operation; /* counted from the thread's first one, in all parts */
	int32_t error;	    /* the kernel's errno; 0: the answer was another one than the operation demands */
	uint64_t bytes;	    /* of pages, read so far */
};

/* fill_operation.call beyond the numbers of system calls */
enum fill_special {
	FILL_WAIT = 0x10000, /* wait until word [0] is at least [1] */
	FILL_POST,	     /* add 1 to word [0], and wake who waits for it once it is `wanted` */
	FILL_READ,	     /* from descriptor [0] at offset [3] read the [2] spans at address [1], all of them */
	FILL_STORE,	     /* write [1], four bytes, to address [0] */
	FILL_LOAD,	     /* give four bytes at address [0], signed, as the answer */
	FILL_ADDRESS,	     /* write [1], eight bytes, to address [0] */
	FILL_TIMER,	     /* timer_create() with clock [0] and event [1] until the timer's number is [2] */
	FILL_ASIDE,    /* as FILL_READ, in a helper process on stack [4]; give its pid, or 0 if it is done already */
	FILL_JOIN,     /* wait for the helper process [0] */
	FILL_TERMINAL, /* openat() with path [0] and flags [1] until the pseudo-terminal's number is [2] */
	FILL_MERGE,    /* as FILL_READ; write only the pages that differ */
	FILL_PART, /* go on as thread [2] of the part that word [0] begins, mapped from descriptor [1] unless it is -1 */
	FILL_RING, /* io_setup() for [0] requests, as the ring whose content is at address [1], of [2] bytes; [3]: /dev/null */
	FILL_SPENT, /* epoll_ctl() with file [0]: add target [1], which has reported, with the event at address [2] */
};

/* fill_operation.demand: which answers are right */
enum fill_demand {
	FILL_ANY,
	FILL_SUCCESS, /* none of -4095 to -1 */
	FILL_EXACT,   /* the one in `wanted` */
};

struct fill_operation {
	uint32_t call;
	uint16_t keep; /* number of the slot that gets the answer, or FILL_NO_SLOT */
	uint8_t demand;
	uint8_t from_slots; /* bit n: argument n is the number of a slot whose value to use */
	uint8_t from_data;  /* bit n: argument n is an offset in the data, whose address to use */
	uint8_t count;	    /* of arguments; the others are 0 */
	uint8_t reserved[6];
	uint64_t arguments[FILL_ARGUMENTS];
	uint64_t wanted;
};

#endif
