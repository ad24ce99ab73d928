/* One group on disk: laid out in one buffer (large bodies are written from where they are), one write,
 * one sync, then the stubs, the segments' counts and the ledger follow. */
#include <errno.h>
#include <stdlib.h>

#include "spool/internal.h"

#define IOV_AT_ONCE 512
#define PAGE_BYTES 4096
#define BUFFER_KEPT (UINT64_C(16) << 20) /* from one group to the next */

struct layout {
	struct tr_spool *spool;
	struct segment *segment;
	char *last; /* header in group_buf, unaligned after a body by reference; not sealed: its padding is not known */
	uint64_t pos; /* offset in the segment */
	uint64_t align;
	uint32_t count, crc;
	size_t run; /* start of the buffer's part that no iovec has yet */
};

uint64_t
group_room(const struct tr_spool *spool)
{
	const struct segment *segment = spool->current;

	if (segment == NULL || segment->failed || segment->bytes != spool->config.segment_bytes ||
		segment->bytes - segment->end < GROUP_ROOM)
		return 0;
	return segment->bytes - segment->end - GROUP_ROOM;
}

uint64_t
group_room_fresh(struct tr_spool *spool)
{
	uint64_t ledger, half = spool->config.segment_bytes / 2;

	ledger_bounds(spool, &ledger);
	return ledger + GROUP_ROOM < half ? 2 * half - GROUP_ROOM - ledger : half;
}

/* --- layout: the buffer is reserved beforehand, so pointers into it stay ------------------------------ */

static void
add_bytes(struct layout *lay, const void *data, size_t len)
{
	memcpy(lay->spool->group_buf + lay->spool->group_len, data, len);
	lay->spool->group_len += len;
	lay->pos += len;
}

static void
add_zeros(struct layout *lay, size_t len)
{
	memset(lay->spool->group_buf + lay->spool->group_len, 0, len);
	lay->spool->group_len += len;
	lay->pos += len;
}

static void
end_run(struct layout *lay)
{
	struct tr_spool *spool = lay->spool;

	if (spool->group_len > lay->run)
		spool->iov[spool->iov_count++] =
			(struct iovec){spool->group_buf + lay->run, spool->group_len - lay->run};
	lay->run = spool->group_len;
}

static void
seal_last(struct layout *lay, uint64_t align)
{
	uint64_t to = align_up(lay->pos, align);
	struct frame_header header;

	if (lay->last == NULL)
		return;
	memcpy(&header, lay->last, sizeof header);
	header.pad = (uint8_t)((to - align_up(lay->pos, 8)) / 8);
	add_zeros(lay, to - lay->pos);
	frame_seal(&header);
	memcpy(lay->last, &header, sizeof header);
	lay->crc = tr_crc32c(lay->crc, &header.header_crc, sizeof header.header_crc);
	lay->count++;
}

/* Returns the frame's offset. */
static uint64_t
add_frame(struct layout *lay, uint8_t type, uint64_t seq, struct tr_str first, struct tr_str second, uint32_t crc)
{
	struct tr_spool *spool = lay->spool;
	struct frame_header header = {
		.type = type,
		.length = (uint32_t)(first.len + second.len),
		.generation = lay->segment->generation,
		.payload_crc = crc,
		.seq = seq,
		.salt = lay->segment->salt,
	};
	uint64_t at;

	seal_last(lay, type == FRAME_PUT ? lay->align : 8);
	at = lay->pos;
	lay->last = spool->group_buf + spool->group_len;
	add_bytes(lay, &header, sizeof header);
	if (first.len >= BODY_REF_BYTES && type == FRAME_PUT && second.len == 0) { /* a copied frame */
		second = first;
		first.len = 0;
	}
	add_bytes(lay, first.data, first.len);
	if (second.len < BODY_REF_BYTES) {
		if (second.len > 0)
			add_bytes(lay, second.data, second.len);
	} else {
		end_run(lay);
		spool->iov[spool->iov_count++] = (struct iovec){(char *)second.data, second.len};
		lay->pos += second.len;
	}
	return at;
}

/* Returns the offset of the end frame. */
static uint64_t
add_end(struct layout *lay, uint64_t start)
{
	struct end_payload end;
	uint64_t at;

	seal_last(lay, 8);
	end = (struct end_payload){
		lay->count, lay->crc, (uint32_t)start, (uint32_t)lay->segment->number, lay->spool->oldest};
	lay->last = NULL;
	at = add_frame(lay, FRAME_END, 0, (struct tr_str){(char *)&end, sizeof end}, (struct tr_str){NULL, 0},
		tr_crc32c(0, &end, sizeof end));
	seal_last(lay, PUT_ALIGN); /* so that every group starts aligned */
	return at;
}

