/* SPDX-License-Identifier: Apache-2.0 */
/* The state of a process, and its seccomp filters. */
#include "statekeeper.h"

/* process: what /proc, prctl() and friends say of the process and of a second thread. */
static const char *const OF_STATUS[] = {
	"Name:",   "Umask:",  "Uid:", "Gid:",	     "Groups:", "ShdPnd:",  "SigPnd:",	    "SigBlk:",
	"SigIgn:", "SigCgt:", "Cap",  "NoNewPrivs:", "Seccomp", "Threads:", "THP_enabled:", NULL};

static void thread_facts(const char *who)
{
	struct sched_param param;
	char name[17] = "", path[64];
	stack_t stack;
	sigset_t set;
	void *head;
	size_t size;

	tell("[%s]", who);
	snprintf(path, sizeof(path), "/proc/self/task/%ld/status", syscall(SYS_gettid));
	lines_of(path, OF_STATUS);
	prctl(PR_GET_NAME, name);
	tell("comm %s", name);
	must(sched_getparam(0, &param), "sched_getparam");
	tell("scheduler %d priority %d nice %d", (int)syscall(SYS_sched_getscheduler, 0), param.sched_priority,
	     getpriority(PRIO_PROCESS, 0));
	sigaltstack(NULL, &stack);
	tell("altstack %p %zu %d", stack.ss_sp, stack.ss_size, stack.ss_flags);
	pthread_sigmask(SIG_SETMASK, NULL, &set);
	tell("mask %lx", *(unsigned long *)&set);
	syscall(SYS_get_robust_list, 0, &head, &size);
	tell("robust %p %zu", head, size);
	/* Registered again as it is: EBUSY; otherwise: EINVAL. */
	tell("rseq %d",
	     syscall(SYS_rseq, (char *)__builtin_thread_pointer() + __rseq_offset, 32, 0, RSEQ_SIG) < 0 ? errno : 0);
	int signal = -1;
	prctl(PR_GET_PDEATHSIG, &signal);
	tell("death signal %d securebits %x keepcaps %d no_new_privs %d", signal, prctl(PR_GET_SECUREBITS),
	     prctl(PR_GET_KEEPCAPS), prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
}

static void process_facts(void)
{
	char path[4096] = "";
	struct sigaction action;
	struct rlimit limit;
	int reaper = -1;

	thread_facts("process");
	for (int n = 0; n < 16; n++) {
		getrlimit(n, &limit);
		tell("limit %d %lu %lu", n, limit.rlim_cur, limit.rlim_max);
	}
	for (int n = 1; n < 65; n++)
		if (n != 32 && n != 33 && !sigaction(n, NULL, &action))
			tell("action %d %p %x %lx", n, (void *)action.sa_handler, action.sa_flags,
			     *(unsigned long *)&action.sa_mask);
	prctl(PR_GET_CHILD_SUBREAPER, &reaper);
	tell("dumpable %d subreaper %d thp %d personality %x membarrier %ld", prctl(PR_GET_DUMPABLE), reaper,
	     prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), personality(0xffffffff),
	     syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
	tell("cwd %s", getcwd(path, sizeof(path)) ? path : "none");
	memset(path, 0, sizeof(path));
	must(readlink("/proc/self/exe", path, sizeof(path) - 1), "exe");
	tell("exe %s", path);
	lines_of("/proc/self/oom_score_adj", (const char *const[]){"", NULL});
	lines_of("/proc/self/cmdline", (const char *const[]){"", NULL});
}

static void handler(int number)
{
	(void)number;
}

static void *other_thread(void *unused)
{
	stack_t stack = {.ss_sp = malloc(STACK), .ss_size = STACK, .ss_flags = (int)(1u << 31)};
	struct sched_param param = {0};
	sigset_t set;

	(void)unused;
	prctl(PR_SET_NAME, "other \"thread\"");
	sigaltstack(&stack, NULL);
	sigfillset(&set);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	setpriority(PRIO_PROCESS, 0, 11);
	must(syscall(SYS_sched_setscheduler, 0, SCHED_BATCH | SCHED_RESET_ON_FORK, &param), "batch");
	must(syscall(SYS_setresgid, 11, 12, 13), "setresgid of a thread");
	must(syscall(SYS_setresuid, 1001, 1002, 1003), "setresuid of a thread");
	must(prctl(PR_SET_PDEATHSIG, SIGUSR1), "pdeathsig");
	pthread_barrier_wait(&ready);
	for (int n = 0; n < 2; n++) {
		pthread_barrier_wait(&ready);
		thread_facts("thread");
		pthread_barrier_wait(&told);
	}
	pause();
	return NULL;
}

static void both_facts(void)
{
	process_facts();
	pthread_barrier_wait(&ready);
	pthread_barrier_wait(&told);
}

static void take_state(void)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	struct sigaction handle = {.sa_handler = handler, .sa_flags = SA_RESTART | SA_ONSTACK | SA_NODEFER};
	struct rlimit files = {700, 900}, core = {0, 4096};
	stack_t stack = {.ss_sp = malloc(STACK), .ss_size = STACK};

	sigaddset(&handle.sa_mask, SIGRTMIN + 3);
	sigaction(SIGUSR2, &ignore, NULL);
	sigaction(SIGRTMAX, &handle, NULL);
	handle.sa_flags = (int)(SA_RESETHAND | SA_NOCLDSTOP | SA_NOCLDWAIT);
	sigaction(SIGCHLD, &handle, NULL);
	sigaltstack(&stack, NULL);
	umask(0137);
	setrlimit(RLIMIT_NOFILE, &files);
	setrlimit(RLIMIT_CORE, &core);
	personality(ADDR_NO_RANDOMIZE);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	must(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0), "membarrier");
	setpriority(PRIO_PROCESS, 0, -3);
	FILE *file = fopen("/proc/self/oom_score_adj", "w");
	fputs("321", file);
	fclose(file);
}

