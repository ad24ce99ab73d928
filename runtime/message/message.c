#include "message/message.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/pool.h"

void
tr_bytes_set(struct tr_bytes *bytes, struct tr_blob *blob)
{
	struct tr_blob *old = bytes->blob;

	*bytes = (struct tr_bytes){blob, blob != NULL ? blob->data : NULL, blob != NULL ? blob->len : 0};
	tr_blob_unref(old);
}

void
tr_bytes_share(struct tr_bytes *to, const struct tr_bytes *from)
{
	struct tr_blob *old = to->blob;

	tr_blob_ref(from->blob);
	*to = *from;
	tr_blob_unref(old);
}

int
tr_bytes_copy(struct tr_bytes *to, struct tr_str text)
{
	struct tr_blob *blob = text.len > 0 ? tr_blob_new(text.data, text.len) : NULL;

	if (blob == NULL && text.len > 0)
		return TR_ENOMEM;
	tr_bytes_set(to, blob);
	return TR_OK;
}

void
tr_bytes_fini(struct tr_bytes *bytes)
{
	tr_blob_unref(bytes->blob);
	*bytes = (struct tr_bytes){0};
}

/* --- room ---------------------------------------------------------------------------------------------- */

enum {
	RECORD_BYTES = 640, /* of a message with its room: addresses, queue and metadata of most records */
	META_BYTES = 256,
};
_Static_assert(sizeof(struct tr_message) + META_BYTES + 128 <= RECORD_BYTES, "room");

struct tr_message *
tr_message_bare(bool with_room)
{
	struct tr_message *message = tr_pool_get(with_room ? RECORD_BYTES : sizeof *message);

	if (message == NULL)
		return NULL;
	memset(message, 0, sizeof *message);
	message->slot = TR_NO_SLOT;
	if (with_room) {
		message->room_bytes = RECORD_BYTES - sizeof *message;
		message->room_used = META_BYTES;
		tr_meta_lend(&message->meta, message->room, META_BYTES);
	}
	return message;
}

/* NULL: it is full. */
static void *
room_get(struct tr_message *message, size_t bytes)
{
	void *at = message->room + message->room_used;

	bytes = (bytes + 7) & ~(size_t)7;
	if (bytes > (size_t)(message->room_bytes - message->room_used))
		return NULL;
	message->room_used += (uint16_t)bytes;
	return at;
}

int
tr_message_copy_addr(struct tr_message *message, const struct tr_addr *from, struct tr_addr *to)
{
	char *email = from->len > 0 ? room_get(message, (size_t)from->len + 1) : NULL;

	if (email == NULL)
		return tr_addr_copy(from, to);
	memcpy(email, from->email, from->len);
	email[from->len] = '\0';
	*to = (struct tr_addr){.email = email, .len = from->len, .at = from->at, .lent = 1};
	return TR_OK;
}

struct tr_addr *
tr_message_new_rcpts(struct tr_message *message, uint32_t count)
{
	struct tr_addr *rcpts = room_get(message, count * sizeof *rcpts);

	if (rcpts == NULL)
		return message->rcpts = calloc(count, sizeof *rcpts);
	memset(rcpts, 0, count * sizeof *rcpts);
	return message->rcpts = rcpts;
}

static void
free_part(struct tr_message *message, void *part)
{
	if (!tr_message_in_room(message, part))
		free(part);
}

int
tr_message_set_queue(struct tr_message *message, struct tr_str name)
{
	char *queue = room_get(message, name.len + 1);

	if (queue == NULL && (queue = malloc(name.len + 1)) == NULL)
		return TR_ENOMEM;
	if (name.len > 0)
		memcpy(queue, name.data, name.len);
	queue[name.len] = '\0';
	free_part(message, message->queue);
	message->queue = queue;
	return TR_OK;
}

/* --- life ---------------------------------------------------------------------------------------------- */