/* A group that was written and not synced is refused, and the next segment, which says so, may never come to be:
 * without its end frame it is no group when the process has gone. Whether that reaches the disk before the power goes
 * nobody can tell. */
static void
revoke(struct tr_spool *spool, uint64_t end_at)
{
	static const char zeros[FRAME_HEADER];

	if (tr_file_write_all(spool->current->fd, zeros, sizeof zeros, (off_t)(SEG_HEADER + end_at)) < 0)
		atomic_fetch_add_explicit(&spool->n.write_errors, 1, memory_order_relaxed);
}

/* To the end of the last page: its old bytes, which are no part of the log, need not be read before it is written. */
static void
fill_page(struct layout *lay)
{
	uint64_t used = lay->pos % PAGE_BYTES,
		 pos = lay->pos; /* the segment's header is a page, so frames start at one */

	if (used > 0)
		add_zeros(lay, PAGE_BYTES - used);
	end_run(lay);
	lay->pos = pos;
}

/* --- writing ------------------------------------------------------------------------------------------ */

static int
reserve(struct tr_spool *spool, uint64_t bytes, uint64_t iovs)
{
	if (bytes > spool->group_cap) {
		uint64_t cap = align_up(bytes + bytes / 4, 65536);
		char *buf = malloc(cap);

		if (buf == NULL)
			return TR_ENOMEM;
		free(spool->group_buf);
		spool->group_buf = buf;
		spool->group_cap = cap;
	}
	if (iovs > spool->iov_cap) {
		struct iovec *iov = realloc(spool->iov, iovs * 2 * sizeof *iov);

		if (iov == NULL)
			return TR_ENOMEM;
		spool->iov = iov;
		spool->iov_cap = (uint32_t)(iovs * 2);
	}
	return TR_OK;
}

/* What one large group needed is not kept for ever. */
static void
trim_buffers(struct tr_spool *spool)
{
	if (spool->group_cap > BUFFER_KEPT) {
		free(spool->group_buf);
		spool->group_buf = NULL;
		spool->group_cap = 0;
	}
	if (spool->iov_cap * sizeof *spool->iov > BUFFER_KEPT) {
		free(spool->iov);
		spool->iov = NULL;
		spool->iov_cap = 0;
	}
}

static int
write_and_sync(struct tr_spool *spool, struct segment *segment, uint64_t file_at)
{
	struct iovec *iov = spool->iov;
	int err = 0;

	for (uint32_t left = spool->iov_count; left > 0 && err == 0;) {
		uint32_t n = left < IOV_AT_ONCE ? left : IOV_AT_ONCE;
		uint64_t bytes = 0;

		tr_pulse_work(); /* a large group is many operations, which take a slow disk long */
		for (uint32_t i = 0; i < n; i++)
			bytes += iov[i].iov_len;
		err = tr_file_writev_all(segment->fd, iov, (int)n, (off_t)file_at);
		file_at += bytes;
		iov += n;
		left -= n;
	}
	if (err < 0)
		atomic_fetch_add_explicit(&spool->n.write_errors, 1, memory_order_relaxed);
	if (err == 0 && !spool->config.no_flush) {
		atomic_fetch_add_explicit(&spool->n.syncs, 1, memory_order_relaxed);
		tr_pulse_work();
		err = tr_file->fdatasync(segment->fd);
		if (err < 0)
			atomic_fetch_add_explicit(&spool->n.sync_errors, 1, memory_order_relaxed);
	}
	return err == 0 ? TR_OK : err == -ENOSPC ? TR_ENOSPC : TR_EIO;
}

static int
settle_one(struct tr_spool *spool, struct segment *segment)
{
	int err = 0;

	if (segment->unsure)
		err = segment_write_again(spool, segment, 0, align_up(SEG_HEADER + segment->end, PAGE_BYTES));
	if (err == 0) {
		atomic_fetch_add_explicit(&spool->n.syncs, 1, memory_order_relaxed);
		tr_pulse_work();
		err = tr_file->fdatasync(segment->fd);
		if (err < 0)
			atomic_fetch_add_explicit(&spool->n.sync_errors, 1, memory_order_relaxed);
	}
	if (err < 0 && !segment->unsure)
		tr_log(TR_LEVEL_WARN, "spool",
			"%s/%s cannot be synced (%s): what it takes the place of is kept meanwhile", spool->meta,
			segment->name, strerror(-err));
	segment->unsure = err < 0;
	return err;
}

