/* Reading messages back: sorted by place, neighbours in one read, every frame checked. A frame that was moved
 * or recycled meanwhile is looked for again where its stub says now. */
#include <stdlib.h>

#include "spool/internal.h"

#define WINDOW (UINT64_C(1) << 20)
#define GUESS_MORE 1024 /* read beyond a stub's size: the frame header and small misjudgements */
#define RETRIES 8

struct place {
	uint64_t loc;
	uint32_t index;
};

struct load_task {
	struct task task;
	struct tr_load *load;
};

struct span { /* one read */
	char *data;
	uint64_t number, at, len, cap, align;
	uint32_t generation, salt;
};

static int
by_loc(const void *a, const void *b)
{
	uint64_t x = ((const struct place *)a)->loc, y = ((const struct place *)b)->loc;

	return x < y ? -1 : x > y;
}

/* Finds the segment and takes a reference. */
static struct segment *
segment_at(struct tr_spool *spool, uint64_t loc, struct span *span)
{
	struct segment *segment;

	pthread_mutex_lock(&spool->segs_mu);
	segment = ring_get(spool, loc);
	if (segment != NULL) {
		segment->refs++;
		span->generation = segment->generation;
		span->salt = segment->salt;
		span->number = segment->number;
		span->align = segment_align(segment->bytes);
	}
	pthread_mutex_unlock(&spool->segs_mu);
	return segment;
}

static uint64_t
align_at(struct tr_spool *spool, uint64_t loc)
{
	const struct segment *segment;
	uint64_t align;

	pthread_mutex_lock(&spool->segs_mu);
	segment = ring_get(spool, loc);
	align = segment != NULL ? segment_align(segment->bytes) : PUT_ALIGN;
	pthread_mutex_unlock(&spool->segs_mu);
	return align;
}

static int
read_span(struct tr_spool *spool, struct span *span, uint64_t loc, uint64_t len)
{
	struct segment *segment = segment_at(spool, loc, span);
	uint64_t at;
	ssize_t n;

	span->len = 0;
	if (segment == NULL)
		return TR_ECORRUPT;
	at = loc_offset(loc, span->align);
	if (at >= segment->bytes || len > segment->bytes - at)
		len = at >= segment->bytes ? 0 : segment->bytes - at;
	if (len > span->cap) {
		free(span->data);
		span->data = malloc(len);
		span->cap = span->data == NULL ? 0 : len;
	}
	n = span->cap < len ? TR_ENOMEM : tr_file_read_all(segment->fd, span->data, len, (off_t)(SEG_HEADER + at));
	segment_unref(spool, segment);
	if (n < 0)
		return n == TR_ENOMEM && span->cap < len ? TR_ENOMEM : TR_EIO;
	span->at = at;
	span->len = (uint64_t)n;
	return TR_OK;
}

/* The frame at `loc` in the span, or TR_EAGAIN when the span does not hold all of it: *need bytes then. */
static int
check(const struct span *span, uint64_t loc, uint64_t seq, struct tr_str *payload, uint64_t *need)
{
	uint64_t at = loc_offset(loc, span->align), left;
	struct frame_header header;

	*need = FRAME_HEADER;
	if (span->data == NULL || at < span->at || at + FRAME_HEADER > span->at + span->len)
		return TR_EAGAIN;
	left = span->at + span->len - at;
	memcpy(&header, span->data + (at - span->at), sizeof header);
	if (!frame_valid(&header, span->generation, span->salt, UINT32_MAX) || header.type != FRAME_PUT ||
		header.seq != seq)
		return TR_ECORRUPT;
	*need = FRAME_HEADER + (uint64_t)header.length;
	if (*need > left)
		return TR_EAGAIN;
	*payload = (struct tr_str){span->data + (at - span->at) + FRAME_HEADER, header.length};
	return tr_crc32c(0, payload->data, payload->len) == header.payload_crc ? TR_OK : TR_ECORRUPT;
}

/* Whether the span was read from the segment of that loc. */
static bool
same_segment(const struct span *span, uint64_t loc)
{
	return span->len > 0 && (span->number & 0xffffff) == loc >> 40;
}

#define WAITS 10000 /* of a millisecond each */