void process(void)
{
	struct sched_param param = {.sched_priority = 7};
	pthread_t thread;
	gid_t groups[] = {7, 1000, 4000000000u};

	take_state();
	pthread_barrier_init(&ready, NULL, 2);
	pthread_barrier_init(&told, NULL, 2);
	pthread_create(&thread, NULL, other_thread, NULL);
	pthread_barrier_wait(&ready);
	must(sched_setscheduler(0, SCHED_RR, &param), "realtime");
	must((long)syscall(SYS_setgroups, 3, groups), "setgroups");
	before_and_after(both_facts);
}

/* capabilities: root without privileges, with some capabilities, one of them ambient, and locked secure bits. */
static void set_capabilities(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
	struct {
		uint32_t version;
		int pid;
	} head = {0x20080522, 0};
	uint32_t data[6] = {(uint32_t)effective,	 (uint32_t)permitted,	      (uint32_t)inheritable,
			    (uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32)};

	must(syscall(SYS_capset, &head, data), "capset");
}

void capabilities(void)
{
	uint64_t some = 1 << 10 | 1 << 6 | 1ull << 38;

	take_state();
	must(prctl(PR_CAPBSET_DROP, 22, 0, 0, 0), "bounding");
	must(prctl(PR_CAPBSET_DROP, 38, 0, 0, 0), "bounding");
	must(prctl(PR_SET_SECUREBITS, 0x2f & ~0x10),
	     "securebits"); /* noroot, no_setuid_fixup, both locked, keep_caps locked */
	set_capabilities(some | 1 << 8, some | 1 << 8, 1 << 10 | 1 << 5);
	must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 10, 0, 0), "ambient");
	set_capabilities(1 << 10, some, 1 << 10 | 1 << 5);
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
	must(prctl(PR_SET_PDEATHSIG, SIGTERM), "pdeathsig");
	must(prctl(PR_SET_DUMPABLE, 0), "dumpable");
	umask(0);
	before_and_after(process_facts);
}

