/* The segment that is written to: begun, when a group needs another, and given up when its file fails. */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "spool/internal.h"

/* The current segment is never written again. One in which nothing was committed goes at once: while a disk fails,
 * every try takes a new one. Its number is not used again. */
void
current_give_up(struct tr_spool *spool)
{
	struct segment *segment = spool->current;

	segment->failed = true;
	if (segment->end > 0)
		return;
	spool->current = NULL;
	ring_remove_newest(spool);
	spare_give(spool, segment);
}

/* The header alone, before the first group: a file with frames and without a header is damaged then, and never what a
 * power cut has left of a group. */
static int
write_header(struct tr_spool *spool, struct segment *segment)
{
	char page[SEG_HEADER] = {0};
	struct seg_header header;
	int err;

	segment_header(segment, &header);
	memcpy(page, &header, sizeof header);
	err = tr_file_write_all(segment->fd, page, sizeof page, 0);
	if (err < 0)
		atomic_fetch_add_explicit(&spool->n.write_errors, 1, memory_order_relaxed);
	if (err < 0 || spool->config.no_flush)
		return err;
	tr_pulse_work();
	err = tr_file->fdatasync(segment->fd);
	if (err < 0)
		atomic_fetch_add_explicit(&spool->n.sync_errors, 1, memory_order_relaxed);
	return err;
}

static int
not_begun(const struct tr_spool *spool, int err)
{
	if (!atomic_load(&spool->failing)) /* else it was told */
		tr_log(TR_LEVEL_WARN, "spool", "%s: the next segment cannot be begun: %s", spool->meta,
			tr_err_text(err));
	return err;
}

/* Starts the next segment, with room for `bytes`. That there is no file for it is TR_ENOSPC without a word: who looks
 * after space tells. */
int
current_begin(struct tr_spool *spool, uint64_t bytes, bool outcome)
{
	struct segment *segment, *last = spool->current;
	char name[40], *from, *to;
	int err = bytes == spool->config.segment_bytes ? spare_take(spool, outcome, &segment)
						       : spare_make_large(spool, bytes, outcome, &segment);

	if (err != TR_OK)
		return err;
	segment_log_name(spool->next_number, name);
	from = spool_path(spool->meta, segment->name);
	to = spool_path(spool->meta, name);
	err = from == NULL || to == NULL ? TR_ENOMEM : TR_OK;
	if (err == TR_OK && strcmp(from, to) != 0)
		err = tr_file->rename(from, to) < 0 ? TR_EIO : TR_OK;
	free(from);
	free(to);
	if (err != TR_OK) {
		segment->failed = err == TR_EIO;
		spare_give(spool, segment);
		return not_begun(spool, err);
	}
	memcpy(segment->name, name, sizeof name);
	segment->number = spool->next_number;
	segment->prev = spool->last_number;
	segment->prev_end = spool->last_end;
	segment->log = spool->log;
	segment->end = 0;
	segment->puts = segment->live = 0;
	segment->generation = segment->generation == 0 ? spool->config.first_generation : segment->generation + 1;
	if (segment->generation == 0)
		segment->generation = 1;
	if (spool->config.inline_io) /* one run is like another */
		segment->salt = (uint32_t)(segment->number * UINT64_C(0x9e3779b97f4a7c15) >> 32);
	else if (getrandom(&segment->salt, sizeof segment->salt, 0) != sizeof segment->salt)
		segment->salt = (uint32_t)(tr_wall_ns() ^ tr_mono_ns()); /* only has to differ */
	err = ring_add(spool, segment);
	if (err != TR_OK) {
		spare_give(spool, segment);
		return err;
	}
	segment->oldest = spool->told; /* the header is on disk before the group with the ledger is */
	spool->next_number++;

	if (last != NULL && last->puts > 0 && last->cap > last->puts) { /* it gets no more */
		uint32_t *slots = realloc(last->slots, last->puts * sizeof *slots);

		if (slots != NULL) {
			atomic_fetch_sub_explicit(
				&spool->n.slot_bytes, (last->cap - last->puts) * sizeof *slots, memory_order_relaxed);
			last->slots = slots;
			last->cap = last->puts;
		}
	}
	spool->current = segment;
	err = tr_file->sync_dir(spool->meta);
	if (err < 0)
		atomic_fetch_add_explicit(&spool->n.sync_errors, 1, memory_order_relaxed);
	else
		err = write_header(spool, segment);
	if (err >= 0)
		return TR_OK;
	current_give_up(spool);
	return not_begun(spool, disk_error(err));
}
