/* Reads the lines of a segment (segment.c), also of one that still grows. It blocks; one thread at a time. */
#ifndef TR_SEGMENT_READER_H
#define TR_SEGMENT_READER_H

#include "base/buf.h"

struct tr_segment_reader; /* opaque */

enum tr_segment_state {
	TR_SEGMENT_MORE,     /* there is more to read now */
	TR_SEGMENT_END,      /* not now, but it may grow */
	TR_SEGMENT_FINISHED, /* it is read-only: it does not grow any more */
	TR_SEGMENT_DAMAGED,  /* what stands before the damage has been read; `damage` says what it is */
	TR_SEGMENT_FAILED,   /* `errnum`; ENOMEM: for good, or lines would be lost. Another reader may go on */
};

struct tr_segment_lines {
	struct tr_buf text; /* each line ends with a newline */
	size_t count;
	enum tr_segment_state state;
	const char *damage; /* static */
	int errnum;
};

/* Takes the descriptor, in any case. TR_OK or TR_ENOMEM. */
int tr_segment_reader_new(int fd, struct tr_segment_reader **out);
void tr_segment_reader_free(struct tr_segment_reader *reader); /* NULL is fine */
/* Reads on, at most max_lines lines of about 4 MiB together. The caller frees out->text, whatever it has before is lost
 * from sight: it must be empty. */
void tr_segment_reader_read(struct tr_segment_reader *reader, size_t max_lines, struct tr_segment_lines *out);
/* What has come of a line whose end is not there. Valid until the next call. */
struct tr_str tr_segment_reader_begun(const struct tr_segment_reader *reader);

#endif
