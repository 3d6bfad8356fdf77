/* SPDX-License-Identifier: Apache-2.0 */
/* The stage: private memory that the tree is forked with. */
#include "stage.h"

#include "state.h"

#define MADV_POPULATE_WRITE 23
#define MAP_FIXED 0x10
#define STEP (1u << 20) /* bytes that are made and then read, while the processor's cache still has them */

static uint64_t address, size;

static long read_part(int file, const struct stage_read *part)
{
	for (uint64_t done = 0; done < part->size;) {
		uint64_t left = part->size - done, step = left < STEP ? left : STEP;
		long answer;

		CALL3(madvise, part->address + done, step, MADV_POPULATE_WRITE);
		answer = CALL4(pread64, file, part->address + done, step, part->offset + done);
		if (answer == -EINTR)
			continue;
		if (answer <= 0)
			return answer ? answer : -ENODATA;
		done += (uint64_t)answer;
	}
	return 0;
}

static long map_part(int file, const struct stage_read *part)
{
	long at = CALL6(mmap, part->address, part->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file,
			part->offset);

	return at == (long)part->address ? 0 : at;
}

static long take_parts(const struct stage_head *head)
{
	const struct stage_read *parts = (const struct stage_read *)(head + 1);
	uint32_t path = 0;
	long file = -1, answer = 0;

	for (uint32_t n = 0; n < head->maps + head->reads && !answer; n++) {
		if (parts[n].path != path) {
			if (file >= 0)
				CALL1(close, file);
			path = parts[n].path;
			file = CALL4(openat, AT_FDCWD, (const char *)head + path, parts[n].flags | O_CLOEXEC, 0);
		}
		if (file < 0)
			answer = file;
		else
			answer = n < head->maps ? map_part((int)file, &parts[n]) : read_part((int)file, &parts[n]);
	}
	if (file >= 0)
		CALL1(close, file);
	return answer;
}

long stage_make(void)
{
	uint64_t offset = (uint64_t)program.head->stage * PAGE;
	struct stage_head first, *head;
	long answer;

	if (!offset)
		return 0;
	answer = CALL4(pread64, FD_PROGRAM, &first, sizeof(first), offset);
	if (answer != sizeof(first))
		return answer < 0 ? answer : -ENODATA;
	head = map(first.bytes, MAP_PRIVATE, FD_PROGRAM, offset);
	if (refusal(head))
		return refusal(head);
	answer = CALL6(mmap, first.address, first.size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (answer != (long)first.address)
		return answer < 0 && answer >= -ERRORS ? answer : -EEXIST;
	address = first.address;
	size = first.size;
	answer = take_parts(head);
	CALL2(munmap, head, first.bytes);
	return answer;
}

void stage_drop(void)
{
	if (size)
		CALL2(munmap, address, size);
}
