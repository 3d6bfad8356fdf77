/* SPDX-License-Identifier: Apache-2.0 */
/* The guard's state, and its messages to the coordinator. */
#ifndef CKPTREE_GUARDSTATE_H
#define CKPTREE_GUARDSTATE_H

#include "state.h"

#define GUARD_STACK 65536

struct guard {
	int control;	 /* -1: detached */
	int signals;	 /* signalfd */
	int first_fd;	 /* a pidfd of actor 0, needed because its exit signal may be any; -1: none */
	int guard_fd;	 /* a pidfd of the guard itself, for the watcher */
	int32_t watcher; /* its pid; 0: none */
	int32_t first;	 /* actor 0's pid for the guard; 0: it has been waited for */
	int32_t root_status;
	int null;	     /* /dev/null; negative: there is none */
	char *stack;	     /* an address in the guard's stack */
	const char *pidfile; /* file to remove in the end, a name in FD_FOLDER; NULL: none */
};

extern struct guard guard;

void tell(struct message message);

/* End the guard, or actor 0 before its first step. */
_Noreturn void leave(int code);

/* Report that something before any step has failed, and end. */
_Noreturn void give_up(enum setup what, long error);

#endif
