/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw system calls for a program without a C library: a process that is forked ten thousand times must have almost nothing
 * to copy. Each call returns the kernel's answer, a negative errno on failure.
 */
#ifndef CKPTREE_KERNEL_CALLS_H
#define CKPTREE_KERNEL_CALLS_H

#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <linux/stat.h>
#include <stddef.h>
#include <stdint.h>

#define SIG_DFL 0
#define SIG_IGN 1
#define SIG_BLOCK 0
#define SIG_SETMASK 2
#define SIGILL 4
#define SIGTRAP 5
#define SIGBUS 7
#define SIGFPE 8
#define SIGKILL 9
#define SIGSEGV 11
#define SIGTERM 15
#define SIGINT 2
#define SIGQUIT 3
#define SIGCHLD 17
#define SIGCONT 18
#define SIGSTOP 19
#define SIGSYS 31
#define SIGHUP 1
#define SIGNALS 64
#define SIGNAL_SET_BYTES 8
#define SIGNAL_INFO_BYTES 128 /* of siginfo_t, and of what a signalfd returns */
#define SIGNAL_GUARD_GONE 63 /* what the reaper gets when its guard is gone: a group that it is in is never sent that */
#define SA_RESTORER 0x04000000
#define SA_ONSTACK 0x08000000

#define PROT_READ 1
#define PROT_WRITE 2
#define PROT_EXEC 4
#define MAP_SHARED 1
#define MAP_PRIVATE 2
#define MAP_ANONYMOUS 0x20
#define MREMAP_MAYMOVE 1
#define MREMAP_FIXED 2
#define PAGE 4096
#define ERRORS 4095 /* no negative errno is below -ERRORS, and no address above that */
#define MAP_NORESERVE 0x4000
#define MAP_FIXED_NOREPLACE 0x100000

#define AT_FDCWD -100
#define F_DUPFD 0
#define STANDARD_STREAMS 3
#define STATUS_BYTES 4096 /* of /proc/PID/status, up to the last line that is read here */
#define ENTRY_SIZE_AT 16  /* in struct linux_dirent64: u16 d_reclen */
#define ENTRY_NAME_AT 19  /* and d_name */

#define O_RDONLY 0
#define O_WRONLY 1
#define O_RDWR 2
#define O_NONBLOCK 04000
#define O_CLOEXEC 02000000
#define O_PATH 010000000
#define AT_EMPTY_PATH 0x1000

#define PR_SET_PDEATHSIG 1
#define PR_GET_DUMPABLE 3
#define PR_SET_DUMPABLE 4
#define PR_SET_KEEPCAPS 8
#define PR_SET_SECCOMP 22
#define PR_SET_NAME 15
#define PR_CAPBSET_READ 23
#define PR_SET_MM 35
#define PR_SET_MM_MAP 14
#define PR_CAPBSET_DROP 24
#define PR_SET_CHILD_SUBREAPER 36
#define PR_SET_NO_NEW_PRIVS 38
#define PR_TIMER_CREATE_RESTORE_IDS 77
#define PR_CAP_AMBIENT 47
#define PR_CAP_AMBIENT_RAISE 2
#define PR_CAP_AMBIENT_CLEAR_ALL 4

#define KEYCTL_JOIN_SESSION_KEYRING 1

#define SECCOMP_MODE_FILTER 2
#define SECCOMP_RET_KILL_PROCESS 0x80000000u
#define SECCOMP_RET_ALLOW 0x7fff0000u
#define SECCOMP_RET_ERRNO 0x00050000u
#define BPF_RET_VALUE 6 /* BPF_RET | BPF_K */
#define BPF_LOAD_WORD 0x20
#define BPF_IF_EQUAL 0x15
#define BPF_IF_ANY_BIT 0x45

#define MS_NOSUID 2
#define MS_NODEV 4
#define MS_NOEXEC 8
#define MS_REC 16384
#define MS_PRIVATE (1 << 18)

#define CLD_EXITED 1
#define CLD_DUMPED 3
#define STATUS_SIGNAL 0x7f /* bits of a wait status: the signal */
#define STATUS_CORE 0x80
#define STATUS_CODE_SHIFT 8 /* and above it the exit code, of 8 bits */
#define STATUS_CODE 0xff

#define P_ALL 0
#define P_PID 1
#define WNOHANG 1
#define WEXITED 4
#define WNOWAIT 0x01000000
#define WALL 0x40000000