/* Only without flush: answered at hand-over, the group is being written. */
static void
wait_for_commit(struct tr_spool *spool)
{
	struct timespec pause = {0, 1000000};

	if (spool->config.inline_io) {
		inline_work(spool);
		return;
	}
	tr_pulse_rest(); /* the commit thread has a pulse */
	nanosleep(&pause, NULL);
	tr_pulse_work();
}

/* The payload of a slot's frame, in the span (which may be read anew for it). */
static int
find(struct tr_spool *spool, struct span *span, uint32_t slot, struct tr_str *payload)
{
	struct tr_stub *stub = tr_spool_stub(spool, slot);
	uint64_t loc = atomic_load_explicit(&stub->loc, memory_order_acquire), need, frame;
	int err = TR_ECORRUPT, tries = 0;

	for (;;) {
		uint64_t now;

		if (loc == LOC_NONE && spool->config.no_flush) {
			if (atomic_load(&spool->failing) || ++tries > (spool->config.inline_io ? 2 : WAITS))
				return TR_EIO; /* it is in no file as long as none can be written */
			wait_for_commit(spool);
			span->len = 0; /* it was read before that group was there */
			loc = atomic_load_explicit(&stub->loc, memory_order_acquire);
			continue;
		}
		if (loc >= LOC_LOST)
			return TR_ECORRUPT;
		frame = FRAME_HEADER + slot_length(spool, slot);
		need = frame + GUESS_MORE;
		err = same_segment(span, loc) ? check(span, loc, stub->seq, payload, &need) : TR_EAGAIN;
		for (int i = 0; i < 2 && err == TR_EAGAIN; i++) { /* the first may show that more is needed */
			err = read_span(spool, span, loc, need);
			if (err == TR_EIO && need > frame) /* a bad place behind it is not its own */
				err = read_span(spool, span, loc, need = frame);
			if (err == TR_OK)
				err = check(span, loc, stub->seq, payload, &need);
		}
		if (err == TR_OK)
			return TR_OK;
		span->len = 0;
		now = atomic_load_explicit(&stub->loc, memory_order_acquire);
		if (now == loc || ++tries > RETRIES)
			return err == TR_EAGAIN ? TR_ECORRUPT : err;
		loc = now; /* it was copied forward while we read */
	}
}

static int
build(struct tr_spool *spool, uint32_t slot, struct tr_str payload, bool envelope_only, struct tr_message **out)
{
	const struct tr_stub *stub = tr_spool_stub(spool, slot);
	struct tr_str queue, opaque;
	struct put_prefix prefix;
	struct tr_message *message;
	struct tr_blob *blob;
	int err;

	if (!put_parse(payload, &prefix, &queue, &opaque))
		return TR_ECORRUPT;
	blob = tr_blob_new(opaque.data, opaque.len);
	if (blob == NULL)
		return TR_ENOMEM;
	err = tr_message_decode(blob, (struct tr_str){blob->data, blob->len}, &message);
	tr_blob_unref(blob);
	if (err != TR_OK)
		return err;
	message->slot = slot;
	message->seq = stub->seq;
	message->due_ms = tr_stub_due_ms(stub);
	message->attempts = tr_stub_attempts(stub);
	message->flags = tr_stub_flags(stub);
	message->account = tr_stub_account(stub);
	message->order = prefix.order;
	if (message->flags & TR_MSG_RENEWED)
		tr_message_renew(message, tr_stub_created_ms(stub));
	if (queue.len > 0)
		err = tr_message_set_queue(message, queue);
	if (err == TR_OK && prefix.body_file != 0 && !envelope_only) {
		struct tr_blob *body;

		err = body_read(spool, prefix.body_file, prefix.body_len, &body);
		if (err == TR_OK)
			tr_bytes_set(&message->body, body);
	}
	if (err != TR_OK) {
		tr_message_free(message);
		return err;
	}
	*out = message;
	return TR_OK;
}

