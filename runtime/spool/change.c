/* Changes: frames are encoded and their payloads summed in the worker's thread, handed over once a turn. */
#include "base/pool.h"
#include "spool/internal.h"

#define COUNT_BYTES frame_bytes(sizeof(struct count_payload))

void
tr_change_init(struct tr_change *change, struct tr_spool *spool, struct tr_loop *loop,
	void (*done)(struct tr_change *change, int status), void *owner)
{
	memset(change, 0, sizeof *change);
	change->spool = spool;
	change->loop = loop;
	change->done = done;
	change->owner = owner;
}

/* Room for one more op; NULL without memory. */
static struct op *
add_op(struct tr_change *change, uint8_t type)
{
	struct tr_job *job = change->job;

	if (job == NULL) {
		change->job = job = job_new(port_get(change->spool, change->loop));
	} else if (job->count == job->cap) {
		job = job_grow(port_get(change->spool, change->loop), job);
		if (job != NULL)
			change->job = job;
	}
	if (job == NULL) {
		change->failed = true;
		return NULL;
	}
	memset(&job->ops[job->count], 0, sizeof job->ops[0]);
	job->ops[job->count].type = type;
	return &job->ops[job->count];
}

void
tr_change_fail(struct tr_change *change, int err)
{
	if (!change->failed)
		change->why = err;
	change->failed = true;
}

uint64_t
tr_change_room(const struct tr_change *change)
{
	uint64_t half = change->spool->config.segment_bytes / 2;

	return change->bytes < half ? half - change->bytes : 0;
}

bool
tr_change_is_long(const struct tr_change *change)
{
	return change->bytes > change->spool->config.segment_bytes / 8;
}

/* Counts the op in, if the change stays within its bounds: what ends or counts something always does. */
static int
keep_op(struct tr_change *change, struct op *op)
{
	struct tr_job *job = change->job;
	uint64_t bytes = frame_bytes(op->total) + (op->type == FRAME_PUT ? 2 * PUT_ALIGN : 0);

	if (job->buf.failed) {
		change->failed = true;
		return TR_ENOMEM;
	}
	if (op->type == FRAME_PUT &&
		(job->bytes + bytes > change->spool->config.change_bytes || job->count >= CHANGE_OPS))
		return TR_ETOOBIG;
	job->bytes += bytes;
	job->copied += bytes - (op->body.len >= BODY_REF_BYTES ? op->body.len : 0);
	job->count++;
	change->count = job->count;
	change->bytes = job->bytes;
	return TR_OK;
}

/* What an end takes away. */
static void
remember_stored(const struct tr_spool *spool, struct op *op)
{
	const struct tr_stub *stub = tr_spool_stub(spool, op->slot);
	struct extra extra;
	bool has_extra = extra_get(spool, op->slot, &extra);

	op->old_units = has_extra ? extra.units : stub->units;
	op->old_length = has_extra ? extra.frame : stub->size;
	op->old_body = has_extra ? extra.body_file : 0;
}

/* The same, and what a refusal has to bring back. TR_OK or TR_ENOMEM. */
static int
remember(struct tr_change *change, struct op *op)
{
	const struct tr_stub *stub = tr_spool_stub(change->spool, op->slot);
	struct before *before = op->before = tr_pool_get(sizeof *before);

	if (before == NULL) {
		change->failed = true;
		return TR_ENOMEM;
	}
	remember_stored(change->spool, op);
	*before = (struct before){.units = stub->units,
		.size = stub->size,
		.when = atomic_load_explicit(&stub->when, memory_order_relaxed),
		.tries = atomic_load_explicit(&stub->tries, memory_order_relaxed)};
	before->had_extra = extra_get(change->spool, op->slot, &before->extra);
	return TR_OK;
}

/* Takes back what building the op changed in memory. */
static void
undo_op(struct tr_spool *spool, struct op *op)
{
	const struct before *before = op->before;
	struct tr_stub *stub;

	if (op->type == FRAME_PUT && op->body_file != 0)
		body_release(spool, op->body_file);
	if (op->type == FRAME_PUT && op->fresh) {
		slot_free(spool, op->slot);
		return;
	}
	if (op->type != FRAME_PUT && op->type != FRAME_STATE)
		return;
	stub = tr_spool_stub(spool, op->slot);
	atomic_store_explicit(&stub->when, before->when, memory_order_relaxed);
	atomic_store_explicit(&stub->tries, before->tries, memory_order_relaxed);
	if (op->type != FRAME_PUT)
		return;
	stub->units = before->units;
	stub->size = before->size;
	extra_drop(spool, op->slot);
	if (before->had_extra && extra_set(spool, &before->extra) != TR_OK)
		tr_log(TR_LEVEL_ERROR, "spool", "out of memory: message %llu loses its unit count in memory",
			(unsigned long long)op->seq);
}

