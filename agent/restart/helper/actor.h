/* SPDX-License-Identifier: Apache-2.0 */
/* The life of an actor. */
#ifndef CKPTREE_ACTOR_H
#define CKPTREE_ACTOR_H

#include "state.h"

/* Create an actor on its own stack. */
static inline long clone_actor(struct clone_args *args, void (*body)(void *), uint32_t actor)
{
	args->stack = (uint64_t)(uintptr_t)(program.stacks + (size_t)actor * ACTOR_STACK);
	args->stack_size = ACTOR_STACK;
	return clone3_call(args, body, (void *)(uintptr_t)actor);
}

_Noreturn void actor_run(void *index);

#endif
