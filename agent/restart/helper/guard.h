/* SPDX-License-Identifier: Apache-2.0 */
/* The state of the guard. */
#ifndef CKPTREE_GUARD_H
#define CKPTREE_GUARD_H

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
	char *stack;	     /* an address in the guard's stack */
	const char *pidfile; /* file to remove in the end; NULL: none */
};

extern struct guard guard;

void tell(struct message message);
_Noreturn void give_up(enum setup what, long error);
int may_administer(void);
void enter_user_namespace(void);
long make_mounts_private(void);
void guard_loop(void);
void take_down(void);
long begin_watcher(void);
void keep_watcher(void);
void end_watcher(void);
void remove_pidfile(void);

int32_t number_in(const char *text);
int32_t parent_of(const char *pid);
int proc_is_own(void);
int is_there(long fd);
long open_child(int32_t pid, int32_t parent, long parent_fd);
void signal_descendant(int32_t pid, int number);

#endif