static void
encode_put(struct tr_buf *buf, struct op *op, const struct tr_message *message, struct tr_str queue, uint64_t body_len)
{
	struct put_prefix prefix = {
		.created_ms = message->created_ns / TR_NS_PER_MS,
		.due_ms = message->due_ms,
		.attempts = message->attempts,
		.flags = message->flags & (uint16_t) ~(TR_MSG_DIRTY | TR_MSG_RENEWED),
		.account = message->account,
		.column = op->column,
		.order = message->order,
		.queue_len = (uint32_t)queue.len,
		.units = op->units,
		.body_file = message->body_file,
		.body_len = body_len,
	};

	op->at = (uint32_t)buf->len;
	tr_buf_add(buf, &prefix, sizeof prefix);
	tr_buf_add_str(buf, queue);
	tr_message_encode_envelope(message, buf);
	op->len = (uint32_t)(buf->len - op->at);
	op->total = op->len;
	if (message->body_file == 0 && message->body.len > 0) {
		tr_bytes_share(&op->body, &message->body);
		op->total += (uint32_t)message->body.len;
	}
	if (!buf->failed) {
		op->crc = tr_crc32c(0, buf->data + op->at, op->len);
		op->crc = tr_crc32c(op->crc, op->body.data, op->body.len);
	}
}

static int
bind_slot(struct tr_spool *spool, struct op *op, const struct tr_message *message, uint64_t body_len)
{
	struct tr_stub *stub;
	int err;

	if (op->fresh) {
		op->slot = slot_new(spool);
		if (op->slot == TR_NO_SLOT)
			return TR_ENOMEM;
		op->seq = atomic_fetch_add_explicit(&spool->next_seq, 1, memory_order_relaxed);
		tr_stub_set_seq(tr_spool_stub(spool, op->slot), op->seq);
	}
	stub = tr_spool_stub(spool, op->slot);
	err = slot_measure(spool, op->slot, op->units, op->total, op->body_file, body_len);
	if (err == TR_OK && op->body_file != 0) {
		err = body_hold(spool, op->body_file, 0, false);
		if (err != TR_OK)
			op->body_file = 0;
	}
	if (err != TR_OK) {
		op->body_file = 0; /* not held */
		undo_op(spool, op);
		return err;
	}
	if (op->fresh) {
		stub->account = message->account;
		atomic_store_explicit(
			&stub->tries, (uint64_t)(message->created_ns / TR_NS_PER_MS) << 16, memory_order_relaxed);
	}
	tr_stub_set(
		stub, message->due_ms, message->flags & (uint16_t) ~(TR_MSG_DIRTY | TR_MSG_RENEWED), message->attempts);
	return TR_OK;
}

int
tr_change_put(
	struct tr_change *change, struct tr_message *message, struct tr_str queue, enum tr_column column, int64_t units)
{
	struct tr_spool *spool = change->spool;
	uint64_t body_len = 0;
	struct op *op;
	size_t mark;
	int err;

	if (message->body_file == 0 && message->body.len > spool->config.change_bytes)
		return TR_ETOOBIG;
	op = add_op(change, FRAME_PUT);
	if (op == NULL)
		return TR_ENOMEM;
	mark = change->job->buf.len;
	op->column = (uint8_t)column;
	op->account = message->account;
	op->units = units;
	op->slot = message->slot;
	op->fresh = message->slot == TR_NO_SLOT;
	op->body_file = message->body_file;
	if (!op->fresh) {
		op->seq = tr_spool_stub(spool, op->slot)->seq;
		err = remember(change, op);
		if (err != TR_OK)
			return err;
	}
	if (op->body_file != 0)
		body_len = body_bytes(spool, op->body_file);
	encode_put(&change->job->buf, op, message, queue, body_len);
	if (change->job->buf.failed) {
		change->failed = true;
		err = TR_ENOMEM;
		goto fail;
	}
	err = bind_slot(spool, op, message, body_len);
	if (err != TR_OK) {
		change->failed = err == TR_ENOMEM;
		goto fail;
	}
	err = keep_op(change, op);
	if (err != TR_OK) {
		undo_op(spool, op);
		goto fail;
	}
	message->slot = op->slot;
	message->seq = op->seq;
	message->flags &= (uint16_t) ~(TR_MSG_DIRTY | TR_MSG_RENEWED); /* it is stored as it is now */
	return TR_OK;
fail:
	op_fini(op);
	change->job->buf.len = mark;
	return err;
}

