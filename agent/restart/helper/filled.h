/* SPDX-License-Identifier: Apache-2.0 */
/* The entry of an actor into the restorer, which puts the contents of its image into it. */
#ifndef CKPTREE_FILLED_H
#define CKPTREE_FILLED_H

#include <stdint.h>

#include "fill.h"

/* Return the section of a release with contents; NULL in every other release. */
const struct fill_head *fill_section(uint32_t me);

/* Return an actor's part of the section; NULL if it has no contents. */
const struct fill_entry *fill_entry_of(const struct fill_head *section, uint32_t me);

/* Map the process's region, and go on in it. */
_Noreturn void actor_fill(uint32_t me, const struct fill_head *section, const struct fill_entry *entry);

#endif
