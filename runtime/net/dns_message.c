/* Replies of name servers, RFC 1035 section 4. The bytes are a stranger's: every length is checked, compression may
 * only point backwards, CNAMEs are followed a bounded number of steps. */
#include <arpa/nameser.h>
#include <stdlib.h>

#include "net/dns_answer.h"

#define CHAIN_MAX 16 /* CNAMEs from the question to the records */
#define RR_MAX 4096  /* records that are looked at */
#define HOPS_MAX 128 /* pointers in a name: one to each label and no more */

struct packet {
	const uint8_t *data;
	size_t len, at;
	bool failed;
};

static uint32_t
number(struct packet *packet, size_t bytes)
{
	uint32_t value = 0;

	if (packet->failed || packet->len - packet->at < bytes) {
		packet->failed = true;
		return 0;
	}
	while (bytes-- > 0)
		value = value << 8 | packet->data[packet->at++];
	return value;
}

/* Adds one label as text: lower case; dots, backslashes and what cannot be printed are escaped. */
static size_t
put_label(char *out, size_t at, const uint8_t *label, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		uint8_t c = label[i];

		if (c >= 'A' && c <= 'Z')
			c |= 0x20;
		if (c == '.' || c == '\\') {
			out[at++] = '\\';
			out[at++] = (char)c;
		} else if (c > ' ' && c < 0x7f) {
			out[at++] = (char)c;
		} else {
			out[at++] = '\\';
			out[at++] = (char)('0' + c / 100);
			out[at++] = (char)('0' + c / 10 % 10);
			out[at++] = (char)('0' + c % 10);
		}
	}
	return at;
}

/* A name as text without the dot at the end; at most 255 bytes on the wire, so at most 1004 here. */
static void
name_at(struct packet *packet, char out[TR_DNS_NAME_MAX])
{
	size_t at = packet->at, end = 0, used = 0, text = 0, before = packet->at;
	int hops = 0;

	out[0] = '\0';
	while (!packet->failed) {
		uint8_t len;

		if (at >= packet->len)
			break;
		len = packet->data[at];
		if (len == 0) {
			out[text] = '\0';
			packet->at = end != 0 ? end : at + 1;
			return;
		}
		if ((len & 0xc0) == 0xc0) {
			size_t to;

			if (at + 1 >= packet->len)
				break;
			to = (size_t)(len & 0x3f) << 8 | packet->data[at + 1];
			if (to >= before || ++hops > HOPS_MAX) /* only backwards: it ends, and soon */
				break;
			if (end == 0)
				end = at + 2;
			at = before = to;
			continue;
		}
		if (len > 63 || at + 1 + len > packet->len)
			break;
		used += len + 1;
		if (used > 254)
			break;
		if (text > 0)
			out[text++] = '.';
		text = put_label(out, text, packet->data + at + 1, len);
		at += 1 + (size_t)len;
	}
	packet->failed = true;
	out[0] = '\0';
}

struct rr {
	char owner[TR_DNS_NAME_MAX];
	uint16_t type, class;
	uint32_t ttl_s;
	size_t at, len; /* of its data */
};

static bool
next_rr(struct packet *packet, struct rr *rr)
{
	name_at(packet, rr->owner);
	rr->type = (uint16_t)number(packet, 2);
	rr->class = (uint16_t)number(packet, 2);
	rr->ttl_s = number(packet, 4);
	rr->len = number(packet, 2);
	rr->at = packet->at;
	if (packet->failed || rr->len > packet->len - packet->at) {
		packet->failed = true;
		return false;
	}
	packet->at += rr->len;
	if (rr->ttl_s > INT32_MAX) /* RFC 2181 section 8 */
		rr->ttl_s = 0;
	return true;
}

/* The data of a record, as a packet that ends with it; names in it may point back into all of the message. */
static struct packet
data_of(const struct packet *packet, const struct rr *rr)
{
	return (struct packet){packet->data, rr->at + rr->len, rr->at, false};
}

static void
add_record(struct tr_dns_builder *builder, const struct packet *packet, const struct rr *rr)
{
	struct packet data = data_of(packet, rr);
	char name[TR_DNS_NAME_MAX];
	struct tr_buf text = {0};
	uint16_t preference = 0;

	switch (rr->type) {
	case TR_DNS_A:
	case TR_DNS_AAAA:
		if (rr->len == (rr->type == TR_DNS_A ? 4 : 16))
			tr_dns_builder_add_addr(builder, packet->data + rr->at, rr->len);
		return;
	case TR_DNS_TXT:
		while (data.at < data.len && !data.failed) {
			size_t len = number(&data, 1);

			if (len > data.len - data.at)
				break;
			tr_buf_add(&text, data.data + data.at, len);
			data.at += len;
		}
		tr_dns_builder_add(builder, 0, (struct tr_str){text.data != NULL ? text.data : "", text.len});
		tr_buf_free(&text);
		return;
	case TR_DNS_MX:
		preference = (uint16_t)number(&data, 2);
		/* fall through */
	default:
		name_at(&data, name);
		if (!data.failed)
			tr_dns_builder_add(builder, preference, tr_str(name));
	}
}