void
stub_move(struct tr_spool *spool, uint32_t slot, const struct move_payload *move)
{
	struct tr_stub *stub = tr_spool_stub(spool, slot);

	__atomic_store_n(&stub->account, move->to, __ATOMIC_RELAXED);
	atomic_store_explicit(&stub->tries, (uint64_t)move->created_ms << 16, memory_order_relaxed);
	tr_stub_set(stub, move->due_ms, move->flags, move->attempts);
}

static int
add_small(struct tr_change *change, struct op *op, const void *payload, size_t len)
{
	struct tr_buf *buf = &change->job->buf;

	op->at = (uint32_t)buf->len;
	op->len = op->total = (uint32_t)len;
	op->crc = tr_crc32c(0, payload, len);
	tr_buf_add(buf, payload, len);
	return keep_op(change, op);
}

int
tr_change_state(struct tr_change *change, uint32_t slot, int64_t due_ms, uint16_t attempts, uint16_t flags)
{
	struct state_payload payload = {
		.due_ms = due_ms, .attempts = attempts, .flags = flags & (uint16_t)~TR_MSG_DIRTY};
	struct op *op = add_op(change, FRAME_STATE);
	struct tr_stub *stub = tr_spool_stub(change->spool, slot);
	int err;

	if (op == NULL)
		return TR_ENOMEM;
	op->slot = slot;
	op->seq = stub->seq;
	err = remember(change, op);
	if (err != TR_OK)
		return err;
	err = add_small(change, op, &payload, sizeof payload);
	if (err == TR_OK)
		tr_stub_set(stub, due_ms, payload.flags, attempts);
	else
		op_fini(op);
	return err;
}

int
tr_change_move(
	struct tr_change *change, uint32_t slot, uint16_t account, int64_t created_ms, int64_t due_ms, uint16_t flags)
{
	const struct tr_stub *stub = tr_spool_stub(change->spool, slot);
	struct move_payload payload = {.created_ms = created_ms,
		.due_ms = due_ms,
		.units = slot_units(change->spool, slot),
		.flags = flags & (uint16_t)~TR_MSG_DIRTY,
		.from = stub->account,
		.to = account};
	struct op *op = add_op(change, FRAME_MOVE);

	if (op == NULL)
		return TR_ENOMEM;
	op->slot = slot;
	op->seq = stub->seq;
	return add_small(change, op, &payload, sizeof payload);
}

int
tr_change_done(struct tr_change *change, uint32_t slot, enum tr_column column, enum tr_reason reason, int64_t units)
{
	struct tr_stub *stub = tr_spool_stub(change->spool, slot);
	struct count_payload payload = {
		.account = stub->account, .column = (uint8_t)column, .reason = (uint8_t)reason, .units = units};
	struct op *op = add_op(change, FRAME_DONE);

	if (op == NULL)
		return TR_ENOMEM;
	op->slot = slot;
	op->seq = stub->seq;
	op->account = payload.account;
	op->column = payload.column;
	op->reason = payload.reason;
	op->units = units;
	remember_stored(change->spool, op);
	return add_small(change, op, &payload, sizeof payload);
}

/* The commit thread adds up what a whole group counts and makes the frames, so there is no payload. A record is counted
 * beside its put: that needs no op of its own. */
int
tr_change_count(struct tr_change *change, uint16_t account, enum tr_column column, enum tr_reason reason, int64_t units)
{
	struct tr_job *job = change->job;
	struct op *op = job != NULL && job->count > 0 ? &job->ops[job->count - 1] : NULL;

	if (op != NULL && op->type == FRAME_PUT && op->also == TR_COL_NONE && op->account == account &&
		op->units == units && reason == TR_REASON_NONE) {
		op->also = (uint8_t)column;
		job->bytes += COUNT_BYTES;
		job->copied += COUNT_BYTES;
		change->bytes = job->bytes;
		return TR_OK;
	}
	op = add_op(change, FRAME_COUNT);
	if (op == NULL)
		return TR_ENOMEM;
	op->account = account;
	op->column = (uint8_t)column;
	op->reason = (uint8_t)reason;
	op->units = units;
	op->total = sizeof(struct count_payload);
	return keep_op(change, op);
}

static void
undo_job(struct tr_spool *spool, struct tr_job *job)
{
	for (uint32_t i = job->count; i-- > 0;)
		undo_op(spool, &job->ops[i]);
}

void
tr_change_abandon(struct tr_change *change)
{
	if (change->job == NULL)
		return;
	undo_job(change->spool, change->job);
	job_recycle(port_get(change->spool, change->loop), change->job);
	change->job = NULL;
	change->count = 0;
	change->bytes = 0;
}