int
group_settle(struct tr_spool *spool)
{
	if (spool->unsynced != 0 && tr_mono_ns() < spool->settle_at_ns)
		return TR_EIO;
	for (uint64_t number = spool->unsynced; number != 0 && number <= spool->newest; number++) {
		struct segment *segment = spool->ring[number & (spool->ring_cap - 1)];

		if (number < spool->oldest || segment == NULL)
			continue;
		if (settle_one(spool, segment) < 0) {
			spool->settle_at_ns = tr_mono_ns() + TR_NS_PER_S;
			return TR_EIO;
		}
	}
	spool->unsynced = 0;
	return TR_OK;
}

/* --- what a committed group means in memory ---------------------------------------------------------- */

/* Only now, so that nothing copies it forward in its new state before the ledger knows of that. */
static void
apply_move(struct tr_spool *spool, const struct tr_job *job, const struct op *op)
{
	struct move_payload move;

	memcpy(&move, job->buf.data + op->at, sizeof move);
	if (!spool->config.no_flush)
		stub_move(spool, op->slot, &move);
	ledger_count(spool, move.from, TR_COL_MOVED_OUT, TR_REASON_NONE, move.units);
	ledger_count(spool, move.to, TR_COL_MOVED_IN, TR_REASON_NONE, move.units);
	ledger_wait(spool, move.from, -move.units);
	ledger_wait(spool, move.to, move.units);
}

static void
apply_op(struct tr_spool *spool, struct segment *segment, const struct tr_job *job, const struct op *op)
{
	struct tr_stub *stub;
	uint64_t loc;

	switch (op->type) {
	case FRAME_PUT:
		stub = tr_spool_stub(spool, op->slot);
		loc = atomic_load_explicit(&stub->loc, memory_order_relaxed);
		if (!op->fresh)
			segment_died(spool, loc, frame_bytes(op->old_length));
		loc = loc_make(segment, op->offset, segment_born(segment, op->slot, frame_bytes(op->total), spool));
		atomic_store_explicit(&stub->loc, loc, memory_order_release);
		if (spool->config.no_flush && !op->fresh)
			atomic_fetch_add(&spool->replaced_done, 1); /* after its new place is known */
		ledger_count(spool, op->account, op->column, TR_REASON_NONE, op->units);
		if (op->also != TR_COL_NONE)
			ledger_count(spool, op->account, op->also, TR_REASON_NONE, op->units);
		ledger_wait(spool, op->account, op->units - (op->fresh ? 0 : op->old_units));
		break;
	case FRAME_DONE:
		stub = tr_spool_stub(spool, op->slot);
		loc = atomic_exchange_explicit(&stub->loc, LOC_NONE, memory_order_relaxed);
		segment_died(spool, loc, frame_bytes(op->old_length));
		ledger_count(spool, op->account, op->column, op->reason, op->units);
		ledger_wait(spool, op->account, -op->old_units);
		break;
	case FRAME_COUNT:
		ledger_count(spool, op->account, op->column, op->reason, op->units);
		break;
	case FRAME_MOVE:
		apply_move(spool, job, op);
		break;
	default: /* FRAME_STATE: the stub has it */
		break;
	}
}

static void
apply_bodies(struct tr_spool *spool, const struct op *op)
{
	if (op->type == FRAME_PUT && op->body_file != 0)
		body_commit(spool, op->body_file);
	if (op->old_body != 0 && ((op->type == FRAME_PUT && !op->fresh) || op->type == FRAME_DONE))
		body_release(spool, op->old_body);
}

static void
apply_moved(struct tr_spool *spool, struct segment *segment, const struct moved *moved)
{
	struct tr_stub *stub = tr_spool_stub(spool, moved->slot);
	uint64_t bytes = frame_bytes(moved->payload.len);

	segment_died(spool, moved->from, bytes);
	spool->compact_credit -= tr_min_i64((int64_t)spool->compact_credit, (int64_t)(3 * bytes)); /* died gave 2 */
	atomic_store_explicit(&stub->loc,
		loc_make(segment, moved->offset, segment_born(segment, moved->slot, bytes, spool)),
		memory_order_release);
	atomic_fetch_add_explicit(&spool->n.copied_bytes, bytes, memory_order_relaxed);
}

