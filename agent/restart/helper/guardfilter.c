/* SPDX-License-Identifier: Apache-2.0 */
/* The filter is a list of what may be called, so that calls of later kernels are refused too: with EPERM. */
#include "guardfilter.h"

#include "state.h"

#if defined(__x86_64__)
#define ARCHITECTURE 0xc000003eu /* AUDIT_ARCH_X86_64 */
#else
#define ARCHITECTURE 0xc00000b7u /* AUDIT_ARCH_AARCH64 */
#endif

/* O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, and the bit of O_TMPFILE that is its own */
#define O_CHANGES 020001103

/* Offsets in struct seccomp_data. Of an argument the low half is loaded: the kernel, too, reads an int. */
#define NUMBER_AT 0
#define ARCHITECTURE_AT 4
#define ARGUMENT_AT(index) (16 + 8 * (index))

#define STEP(code, yes, no, value) {code, yes, no, value}
#define PERMIT STEP(BPF_RET_VALUE, 0, 0, SECCOMP_RET_ALLOW)
#define REFUSE STEP(BPF_RET_VALUE, 0, 0, SECCOMP_RET_ERRNO | EPERM)
#define MAY(call) STEP(BPF_IF_EQUAL, 0, 1, __NR_##call), PERMIT
#define MAY_IF(call, index, test, value) \
	STEP(BPF_IF_EQUAL, 0, 4, __NR_##call), STEP(BPF_LOAD_WORD, 0, 0, ARGUMENT_AT(index)), STEP(test, 0, 1, value), \
		PERMIT, REFUSE
#define MAY_UNLESS(call, index, test, value) \
	STEP(BPF_IF_EQUAL, 0, 4, __NR_##call), STEP(BPF_LOAD_WORD, 0, 0, ARGUMENT_AT(index)), STEP(test, 1, 0, value), \
		PERMIT, REFUSE
#define MAY_IF_BOTH(call, index, value, other, other_value) \
	STEP(BPF_IF_EQUAL, 0, 6, __NR_##call), STEP(BPF_LOAD_WORD, 0, 0, ARGUMENT_AT(index)), \
		STEP(BPF_IF_EQUAL, 0, 3, value), STEP(BPF_LOAD_WORD, 0, 0, ARGUMENT_AT(other)), \
		STEP(BPF_IF_EQUAL, 0, 1, other_value), PERMIT, REFUSE

static const struct filter_step steps[] = {
	STEP(BPF_LOAD_WORD, 0, 0, ARCHITECTURE_AT),
	STEP(BPF_IF_EQUAL, 1, 0, ARCHITECTURE),
	REFUSE, /* 32-bit calls have other numbers */
	STEP(BPF_LOAD_WORD, 0, 0, NUMBER_AT),
	/* waiting, the most frequent calls first */
	MAY(ppoll),
	MAY(read),
	MAY(recvmsg),
	MAY(recvfrom),
	MAY(waitid),
	MAY(clock_gettime),
	MAY(nanosleep),
	MAY(restart_syscall), /* a sleep goes on after SIGCONT */
	/* messages to the coordinator and to actors */
	MAY(sendto),
	MAY(futex),
	MAY_IF(write, 0, BPF_IF_EQUAL, FD_WAKE),
	/* signals, and the processes that they are for */
	MAY(kill),
	MAY(pidfd_open),
	MAY(pidfd_send_signal),
	MAY(getpid),
	MAY_UNLESS(openat, 2, BPF_IF_ANY_BIT, O_CHANGES),
	MAY(getdents64),
	MAY(close),
	MAY_IF(prlimit64, 0, BPF_IF_EQUAL, 0),
	/* the run section, the pid file's name, the room for the numbers of all processes */
	MAY_UNLESS(mmap, 2, BPF_IF_ANY_BIT, PROT_EXEC),
	/* the detach, and the pid file in the end */
	MAY(dup3),
	MAY(chdir),
	MAY_IF_BOTH(unlinkat, 0, FD_FOLDER, 2, 0),
	/* another watcher */
	MAY_IF(clone, 0, BPF_IF_EQUAL, SIGCHLD),
	MAY_IF(fcntl, 1, BPF_IF_EQUAL, F_DUPFD),
	MAY(close_range),
	MAY(setsid),
	MAY_IF(prctl, 0, BPF_IF_EQUAL, PR_SET_NAME),
	MAY(exit_group),
	REFUSE,
};

void confine(void)
{
	const struct filter filter = {sizeof(steps) / sizeof(*steps), steps};

	CALL5(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	CALL3(prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
}
