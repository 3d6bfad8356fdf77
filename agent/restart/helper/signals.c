/* SPDX-License-Identifier: Apache-2.0 */
/* The actions of an actor's signals. */
#include "signals.h"

void handle(int number, uint64_t handler)
{
	struct signal_action action = {.handler = handler};

	CALL4(rt_sigaction, number, &action, 0, SIGNAL_SET_BYTES);
}

void ignore_signals(void)
{
	for (int number = 1; number <= SIGNALS; number++)
		handle(number, number == SIGCHLD ? SIG_DFL : SIG_IGN); /* a task that ignores SIGCHLD has no zombies */
}

void stop_ignoring(void)
{
	for (int number = 1; number <= SIGNALS; number++)
		handle(number, SIG_DFL);
}