static void
apply(struct tr_spool *spool, struct segment *segment, const struct job_list *jobs, const struct moved *moved,
	uint32_t moved_count)
{
	struct segment *retired;

	pthread_mutex_lock(&spool->ledger_mu);
	for (struct tr_job *job = jobs->first; job != NULL; job = job_next(job))
		for (uint32_t i = 0; i < job->count; i++)
			apply_op(spool, segment, job, &job->ops[i]);
	pthread_mutex_unlock(&spool->ledger_mu);
	for (struct tr_job *job = jobs->first; job != NULL; job = job_next(job)) {
		for (uint32_t i = 0; i < job->count; i++)
			apply_bodies(spool, &job->ops[i]);
		atomic_fetch_add_explicit(&spool->n.changes, 1, memory_order_relaxed);
	}
	for (uint32_t i = 0; i < moved_count; i++)
		apply_moved(spool, segment, &moved[i]);
	atomic_fetch_add_explicit(&spool->n.groups, 1, memory_order_relaxed);
	/* this group told the log where it begins now: what lies before may be written over */
	spool->told = spool->oldest;
	if (spool->retired != NULL && group_settle(spool) != TR_OK)
		return; /* the next group tries again */
	while ((retired = spool->retired) != NULL) {
		spool->retired = retired->next;
		spare_give(spool, retired);
	}
}

/* --- one group ----------------------------------------------------------------------------------------- */

struct need {
	uint64_t bytes, copied, iovs;
	uint32_t puts; /* at most */
};

static struct need
measure(const struct job_list *jobs, const struct moved *moved, uint32_t moved_count)
{
	struct need need = {0, GROUP_ROOM + PAGE_BYTES, 16, 0};

	for (struct tr_job *job = jobs->first; job != NULL; job = job_next(job)) {
		need.bytes += job->bytes;
		need.copied += job->copied;
		need.iovs += 2 * (uint64_t)job->count;
		need.puts += job->count;
	}
	for (uint32_t i = 0; i < moved_count; i++) {
		need.bytes += frame_bytes(moved[i].payload.len) + PUT_ALIGN;
		need.copied += frame_bytes(moved[i].payload.len) + PUT_ALIGN;
	}
	need.iovs += 2 * (uint64_t)moved_count;
	need.puts += moved_count;
	return need;
}

/* Room in the segment that is begun for a group: that of all, or as much as the group needs. Where places are told in
 * larger steps, each PUT may begin one later. */
static uint64_t
fresh_bytes(const struct tr_spool *spool, const struct need *need, uint64_t ledger)
{
	uint64_t bytes = need->bytes + ledger + GROUP_ROOM, all = bytes, align = PUT_ALIGN;

	if (bytes <= spool->config.segment_bytes)
		return spool->config.segment_bytes;
	while (all > align << 20) {
		align *= 2;
		all = bytes + need->puts * align;
	}
	return align_up(all, PAGE_BYTES);
}

/* What the ops of a group count is added up: a frame for each account and column instead of one for each record. */
struct counts {
	struct count_payload sums[16];
	uint32_t used;
};

static void
counts_flush(struct layout *lay, struct counts *counts)
{
	for (uint32_t i = 0; i < counts->used; i++) {
		struct tr_str payload = {(char *)&counts->sums[i], sizeof counts->sums[i]};

		add_frame(lay, FRAME_COUNT, 0, payload, (struct tr_str){NULL, 0},
			tr_crc32c(0, payload.data, payload.len));
	}
	counts->used = 0;
}

static void
counts_add(struct layout *lay, struct counts *counts, const struct op *op, uint8_t column)
{
	for (uint32_t i = 0; i < counts->used; i++) {
		struct count_payload *sum = &counts->sums[i];

		if (sum->account == op->account && sum->column == column && sum->reason == op->reason) {
			sum->units += op->units;
			return;
		}
	}
	if (counts->used == TR_COUNT(counts->sums))
		counts_flush(lay, counts);
	counts->sums[counts->used++] = (struct count_payload){
		.account = op->account, .column = column, .reason = op->reason, .units = op->units};
}

static void
lay_out_jobs(struct layout *lay, const struct job_list *jobs)
{
	struct counts counts = {.used = 0};

	for (struct tr_job *job = jobs->first; job != NULL; job = job_next(job)) {
		for (uint32_t i = 0; i < job->count; i++) {
			struct op *op = &job->ops[i];
			struct tr_str first = {job->buf.data + op->at, op->len};

			if (op->type == FRAME_COUNT) {
				counts_add(lay, &counts, op, op->column);
				continue;
			}
			op->offset =
				(uint32_t)add_frame(lay, op->type, op->seq, first, tr_bytes_str(&op->body), op->crc);
			if (op->also != TR_COL_NONE)
				counts_add(lay, &counts, op, op->also);
		}
	}
	counts_flush(lay, &counts);
}

