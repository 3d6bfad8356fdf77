/* SPDX-License-Identifier: Apache-2.0 */
/* The guard's state, and its messages to the coordinator. */
#include "guardstate.h"

struct guard guard;

void tell(struct message message)
{
	if (guard.control >= 0)
		CALL6(sendto, guard.control, &message, sizeof(message), MSG_NOSIGNAL, 0, 0);
}

_Noreturn void leave(int code)
{
	for (;;)
		CALL1(exit_group, code);
}

_Noreturn void give_up(enum setup what, long error)
{
	tell((struct message){.kind = SAID_FAILED,
			      .reason = REASON_SETUP,
			      .actor = NO_ACTOR,
			      .place = NO_ACTOR,
			      .error = (int)-error,
			      .value = what});
	tell((struct message){.kind = SAID_GONE, .value = -1});
	leave(1);
}