/* filters: a filter of all threads, and one of the process's first thread beside it, which refuse two calls by two errors. */
static void install(unsigned flags, uint32_t call, uint32_t error)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(*code), code};

	must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program), "seccomp");
}

static int answer_of(long call)
{
	errno = 0;
	syscall(call, 0, 0, 0, 0, 0);
	return errno;
}

static int thread_answers[3];

static void *filtered(void *unused)
{
	(void)unused;
	for (int n = 0; n < 2; n++) {
		pthread_barrier_wait(&ready);
		thread_answers[0] = answer_of(SYS_getppid);
		thread_answers[1] = answer_of(SYS_munmap);
		thread_answers[2] = answer_of(SYS_getpgrp);
		pthread_barrier_wait(&told);
	}
	pause();
	return NULL;
}

static void filter_facts(void)
{
	tell("process: getppid %d munmap %d getpgrp %d", answer_of(SYS_getppid), answer_of(SYS_munmap),
	     answer_of(SYS_getpgrp));
	pthread_barrier_wait(&ready);
	pthread_barrier_wait(&told);
	tell("thread: getppid %d munmap %d getpgrp %d", thread_answers[0], thread_answers[1], thread_answers[2]);
	lines_of("/proc/thread-self/status", (const char *const[]){"Seccomp", "NoNewPrivs", NULL});
}

/* Filters that go on when the program has given up the right to install more. */
static void filter_calls(int apart)
{
	pthread_t thread;

	pthread_barrier_init(&ready, NULL, 2);
	pthread_barrier_init(&told, NULL, 2);
	pthread_create(&thread, NULL, filtered, NULL);
	install(SECCOMP_FILTER_FLAG_TSYNC, SYS_getppid, 77);
	install(SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_LOG, SYS_munmap, 78);
	if (apart)
		install(0, SYS_getpgrp, 79);
	set_capabilities(0, 0, 0);
	before_and_after(filter_facts);
}

void filters(void)
{
	filter_calls(0);
}

void filters_apart(void)
{
	filter_calls(1);
}

/* strict: a child that may only read, write and exit. */
void strict(void)
{
	int to[2], from[2], status;
	char byte = 0;
	pid_t child;

	must(pipe(to), "pipe");
	must(pipe(from), "pipe");
	child = fork();
	if (!child) {
		must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT), "strict");
		while (syscall(SYS_read, to[0], &byte, 1) == 1 && byte != 'k')
			syscall(SYS_write, from[1], &byte, 1);
		syscall(SYS_getppid);
		syscall(SYS_exit, 3);
	}
	usleep(100000);
	make("ready");
	await("go");
	must(write(to[1], "a", 1), "write");
	must(read(from[0], &byte, 1), "read");
	must(write(to[1], "k", 1), "write");
	must(waitpid(child, &status, 0), "waitpid");
	out = fopen("after.unfinished", "w");
	tell("answer %c, killed by %d", byte, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
	fclose(out);
	must(rename("after.unfinished", "after"), "after");
}

/* rooted: a root directory and a folder below it. */
static void rooted_facts(void)
{
	char path[256] = "";

	tell("cwd %s", getcwd(path, sizeof(path)) ? path : "none");
	tell("root %d outside %d", access("/below/mark", F_OK), access("/usr", F_OK));
}

void rooted(void)
{
	must(mkdir("below", 0777), "below");
	must(chroot("."), "chroot");
	must(chdir("below"), "chdir");
	make("mark");
	out = fopen("/before", "w");
	rooted_facts();
	fclose(out);
	make("/ready");
	await("/go");
	out = fopen("/after.unfinished", "w");
	rooted_facts();
	fclose(out);
	must(rename("/after.unfinished", "/after"), "after");
}