static struct tr_message *
new_message(bool with_room, int64_t wall_ns)
{
	struct tr_message *message = tr_message_bare(with_room);

	if (message == NULL)
		return NULL;
	message->hook = 0xffff;
	message->flags = TR_MSG_DIRTY;
	tr_uuid1_at(wall_ns, message->id);
	message->created_ns = tr_uuid1_wall_ns(message->id);
	return message;
}

struct tr_message *
tr_message_new(void)
{
	return new_message(false, tr_wall_ns());
}

struct tr_message *
tr_message_new_record(int64_t wall_ns)
{
	return new_message(true, wall_ns);
}

void
tr_message_revoke(struct tr_message *message)
{
	if (message->handle != NULL) {
		void (*gone)(struct tr_message *) = message->handle_gone;

		if (gone != NULL)
			gone(message);
		message->handle = NULL;
		message->handle_gone = NULL;
	}
}

void
tr_message_free(struct tr_message *message)
{
	if (message == NULL)
		return;
	tr_message_revoke(message);
	tr_addr_fini(&message->sender);
	tr_message_clear_rcpts(message);
	tr_meta_fini(&message->meta);
	tr_bytes_fini(&message->head);
	tr_bytes_fini(&message->body);
	free(message->schedule);
	free_part(message, message->queue);
	tr_pool_put(message, sizeof *message + message->room_bytes);
}

struct tr_message *
tr_message_split(const struct tr_message *from)
{
	struct tr_message *message = tr_message_new();

	if (message == NULL)
		return NULL;
	message->due_ms = from->due_ms;
	message->flags |= from->flags & (TR_MSG_LOG_RECORD | TR_MSG_TEMPLATE | TR_MSG_ORDERED);
	message->order = from->order;
	message->account = from->account;
	message->hook = from->hook;
	message->body_file = from->body_file;
	tr_bytes_share(&message->head, &from->head);
	tr_bytes_share(&message->body, &from->body);
	if (tr_addr_copy(&from->sender, &message->sender) != TR_OK)
		goto fail;
	if (from->rcpt_count > 0) {
		message->rcpts = calloc(from->rcpt_count, sizeof *message->rcpts);
		if (message->rcpts == NULL)
			goto fail;
		for (uint32_t i = 0; i < from->rcpt_count; i++, message->rcpt_count++)
			if (tr_addr_copy(&from->rcpts[i], &message->rcpts[i]) != TR_OK)
				goto fail;
	}
	if (tr_meta_copy(&from->meta, &message->meta) != TR_OK)
		goto fail;
	if (from->schedule != NULL) {
		message->schedule = malloc(sizeof *message->schedule);
		if (message->schedule == NULL)
			goto fail;
		*message->schedule = *from->schedule;
	}
	return message;
fail:
	tr_message_free(message);
	return NULL;
}

void
tr_message_renew(struct tr_message *message, int64_t created_ms)
{
	tr_uuid1_renew(message->id, created_ms);
	message->created_ns = tr_uuid1_wall_ns(message->id);
	tr_meta_remove(&message->meta, TR_STR("dead_letter"));
	if (message->schedule != NULL) /* that has passed, or else it will too soon */
		message->schedule->expires_ms = 0;
}

int
tr_message_set_order(struct tr_message *message, struct tr_str key)
{
	uint64_t hash;
	int err;

	if (key.data == NULL) {
		tr_meta_remove(&message->meta, TR_STR("order_key"));
		message->flags &= (uint16_t)~TR_MSG_ORDERED;
		message->order = 0;
		return TR_OK;
	}
	err = tr_meta_set_string(&message->meta, TR_STR("order_key"), key);
	if (err != TR_OK)
		return err;
	hash = tr_hash(key.data, key.len);
	message->order = (uint32_t)(hash ^ hash >> 32);
	if (message->order == 0)
		message->order = 1;
	message->flags |= TR_MSG_ORDERED;
	return TR_OK;
}

