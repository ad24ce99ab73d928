/* One series of local log segments: zstd frames of lines, read-only when finished (contract/log-record.md section 4).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <zstd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/file.h"
#include "record/internal.h"

#define OUT_BYTES (128 * 1024)
#define VISIBLE_NS TR_NS_PER_S /* how long written lines may stay inside the compressor */
#define NAME_TRIES 1000

struct tr_segments {
	char *dir, *suffix, *label;
	uint64_t max_bytes;
	int64_t max_age_ns;
	int level;
	struct tr_metric *errors;
	ZSTD_CCtx *zstd;               /* kept between segments */
	char *out;                     /* OUT_BYTES */
	int fd;                        /* -1: no open segment */
	char *path;                    /* of the open segment */
	off_t at;                      /* written to it */
	uint64_t plain_bytes;          /* lines in it, uncompressed */
	int64_t opened_ns, flushed_ns; /* monotonic */
	uint64_t unwritten;            /* records that zstd still holds */
};

int
tr_segments_new(const struct tr_segments_config *config, struct tr_segments **out)
{
	struct tr_segments *segments = calloc(1, sizeof *segments);

	*out = NULL;
	if (segments == NULL)
		return TR_ENOMEM;
	segments->dir = strdup(config->dir);
	segments->suffix = strdup(config->suffix != NULL ? config->suffix : "");
	segments->label = strdup(config->label);
	segments->max_bytes = config->max_bytes;
	segments->max_age_ns = config->max_age_ns;
	segments->level = config->level;
	segments->errors = config->errors;
	segments->fd = -1;
	segments->out = malloc(OUT_BYTES);
	segments->zstd = ZSTD_createCCtx();
	if (segments->dir == NULL || segments->suffix == NULL || segments->label == NULL || segments->out == NULL ||
		segments->zstd == NULL) {
		tr_segments_free(segments);
		return TR_ENOMEM;
	}
	(void)ZSTD_CCtx_setParameter(segments->zstd, ZSTD_c_compressionLevel, config->level);
	(void)ZSTD_CCtx_setParameter(segments->zstd, ZSTD_c_checksumFlag, 1);
	*out = segments;
	return TR_OK;
}

bool
tr_segments_are(const struct tr_segments *segments, const char *dir, const char *suffix)
{
	return strcmp(segments->dir, dir) == 0 && strcmp(segments->suffix, suffix != NULL ? suffix : "") == 0;
}

static void
forget(struct tr_segments *segments)
{
	if (segments->fd >= 0)
		(void)tr_file->close(segments->fd); /* what counts was written and its result seen */
	free(segments->path);
	segments->path = NULL;
	segments->fd = -1;
	segments->unwritten = 0;
	(void)ZSTD_CCtx_reset(segments->zstd, ZSTD_reset_session_only);
}

/* The segment ends here: what zstd held is lost, what is in the file stays readable up to the damage. */
static void
failed(struct tr_segments *segments, const char *what, const char *why)
{
	tr_metric_add(segments->errors, (int64_t)segments->unwritten);
	tr_log(TR_LEVEL_ERROR, "record", "local log %s: %s: %s; %llu records are lost",
		segments->path != NULL ? segments->path : segments->dir, what, why,
		(unsigned long long)segments->unwritten);
	forget(segments);
}

static bool
compress(struct tr_segments *segments, struct tr_str bytes, ZSTD_EndDirective how)
{
	ZSTD_inBuffer in = {bytes.data, bytes.len, 0};
	size_t left;

	do {
		ZSTD_outBuffer out = {segments->out, OUT_BYTES, 0};
		int err;

		left = ZSTD_compressStream2(segments->zstd, &out, &in, how);
		if (ZSTD_isError(left)) {
			failed(segments, "compression", ZSTD_getErrorName(left));
			return false;
		}
		if (out.pos == 0)
			continue;
		err = tr_file_write_all(segments->fd, segments->out, out.pos, segments->at);
		if (err != 0) {
			failed(segments, "write", strerror(-err));
			return false;
		}
		segments->at += (off_t)out.pos;
	} while (how == ZSTD_e_continue ? in.pos < in.size : left > 0);
	if (how != ZSTD_e_continue)
		segments->unwritten = 0;
	return true;
}

/* `YYYYMMDD-HHMMSS.fraction` with the fewest of 0, 3, 6 or 9 digits. */
static void
add_name(struct tr_buf *out, int64_t wall_ns)
{
	char text[32];
	size_t len = tr_rfc3339(wall_ns, text); /* 2026-07-25T17:20:12.250Z */

	tr_buf_addf(out, "%.4s%.2s%.2s-%.2s%.2s%.2s", text, text + 5, text + 8, text + 11, text + 14, text + 17);
	tr_buf_add(out, text + 19, len - 20);
}

