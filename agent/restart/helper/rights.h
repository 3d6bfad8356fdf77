/* SPDX-License-Identifier: Apache-2.0 */
/* The rights of a task, and the failure of one that cannot run its program. */
#ifndef CKPTREE_RIGHTS_H
#define CKPTREE_RIGHTS_H

#include "state.h"

void take_rights(uint32_t me, const char *section);

/* Take the ids of a task that is about to exit: its zombie has them, and its parent is told them. Return the answer of the call that failed, or of the last. */
long take_last_ids(uint32_t me);

/* Report a failure, upon which the guard takes all down, and end: no task goes on with rights that are half given up. */
_Noreturn void cannot_run(uint32_t me, enum doing what, long answer);

#endif
