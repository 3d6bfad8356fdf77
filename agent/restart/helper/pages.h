/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CKPTREE_PAGES_H
#define CKPTREE_PAGES_H

#include <stdint.h>

#include "fill.h"
#include "kernel_calls.h"

/* Read all spans from consecutive bytes of a file. A span that is half full is shortened, so spans are used once. */
long read_all(struct fill_state *state, int file, struct span *spans, uint64_t count, uint64_t offset);

/*
 * Read all spans; a page that is as before stays shared with the process that it came from. The file is mapped, which spares a copy of
 * each page, or read: before Linux 5.14, and where it ends too early, which only a read tells.
 */
long merge_all(struct fill_state *state, int file, const struct span *spans, uint64_t count, uint64_t offset);

#endif