/* How much to read from place i on, so that its near neighbours come with it. */
static uint64_t
span_bytes(struct tr_spool *spool, const struct tr_load *load, const struct place *places, uint32_t i)
{
	uint64_t align = align_at(spool, places[i].loc), start = loc_offset(places[i].loc, align), end = 0;

	for (uint32_t k = i; k < load->count && places[k].loc >> 40 == places[i].loc >> 40; k++) {
		uint64_t at = loc_offset(places[k].loc, align);
		uint64_t to = at + slot_length(spool, load->slots[places[k].index]) + GUESS_MORE;

		if (k > i && (at > end + 65536 || to - start > WINDOW))
			break;
		end = to;
	}
	return end - start;
}

/* Without flush: until what was handed over in place of stored messages is in the log, they would be read as they were
 * before. TR_EIO: that takes too long. */
static int
await_replaced(struct tr_spool *spool)
{
	uint64_t asked = atomic_load(&spool->replaced_asked);

	for (int tries = 0; atomic_load(&spool->replaced_done) < asked; tries++) {
		if (atomic_load(&spool->failing) || tries >= (spool->config.inline_io ? 2 : WAITS))
			return TR_EIO;
		wait_for_commit(spool);
	}
	return TR_OK;
}

static void
load_run(struct tr_spool *spool, struct task *task)
{
	struct load_task *load_task = tr_container_of(task, struct load_task, task);
	struct tr_load *load = load_task->load;
	struct place *places = malloc((load->count + 1) * sizeof *places);
	struct span span = {0};
	int err = await_replaced(spool);

	for (uint32_t i = 0; i < load->count; i++) {
		load->messages[i] = NULL;
		load->status[i] = TR_ENOMEM;
		if (places != NULL)
			places[i] = (struct place){
				atomic_load_explicit(&tr_spool_stub(spool, load->slots[i])->loc, memory_order_acquire),
				i};
	}
	if (places != NULL)
		qsort(places, load->count, sizeof *places, by_loc);
	for (uint32_t i = 0; places != NULL && i < load->count; i++) {
		uint32_t slot = load->slots[places[i].index];
		int *status = &load->status[places[i].index];
		uint64_t at = loc_offset(places[i].loc, span.align); /* if the span is of its segment */
		struct tr_str payload;

		tr_pulse_work();
		if (err == TR_OK && places[i].loc < LOC_LOST &&
			(!same_segment(&span, places[i].loc) || at < span.at ||
				at + FRAME_HEADER + slot_length(spool, slot) > span.at + span.len) &&
			read_span(spool, &span, places[i].loc, span_bytes(spool, load, places, i)) != TR_OK)
			span.len = 0; /* find() reads for itself and tells the error */
		*status = err == TR_OK ? find(spool, &span, slot, &payload) : err;
		if (*status == TR_OK)
			*status = build(spool, slot, payload, load->envelope_only, &load->messages[places[i].index]);
		if (*status == TR_ECORRUPT && !load->not_ours)
			atomic_fetch_add_explicit(&spool->n.damaged_frames, 1, memory_order_relaxed);
	}
	free(places);
	free(span.data);
	free(load_task);
	tr_loop_post(load->loop, &load->mail);
	tr_hold_drop();
}

static void
load_done(struct tr_mail *mail)
{
	struct tr_load *load = tr_container_of(mail, struct tr_load, mail);

	load->done(load);
}

void
tr_spool_load(struct tr_spool *spool, struct tr_load *load)
{
	struct load_task *task = malloc(sizeof *task);

	load->mail.fn = load_done;
	if (task == NULL) {
		for (uint32_t i = 0; i < load->count; i++) {
			load->messages[i] = NULL;
			load->status[i] = TR_ENOMEM;
		}
		tr_loop_post(load->loop, &load->mail);
		return;
	}
	tr_hold_take();
	task->task.fn = load_run;
	task->load = load;
	task_post(spool, &task->task);
}

int
load_payload(struct tr_spool *spool, uint32_t slot, char **data, struct tr_str *payload)
{
	struct span span = {0};
	int err = find(spool, &span, slot, payload);

	*data = span.data;
	if (err != TR_OK) {
		free(span.data);
		*data = NULL;
	}
	return err;
}

int
load_message(struct tr_spool *spool, uint32_t slot, bool envelope_only, struct tr_message **out)
{
	struct tr_str payload;
	char *data;
	int err = load_payload(spool, slot, &data, &payload);

	if (err == TR_OK)
		err = build(spool, slot, payload, envelope_only, out);
	free(data);
	return err;
}
