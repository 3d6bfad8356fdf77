/* SPDX-License-Identifier: Apache-2.0 */
/* The state that all share, and the report of a failure. */
#include "state.h"

struct program program;

void note_failure(uint32_t reason, uint32_t actor, uint32_t place, int error, int value)
{
	struct state *state = program.state;
	uint32_t nobody = 0;

	if (!__atomic_compare_exchange_n(&state->failing, &nobody, 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		return;
	state->failure = (struct message){
		.kind = SAID_FAILED, .reason = reason, .actor = actor, .place = place, .error = error, .value = value};
	store(&state->failed, 1);
	wake_guard();
}

_Noreturn void fail(uint32_t reason, uint32_t actor, uint32_t place, int error)
{
	note_failure(reason, actor, place, error, 0);
	for (;;)
		CALL4(ppoll, 0, 0, 0, 0);
}