/* The slots of ended messages go back only now: done() may still have looked at them. */
static void
free_ended(struct tr_spool *spool, struct tr_job *job)
{
	uint32_t slots[64], count = 0;

	for (uint32_t i = 0; i < job->count; i++) {
		if (job->ops[i].type != FRAME_DONE)
			continue;
		slots[count++] = job->ops[i].slot;
		if (count == TR_COUNT(slots)) {
			slot_free_many(spool, slots, count);
			count = 0;
		}
	}
	if (count > 0)
		slot_free_many(spool, slots, count);
}

void
job_finished(struct tr_mail *mail)
{
	struct tr_job *job = tr_container_of(mail, struct tr_job, mail);
	struct tr_change *change = job->change;
	struct tr_spool *spool = job->spool;
	int status = job->status;

	if (status != TR_OK)
		undo_job(spool, job);
	if (change != NULL)
		change->done(change, status); /* may free or reuse the change */
	if (status == TR_OK)
		free_ended(spool, job);
	job_recycle(port_get(spool, job->loop), job);
	atomic_fetch_sub_explicit(&spool->outstanding, 1, memory_order_release); /* the last use of the spool */
}

/* --- hand-over ------------------------------------------------------------------------------------- */

static void
nothing(struct tr_defer *defer)
{
	(void)defer; /* its being queued is what counts: the turn ends with the hooks */
}

void
port_flush(struct port *port)
{
	struct tr_mail *newest = port->newest, *oldest = port->oldest;
	uint64_t bytes = port->bytes;
	bool urgent = port->urgent;

	if (port->hooked)
		tr_loop_remove_turn_hook(port->loop, &port->hook);
	port->hooked = false;
	port->newest = port->oldest = NULL;
	port->bytes = 0;
	port->urgent = false;
	if (newest != NULL)
		commit_hand_over(port->spool, newest, oldest, bytes, urgent);
	if (port->answers != NULL) {
		struct tr_mail *first = port->answers, *last = port->answers_last;

		port->answers = port->answers_last = NULL;
		tr_loop_post_chain(port->loop, first, last);
	}
}

void
port_turn_end(struct tr_turn_hook *hook)
{
	port_flush(tr_container_of(hook, struct port, hook));
}

/* no_flush: it is answered before it is written, and nothing refuses it. */
static void
take_effect_now(struct tr_spool *spool, const struct tr_job *job)
{
	struct move_payload move;

	for (uint32_t i = 0; i < job->count; i++) {
		if (job->ops[i].type == FRAME_PUT && !job->ops[i].fresh)
			atomic_fetch_add(&spool->replaced_asked, 1);
		if (job->ops[i].type != FRAME_MOVE)
			continue;
		memcpy(&move, job->buf.data + job->ops[i].at, sizeof move);
		stub_move(spool, job->ops[i].slot, &move);
	}
}

/* For what never gets to the commit thread: an empty change, one whose building failed, no_flush. */
static void
answer_now(struct tr_mail *mail)
{
	struct tr_change *change = tr_container_of(mail, struct tr_change, mail);

	change->done(change, !change->failed ? TR_OK : change->why != 0 ? change->why : TR_ENOMEM);
}

void
tr_spool_submit(struct tr_change *change)
{
	struct tr_spool *spool = change->spool;
	struct port *port = port_get(spool, change->loop);
	struct tr_job *job = change->job;

	change->failed |= port == NULL;
	if (change->failed)
		tr_change_abandon(change);
	change->mail.fn = answer_now;
	if (change->failed || job == NULL) {
		tr_loop_post(change->loop, &change->mail);
		return;
	}
	change->job = NULL;
	job->spool = spool;
	job->loop = change->loop;
	job->change = change;
	job->urgent = change->urgent;
	job->intake = change->intake;
	job->mail.fn = job_finished;
	job->since_ns = tr_mono_ns();
	if (spool->config.no_flush) { /* one list, nothing refused: what was answered must be stored */
		job->change = NULL;
		job->urgent = job->intake = false;
		take_effect_now(spool, job);
		change->mail.next = NULL;
		if (port->answers_last != NULL)
			port->answers_last->next = &change->mail;
		else
			port->answers = &change->mail;
		port->answers_last = &change->mail;
	}
	if (!spool->config.inline_io) /* else it is stored in this turn, or waits for a timer while the disk fails */
		tr_hold_take();
	atomic_fetch_add_explicit(&spool->outstanding, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&spool->n.pending_bytes, job->bytes, memory_order_relaxed);
	job->mail.next = port->newest;
	port->newest = &job->mail;
	if (port->oldest == NULL)
		port->oldest = &job->mail;
	port->bytes += job->bytes;
	port->urgent |= job->urgent;
	if (!port->hooked) {
		port->hooked = true;
		tr_loop_add_turn_hook(port->loop, &port->hook);
		tr_loop_defer(port->loop, &port->defer, nothing);
	}
}
