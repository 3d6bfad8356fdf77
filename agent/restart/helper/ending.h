/* SPDX-License-Identifier: Apache-2.0 */
/* The end of an actor. */
#ifndef CKPTREE_ENDING_H
#define CKPTREE_ENDING_H

#include "robust.h"

_Noreturn void actor_end(uint32_t me, const struct program_step *step, struct robust *robust);

#endif
