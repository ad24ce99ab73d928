/* A series of segments (segment.c) that belongs to one loop: written by threads of base/work.h, made visible and ended
 * by age from the loop's wheel. Counted references: of the owner, and of each write under way; in the loop's thread. */
#ifndef TR_JSONL_H
#define TR_JSONL_H

#include "base/loop.h"
#include "record/internal.h"

struct tr_jsonl_writer; /* opaque */

/* Counts what is lost by the segments' directory; config->errors is not read. TR_OK or TR_ENOMEM. */
int tr_jsonl_writer_new(struct tr_loop *loop, const struct tr_segments_config *config, struct tr_jsonl_writer **out);
struct tr_jsonl_writer *tr_jsonl_writer_ref(struct tr_jsonl_writer *writer);
/* The last one finishes the segment, in a thread. NULL is fine. */
void tr_jsonl_writer_unref(struct tr_jsonl_writer *writer);

/* Any thread; they block. False: lines were lost, the log says why. After finish() nothing is written any more. */
bool tr_jsonl_writer_write(struct tr_jsonl_writer *writer, struct tr_str line);
bool tr_jsonl_writer_finish(struct tr_jsonl_writer *writer);
/* The loop's thread, after a line: readers are to see it within a second. */
void tr_jsonl_writer_show(struct tr_jsonl_writer *writer);

#endif
