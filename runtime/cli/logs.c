/* `tailrace logs DIR`: prints the lines of local log segments (runtime/record/segment.c), also of those that still
 * grow, and remembers how far it came. A segment that cannot be written any more is finished. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "cli/args.h"
#include "cli/cli.h"
#include "record/segment_reader.h"

#define LOOK_MS 1000 /* between two looks where the kernel does not tell */

struct segment {
	struct segment *next; /* in the order of the names */
	char *name;
	struct tr_segment_reader *reader; /* while it is open */
	uint64_t lines;                   /* read so far */
	uint64_t skip;                    /* of these, printed by an earlier run */
	bool done;
};

struct logs {
	const char *dir, *pattern, *checkpoint;
	bool follow, newest, escape;
	struct segment *segments;
	int dirfd, notify; /* notify -1: not to be had */
	bool changed;      /* since the last checkpoint */
	bool damaged, closed;
	int status; /* of the process */
};

static volatile sig_atomic_t stopped;

static void
stop(int number)
{
	(void)number;
	stopped = 1;
}

/* --- segments ------------------------------------------------------------------------------------------------ */

static struct segment *
find(struct logs *logs, const char *name, bool add)
{
	struct segment **at = &logs->segments, *segment;

	while (*at != NULL && strcmp((*at)->name, name) < 0)
		at = &(*at)->next;
	if (*at != NULL && strcmp((*at)->name, name) == 0)
		return *at;
	segment = add ? calloc(1, sizeof *segment) : NULL;
	if (segment == NULL)
		return NULL;
	segment->name = strdup(name);
	if (segment->name == NULL) {
		free(segment);
		return NULL;
	}
	segment->next = *at;
	*at = segment;
	return segment;
}

static void
close_segment(struct segment *segment)
{
	tr_segment_reader_free(segment->reader);
	segment->reader = NULL;
}

static bool
is_segment(const struct logs *logs, const char *name)
{
	struct stat info;

	return name[0] != '.' && strchr(name, '\n') == NULL && fnmatch(logs->pattern, name, 0) == 0 &&
	       fstatat(logs->dirfd, name, &info, 0) == 0 && S_ISREG(info.st_mode);
}

/* Adds the segments that are new in the directory. False without memory, or when it cannot be read. */
static bool
scan(struct logs *logs)
{
	DIR *dir = opendir(logs->dir);
	struct dirent *entry;
	bool ok = dir != NULL;

	while (ok && (entry = readdir(dir)) != NULL)
		if (is_segment(logs, entry->d_name))
			ok = find(logs, entry->d_name, true) != NULL;
	if (!ok) {
		fprintf(stderr, "tailrace logs: %s: %s\n", logs->dir, dir == NULL ? strerror(errno) : "out of memory");
		logs->status = dir == NULL ? TR_EXIT_NOINPUT : TR_EXIT_OSERR;
	}
	if (dir != NULL)
		closedir(dir);
	return ok;
}

/* --- lines ---------------------------------------------------------------------------------------------------- */

static void
print(struct logs *logs, const char *data, size_t len)
{
	bool ok = true;

	if (!logs->escape) {
		ok = fwrite(data, 1, len, stdout) == len;
	} else {
		for (size_t i = 0; ok && i < len; i++) {
			unsigned char c = (unsigned char)data[i];
			ok = (c < 0x20 && c != '\t') || c == 0x7f ? printf("\\x%02x", c) > 0 : putchar(c) != EOF;
		}
	}
	if (!ok || putchar('\n') == EOF)
		logs->closed = true;
}

static void
line(struct logs *logs, struct segment *segment, const char *data, size_t len)
{
	segment->lines++;
	logs->changed = true;
	if (segment->lines > segment->skip)
		print(logs, data, len);
}

static void
damage(struct logs *logs, struct segment *segment, const char *what)
{
	fprintf(stderr, "tailrace logs: %s/%s: damaged behind line %llu: %s\n", logs->dir, segment->name,
		(unsigned long long)segment->lines, what);
	logs->damaged = true;
	segment->done = true;
}

