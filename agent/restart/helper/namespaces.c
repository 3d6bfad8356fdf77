/* SPDX-License-Identifier: Apache-2.0 */
/* The namespaces around a tree. */
#include "namespaces.h"
#include "guardstate.h"

#define DEEPEST_PATH 2048 /* PATH_MAX / 2; at the root ".." stays there */

int may_administer(void)
{
	struct capability_head head = {CAPABILITY_VERSION, 0};
	struct capability_data data[2] = {0};

	return !CALL2(capget, &head, data) && (data[0].effective >> CAP_SYS_ADMIN & 1);
}

static long write_file(const char *path, const char *text, size_t size)
{
	long fd = CALL4(openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0), answer;

	if (fd < 0)
		return fd;
	answer = CALL3(write, fd, text, size);
	CALL1(close, fd);
	return answer < 0 ? answer : 0;
}

/* "ID ID 1" maps the caller to itself in the new user namespace. */
static long map_self(const char *path, uint32_t id)
{
	char digits[12], text[32];
	size_t count = 0, size = 0;

	do
		digits[count++] = (char)('0' + id % 10);
	while (id /= 10);
	for (int copy = 0; copy < 2; copy++) {
		for (size_t n = count; n--;)
			text[size++] = digits[n];
		text[size++] = ' ';
	}
	text[size++] = '1';
	return write_file(path, text, size);
}

void enter_user_namespace(void)
{
	uint32_t uid = (uint32_t)CALL0(geteuid), gid = (uint32_t)CALL0(getegid);
	long answer = CALL1(unshare, CLONE_NEWUSER);

	if (answer)
		give_up(SETUP_USERNS, answer);
	write_file("/proc/self/setgroups", "deny", 4);
	answer = map_self("/proc/self/uid_map", uid);
	if (!answer)
		answer = map_self("/proc/self/gid_map", gid);
	if (answer)
		give_up(SETUP_IDMAP, answer);
	program.answer->user_namespace = 1;
}

long make_mounts_private(void)
{
	long answer = CALL5(mount, "none", "/", 0, MS_REC | MS_PRIVATE, 0), root, here;

	if (answer != -EINVAL)
		return answer;
	root = CALL4(openat, AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	here = CALL4(openat, AT_FDCWD, ".", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	if (root < 0 || here < 0)
		return root < 0 ? root : here;
	answer = CALL1(chroot, "/proc");
	if (answer)
		return answer;
	answer = CALL1(fchdir, root);
	for (int level = 0; !answer && level < DEEPEST_PATH; level++)
		answer = CALL1(chdir, "..");
	if (!answer)
		answer = CALL1(chroot, ".");
	if (!answer)
		answer = CALL5(mount, "none", "/", 0, MS_REC | MS_PRIVATE, 0);
	if (!answer)
		answer = CALL1(fchdir, root);
	if (!answer)
		answer = CALL1(chroot, ".");
	if (!answer)
		answer = CALL1(fchdir, here);
	CALL1(close, root);
	CALL1(close, here);
	return answer;
}
