/* The stored form of a message. Layout, integers little-endian, "bytes" with a varint length before:
 *   u8 version, id[16], u16 hook, bytes sender, varint at,
 *   varint count, count * (bytes recipient, varint at), meta (tr_meta_encode),
 *   u8 schedule (0 or 1) and its fields, varint body_file, bytes head, varint body length, body bytes.
 * The length of the body is there so that a cut frame is seen. With a body file the frame ends behind it. */
#include <stdlib.h>

#include "message/message.h"

#define VERSION 1

static void
put_addr(const struct tr_addr *addr, struct tr_buf *out)
{
	tr_buf_put_bytes(out, tr_addr_str(addr));
	tr_buf_put_varint(out, addr->at);
}

void
tr_message_encode_envelope(const struct tr_message *message, struct tr_buf *out)
{
	const struct tr_schedule *schedule = message->schedule;

	tr_buf_put_u8(out, VERSION);
	tr_buf_add(out, message->id, sizeof message->id);
	tr_buf_put_u16(out, message->hook);
	put_addr(&message->sender, out);
	tr_buf_put_varint(out, message->rcpt_count);
	for (uint32_t i = 0; i < message->rcpt_count; i++)
		put_addr(&message->rcpts[i], out);
	tr_meta_encode(&message->meta, out);
	tr_buf_put_u8(out, schedule != NULL);
	if (schedule != NULL) {
		tr_buf_put_u64(out, (uint64_t)schedule->first_attempt_ms);
		tr_buf_put_u64(out, (uint64_t)schedule->expires_ms);
		tr_buf_put_u8(out, schedule->dow_mask);
		tr_buf_put_u32(out, schedule->start_s);
		tr_buf_put_u32(out, schedule->end_s);
		tr_buf_put_bytes(out, tr_str(schedule->tz));
	}
	tr_buf_put_varint(out, message->body_file);
	tr_buf_put_bytes(out, tr_bytes_str(&message->head));
	tr_buf_put_varint(out, message->body.len);
}

static int
get_addr(struct tr_reader *reader, struct tr_message *message, struct tr_addr *out)
{
	struct tr_str text = tr_read_bytes(reader);
	uint64_t at = tr_read_varint(reader);
	struct tr_addr view = {
		.email = (char *)text.data, .len = (uint32_t)text.len, .at = (uint32_t)at}; /* only read, by the copy */

	if (reader->failed || at > text.len || text.len > INT32_MAX)
		return TR_ECORRUPT;
	return tr_message_copy_addr(message, &view, out);
}

static int
get_rcpts(struct tr_reader *reader, struct tr_message *message)
{
	uint64_t count = tr_read_varint(reader), cap = 1;

	/* two bytes each at least: damage cannot ask for more memory than the frame has */
	if (reader->failed || count > (uint64_t)(reader->end - reader->at) / 2 || count > UINT32_MAX / 2)
		return TR_ECORRUPT;
	if (count == 0)
		return TR_OK;
	while (cap < count) /* as tr_message_add_rcpt() would have it */
		cap *= 2;
	if (tr_message_new_rcpts(message, (uint32_t)cap) == NULL)
		return TR_ENOMEM;
	while (message->rcpt_count < count) {
		int err = get_addr(reader, message, &message->rcpts[message->rcpt_count]);

		if (err != TR_OK)
			return err;
		message->rcpt_count++;
	}
	return TR_OK;
}

static int
get_schedule(struct tr_reader *reader, struct tr_message *message)
{
	uint8_t present = tr_read_u8(reader);
	struct tr_schedule *schedule;
	struct tr_str tz;

	if (reader->failed || present > 1)
		return TR_ECORRUPT;
	if (present == 0)
		return TR_OK;
	schedule = message->schedule = calloc(1, sizeof *schedule);
	if (schedule == NULL)
		return TR_ENOMEM;
	schedule->first_attempt_ms = (int64_t)tr_read_u64(reader);
	schedule->expires_ms = (int64_t)tr_read_u64(reader);
	schedule->dow_mask = tr_read_u8(reader);
	schedule->start_s = tr_read_u32(reader);
	schedule->end_s = tr_read_u32(reader);
	tz = tr_read_bytes(reader);
	if (reader->failed || tz.len >= sizeof schedule->tz || schedule->start_s >= 86400 || schedule->end_s >= 86400)
		return TR_ECORRUPT;
	memcpy(schedule->tz, tz.data, tz.len);
	return TR_OK;
}

static void
view(struct tr_bytes *bytes, struct tr_blob *blob, struct tr_str part)
{
	if (part.len > 0)
		*bytes = (struct tr_bytes){tr_blob_ref(blob), part.data, part.len};
}

static int
decode(struct tr_reader *reader, struct tr_blob *blob, struct tr_message *message)
{
	uint64_t body_len;
	struct tr_str head;
	int err;

	if (tr_read_u8(reader) != VERSION || (size_t)(reader->end - reader->at) < sizeof message->id)
		return TR_ECORRUPT;
	memcpy(message->id, reader->at, sizeof message->id);
	reader->at += sizeof message->id;
	message->created_ns = tr_uuid1_wall_ns(message->id);
	message->hook = tr_read_u16(reader);
	err = get_addr(reader, message, &message->sender);
	if (err == TR_OK)
		err = get_rcpts(reader, message);
	if (err == TR_OK)
		err = tr_meta_decode(reader, &message->meta);
	if (err == TR_OK)
		err = get_schedule(reader, message);
	if (err != TR_OK)
		return err;
	message->body_file = tr_read_varint(reader);
	head = tr_read_bytes(reader);
	body_len = tr_read_varint(reader);
	if (reader->failed || (uint64_t)(reader->end - reader->at) != (message->body_file != 0 ? 0 : body_len))
		return TR_ECORRUPT;
	view(&message->head, blob, head);
	view(&message->body, blob, (struct tr_str){reader->at, (size_t)(reader->end - reader->at)});
	return TR_OK;
}

int
tr_message_decode(struct tr_blob *blob, struct tr_str opaque, struct tr_message **out)
{
	struct tr_reader reader = {opaque.data, opaque.data + opaque.len, false};
	struct tr_message *message = tr_message_bare(true);
	int err;

	*out = NULL;
	if (message == NULL)
		return TR_ENOMEM;
	err = decode(&reader, blob, message);
	if (err != TR_OK) {
		tr_message_free(message);
		return err;
	}
	*out = message;
	return TR_OK;
}
