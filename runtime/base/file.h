/* Every file operation of the runtime goes through this table, so that tests can fail the Nth
 * call, write short, fill the disk, or cut the power (spec/sim/disk.h). Results are counts
 * or -errno. Paths are NUL-terminated. Any thread. */
#ifndef TR_FILE_H
#define TR_FILE_H

#include <sys/stat.h>
#include <sys/uio.h>

#include "base/base.h"

struct tr_file_space {
	uint64_t free_bytes, total_bytes, free_inodes, total_inodes;
};

struct tr_file_ops {
	int (*open)(const char *path, int flags, int mode);
	int (*close)(int fd);
	ssize_t (*pread)(int fd, void *data, size_t len, off_t at);
	ssize_t (*pwritev)(int fd, const struct iovec *iov, int count, off_t at);
	int (*fdatasync)(int fd);
	int (*truncate)(int fd, off_t len);
	int (*allocate)(int fd, off_t len); /* zero-filled and really written blocks up to len, not a hole */
	int (*rename)(const char *from, const char *to);
	int (*unlink)(const char *path);
	int (*mkdir)(const char *path, int mode);
	int (*sync_dir)(const char *path); /* fsync of the directory: makes names durable */
	int (*stat)(const char *path, struct stat *out);
	int (*list)(const char *path, int (*each)(void *arg, const char *name), void *arg);
	int (*space)(const char *path, struct tr_file_space *out);
	int (*lock)(int fd); /* exclusive, not waiting: -EWOULDBLOCK if another process has it */
	int (*chmod)(const char *path, int mode);
};

extern const struct tr_file_ops tr_file_real;
/* The table in use; tests swap it before they start any thread. */
#ifndef TR_UNCHECKED
extern const struct tr_file_ops *tr_file;
#else /* what it costs that it may be swapped: `sh spec/bench/run.sh checks` */
#define tr_file (&tr_file_real)
#endif

/* Loops over short counts and EINTR. Return 0 or -errno (read_all: count, less only at the end). */
int tr_file_write_all(int fd, const void *data, size_t len, off_t at);
int tr_file_writev_all(int fd, struct iovec *iov, int count, off_t at); /* changes iov */
ssize_t tr_file_read_all(int fd, void *data, size_t len, off_t at);
/* mkdir -p. 0 or -errno. */
int tr_file_mkdirs(const char *path, int mode);
/* Reads a whole file into *out (malloc, NUL added, caller frees); 0 or -errno. */
int tr_file_slurp(const char *path, char **out, size_t *len);

/* Limits as in contract/queues.md section 9: "10%" or bytes. */
struct tr_space_limit {
	double percent; /* <= 0: use bytes */
	uint64_t bytes;
};
bool tr_space_ok(const struct tr_space_limit *limit, uint64_t free_units, uint64_t total_units);

#endif
