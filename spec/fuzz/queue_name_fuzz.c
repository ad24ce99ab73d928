/* Queue names: every text is one and its parts lie inside; a name made of parts without its separators has them again.
 */
#include "base/json.h"
#include "message/message.h"

#include "fuzz.h"

static bool
inside(struct tr_str part, struct tr_str whole)
{
	return part.len == 0 || (part.data >= whole.data && part.data + part.len <= whole.data + whole.len);
}

static void
parse(struct tr_str name)
{
	struct tr_queue_name parts;

	tr_queue_name_parse(name, &parts);
	need(inside(parts.campaign, name) && inside(parts.tenant, name) && inside(parts.domain, name) &&
		inside(parts.routing_domain, name));
	need(parts.has_campaign || parts.campaign.len == 0);
	need(parts.campaign.len + parts.tenant.len + parts.domain.len + parts.routing_domain.len <= name.len);
}

static bool
plain(struct tr_str text)
{
	for (size_t i = 0; i < text.len; i++) {
		if (memchr("@:!", text.data[i], 3) != NULL)
			return false;
	}
	return tr_utf8_valid(text); /* metadata is JSON: other bytes are not kept */
}

static void
set(struct tr_message *message, const char *key, bool has, struct tr_str value)
{
	if (has)
		need(tr_meta_set_string(&message->meta, tr_str(key), value) == TR_OK);
}

/* From meta and a recipient. Bits of the first byte: which parts there are. */
static void
compose(struct fuzz_in in)
{
	uint8_t has = fuzz_byte(&in);
	struct tr_str campaign, tenant, routing, rcpt;
	struct tr_message *message = tr_message_new();
	struct tr_buf name = {0};
	const char *error = NULL;

	need(message != NULL);
	campaign.len = fuzz_until(&in, '\n', &campaign.data);
	tenant.len = fuzz_until(&in, '\n', &tenant.data);
	routing.len = fuzz_until(&in, '\n', &routing.data);
	rcpt.len = fuzz_until(&in, '\n', &rcpt.data);
	set(message, "campaign", has & 1, campaign);
	set(message, "tenant", has & 2, tenant);
	set(message, "routing_domain", has & 4, routing);
	set(message, "queue", has & 8, campaign);
	if (tr_message_add_rcpt(message, rcpt) != TR_OK)
		need(message->rcpt_count == 0);
	int err = tr_message_queue_name(message, &name, &error);
	need(err == TR_OK || message->rcpt_count == 0 || error != NULL || err == TR_ENOENT);
	if (err == TR_OK) {
		struct tr_str text = {name.data, name.len};
		struct tr_queue_name parts;

		parse(text);
		tr_queue_name_parse(text, &parts);
		if (!(has & 8) && plain(campaign) && plain(tenant) && plain(routing) &&
			plain(tr_addr_domain(&message->rcpts[0]))) {
			need(!(has & 1) || tr_str_eq(parts.campaign, campaign));
			need(!(has & 2) || tr_str_eq(parts.tenant, tenant));
			need(!(has & 4) || (parts.has_routing && tr_str_eq(parts.routing_domain, routing)));
			need(parts.domain.len == tr_addr_domain(&message->rcpts[0]).len);
		}
		need(tr_message_set_queue(message, text) == TR_OK);
	}
	tr_buf_free(&name);
	tr_message_free(message);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char *copy = fuzz_copy(data, len);

	parse((struct tr_str){copy, len});
	compose((struct fuzz_in){(uint8_t *)copy, (uint8_t *)copy + len});
	free(copy);
	return 0;
}