static const char *
failure_of(int rcode)
{
	switch (rcode) {
	case ns_r_servfail:
		return "SERVFAIL";
	case ns_r_refused:
		return "REFUSED";
	case ns_r_notimpl:
		return "NOTIMP";
	case ns_r_formerr:
		return "FORMERR";
	default:
		return "an unknown error code";
	}
}

static struct tr_dns_answer *
malformed(void)
{
	return tr_dns_answer_new(TR_DNS_FAILED, TR_EPROTO, "a malformed reply");
}

/* Follows CNAMEs from `name`, which becomes the last of them. */
static bool
follow(const struct packet *answers, uint32_t count, enum tr_dns_type type, char name[TR_DNS_NAME_MAX], uint32_t *ttl_s,
	bool *moved)
{
	struct rr rr;

	*moved = false;
	for (int step = 0; type != TR_DNS_CNAME && step < CHAIN_MAX; step++) {
		struct packet at = *answers;
		bool found = false;

		for (uint32_t i = 0; i < count && !found && next_rr(&at, &rr); i++) {
			struct packet data = data_of(&at, &rr);

			if (rr.type != TR_DNS_CNAME || rr.class != ns_c_in || strcmp(rr.owner, name) != 0)
				continue;
			name_at(&data, name);
			if (data.failed)
				return false;
			*ttl_s = rr.ttl_s < *ttl_s ? rr.ttl_s : *ttl_s;
			found = *moved = true;
		}
		if (!found)
			return true;
	}
	return type == TR_DNS_CNAME;
}

/* RFC 2308 section 5: how long "no" holds. */
static void
read_negative(struct packet *packet, uint32_t authorities, struct tr_dns_answer *answer)
{
	struct rr rr;
	char name[TR_DNS_NAME_MAX];

	for (uint32_t i = 0; i < authorities && next_rr(packet, &rr); i++) {
		struct packet data = data_of(packet, &rr);
		uint32_t minimum;

		if (rr.type != TR_DNS_SOA)
			continue;
		name_at(&data, name);
		name_at(&data, name);
		for (int skip = 0; skip < 4; skip++) /* serial, refresh, retry, expire */
			number(&data, 4);
		minimum = number(&data, 4);
		if (data.failed)
			continue;
		answer->has_soa = true;
		answer->ttl_s = minimum < rr.ttl_s ? minimum : rr.ttl_s;
		return;
	}
}

struct tr_dns_answer *
tr_dns_message_parse(const void *message, size_t len, const char *question, enum tr_dns_type type)
{
	struct packet packet = {message, len, 0, false}, answers;
	struct tr_dns_builder *builder;
	struct tr_dns_answer *answer;
	uint32_t flags, questions, count, authorities, ttl_s = INT32_MAX;
	char name[TR_DNS_NAME_MAX];
	struct rr rr;
	bool moved;
	int rcode;

	number(&packet, 2);
	flags = number(&packet, 2);
	questions = number(&packet, 2);
	count = number(&packet, 2);
	authorities = number(&packet, 2);
	number(&packet, 2);
	rcode = (int)(flags & 0xf);
	if (packet.failed || !(flags & 0x8000) || questions != 1)
		return malformed();
	name_at(&packet, name);
	if (number(&packet, 2) != type || number(&packet, 2) != ns_c_in || packet.failed ||
		(question != NULL && strcmp(question, name) != 0))
		return malformed();
	if (rcode != ns_r_noerror && rcode != ns_r_nxdomain)
		return tr_dns_answer_new(TR_DNS_FAILED, TR_EPROTO, failure_of(rcode));
	if (flags & 0x0200) /* truncated, and yet the last word */
		return tr_dns_answer_new(TR_DNS_FAILED, TR_EPROTO, "a truncated reply");
	answers = packet;
	if (count > RR_MAX || !follow(&answers, count, type, name, &ttl_s, &moved))
		return tr_dns_answer_new(
			TR_DNS_FAILED, TR_EPROTO, count > RR_MAX ? "an overlong reply" : "a loop of CNAMEs");
	builder = calloc(1, sizeof *builder);
	if (builder == NULL)
		return NULL;
	for (uint32_t i = 0; i < count && next_rr(&packet, &rr); i++) {
		if (rr.type != type || rr.class != ns_c_in || strcmp(rr.owner, name) != 0)
			continue;
		add_record(builder, &packet, &rr);
		ttl_s = rr.ttl_s < ttl_s ? rr.ttl_s : ttl_s;
	}
	if (packet.failed) {
		tr_buf_free(&builder->bytes);
		free(builder);
		return malformed();
	}
	answer = tr_dns_builder_end(builder, type);
	free(builder);
	if (answer == NULL)
		return NULL;
	answer->ttl_s = answer->count > 0 || moved ? ttl_s : 0;
	answer->secure = (flags & 0x0020) != 0;
	if (moved && (answer->alias = strdup(name)) == NULL) {
		tr_dns_answer_unref(answer);
		return NULL;
	}
	if (answer->status == TR_DNS_NODATA) {
		if (rcode == ns_r_nxdomain) {
			answer->status = TR_DNS_NXDOMAIN;
			answer->why = "NXDOMAIN";
		}
		read_negative(&packet, authorities, answer);
	}
	return answer;
}
