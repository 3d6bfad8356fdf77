/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watcher: a second process beside the guard, which ends the tree if the guard is killed. PR_SET_PDEATHSIG would do
 * that, but the kernel clears it when actor 0 changes its ids or executes a program that does (commit_creds(),
 * begin_new_exec()), and a process can set it for itself only. In a tree without a pid namespace the reaper does this work.
 */
#ifndef CKPTREE_GUARDWATCHER_H
#define CKPTREE_GUARDWATCHER_H

/* Start the watcher before actor 0 does anything, so that actor 0 cannot have changed its ids yet. */
long begin_watcher(void);

/* Create another watcher if this one was killed; after a failure the next call tries again. */
void keep_watcher(void);

/* End the watcher. It ends by itself after actor 0, but not while it is stopped. */
void end_watcher(void);

#endif
