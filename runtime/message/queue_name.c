/* Names of scheduled queues: composing and parsing, contract/queues.md section 1. */
#include "base/json.h"
#include "message/message.h"

enum routing { QUEUE, TENANT, CAMPAIGN, ROUTING_DOMAIN, ROUTING_COUNT };

static const struct tr_str keys[ROUTING_COUNT] = {{"queue", 5}, {"tenant", 6}, {"campaign", 8}, {"routing_domain", 14}};

#define WRONG(key)                                                                           \
	{                                                                                    \
		[TR_JSON_BOOL] = "expected '" key "' to be a string value, got a boolean",   \
		[TR_JSON_NUMBER] = "expected '" key "' to be a string value, got a number",  \
		[TR_JSON_ARRAY] = "expected '" key "' to be a string value, got an array",   \
		[TR_JSON_OBJECT] = "expected '" key "' to be a string value, got an object", \
	}
static const char *const wrong[ROUTING_COUNT][TR_JSON_OBJECT + 1] = {
	WRONG("queue"), WRONG("tenant"), WRONG("campaign"), WRONG("routing_domain")};

static int
add(struct tr_str json, struct tr_buf *out)
{
	return tr_json_unescape(json, out);
}

static void
add_lower(struct tr_str text, struct tr_buf *out)
{
	char *to = tr_buf_reserve(out, text.len);

	if (to == NULL)
		return;
	for (size_t i = 0; i < text.len; i++) {
		char c = text.data[i];

		to[i] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
	}
	out->len += text.len;
}

int
tr_message_queue_name(const struct tr_message *message, struct tr_buf *out, const char **error)
{
	struct tr_str value[ROUTING_COUNT] = {{NULL, 0}};
	size_t start = out->len;
	int err = TR_OK;

	*error = NULL;
	for (uint32_t i = 0; i < message->meta.count; i++) { /* one pass for all four */
		const struct tr_meta_item *item = &message->meta.items[i];

		for (int k = 0; k < ROUTING_COUNT; k++) {
			struct tr_str json = {item->bytes + item->key_len, item->value_len};
			enum tr_json_type type;

			if (item->key_len != keys[k].len || memcmp(item->bytes, keys[k].data, keys[k].len) != 0)
				continue;
			type = tr_json_type(json);
			if (type == TR_JSON_STRING) {
				value[k] = json;
			} else if (type != TR_JSON_NULL) {
				*error = wrong[k][type];
				return TR_EINVAL;
			}
		}
	}
	if (value[QUEUE].data != NULL) {
		err = add(value[QUEUE], out);
	} else if (message->rcpt_count == 0) {
		*error = "the message has neither a recipient nor a 'queue' meta value";
		return TR_ENOENT;
	} else {
		if (value[CAMPAIGN].data != NULL) {
			err = add(value[CAMPAIGN], out);
			tr_buf_addc(out, ':');
		}
		if (err == TR_OK && value[TENANT].data != NULL)
			err = add(value[TENANT], out);
		if (value[CAMPAIGN].data != NULL || value[TENANT].data != NULL)
			tr_buf_addc(out, '@');
		add_lower(tr_addr_domain(&message->rcpts[0]), out);
		if (err == TR_OK && value[ROUTING_DOMAIN].data != NULL) {
			tr_buf_addc(out, '!');
			err = add(value[ROUTING_DOMAIN], out);
		}
	}
	if (out->failed)
		err = TR_ENOMEM;
	if (err != TR_OK) {
		if (!out->failed)
			out->len = start;
		*error = err == TR_ENOMEM ? "out of memory" : "a routing meta value holds bad string escapes";
	}
	return err;
}

/* Splits at the first `mark`: false and all in *left when there is none. */
static bool
split(struct tr_str text, char mark, struct tr_str *left, struct tr_str *right)
{
	const char *at = text.len > 0 ? memchr(text.data, mark, text.len) : NULL;

	*left = text;
	*right = (struct tr_str){NULL, 0};
	if (at == NULL)
		return false;
	left->len = (size_t)(at - text.data);
	*right = (struct tr_str){at + 1, text.len - left->len - 1};
	return true;
}

void
tr_queue_name_parse(struct tr_str name, struct tr_queue_name *out)
{
	struct tr_str left, right;

	*out = (struct tr_queue_name){0};
	if (split(name, '@', &left, &right)) {
		out->has_tenant = true;
		out->has_campaign = split(left, ':', &out->campaign, &out->tenant);
		if (!out->has_campaign) {
			out->tenant = left;
			out->campaign = (struct tr_str){NULL, 0};
		}
	} else {
		right = name;
	}
	out->has_routing = split(right, '!', &out->domain, &out->routing_domain);
}
