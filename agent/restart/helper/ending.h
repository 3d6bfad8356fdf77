/* SPDX-License-Identifier: Apache-2.0 */
/* The end of an actor, and of the leader of a thread. */
#ifndef CKPTREE_ENDING_H
#define CKPTREE_ENDING_H

#include "robust.h"

_Noreturn void actor_end(uint32_t me, const struct program_step *step, struct robust *robust);

/* Return 1 if a thread's leader will take other ids and exit, which closes the memory that both share to tracers. */
int dumpable_beside(uint32_t me);

/*
 * Make the memory of a thread dumpable again, once its leader has exited and has no memory any more: whoever compares the
 * tree reads the links of the thread in /proc, and may lack CAP_SYS_PTRACE. Without /proc leave it as it is.
 */
void reopen_memory(void);

#endif
