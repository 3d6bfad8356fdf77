/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The confinement of guard and watcher, once the tree is begun: by a seccomp filter they may make the calls of their loops
 * and no other. Tasks that hold share the guard's memory, and the guard has the caller's rights. It keeps those, because it
 * ends tasks of any user; but it runs no program, writes no file, makes no other process than a watcher, and opens no
 * socket. No task of the tree has the filter: actor 0 is created before.
 */
#ifndef CKPTREE_GUARDFILTER_H
#define CKPTREE_GUARDFILTER_H

/* Confine the caller. Where the kernel refuses the filter, the caller goes on without it. */
void confine(void);

#endif
