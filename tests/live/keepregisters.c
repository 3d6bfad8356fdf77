/* SPDX-License-Identifier: Apache-2.0 */
/* Registers and threads. */
#include "statekeeper.h"

/* registers: each thread keeps values of its own in all registers of SSE, AVX and AVX-512, x87, MXCSR and the general ones. */
#if defined(__x86_64__)
struct kept {
	uint64_t vectors[32][8], masks[8], general[8];
	uint8_t x87[10];
	uint32_t mxcsr;
	uint16_t control;
};
static volatile uint32_t *flag;
static int has_avx512;

/* Load all registers from `kept`, spin until the flag is set, and store them there. */
static void keep_registers(struct kept *kept)
{
	__asm__ volatile("fninit; fldcw %[control]; fldt %[x87]; ldmxcsr %[mxcsr]\n"
			 :
			 : [control] "m"(kept->control), [x87] "m"(kept->x87), [mxcsr] "m"(kept->mxcsr));
#define EACH16(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7) x(8) x(9) x(10) x(11) x(12) x(13) x(14) x(15)
#define EACH16B(x) x(16) x(17) x(18) x(19) x(20) x(21) x(22) x(23) x(24) x(25) x(26) x(27) x(28) x(29) x(30) x(31)
#define EACH8(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7)
#define LOAD512(n) "vmovdqu64 64*" #n "(%[kept]), %%zmm" #n "\n"
#define SAVE512(n) "vmovdqu64 %%zmm" #n ", 64*" #n "(%[kept])\n"
#define LOADK(n) "kmovq 2048+8*" #n "(%[kept]), %%k" #n "\n"
#define SAVEK(n) "kmovq %%k" #n ", 2048+8*" #n "(%[kept])\n"
#define LOAD256(n) "vmovdqu 64*" #n "(%[kept]), %%ymm" #n "\n"
#define SAVE256(n) "vmovdqu %%ymm" #n ", 64*" #n "(%[kept])\n"
#define LOADG \
	"mov 2112(%[kept]), %%r8; mov 2120(%[kept]), %%r9; mov 2128(%[kept]), %%r10; mov 2136(%[kept]), %%r11\n" \
	"mov 2144(%[kept]), %%r12; mov 2152(%[kept]), %%r13; mov 2160(%[kept]), %%r14; mov 2168(%[kept]), %%r15\n"
#define SAVEG \
	"mov %%r8, 2112(%[kept]); mov %%r9, 2120(%[kept]); mov %%r10, 2128(%[kept]); mov %%r11, 2136(%[kept])\n" \
	"mov %%r12, 2144(%[kept]); mov %%r13, 2152(%[kept]); mov %%r14, 2160(%[kept]); mov %%r15, 2168(%[kept])\n"
#define SPIN "1: pause; cmpl $0, (%[flag]); je 1b\n"
#define GENERALS "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc"
	if (has_avx512)
		__asm__ volatile(EACH16(LOAD512) EACH16B(LOAD512) EACH8(LOADK) LOADG SPIN SAVEG EACH8(SAVEK)
					 EACH16(SAVE512) EACH16B(SAVE512)
				 :
				 : [kept] "D"(kept), [flag] "S"(flag)
				 : GENERALS);
	else
		__asm__ volatile(EACH16(LOAD256) LOADG SPIN SAVEG EACH16(SAVE256)
				 :
				 : [kept] "D"(kept), [flag] "S"(flag)
				 : GENERALS);
	__asm__ volatile("stmxcsr %[mxcsr]; fstpt %[x87]; fnstcw %[control]; fninit; ldmxcsr %[usual]\n"
			 : [control] "=m"(kept->control), [x87] "=m"(kept->x87), [mxcsr] "=m"(kept->mxcsr)
			 : [usual] "m"((uint32_t){0x1f80}));
}

static int differs[THREADS];

static void *with_registers(void *index)
{
	long me = (long)index;
	static struct kept kept[THREADS], wanted[THREADS];
	struct kept *mine = &wanted[me];

	for (size_t n = 0; n < sizeof(*mine); n++)
		((uint8_t *)mine)[n] = (uint8_t)(n * 7 + n / 251 + (size_t)me * 31 + 1);
	memcpy(mine->x87, "\1\2\3\4\5\6\7\x88\1\x40", sizeof(mine->x87));
	mine->mxcsr = 0x1f80 | (uint32_t)me << 13; /* rounding */
	mine->control = (uint16_t)(0x37f | me << 10);
	kept[me] = *mine;
	pthread_barrier_wait(&ready);
	keep_registers(&kept[me]);
	differs[me] = memcmp(mine->general, kept[me].general, sizeof(mine->general)) != 0;
	differs[me] |= (memcmp(mine->vectors, kept[me].vectors, sizeof(mine->vectors)) != 0) << 1;
	differs[me] |= (memcmp(mine->masks, kept[me].masks, sizeof(mine->masks)) != 0) << 2;
	differs[me] |= (memcmp(mine->x87, kept[me].x87, sizeof(mine->x87)) != 0) << 3;
	differs[me] |= (mine->mxcsr != kept[me].mxcsr) << 4;
	differs[me] |= (mine->control != kept[me].control) << 5;
	pthread_barrier_wait(&told);
	return NULL;
}

static void register_facts(void)
{
	for (int n = 0; n < THREADS; n++)
		tell("thread %d differs %x avx512 %d", n, differs[n], has_avx512);
}

