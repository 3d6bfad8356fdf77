/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel's mark at the end of an actor. */
#include "robust.h"

void actor_arm(uint32_t me, struct robust *robust)
{
	robust->entry.next = &robust->head.list;
	robust->head.list.next = &robust->entry;
	robust->head.futex_offset = (char *)&program.alive[me] - (char *)&robust->entry;
	robust->head.list_op_pending = NULL;
	store(&program.alive[me], (uint32_t)CALL0(gettid));
	CALL2(set_robust_list, &robust->head, sizeof(robust->head));
}

void actor_disarm(uint32_t me)
{
	store(&program.alive[me], 0);
	CALL2(set_robust_list, NULL, sizeof(struct robust_list_head));
}

void actor_arm_ending(uint32_t me, struct robust *robust)
{
	store(&program.ending[me], (uint32_t)CALL0(gettid) | FUTEX_WAITERS);
	robust->head.futex_offset = (char *)&program.ending[me] - (char *)&robust->entry;
	store(&program.alive[me], 0);
	futex_wake_all(&program.ending[me]);
}

long await_ending(uint32_t target)
{
	uint32_t value;

	while (!((value = load(&program.ending[target])) & FUTEX_OWNER_DIED))
		futex_wait(&program.ending[target], value, NULL);
	return 0;
}
