/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The identity of the process behind a number. The number is free as soon as the process has been waited for, and any new
 * process may get it. So a process that is no child of the caller is signalled through a pidfd, and only if it is proven
 * to be of the tree: a fact from /proc holds for the pidfd's process if that process has not been waited for afterwards.
 */
#ifndef CKPTREE_KIN_H
#define CKPTREE_KIN_H

#include "kernel_calls.h"

/* Return the number that a text begins with, up to a blank or the end; 0 if it is none. */
int32_t number_in(const char *text);

/* Return the parent of a process; 0 if it is not known. The name may contain ')', so the last one ends it. */
int32_t parent_of(const char *pid);

/* Return 1 if /proc is of the caller's pid namespace: the numbers of another one mean other processes. */
int proc_is_own(void);

/* Return a pidfd of a process if it is a child of `parent`; parent_fd is -1 if that is the caller. */
long open_child(int32_t pid, int32_t parent, long parent_fd);

/* Send a signal to a process if it is of the tree. */
void signal_descendant(int32_t pid, int number);

#endif