/* The whole ledger, or the names of new accounts; returns how many are known then. */
static uint32_t
lay_out_accounts(struct layout *lay, bool whole, struct tr_buf *buf)
{
	struct tr_spool *spool = lay->spool;
	struct tr_str none = {NULL, 0};
	uint32_t count;

	pthread_mutex_lock(&spool->ledger_mu);
	count = spool->account_count;
	if (whole) {
		tr_buf_put_u64(buf, lay->segment->number);
		ledger_encode(spool, buf);
		pthread_mutex_unlock(&spool->ledger_mu);
		if (!buf->failed)
			add_frame(lay, FRAME_LEDGER, 0, (struct tr_str){buf->data, buf->len}, none,
				tr_crc32c(0, buf->data, buf->len));
		return count;
	}
	for (uint32_t i = spool->accounts_logged; i < count; i++) {
		tr_buf_clear(buf);
		account_encode(spool, i, buf);
		if (!buf->failed)
			add_frame(lay, FRAME_ACCOUNT, 0, (struct tr_str){buf->data, buf->len}, none,
				tr_crc32c(0, buf->data, buf->len));
	}
	pthread_mutex_unlock(&spool->ledger_mu);
	return count;
}

int
group_write(
	struct tr_spool *spool, const struct job_list *jobs, struct moved *moved, uint32_t moved_count, bool outcome)
{
	static const struct job_list no_jobs;
	const struct job_list *list = jobs != NULL ? jobs : &no_jobs;
	struct need need = measure(list, moved, moved_count);
	struct tr_buf accounts = {0};
	struct layout lay = {.spool = spool};
	uint64_t names, start, end_at, file_at;
	uint32_t known;
	bool fresh, again, bare = list->first == NULL && moved_count == 0;
	int err;

	known = ledger_bounds(spool, &names);
	/* in the first two groups of a segment: one page that is lost must not take the names of all hooks */
	again = spool->ledger_again && names <= spool->config.segment_bytes / 8;
	if (group_room(spool) <= need.bytes + (bare || again || spool->accounts_logged < known ? names : 0)) {
		err = current_begin(spool, fresh_bytes(spool, &need, names), outcome);
		if (err != TR_OK)
			return err;
	}
	lay.segment = spool->current;
	lay.align = segment_align(lay.segment->bytes);
	fresh = lay.segment->end == 0;
	start = lay.pos = lay.segment->end;
	err = reserve(spool, need.copied + (uint64_t)(known + 16) * 400, need.iovs);
	if (err == TR_OK)
		err = segment_reserve(spool, lay.segment, need.puts);
	if (err != TR_OK)
		return err;
	spool->group_len = 0;
	spool->iov_count = 0;
	file_at = SEG_HEADER + start;
	/* at the head of a segment, so that older ones can go; in a group of nothing else (a stop), so that what is
	 * damaged before it can be counted */
	known = lay_out_accounts(&lay, fresh || bare || again, &accounts);
	if (accounts.failed) {
		tr_buf_free(&accounts);
		return TR_ENOMEM;
	}
	tr_buf_free(&accounts);
	lay_out_jobs(&lay, list);
	for (uint32_t i = 0; i < moved_count; i++)
		moved[i].offset = add_frame(
			&lay, FRAME_PUT, moved[i].seq, moved[i].payload, (struct tr_str){NULL, 0}, moved[i].crc);
	end_at = add_end(&lay, start);
	fill_page(&lay);
	err = write_and_sync(spool, lay.segment, file_at);
	if (err != TR_OK) {
		if (!atomic_load(&spool->failing)) /* else it was told */
			tr_log(TR_LEVEL_WARN, "spool", "%s/%s cannot be written (%s): another segment takes its place",
				spool->meta, lay.segment->name, tr_err_text(err));
		if (!outcome) /* an outcome is kept and stored again, so let it count */
			revoke(spool, end_at);
		current_give_up(spool);
		return err;
	}
	lay.segment->end = spool->last_end = lay.pos;
	spool->last_number = lay.segment->number;
	if (spool->config.no_flush && spool->unsynced == 0)
		spool->unsynced = lay.segment->number;
	/* names that came with this group are repeated in the next, too */
	spool->ledger_again = fresh || spool->accounts_logged < known;
	spool->accounts_logged = known;
	spool->last_group_bytes = lay.pos - start;
	spool->compact_credit += list->first != NULL ? lay.pos - start : 0;
	apply(spool, lay.segment, list, moved, moved_count);
	trim_buffers(spool);
	return TR_OK;
}
