/* SPDX-License-Identifier: Apache-2.0 */
/* The guard's main loop. */
#ifndef CKPTREE_GUARDLOOP_H
#define CKPTREE_GUARDLOOP_H

/* Watch the tree until its end, or take it down; tell the coordinator, and return when no process is left. */
void guard_loop(void);

#endif
