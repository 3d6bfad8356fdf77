/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table and the messages of the resumer. agent/restart/contents/fillabi.py is the mirror; a test compiles this header and compares.
 *
 *     table = struct resume_head | struct resume_thread * threads | (registers of a thread | floating point state) *
 *     floating point state, x86-64 = FXSAVE area of 512 bytes | (struct resume_component | its bytes) *
 */
#ifndef CKPTREE_RESUME_H
#define CKPTREE_RESUME_H

#include <stdint.h>

struct resume_head {
	uint64_t size;	       /* of the table */
	uint64_t state_offset; /* of struct fill_state in the shared file */
	uint64_t state_size;
	uint32_t threads;
	uint32_t options; /* of ptrace, beside those that are always set */
};

struct resume_thread {
	int32_t tid;	      /* as the resumer sees it */
	uint32_t stop_signal; /* for the first thread of a process that is to be stopped: by which signal; else 0 */
	uint64_t region;      /* for the first thread of a process: the region to unmap; else 0 */
	uint64_t region_size;
	uint64_t mask;		   /* of blocked signals */
	uint64_t registers_offset; /* from the start of the table */
	uint64_t floating_offset;
	uint64_t features;   /* x86-64: the components that are in use, XSTATE_BV */
	uint32_t components; /* beyond x87 and SSE */
	uint32_t status;     /* the resumer's: a stop that it has seen and not asked for yet; 0: none */
};

struct resume_component {
	uint32_t index; /* its bit in XSTATE_BV */
	uint32_t size;
};

/* resume_message.what */
enum resumed {
	RESUMED_READY = 1, /* all threads are as their images say, and stopped */
	RESUMED_ALL,	   /* all threads run */
	RESUMED_SETUP,	   /* the rest are failures: of the table, */
	RESUMED_SEIZE,	   /* of the attachment to a thread, */
	RESUMED_WAIT_FAILED,
	RESUMED_DIED, /* a thread has ended, or got a signal that shows a fault: `error` is its wait status or the signal */
	RESUMED_FILL_FAILED, /* a thread has failed, as struct fill_state says */
	RESUMED_REGISTERS,
	RESUMED_FLOATING,
	RESUMED_COMPONENT, /* this processor does not have component `error`, or has it smaller */
	RESUMED_MASK,
	RESUMED_REGION,
};

struct resume_message {
	uint32_t what;
	uint32_t thread;
	int32_t error;
	uint32_t reserved;
};

#endif