int
tr_message_set_sender(struct tr_message *message, struct tr_str text)
{
	struct tr_addr addr;
	int err = tr_addr_parse(text, &addr);

	if (err != TR_OK)
		return err;
	tr_addr_fini(&message->sender);
	message->sender = addr;
	message->flags |= TR_MSG_DIRTY;
	return TR_OK;
}

int
tr_message_add_rcpt(struct tr_message *message, struct tr_str text)
{
	uint32_t count = message->rcpt_count;
	struct tr_addr addr;
	int err = tr_addr_parse(text, &addr);

	if (err != TR_OK)
		return err;
	if ((count & (count - 1)) == 0) { /* full at 0 and at each power of two, so no field for the capacity */
		bool in_room = tr_message_in_room(message, message->rcpts);
		struct tr_addr *rcpts =
			realloc(in_room ? NULL : message->rcpts, (count == 0 ? 1 : (size_t)count * 2) * sizeof *rcpts);

		if (rcpts == NULL) {
			tr_addr_fini(&addr);
			return TR_ENOMEM;
		}
		if (in_room)
			memcpy(rcpts, message->rcpts, count * sizeof *rcpts);
		message->rcpts = rcpts;
	}
	message->rcpts[message->rcpt_count++] = addr;
	message->flags |= TR_MSG_DIRTY;
	return TR_OK;
}

void
tr_message_clear_rcpts(struct tr_message *message)
{
	for (uint32_t i = 0; i < message->rcpt_count; i++)
		tr_addr_fini(&message->rcpts[i]);
	free_part(message, message->rcpts);
	message->rcpts = NULL;
	message->rcpt_count = 0;
	message->flags |= TR_MSG_DIRTY;
}

int
tr_message_data(const struct tr_message *message, struct tr_bytes *out)
{
	struct tr_blob *joined;

	*out = (struct tr_bytes){0};
	if (message->head.len == 0) {
		tr_bytes_share(out, &message->body);
		return TR_OK;
	}
	joined = tr_blob_new(NULL, message->head.len + message->body.len);
	if (joined == NULL)
		return TR_ENOMEM;
	memcpy(joined->data, message->head.data, message->head.len);
	if (message->body.len > 0)
		memcpy(joined->data + message->head.len, message->body.data, message->body.len);
	joined->data[joined->len] = '\0';
	tr_bytes_set(out, joined);
	return TR_OK;
}

size_t
tr_message_size(const struct tr_message *message)
{
	return message->head.len + message->body.len;
}

int
tr_message_set_data(struct tr_message *message, struct tr_str bytes)
{
	struct tr_blob *blob = tr_blob_new(bytes.len > 0 ? bytes.data : "", bytes.len);

	if (blob == NULL)
		return TR_ENOMEM;
	tr_bytes_fini(&message->head);
	tr_bytes_set(&message->body, blob);
	message->body_file = 0; /* that file holds the old bytes; the next put ends its use */
	message->flags |= TR_MSG_DIRTY;
	return TR_OK;
}

/* runtime/record/encode.c puts the event_id at a fixed place, and no earlier key holds text of others. */
struct tr_str
tr_message_event_id(const struct tr_message *message)
{
	struct tr_str json = {message->body.data, message->body.len};
	const char *at, *end;

	if (!(message->flags & TR_MSG_LOG_RECORD))
		return (struct tr_str){NULL, 0};
	if (message->flags & TR_MSG_TEMPLATE)
		json = tr_meta_get(&message->meta, TR_STR("log_record"));
	if (json.data == NULL || json.len <= 46)
		return (struct tr_str){NULL, 0};
	end = json.data + (json.len - 46 < 128 ? json.len - 46 : 128); /* where it may begin, with room for all of it */
	for (at = json.data; (at = memchr(at, ',', (size_t)(end - at))) != NULL; at++) {
		if (memcmp(at, ",\"event_id\":\"", 13) == 0)
			return (struct tr_str){at + 13, 32};
	}
	return (struct tr_str){NULL, 0};
}
