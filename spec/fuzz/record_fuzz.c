/* Log records of any message and any answer: always JSON, whatever the header fields, metadata and texts are. The input
 * is, a line each: patterns of header fields, a key of metadata, its value, the answer, the peer's name; then the
 * message. */
#include "base/json.h"
#include "record/record.h"

#include "fuzz.h"

#define EVENT_ID "00000000000000000000000000000001"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct fuzz_in in = {data, data + len};
	uint8_t first = fuzz_byte(&in);
	char *pattern, *copy;
	const char *headers[3] = {NULL, "x-*", NULL}, *meta[] = {"*", NULL}, *text;
	struct tr_capture capture = {meta, headers};
	struct tr_str key, value, content, command, peer;
	struct tr_message *message = tr_message_new();
	struct tr_buf out = {0};
	size_t size, error_at = 0;

	need(message != NULL);
	size = fuzz_until(&in, '\n', &text);
	pattern = strndup(text, size);
	headers[0] = pattern;
	key.len = fuzz_until(&in, '\n', &key.data);
	value.len = fuzz_until(&in, '\n', &value.data);
	content.len = fuzz_until(&in, '\n', &content.data);
	command.len = fuzz_until(&in, '\n', &command.data);
	peer.len = fuzz_until(&in, '\n', &peer.data);
	copy = fuzz_copy(in.at, (size_t)(in.end - in.at));
	tr_meta_set_string(&message->meta, key, value);
	tr_meta_set_string(&message->meta, TR_STR("reception_protocol"), peer);
	tr_message_set_sender(message, command);
	tr_message_add_rcpt(message, peer);
	tr_message_add_rcpt(message, key);
	need(tr_message_set_data(message, (struct tr_str){copy, (size_t)(in.end - in.at)}) == TR_OK);
	struct tr_event event = {
		.type = (enum tr_event_type)(first % TR_EVENT_TYPES),
		.when_ns = 1785000010123456789,
		.message = message,
		.queue = value,
		.site = peer,
		.response = {.code = first * 3, .content = content, .command = command},
		.has_peer = (first & 64) != 0,
		.peer_name = peer,
		.peer_addr = content,
		.egress_pool = key,
		.egress_source = value,
		.source_address = command,
		.delivery_protocol = (first & 128) != 0 ? key : (struct tr_str){NULL, 0},
		.provider = value,
		.num_attempts = -1,
	};
	tr_response_split_enhanced(&event.response);
	tr_record_encode(&event, "5bf2c1d0-6f1b-11f0-a1b2-0242ac120002", EVENT_ID, &capture, &out);
	need(!out.failed && out.len > 0 && memchr(out.data, '\n', out.len) == NULL);
	need(tr_json_check((struct tr_str){out.data, out.len}, &error_at) == TR_OK);
	need(memmem(out.data, out.len, "\"event_id\":\"" EVENT_ID "\"", sizeof "\"event_id\":\"" EVENT_ID "\"" - 1) !=
		NULL);
	tr_buf_clear(&out);
	tr_response_line(&event.response, &out);
	tr_buf_free(&out);
	tr_message_free(message);
	free(pattern);
	free(copy);
	return 0;
}
