/* SPDX-License-Identifier: Apache-2.0 */
/* The identity of the process behind a number. */
#include "kin.h"

#define LOOKS 100 /* a process gets a new parent whenever an ancestor dies */

int32_t number_in(const char *text)
{
	int32_t number = 0;

	if (*text < '1' || *text > '9')
		return 0;
	for (; *text >= '0' && *text <= '9'; text++)
		number = number * 10 + (*text - '0');
	return *text && *text != ' ' && *text != '\n' ? 0 : number;
}

static long read_file(const char *pid, const char *name, char *text, size_t size)
{
	char path[40] = "/proc/";
	size_t used = 6;
	long fd, got;

	while (*pid && used < 20)
		path[used++] = *pid++;
	while (*name)
		path[used++] = *name++;
	path[used] = 0;
	fd = CALL4(openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return fd;
	got = CALL3(read, fd, text, size - 1);
	CALL1(close, fd);
	text[got > 0 ? got : 0] = 0;
	return got;
}

int32_t parent_of(const char *pid)
{
	char text[512], *at;
	long size = read_file(pid, "/stat", text, sizeof(text));

	if (size <= 0)
		return 0;
	for (at = text + size; at > text && *at != ')'; at--)
		;
	return at > text && at + 4 < text + size ? number_in(at + 4) : 0;
}

static int32_t parent_of_number(int32_t pid)
{
	char text[12], *at = text + sizeof(text);

	*--at = 0;
	for (; pid > 0; pid /= 10)
		*--at = (char)('0' + pid % 10);
	return parent_of(at);
}

int proc_is_own(void)
{
	static const char key[] = "\nNSpid:\t";
	char text[STATUS_BYTES], *at;
	size_t n = 0;

	if (read_file("self", "/status", text, sizeof(text)) <= 0)
		return 0;
	for (at = text; *at && n < sizeof(key) - 1; at++)
		n = *at == key[n] ? n + 1 : *at == key[0];
	return n == sizeof(key) - 1 && number_in(at) == (int32_t)CALL0(getpid);
}

static int is_there(long fd)
{
	return CALL4(pidfd_send_signal, fd, 0, 0, 0) != -ESRCH;
}

long open_child(int32_t pid, int32_t parent, long parent_fd)
{
	long fd = CALL2(pidfd_open, pid, 0);

	if (fd < 0)
		return fd;
	if (parent_of_number(pid) == parent && is_there(fd) && (parent_fd < 0 || is_there(parent_fd)))
		return fd;
	CALL1(close, fd);
	return -ESRCH;
}

/* Return 1 if a process descends from the caller, 0 if not, -1 if an ancestor has died meanwhile. */
static int descends(int32_t pid, long fd)
{
	int32_t self = (int32_t)CALL0(getpid), at = pid;
	long at_fd = fd, above;
	int answer = -1;

	for (;;) {
		int32_t parent = parent_of_number(at);

		if (!is_there(at_fd))
			break;
		if (parent == self || parent <= 1) {
			answer = parent == self;
			break;
		}
		above = CALL2(pidfd_open, parent, 0);
		if (above < 0)
			break;
		if (parent_of_number(at) != parent || !is_there(at_fd) || !is_there(above)) {
			CALL1(close, above);
			break;
		}
		if (at_fd != fd)
			CALL1(close, at_fd);
		at = parent;
		at_fd = above;
	}
	if (at_fd != fd)
		CALL1(close, at_fd);
	return answer;
}

void signal_descendant(int32_t pid, int number)
{
	long fd = pid > 0 ? CALL2(pidfd_open, pid, 0) : -ESRCH;
	int answer = -1;

	if (fd < 0)
		return;
	for (int looks = 0; answer < 0 && looks < LOOKS && is_there(fd); looks++)
		answer = descends(pid, fd);
	if (answer > 0)
		CALL4(pidfd_send_signal, fd, number, 0, 0);
	CALL1(close, fd);
}