static bool
open_segment(struct tr_segments *segments, int64_t now_ns)
{
	int64_t wall_ns = tr_wall_ns();
	struct tr_buf path = {0};
	int fd = -EEXIST;

	/* A name that is taken (rotation within one tick of the clock, another logger) moves on by the smallest step.
	 */
	for (int i = 0; fd == -EEXIST && i < NAME_TRIES; i++) {
		tr_buf_clear(&path);
		tr_buf_addz(&path, segments->dir);
		tr_buf_addc(&path, '/');
		add_name(&path, wall_ns + i);
		tr_buf_addz(&path, segments->suffix);
		tr_buf_addc(&path, '\0');
		fd = path.failed ? -ENOMEM : tr_file->open(path.data, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	}
	if (fd < 0) {
		tr_buf_free(&path);
		segments->unwritten++; /* the record that wanted it */
		failed(segments, "open", strerror(-fd));
		return false;
	}
	segments->fd = fd;
	segments->path = path.data;
	segments->at = 0;
	segments->plain_bytes = 0;
	segments->opened_ns = segments->flushed_ns = now_ns;
	return true;
}

/* A file that nobody may write to any more is complete. */
static void
finish(struct tr_segments *segments)
{
	struct stat stat;
	int err;

	if (segments->fd < 0 || !compress(segments, (struct tr_str){NULL, 0}, ZSTD_e_end))
		return;
	err = tr_file->stat(segments->path, &stat);
	if (err == 0)
		err = tr_file->chmod(segments->path, (int)(stat.st_mode & 07777 & ~0222u));
	if (err != 0)
		tr_log(TR_LEVEL_WARN, "record", "local log %s: cannot be marked as finished: %s", segments->path,
			strerror(-err));
	forget(segments);
}

void
tr_segments_free(struct tr_segments *segments)
{
	if (segments == NULL)
		return;
	if (segments->zstd != NULL)
		finish(segments);
	free(segments->dir);
	free(segments->suffix);
	free(segments->label);
	free(segments->out);
	ZSTD_freeCCtx(segments->zstd);
	free(segments);
}

static bool
too_old(const struct tr_segments *segments, int64_t now_ns)
{
	return segments->max_age_ns > 0 && now_ns - segments->opened_ns >= segments->max_age_ns;
}

void
tr_segments_write(struct tr_segments *segments, struct tr_str line, const char *header, int64_t now_ns)
{
	if (segments->fd >= 0 && too_old(segments, now_ns))
		finish(segments);
	if (segments->fd < 0) {
		if (!open_segment(segments, now_ns))
			return;
		if (header != NULL && header[0] != '\0') {
			segments->unwritten++; /* the record is lost with it */
			if (!compress(segments, tr_str(header), ZSTD_e_continue))
				return;
			segments->unwritten--;
			segments->plain_bytes += strlen(header);
		}
	}
	segments->unwritten++;
	if (!compress(segments, line, ZSTD_e_continue))
		return;
	segments->plain_bytes += line.len;
	if (segments->plain_bytes >= segments->max_bytes)
		finish(segments);
}

void
tr_segments_turn(struct tr_segments *segments, int64_t now_ns)
{
	if (segments->fd < 0)
		return;
	if (too_old(segments, now_ns)) {
		finish(segments);
	} else if (segments->unwritten > 0 && now_ns - segments->flushed_ns >= VISIBLE_NS) {
		segments->flushed_ns = now_ns;
		(void)compress(segments, (struct tr_str){NULL, 0}, ZSTD_e_flush);
	}
}

int64_t
tr_segments_next_ns(const struct tr_segments *segments)
{
	int64_t next_ns = INT64_MAX;

	if (segments->fd < 0)
		return next_ns;
	if (segments->max_age_ns > 0)
		next_ns = segments->opened_ns + segments->max_age_ns;
	if (segments->unwritten > 0)
		next_ns = tr_min_i64(next_ns, segments->flushed_ns + VISIBLE_NS);
	return next_ns;
}

struct marking {
	const char *dir;
};

static int
mark_one(void *arg, const char *name)
{
	const struct marking *marking = arg;
	struct tr_buf path = {0};
	struct stat stat;
	int err = -ENOMEM;

	if (name[0] == '.')
		return 0;
	tr_buf_addf(&path, "%s/%s%c", marking->dir, name, 0);
	if (!path.failed)
		err = tr_file->stat(path.data, &stat);
	if (err == 0 && S_ISREG(stat.st_mode) && (stat.st_mode & 0222) != 0)
		err = tr_file->chmod(path.data, (int)(stat.st_mode & 07777 & ~0222u));
	if (err != 0)
		tr_log(TR_LEVEL_WARN, "record", "local log %s/%s: cannot be marked as finished: %s", marking->dir, name,
			strerror(-err));
	tr_buf_free(&path);
	return 0;
}

void
tr_segments_mark_old(const char *dir)
{
	struct marking marking = {dir};
	int err = tr_file->list(dir, mark_one, &marking);

	if (err < 0)
		tr_log(TR_LEVEL_WARN, "record", "local log directory %s: %s", dir, strerror(-err));
}
