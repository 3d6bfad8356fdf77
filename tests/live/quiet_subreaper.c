// SPDX-License-Identifier: Apache-2.0
// Becomes a subreaper by a 32-bit system call, which no tracepoint of the 64-bit one sees; then has an orphan, and prints its
// number. Ends with its standard input, and the orphan with it.
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <signal.h>

#define NR_PRCTL_32 172

int main(void)
{
	long result = NR_PRCTL_32;
	int ready[2];
	pid_t middle, orphan;

	__asm__ volatile("int $0x80"
			 : "+a"(result)
			 : "b"(PR_SET_CHILD_SUBREAPER), "c"(1), "d"(0), "S"(0), "D"(0)
			 : "memory");
	if (result || pipe(ready))
		return 1;
	middle = fork();
	if (!middle) {
		orphan = fork();
		if (!orphan) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			pause();
			_exit(0);
		}
		if (write(ready[1], &orphan, sizeof(orphan)) != sizeof(orphan))
			_exit(1);
		_exit(0);
	}
	if (waitpid(middle, 0, 0) != middle || read(ready[0], &orphan, sizeof(orphan)) != sizeof(orphan))
		return 1;
	printf("%d\n", orphan);
	fflush(stdout);
	(void)getchar();
	kill(orphan, SIGKILL);
	return 0;
}
