/* SPDX-License-Identifier: Apache-2.0 */
/* The actions of an actor's signals. */
#ifndef CKPTREE_SIGNALS_H
#define CKPTREE_SIGNALS_H

#include "kernel_calls.h"

void handle(int number, uint64_t handler);

/*
 * While a tree is built, an exiting task sends its parent its exit signal, which must reach no task. All actors inherit
 * this. An ignored signal is dropped; a blocked one would stay pending.
 */
void ignore_signals(void);

void stop_ignoring(void);

#endif
