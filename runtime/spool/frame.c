/* Frames: headers sealed and checked, PUT payloads split. */
#include "spool/frame.h"
#include "spool/ledger.h"

void
frame_seal(struct frame_header *header)
{
	header->header_crc = tr_crc32c(0, header, offsetof(struct frame_header, header_crc));
}

bool
frame_valid(const struct frame_header *header, uint32_t generation, uint32_t salt, uint64_t room)
{
	/* the cheap tests first: looking for the next good frame tries every eighth byte */
	return header->generation == generation && header->salt == salt && header->type >= FRAME_PUT &&
	       header->type <= FRAME_LAST && room >= FRAME_HEADER && header->length <= room - FRAME_HEADER &&
	       header->header_crc == tr_crc32c(0, header, offsetof(struct frame_header, header_crc));
}

bool
put_parse(struct tr_str payload, struct put_prefix *prefix, struct tr_str *queue, struct tr_str *opaque)
{
	if (payload.len < sizeof *prefix)
		return false;
	memcpy(prefix, payload.data, sizeof *prefix);
	if (prefix->queue_len > payload.len - sizeof *prefix || prefix->account >= TR_ACCOUNTS_MAX ||
		prefix->column >= TR_COLUMNS || prefix->units < 0 || prefix->units >= FRAME_UNITS_MAX)
		return false;
	*queue = (struct tr_str){payload.data + sizeof *prefix, prefix->queue_len};
	*opaque = (struct tr_str){queue->data + queue->len, payload.len - sizeof *prefix - queue->len};
	return true;
}
