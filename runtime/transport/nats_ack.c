/* The texts of NATS: what may be a subject or a header, and what a stream answers. Pure. Sources: the NATS client
 * protocol, ADR-4 (headers), JetStream's PubAck and ApiError. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "transport/nats_internal.h"

const char *
tr_nats_check_subject(struct tr_str subject)
{
	char before = '.';

	if (subject.data == NULL || subject.len == 0)
		return "must not be empty";
	for (size_t i = 0; i < subject.len; i++) {
		unsigned char c = (unsigned char)subject.data[i];

		if (c <= ' ' || c == 0x7f)
			return "must not have spaces or control characters";
		if (c == '.' && before == '.')
			return "must not have empty tokens";
		before = (char)c;
	}
	return before == '.' ? "must not have empty tokens" : NULL;
}

const char *
tr_nats_check_header(struct tr_str name, struct tr_str value)
{
	if (name.len == 0)
		return "an empty name";
	for (size_t i = 0; i < name.len; i++) {
		unsigned char c = (unsigned char)name.data[i];

		if (c <= ' ' || c == ':' || c >= 0x7f)
			return "a name of printable ASCII without spaces and colons expected";
	}
	for (size_t i = 0; i < value.len; i++) {
		if (value.data[i] == '\r' || value.data[i] == '\n' || value.data[i] == '\0')
			return "a value without line ends and NUL bytes expected";
	}
	return NULL;
}

/* Offsets while the buffer grows; pointers after. */
struct piece {
	size_t at, len;
};

static struct piece
text_of(struct tr_str object, const char *name, struct tr_buf *memory)
{
	struct tr_str value = tr_json_get(object, name);
	struct piece piece = {memory->len, 0};

	if (value.data != NULL && tr_json_type(value) == TR_JSON_STRING && tr_json_unescape(value, memory) == TR_OK)
		piece.len = memory->len - piece.at;
	return piece;
}

static uint64_t
number_of(struct tr_str object, const char *name)
{
	struct tr_str value = tr_json_get(object, name);
	uint64_t number = 0;

	for (size_t i = 0; value.data != NULL && i < value.len; i++) {
		if (value.data[i] < '0' || value.data[i] > '9' || number > (UINT64_MAX - 9) / 10)
			break;
		number = number * 10 + (uint64_t)(value.data[i] - '0');
	}
	return number;
}

static struct tr_str
str_of(const struct tr_buf *memory, struct piece piece)
{
	if (memory->failed || piece.len == 0)
		return TR_STR("");
	return (struct tr_str){memory->data + piece.at, piece.len};
}

bool
tr_nats_plain_ack(struct tr_str body)
{
	static const char front[] = "{\"stream\":\"", middle[] = "seq\":";
	const char *at = body.data, *end = at + body.len, *name;

	if (body.len < sizeof front || memcmp(at, front, sizeof front - 1) != 0)
		return false;
	at = name = at + sizeof front - 1;
	while (at < end && *at != '"' && *at != '\\' && (unsigned char)*at >= ' ')
		at++;
	if (at == name || end - at < 3 || at[0] != '"' || at[1] != ',')
		return false;
	at += at[2] == ' ' ? 3 : 2;
	if (at == end || *at++ != '"' || (size_t)(end - at) < sizeof middle ||
		memcmp(at, middle, sizeof middle - 1) != 0)
		return false;
	at += sizeof middle - 1;
	for (name = at; at < end && *at >= '0' && *at <= '9';)
		at++;
	return at > name && end - at == 1 && *at == '}';
}

/* err_code of JetStream: the message, or what it expects of the stream, is refused for good. */
static bool
is_permanent(uint32_t code)
{
	switch (code) {
	case 10054: /* message size exceeds maximum allowed */
	case 10070: /* wrong last msg ID: a sequence never goes back */
	case 10071: /* wrong last sequence */
	case 10097: /* header size exceeds maximum allowed of 64k */
		return true;
	default:
		return false;
	}
}

void
tr_nats_parse_ack(struct tr_str body, struct tr_nats_result *out, struct tr_buf *memory)
{
	struct piece stream, domain, value, text;
	struct tr_str error, flag;
	size_t at;

	*out = (struct tr_nats_result){.err = TR_EPROTO};
	out->stream = out->domain = out->value = TR_STR("");
	if (tr_json_check(body, &at) != TR_OK || tr_json_type(body) != TR_JSON_OBJECT) {
		out->text = TR_STR("an acknowledgement that is no JSON object");
		return;
	}
	error = tr_json_get(body, "error");
	if (error.data != NULL && tr_json_type(error) == TR_JSON_OBJECT) {
		out->code = (uint32_t)number_of(error, "err_code");
		out->permanent = is_permanent(out->code);
		text = (struct piece){memory->len, 0};
		tr_buf_addf(memory, "%u ", out->code);
		text_of(error, "description", memory);
		text.len = memory->len - text.at;
		out->text = str_of(memory, text);
		if (out->code == 10054)
			out->err = TR_ETOOBIG;
		return;
	}
	stream = text_of(body, "stream", memory);
	domain = text_of(body, "domain", memory);
	value = text_of(body, "val", memory);
	if (stream.len == 0) {
		out->text = TR_STR("an acknowledgement without a stream");
		return;
	}
	flag = tr_json_get(body, "duplicate");
	out->err = TR_OK;
	out->stream = str_of(memory, stream);
	out->domain = str_of(memory, domain);
	out->value = str_of(memory, value);
	out->sequence = number_of(body, "seq");
	out->duplicate = flag.data != NULL && tr_str_eq(flag, TR_STR("true"));
}
