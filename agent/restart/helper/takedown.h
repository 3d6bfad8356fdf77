/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a tree. A namespace ends as a whole with its init. Without a namespace every descendant of the reaper is
 * killed, round by round until there is none: the reaper is a subreaper, so no descendant escapes. The reaper does this
 * itself, to go on if the guard is killed meanwhile. Afterwards the guard kills the remaining processes in the same way.
 */
#ifndef CKPTREE_TAKEDOWN_H
#define CKPTREE_TAKEDOWN_H

/* Kill every process of the tree, and wait for all. */
void take_down(void);

/* Remove the pid file, unless another tree's guard has written its own pid there. */
void remove_pidfile(void);

#endif
