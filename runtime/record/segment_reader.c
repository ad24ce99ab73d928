#include "record/segment_reader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>
#include <zstd_errors.h>

#define IN_BYTES (128U * 1024)
#define BLOCK_HEADER 3             /* bytes, which zstd would like to have together with the block before */
#define LINE_MAX_BYTES (64U << 20) /* a longer line is damage */
#define CHUNK_BYTES (4U << 20)     /* lines of one read */

struct tr_segment_reader {
	int fd;
	ZSTD_DCtx *zstd;
	char *in; /* IN_BYTES */
	ZSTD_inBuffer rest;
	size_t wanted; /* bytes to the end of what zstd decodes next and of the header after it; 0: a frame begins */
	bool spoilt;   /* there was no memory: it cannot go on without losing lines */
	struct tr_buf line; /* decoded, its end is not there yet */
};

int
tr_segment_reader_new(int fd, struct tr_segment_reader **out)
{
	struct tr_segment_reader *reader = calloc(1, sizeof *reader);

	*out = NULL;
	if (reader == NULL) {
		close(fd);
		return TR_ENOMEM;
	}
	reader->fd = fd;
	reader->zstd = ZSTD_createDCtx();
	reader->in = malloc(IN_BYTES);
	if (reader->zstd == NULL || reader->in == NULL) {
		tr_segment_reader_free(reader);
		return TR_ENOMEM;
	}
	*out = reader;
	return TR_OK;
}

void
tr_segment_reader_free(struct tr_segment_reader *reader)
{
	if (reader == NULL)
		return;
	close(reader->fd);
	ZSTD_freeDCtx(reader->zstd);
	tr_buf_free(&reader->line);
	free(reader->in);
	free(reader);
}

struct tr_str
tr_segment_reader_begun(const struct tr_segment_reader *reader)
{
	return (struct tr_str){reader->line.data, reader->line.len};
}

/* Moves whole lines, as many as are wanted; false: these are enough. */
static bool
take_lines(struct tr_segment_reader *reader, size_t max_lines, struct tr_segment_lines *out)
{
	struct tr_buf *line = &reader->line;
	size_t at = 0;

	while (out->count < max_lines && out->text.len < CHUNK_BYTES) {
		const char *end = at < line->len ? memchr(line->data + at, '\n', line->len - at) : NULL;
		if (end == NULL)
			break;
		size_t len = (size_t)(end - line->data) + 1 - at;
		tr_buf_add(&out->text, line->data + at, len);
		out->count++;
		at += len;
	}
	tr_buf_consume(line, at);
	return out->count < max_lines && out->text.len < CHUNK_BYTES;
}

static bool
fail(struct tr_segment_lines *out, int errnum)
{
	out->state = TR_SEGMENT_FAILED;
	out->errnum = errnum;
	return false;
}

static bool
damaged(struct tr_segment_lines *out, const char *what)
{
	out->state = TR_SEGMENT_DAMAGED;
	out->damage = what;
	return false;
}

/* One block at most: an error gives back nothing of what was decoded in the same call. */
static bool
decode(struct tr_segment_reader *reader, struct tr_segment_lines *out)
{
	char *at = tr_buf_reserve(&reader->line, IN_BYTES);
	ZSTD_outBuffer decoded = {at, IN_BYTES, 0};
	ZSTD_inBuffer block = reader->rest;
	size_t wanted = reader->wanted > BLOCK_HEADER ? reader->wanted - BLOCK_HEADER : BLOCK_HEADER;

	if (at == NULL)
		return fail(out, ENOMEM);
	block.size = block.pos + (wanted < block.size - block.pos ? wanted : block.size - block.pos);
	reader->wanted = ZSTD_decompressStream(reader->zstd, &decoded, &block);
	if (ZSTD_getErrorCode(reader->wanted) == ZSTD_error_memory_allocation)
		return fail(out, ENOMEM);
	if (ZSTD_isError(reader->wanted))
		return damaged(out, ZSTD_getErrorName(reader->wanted));
	reader->rest.pos = block.pos;
	reader->line.len += decoded.pos;
	if (reader->line.len > LINE_MAX_BYTES && memchr(reader->line.data, '\n', reader->line.len) == NULL)
		return damaged(out, "a line of more than 64 MiB");
	return true;
}

static void
read_on(struct tr_segment_reader *reader, size_t max_lines, struct tr_segment_lines *out)
{
	struct stat stat;
	/* asked before the bytes: what is written in between is not missed */
	bool finished = fstat(reader->fd, &stat) == 0 && (stat.st_mode & 0222) == 0;
	ssize_t got;

	while (take_lines(reader, max_lines, out)) {
		if (reader->rest.pos < reader->rest.size) {
			if (!decode(reader, out))
				return;
			continue;
		}
		got = read(reader->fd, reader->in, IN_BYTES);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0) {
			fail(out, errno);
			return;
		}
		if (got == 0) { /* zstd may still hold some */
			size_t before = reader->line.len;
			if (!decode(reader, out))
				return;
			if (reader->line.len > before)
				continue;
			out->state = finished ? TR_SEGMENT_FINISHED : TR_SEGMENT_END;
			return;
		}
		reader->rest = (ZSTD_inBuffer){reader->in, (size_t)got, 0};
	}
}

void
tr_segment_reader_read(struct tr_segment_reader *reader, size_t max_lines, struct tr_segment_lines *out)
{
	*out = (struct tr_segment_lines){.state = TR_SEGMENT_MORE};
	if (reader->spoilt)
		fail(out, ENOMEM);
	else
		read_on(reader, max_lines, out);
	if (out->text.failed) { /* lines of it are lost */
		out->count = 0;
		fail(out, ENOMEM);
	}
	reader->spoilt = out->state == TR_SEGMENT_FAILED && out->errnum == ENOMEM;
}
