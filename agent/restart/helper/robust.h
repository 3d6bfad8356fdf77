/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel's mark at the end of an actor: a robust futex, which the kernel marks as its owner's thread exits. The guard
 * finds the dead by it, and actors wait by it for an init that lingers within its exit.
 */
#ifndef CKPTREE_ROBUST_H
#define CKPTREE_ROBUST_H

#include "state.h"

/* The kernel's list of locks to mark at their owner's death, with one entry: the actor's word in `alive`. */
struct robust {
	struct robust_list_head head;
	struct robust_list entry;
};

/* Report the actor's end, whatever causes it. */
void actor_arm(uint32_t me, struct robust *robust);

/* Stop reporting the actor's end. The kernel would also mark an exec() as an end. */
void actor_disarm(uint32_t me);

/*
 * Announce the actor's exit to the actors that wait for it. The kernel marks the word in exit_mm(). From then on no signal
 * changes the exit status, and only the tasks left in its namespace keep the init from becoming a zombie.
 */
void actor_arm_ending(uint32_t me, struct robust *robust);

/* Wait for the announced exit of an actor. */
long await_ending(uint32_t target);

#endif
