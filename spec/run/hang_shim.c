/* LD_PRELOAD: threads that hang. While the file $TAILRACE_HANG exists with the text "MODE CALL THREAD", the call
 * (accept4, read or fdatasync) does not return in the threads of this name: MODE loop spins, MODE dead waits in the
 * kernel and takes no signal, as on a disk or a network file system that does not answer. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

void hang_in_a_loop(const char *path);

void
hang_in_a_loop(const char *path)
{
	while (access(path, F_OK) == 0)
		for (volatile int i = 0; i < 100000000; i++)
			;
}

static void
hang(const char *call)
{
	const char *path = getenv("TAILRACE_HANG");
	char text[128] = "", mode[16], which[16], thread[32], name[32];
	int saved = errno, fd;

	if (path == NULL)
		return;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		if (REAL(read)(fd, text, sizeof text - 1) < 0)
			text[0] = '\0';
		close(fd);
	}
	if (sscanf(text, "%15s %15s %31s", mode, which, thread) == 3 && strcmp(which, call) == 0 &&
		pthread_getname_np(pthread_self(), name, sizeof name) == 0 && strcmp(name, thread) == 0) {
		if (strcmp(mode, "loop") == 0) {
			hang_in_a_loop(path);
		} else if (vfork() == 0) { /* the parent waits in the kernel until it ends */
			while (access(path, F_OK) == 0)
				usleep(10000);
			_exit(0);
		}
	}
	errno = saved;
}

int
accept4(int fd, struct sockaddr *restrict address, socklen_t *restrict len, int flags)
{
	hang("accept4");
	return REAL(accept4)(fd, address, len, flags);
}

ssize_t
read(int fd, void *data, size_t len)
{
	hang("read");
	return REAL(read)(fd, data, len);
}

int
fdatasync(int fd)
{
	hang("fdatasync");
	return REAL(fdatasync)(fd);
}