#define AF_UNIX 1
#define SOCK_SEQPACKET 5
#define SOCK_NONBLOCK 04000
#define SOL_SOCKET 1
#define SO_PASSCRED 16
#define SCM_CREDENTIALS 2
#define MSG_DONTWAIT 0x40
#define MSG_NOSIGNAL 0x4000

#define CLOCK_MONOTONIC 1
#define NS_PER_S 1000000000
#define MS_PER_S 1000
#define NS_PER_MS 1000000
#define ALL_WAITERS 0x7fffffff

#define POLLIN 1
#define POLLHUP 16
#define RLIMIT_CORE 4
#define RLIMIT_NOFILE 7
#define CAP_SETPCAP 8
#define CAP_SYS_ADMIN 21
#define CLOSE_RANGE_CLOEXEC 4

#if defined(__x86_64__)
static inline long call6(long n, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long answer;

	__asm__ volatile("syscall"
			 : "=a"(answer)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return answer;
}

/* clone3() whose child calls body(argument) on a stack of its own; body does not return. */
static inline long clone3_call(struct clone_args *args, void (*body)(void *), void *argument)
{
	register void (*in_r12)(void *) __asm__("r12") = body;
	register void *in_r13 __asm__("r13") = argument;
	long answer;

	__asm__ volatile("syscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\txor %%ebp, %%ebp\n\tmov %%r13, %%rdi\n\t"
			 "call *%%r12\n\tud2\n1:"
			 : "=a"(answer)
			 : "a"((long)__NR_clone3), "D"(args), "S"(sizeof(*args)), "r"(in_r12), "r"(in_r13)
			 : "rcx", "r11", "memory");
	return answer;
}

/* Call the code at `code` with one argument on another stack; it does not return. */
#define JUMP_WITH_STACK(code, argument, stack) \
	do { \
		__asm__ volatile("mov %2, %%rsp\n\txor %%ebp, %%ebp\n\tcall *%0\n\tud2" \
				 : \
				 : "r"(code), "D"(argument), "r"(stack) \
				 : "memory"); \
		__builtin_unreachable(); \
	} while (0)
#define PROGRAM_START(body) \
	__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tand $-16, %rsp\n\tcall " #body "\n\tud2\n")
#define ILLEGAL_INSTRUCTION() __asm__ volatile("ud2")
#define BREAKPOINT() __asm__ volatile("int3")
#define DIVISION_BY_ZERO() \
	__asm__ volatile("xor %%ecx, %%ecx\n\tmov $1, %%eax\n\tcltd\n\tidiv %%ecx" : : : "eax", "ecx", "edx")
#define RELAX() __asm__ volatile("pause")
#define O_NOFOLLOW 0400000
#define O_DIRECTORY 0200000
#elif defined(__aarch64__)
static inline long call6(long n, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
}

static inline long clone3_call(struct clone_args *args, void (*body)(void *), void *argument)
{
	register long x8 __asm__("x8") = __NR_clone3;
	register long x0 __asm__("x0") = (long)args;
	register long x1 __asm__("x1") = sizeof(*args);
	register void (*in_x20)(void *) __asm__("x20") = body;
	register void *in_x21 __asm__("x21") = argument;

	__asm__ volatile("svc #0\n\tcbnz x0, 1f\n\tmov x29, xzr\n\tmov x0, x21\n\tblr x20\n\tbrk #0\n1:"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(in_x20), "r"(in_x21)
			 : "memory");
	return x0;
}

#define JUMP_WITH_STACK(code, argument, stack) \
	do { \
		register uint64_t in_x0 __asm__("x0") = (argument); \
		__asm__ volatile("mov sp, %2\n\tmov x29, xzr\n\tblr %0\n\tbrk #0" \
				 : \
				 : "r"(code), "r"(in_x0), "r"(stack) \
				 : "memory"); \
		__builtin_unreachable(); \
	} while (0)
#define PROGRAM_START(body) \
	__asm__(".globl _start\n_start:\n\tmov x29, xzr\n\tmov x30, xzr\n\tbl " #body "\n\tbrk #0\n")
#define ILLEGAL_INSTRUCTION() __asm__ volatile("udf #0")
#define BREAKPOINT() __asm__ volatile("brk #0")
#define DIVISION_BY_ZERO() ((void)0) /* this processor divides by 0 without a fault: preflight.py refuses such an end */
#define RELAX() __asm__ volatile("yield")
#define O_NOFOLLOW 0100000
#define O_DIRECTORY 040000
#else
#error "x86-64 and aarch64 only"
#endif

#define CALL6(n, a, b, c, d, e, f) call6(__NR_##n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define CALL5(n, a, b, c, d, e) CALL6(n, a, b, c, d, e, 0)
#define CALL4(n, a, b, c, d) CALL6(n, a, b, c, d, 0, 0)
#define CALL3(n, a, b, c) CALL6(n, a, b, c, 0, 0, 0)
#define CALL2(n, a, b) CALL6(n, a, b, 0, 0, 0, 0)
#define CALL1(n, a) CALL6(n, a, 0, 0, 0, 0, 0)
#define CALL0(n) CALL6(n, 0, 0, 0, 0, 0, 0)

struct timespec64 {
	int64_t seconds;
	int64_t nanoseconds;
};

struct poll_fd {
	int fd;
	short events;
	short found;
};

struct capability_head {
	uint32_t version;
	int pid;
};

#define CAPABILITY_VERSION 0x20080522

struct capability_data { /* two of them: bits 0 to 31, then 32 to 63 */
	uint32_t effective, permitted, inheritable;
};

struct signal_action { /* struct sigaction */
	uint64_t handler, flags, restorer, mask;
};

struct filter_step { /* struct sock_filter */
	uint16_t code;
	uint8_t if_true, if_false;
	uint32_t value;
};

struct filter { /* struct sock_fprog */
	uint16_t length;
	const struct filter_step *steps;
};

struct signal_stack { /* stack_t */
	void *base;
	int flags;
	size_t size;
};

struct memory_map { /* struct prctl_mm_map */
	uint64_t start_code, end_code, start_data, end_data, start_brk, brk, start_stack;
	uint64_t arg_start, arg_end, env_start, env_end;
	uint64_t auxv;
	uint32_t auxv_size;
	uint32_t exe_fd;
};

struct span {
	void *base;
	size_t size;
};

struct message_head { /* struct msghdr */
	void *name;
	unsigned int name_size;
	struct span *spans;
	size_t span_count;
	void *control;
	size_t control_size;
	unsigned int flags;
};

struct credentials_control { /* struct cmsghdr with struct ucred behind it */
	size_t size;
	int level;
	int type;
	int pid;
	unsigned int uid;
	unsigned int gid;
	unsigned int padding;
};

struct child_info { /* siginfo_t, as waitid() fills it */
	int signal;
	int error;
	int code;
	int padding;
	int pid;
	unsigned int uid;
	int status;
	char rest[SIGNAL_INFO_BYTES - 28];
};

/* Return the wait status that wait4() would return. */
static inline int raw_status(const struct child_info *info)
{
	if (info->code == CLD_EXITED)
		return (info->status & STATUS_CODE) << STATUS_CODE_SHIFT;
	return info->status | (info->code == CLD_DUMPED ? STATUS_CORE : 0);
}

/* The compiler may insert calls of these two. */
void *memset(void *at, int value, size_t size);
void *memcpy(void *to, const void *from, size_t size);

static inline void *map(size_t size, int flags, int fd, uint64_t offset)
{
	long at = CALL6(mmap, 0, size, PROT_READ | PROT_WRITE, flags, fd, offset);

	return (void *)at;
}

/* Return the negative errno of a call that returns an address; 0 for an address. */
static inline long refusal(const void *at)
{
	return (long)at < 0 && (long)at >= -ERRORS ? (long)at : 0;
}

/* Redirect the standard streams to /dev/null; return a negative errno if it cannot be opened. */
static inline long streams_to_null(void)
{
	long null = CALL4(openat, AT_FDCWD, "/dev/null", O_RDWR, 0);

	for (int stream = 0; null >= 0 && stream < STANDARD_STREAMS; stream++)
		if (stream != null)
			CALL3(dup3, null, stream, 0);
	if (null >= STANDARD_STREAMS)
		CALL1(close, null);
	return null;
}

static inline uint64_t now_ns(void)
{
	struct timespec64 now = {0, 0};

	CALL2(clock_gettime, CLOCK_MONOTONIC, &now);
	return (uint64_t)now.seconds * NS_PER_S + (uint64_t)now.nanoseconds;
}

static inline void sleep_ns(int64_t ns)
{
	struct timespec64 span = {ns / NS_PER_S, ns % NS_PER_S};

	CALL2(nanosleep, &span, 0);
}

/* Sleep while the word has this value. The memory is shared, so FUTEX_PRIVATE_FLAG is not set. */
static inline void futex_wait(uint32_t *word, uint32_t value, const struct timespec64 *timeout)
{
	CALL4(futex, word, FUTEX_WAIT, value, timeout);
}

static inline void futex_wake_all(uint32_t *word)
{
	CALL3(futex, word, FUTEX_WAKE, ALL_WAITERS);
}

#endif
