/* A call with its messages: its making, its answers, its end. The loop's side; what becomes of it between is amqp.c's.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "transport/amqp_internal.h"

struct tr_amqp_call *
tr_amqp_call_new(struct tr_amqp_pool *pool, uint32_t count)
{
	struct tr_amqp_batch *batch = calloc(1, sizeof *batch + count * sizeof batch->slots[0]);

	if (batch == NULL)
		return NULL;
	batch->pub.count = count;
	batch->pub.wait_timeout_ns = pool->settings.wait_timeout_ns;
	batch->pub.publish_timeout_ns = pool->settings.publish_timeout_ns;
	batch->pool = pool;
	batch->next = pool->amqp->calls;
	batch->prev = &pool->amqp->calls;
	if (batch->next != NULL)
		batch->next->prev = &batch->next;
	pool->amqp->calls = batch;
	pool->calls++;
	init_amqp_pool(&batch->memory, 4096);
	return &batch->pub;
}

amqp_pool_t *
tr_amqp_call_pool(struct tr_amqp_call *call)
{
	return &tr_amqp_batch_of(call)->memory;
}

amqp_bytes_t
tr_amqp_call_text(struct tr_amqp_call *call, struct tr_str text)
{
	amqp_bytes_t copy = {text.len, NULL};

	copy.bytes = amqp_pool_alloc(&tr_amqp_batch_of(call)->memory, text.len + 1);
	if (copy.bytes == NULL)
		return amqp_empty_bytes;
	if (text.len > 0)
		memcpy(copy.bytes, text.data, text.len);
	return copy;
}

int
tr_amqp_call_add(struct tr_amqp_call *call, const struct tr_amqp_message *message)
{
	struct tr_amqp_batch *batch = tr_amqp_batch_of(call);
	struct tr_amqp_slot *slot = &batch->slots[batch->added];

	slot->exchange = tr_amqp_call_text(call, message->exchange);
	slot->routing_key = tr_amqp_call_text(call, message->routing_key);
	slot->properties = message->properties;
	slot->mandatory = message->mandatory;
	slot->immediate = message->immediate;
	slot->probe = message->probe;
	if (message->bytes != NULL) {
		tr_bytes_share(&slot->payload, message->bytes);
	} else if (tr_bytes_copy(&slot->payload, message->payload) != TR_OK) {
		return TR_ENOMEM;
	}
	batch->bytes += slot->payload.len;
	batch->added++;
	return slot->exchange.bytes != NULL && slot->routing_key.bytes != NULL ? TR_OK : TR_ENOMEM;
}

void
tr_amqp_call_result(const struct tr_amqp_call *call, uint32_t index, struct tr_amqp_result *out)
{
	const struct tr_amqp_slot *slot = &((const struct tr_amqp_batch *)call)->slots[index];

	*out = (struct tr_amqp_result){slot->status, slot->err, slot->reply_code, slot->permanent,
		{slot->text.bytes != NULL ? slot->text.bytes : "", slot->text.len}};
}

void
tr_amqp_batch_rest(struct tr_amqp_batch *batch)
{
	tr_timer_stop(tr_loop_wheel(batch->pool->amqp->loop), &batch->timer);
	if (batch->held)
		tr_hold_drop();
	batch->held = false;
}

void
tr_amqp_batch_unlink(struct tr_amqp_batch *batch)
{
	if (batch->prev == NULL || batch->pool == NULL) /* tr_amqp_free() has run */
		return;
	tr_amqp_batch_rest(batch);
	*batch->prev = batch->next;
	if (batch->next != NULL)
		batch->next->prev = batch->prev;
	batch->prev = NULL;
	batch->pool->calls--;
}

void
tr_amqp_call_free(struct tr_amqp_call *call)
{
	struct tr_amqp_batch *batch = tr_amqp_batch_of(call);

	tr_amqp_batch_unlink(batch);
	for (uint32_t i = 0; i < batch->added; i++)
		tr_bytes_fini(&batch->slots[i].payload);
	empty_amqp_pool(&batch->memory);
	free(batch);
}