static bool
open_segment(struct logs *logs, struct segment *segment)
{
	int fd;

	if (segment->reader != NULL)
		return true;
	fd = openat(logs->dirfd, segment->name, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && tr_segment_reader_new(fd, &segment->reader) == TR_OK)
		return true;
	if (fd >= 0 || errno != ENOENT) { /* one that was cleared away is no mistake */
		fprintf(stderr, "tailrace logs: %s/%s: %s\n", logs->dir, segment->name,
			fd >= 0 ? "out of memory" : strerror(errno));
		logs->damaged = true;
	}
	segment->done = true;
	return false;
}

/* Prints what there is of a segment. */
static void
pump(struct logs *logs, struct segment *segment)
{
	struct tr_segment_lines got = {.state = TR_SEGMENT_MORE};

	if (!open_segment(logs, segment))
		return;
	while (got.state == TR_SEGMENT_MORE && !logs->closed && !stopped) {
		const char *at, *end;

		tr_segment_reader_read(segment->reader, SIZE_MAX, &got);
		at = got.text.data;
		for (size_t i = 0; i < got.count && !logs->closed; i++, at = end + 1) {
			end = memchr(at, '\n', got.text.len - (size_t)(at - got.text.data));
			line(logs, segment, at, (size_t)(end - at));
		}
		tr_buf_free(&got.text);
	}
	if (got.state == TR_SEGMENT_FINISHED) {
		struct tr_str begun = tr_segment_reader_begun(segment->reader);

		if (begun.len > 0)
			line(logs, segment, begun.data, begun.len);
		segment->done = true;
	} else if (got.state == TR_SEGMENT_DAMAGED) {
		damage(logs, segment, got.damage);
	} else if (got.state == TR_SEGMENT_FAILED) {
		damage(logs, segment, got.errnum == ENOMEM ? "out of memory" : strerror(got.errnum));
	}
	if (segment->done) {
		logs->changed = true;
		close_segment(segment);
	}
}

/* --- checkpoint ----------------------------------------------------------------------------------------------- */

/* Lines "done NAME" and "LINES NAME"; NULL: out of memory. */
static char *
checkpoint_path(const struct logs *logs, const char *suffix)
{
	char *path = NULL;

	return asprintf(&path, "%s/.%s%s", logs->dir, logs->checkpoint, suffix) < 0 ? NULL : path;
}

static void
load_checkpoint(struct logs *logs)
{
	char *path = checkpoint_path(logs, ""), *text = NULL;
	FILE *file = path != NULL ? fopen(path, "re") : NULL;
	size_t cap = 0;
	ssize_t len;

	while (file != NULL && (len = getline(&text, &cap, file)) > 0) {
		char *name = strchr(text, ' ');
		struct segment *segment;

		if (text[len - 1] != '\n' || name == NULL)
			continue; /* not whole */
		text[len - 1] = '\0';
		*name++ = '\0';
		segment = is_segment(logs, name) ? find(logs, name, true) : NULL;
		if (segment == NULL)
			continue;
		segment->done = strcmp(text, "done") == 0;
		segment->skip = segment->done ? 0 : strtoull(text, NULL, 10);
	}
	free(text);
	if (file != NULL)
		fclose(file);
	free(path);
}

static void
save_checkpoint(struct logs *logs)
{
	char *path = checkpoint_path(logs, ""), *fresh = checkpoint_path(logs, ".new");
	FILE *file = path != NULL && fresh != NULL ? fopen(fresh, "we") : NULL;
	bool ok = file != NULL;

	for (struct segment *segment = logs->segments; ok && segment != NULL; segment = segment->next) {
		uint64_t lines = segment->lines > segment->skip ? segment->lines : segment->skip;
		if (segment->done && faccessat(logs->dirfd, segment->name, F_OK, 0) != 0)
			continue; /* cleared away */
		ok = segment->done ? fprintf(file, "done %s\n", segment->name) > 0
				   : fprintf(file, "%llu %s\n", (unsigned long long)lines, segment->name) > 0;
	}
	if (file != NULL)
		ok = fclose(file) == 0 && ok;
	if (!ok || rename(fresh, path) != 0) {
		fprintf(stderr, "tailrace logs: the checkpoint %s cannot be written: %s\n", path ? path : "",
			strerror(errno));
		logs->status = TR_EXIT_IOERR;
	}
	free(path);
	free(fresh);
	logs->changed = false;
}

