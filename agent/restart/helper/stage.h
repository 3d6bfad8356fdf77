/* SPDX-License-Identifier: Apache-2.0 */
/* The stage: private memory that the tree is forked with, so that its processes share the pages. See program.h. */
#ifndef CKPTREE_STAGE_H
#define CKPTREE_STAGE_H

/* Make the stage, before the first fork; return 0, or a negative errno. */
long stage_make(void);

/* Unmap the stage, in a process that takes nothing from it. */
void stage_drop(void);

#endif
