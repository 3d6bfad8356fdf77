/* SPDX-License-Identifier: Apache-2.0 */
/* The life of an actor after the tree is active. */
#ifndef CKPTREE_SETTLE_H
#define CKPTREE_SETTLE_H

#include "state.h"

/*
 * Take the rights of the release, and map the run section if there is one; return it, or NULL. This happens before the
 * actor counts as released and before it stops, so that at the detach every actor has got its rights.
 */
char *actor_prepare(uint32_t me);

/*
 * Set the command line that ps and pgrep -f show. The kernel reads it from private memory only, and actors have none until
 * all births are over. If it cannot be set, it stays empty.
 */
void show_held(uint32_t me);

_Noreturn void actor_settle(uint32_t me, char *section);

#endif
