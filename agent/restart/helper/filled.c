/* SPDX-License-Identifier: Apache-2.0 */
/* The entry of an actor into the restorer. */
#include "filled.h"

#include "rights.h"
#include "robust.h"
#include "signals.h"

const struct fill_head *fill_section(uint32_t me)
{
	void *section;

	if (load(&program.state->release) != RUN_FILL)
		return NULL;
	section = map(program.state->run_size, MAP_PRIVATE | MAP_NORESERVE, FD_PROGRAM, program.state->run_offset);
	if (refusal(section))
		cannot_run(me, DOING_MMAP, refusal(section));
	return section;
}

const struct fill_entry *fill_entry_of(const struct fill_head *section, uint32_t me)
{
	const struct fill_entry *entry = &((const struct fill_entry *)(section + 1))[me];

	return section && entry->base ? entry : NULL;
}

static uint64_t map_at(uint32_t me, uint64_t address, uint64_t size, int protection, int flags, uint64_t offset)
{
	long at = CALL6(mmap, address, size, protection, flags | MAP_FIXED_NOREPLACE,
			flags & MAP_ANONYMOUS ? -1 : FD_PROGRAM,
			flags & MAP_ANONYMOUS ? 0 : program.state->run_offset + offset);

	if (at != (long)address)
		cannot_run(me, DOING_MMAP, at < 0 && at >= -ERRORS ? at : -EEXIST);
	return address + size;
}

_Noreturn void actor_fill(uint32_t me, const struct fill_head *section, const struct fill_entry *entry)
{
	uint32_t *mapped = &program.mapped[program.actors[me].leader];
	uint64_t all = ~(uint64_t)0, code = entry->base, start = entry->start, stack = entry->stack, at;

	CALL4(rt_sigprocmask, SIG_BLOCK, &all, 0, sizeof(all));
	actor_disarm(me);
	if (program.actors[me].flags & ACTOR_THREAD) {
		wait_at_least(mapped, 1);
	} else {
		stop_ignoring();
		at = map_at(me, code, section->code_size, PROT_READ | PROT_EXEC, MAP_PRIVATE, section->code_offset);
		at = map_at(me, at, section->state_size, PROT_READ | PROT_WRITE, MAP_SHARED, section->state_offset);
		at = map_at(me, at, entry->program_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, entry->program_offset);
		map_at(me, at, (uint64_t)entry->threads * FILL_STACK, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, 0);
		store(mapped, 1);
		futex_wake_all(mapped);
	}
	bump(&program.state->released);
	JUMP_WITH_STACK(code, start, stack);
}
