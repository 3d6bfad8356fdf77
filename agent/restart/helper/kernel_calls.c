/* SPDX-License-Identifier: Apache-2.0 */
/* The functions that the compiler calls by itself, in a program without a C library. */
#include "kernel_calls.h"

void *memset(void *at, int value, size_t size)
{
	for (char *byte = at; size--; byte++)
		*byte = (char)value;
	return at;
}

void *memcpy(void *to, const void *from, size_t size)
{
	char *out = to;

	for (const char *in = from; size--; in++, out++)
		*out = *in;
	return to;
}