void registers(void)
{
	pthread_t thread;
	int file = (int)must(open("go-word", O_CREAT | O_RDWR, 0666), "go-word");

	must(ftruncate(file, 4096), "ftruncate");
	flag = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
	pthread_barrier_init(&ready, NULL, THREADS + 1);
	pthread_barrier_init(&told, NULL, THREADS + 1);
	for (long n = 0; n < THREADS; n++)
		pthread_create(&thread, NULL, with_registers, (void *)n);
	pthread_barrier_wait(&ready);
	tell_to("before", register_facts);
	usleep(100000);
	make("ready");
	await("go");
	*flag = 1;
	pthread_barrier_wait(&told);
	tell_to("after", register_facts);
}
#endif

/* robust: a thread that holds a robust mutex ends after the restart, and the next owner learns of it. */
static pthread_mutex_t robust_mutex;

static void *owner(void *unused)
{
	(void)unused;
	pthread_mutex_lock(&robust_mutex);
	pthread_barrier_wait(&ready);
	await("go");
	return NULL;
}

static void robust_facts(void)
{
	tell("lock %s", strerror(pthread_mutex_lock(&robust_mutex)));
	tell("join and thread-local %d", errno);
}

void robust(void)
{
	pthread_mutexattr_t kind;
	pthread_t thread;

	pthread_mutexattr_init(&kind);
	pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust_mutex, &kind);
	pthread_barrier_init(&ready, NULL, 2);
	pthread_create(&thread, NULL, owner, NULL);
	pthread_barrier_wait(&ready);
	make("ready");
	await("go");
	pthread_join(thread, NULL); /* the kernel clears the word of the thread's number */
	errno = 0;
	tell_to("after", robust_facts);
}

/* family: a zombie with an exit code, one killed, a stopped child with two threads, and a child that lives. */
static void *counting(void *count)
{
	for (;;)
		++*(volatile uint64_t *)count;
	return NULL;
}

void family(void)
{
	volatile uint64_t *count = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), then;
	int status, killed, exited;
	pid_t one, other, stopped;
	siginfo_t info;
	pthread_t thread;

	one = fork();
	if (!one)
		_exit(42);
	other = fork();
	if (!other)
		for (;;)
			pause();
	kill(other, SIGUSR1);
	stopped = fork();
	if (!stopped) {
		pthread_create(&thread, NULL, counting, (void *)count);
		for (;;)
			pause();
	}
	while (!*count)
		usleep(1000);
	setpgid(stopped, stopped); /* its parent is in another group of the session: the group is no orphan */
	kill(stopped, SIGTSTP);
	must(waitid(P_PID, (id_t)stopped, &info, WSTOPPED | WNOWAIT), "stopped");
	then = *count;
	make("ready");
	await("go");
	usleep(100000);
	out = fopen("after.unfinished", "w");
	must(waitpid(stopped, &status, WUNTRACED), "stopped");
	tell("stood still %d, stopped by %d", then == *count, WSTOPSIG(status));
	must(waitpid(one, &exited, 0), "one");
	must(waitpid(other, &killed, 0), "other");
	tell("exited %d killed by %d", WEXITSTATUS(exited), WTERMSIG(killed));
	kill(stopped, SIGCONT);
	for (int n = 0; n < PATIENCE && then == *count; n++)
		usleep(1000);
	tell("goes on %d", then != *count);
	kill(stopped, SIGKILL);
	fclose(out);
	must(rename("after.unfinished", "after"), "after");
}

#if defined(__x86_64__)
/* sequence: a thread stays within a restartable sequence; a signal makes it begin anew, as long as the kernel knows of it. */
static volatile uint32_t leave;
static volatile uint32_t begun_anew;

static void *in_sequence(void *unused)
{
	uint64_t *sequence = (uint64_t *)((char *)__builtin_thread_pointer() + __rseq_offset + 8);

	(void)unused;
	pthread_barrier_wait(&ready);
	__asm__ volatile(".pushsection .data.sequence, \"aw\"\n"
			 ".balign 32\n"
			 "7: .long 0, 0\n"
			 ".quad 1f, 2f - 1f, 4f\n"
			 ".popsection\n"
			 "jmp 3f\n"
			 ".long 0x53053053\n" /* the signature before the place where the kernel goes on */
			 "4: incl %[anew]\n"
			 "3: lea 7b(%%rip), %%rax\n"
			 "mov %%rax, (%[sequence])\n"
			 "1: pause\n"
			 "cmpl $0, %[leave]\n"
			 "je 1b\n"
			 "2: movq $0, (%[sequence])\n"
			 : [anew] "+m"(begun_anew)
			 : [leave] "m"(leave), [sequence] "r"(sequence)
			 : "rax", "memory", "cc");
	pthread_barrier_wait(&told);
	return NULL;
}

static void nothing(int number)
{
	(void)number;
}

void sequence(void)
{
	struct sigaction action = {.sa_handler = nothing};
	pthread_t thread;
	uint32_t before;

	sigaction(SIGUSR1, &action, NULL);
	pthread_barrier_init(&ready, NULL, 2);
	pthread_barrier_init(&told, NULL, 2);
	pthread_create(&thread, NULL, in_sequence, NULL);
	pthread_barrier_wait(&ready);
	usleep(100000);
	make("ready");
	await("go");
	before = begun_anew;
	pthread_kill(thread, SIGUSR1);
	for (int n = 0; n < 1000 && begun_anew == before; n++)
		usleep(1000);
	leave = 1;
	pthread_barrier_wait(&told);
	out = fopen("after.unfinished", "w");
	tell("a signal has it begin anew: %d", begun_anew != before);
	fclose(out);
	must(rename("after.unfinished", "after"), "after");
}
#endif