/* --- the loop --------------------------------------------------------------------------------------------------- */

/* What was printed has left this process; only then it counts. */
static void
settle(struct logs *logs)
{
	if (fflush(stdout) != 0)
		logs->closed = true;
	if (!logs->closed && logs->changed && logs->checkpoint != NULL)
		save_checkpoint(logs);
}

static void
wait_for_more(struct logs *logs)
{
	char events[4096];
	struct pollfd poll_fd = {logs->notify, POLLIN, 0};

	if (poll(&poll_fd, 1, LOOK_MS) > 0)
		while (read(logs->notify, events, sizeof events) > 0)
			;
}

static void
only_newest(struct logs *logs)
{
	for (struct segment *segment = logs->segments; segment != NULL; segment = segment->next)
		segment->done = segment->next != NULL;
}

static void
run(struct logs *logs)
{
	if (logs->checkpoint != NULL && !logs->newest)
		load_checkpoint(logs);
	for (bool first = true; scan(logs); first = false) {
		if (first && logs->newest)
			only_newest(logs);
		for (struct segment *segment = logs->segments; segment != NULL && !logs->closed && !stopped;
			segment = segment->next) {
			if (segment->done)
				continue;
			pump(logs, segment);
			if (segment->done)
				settle(logs);
		}
		settle(logs);
		if (!logs->follow || logs->closed || stopped || logs->status != TR_EXIT_OK)
			break;
		wait_for_more(logs);
	}
	if (logs->status == TR_EXIT_OK && logs->damaged)
		logs->status = TR_EXIT_DATAERR;
}

int
tr_cmd_logs(int argc, char **argv)
{
	struct logs logs = {.pattern = "*", .notify = -1};
	struct tr_arg_list rest = {0};
	const struct tr_arg options[] = {
		{"follow", NULL, TR_ARG_FLAG, &logs.follow, 0, 0, "go on with what is written from now on"},
		{"tail", NULL, TR_ARG_FLAG, &logs.newest, 0, 0,
			"begin with the newest segment, whatever the checkpoint says"},
		{"pattern", "GLOB", TR_ARG_TEXT, &logs.pattern, 0, 0, "names of segments; default *"},
		{"checkpoint", "NAME", TR_ARG_TEXT, &logs.checkpoint, 0, 0,
			"remember in DIR/.NAME what has been printed, and go on there the next time"},
		{NULL, NULL, 0, NULL, 0, 0, NULL},
	};
	const struct tr_args args = {
		"logs",
		"DIR [--follow] [OPTIONS]",
		"Prints the lines of the local log segments in a directory, in the order of their names, without "
		"compression.",
		options,
		"Exit status: 0, 65 a segment is damaged (the others were printed), 66 the directory cannot be read, "
		"74 the "
		"checkpoint\ncannot be written.",
		&rest,
	};
	struct sigaction action = {.sa_handler = stop};
	int status = tr_args_parse(&args, argc, argv);

	if (status == TR_ARGS_RUN && rest.count != 1)
		status = tr_args_error(&args, "one DIR is required");
	if (status == TR_ARGS_RUN && logs.checkpoint != NULL && strchr(logs.checkpoint, '/') != NULL)
		status = tr_args_error(
			&args, "--checkpoint %s: a name is expected, the file is in DIR", logs.checkpoint);
	if (status == TR_ARGS_RUN)
		logs.dir = rest.items[0];
	tr_arg_list_free(&rest);
	if (status != TR_ARGS_RUN)
		return status;
	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	logs.escape = isatty(STDOUT_FILENO);
	logs.dirfd = open(logs.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (logs.follow) {
		logs.notify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
		if (logs.notify >= 0)
			inotify_add_watch(logs.notify, logs.dir, IN_MODIFY | IN_CREATE | IN_ATTRIB | IN_MOVED_TO);
	}
	run(&logs);
	while (logs.segments != NULL) {
		struct segment *segment = logs.segments;
		logs.segments = segment->next;
		close_segment(segment);
		free(segment->name);
		free(segment);
	}
	if (logs.notify >= 0)
		close(logs.notify);
	if (logs.dirfd >= 0)
		close(logs.dirfd);
	return logs.status;
}
