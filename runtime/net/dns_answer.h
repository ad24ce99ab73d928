/* What the name system said to one question: an immutable object shared by reference count, made from a reply's bytes
 * (dns_message.c) or from a zone of the test resolver (dns_zone.c). Any thread. */
#ifndef TR_NET_DNS_ANSWER_H
#define TR_NET_DNS_ANSWER_H

#include <netinet/in.h>

#include "base/buf.h"

enum tr_dns_type {
	TR_DNS_A = 1,
	TR_DNS_NS = 2,
	TR_DNS_CNAME = 5,
	TR_DNS_SOA = 6,
	TR_DNS_PTR = 12,
	TR_DNS_MX = 15,
	TR_DNS_TXT = 16,
	TR_DNS_AAAA = 28,
};

enum tr_dns_status {
	TR_DNS_OK,       /* at least one record */
	TR_DNS_NODATA,   /* the name exists, without records of that type */
	TR_DNS_NXDOMAIN, /* there is no such name, or it cannot be one */
	TR_DNS_FAILED,   /* nothing is known: a time-out, SERVFAIL, nonsense */
};

/* What a cache keeps. refs starts with 1, its maker's. */
struct tr_dns_item {
	_Atomic uint32_t refs;
	int64_t expires_ns; /* monotonic */
	void (*destroy)(struct tr_dns_item *item);
};
void *tr_dns_item_ref(struct tr_dns_item *item); /* NULL is fine */
void tr_dns_item_unref(struct tr_dns_item *item);

struct tr_dns_record {
	uint16_t preference; /* MX */
	union {
		struct in_addr v4;
		struct in6_addr v6;
		struct tr_str name; /* CNAME, PTR, MX, NS: lower case, without the dot at the end; "" is the root */
		struct tr_str text; /* TXT: its strings in a row */
	};
};

#define TR_DNS_RECORDS_MAX 256 /* of one answer; what a server says beyond is left out */
#define TR_DNS_NAME_MAX 1024   /* text form with escapes, and its NUL */

struct tr_dns_answer {
	struct tr_dns_item item; /* first */
	enum tr_dns_status status;
	int err;         /* TR_OK, TR_ENOENT, or of a failure TR_ETIMEDOUT, TR_EPROTO, TR_ENOMEM ... */
	const char *why; /* literal, of what is not OK: "NXDOMAIN", "SERVFAIL", "timed out" */
	bool secure;     /* the resolver says that it has checked DNSSEC */
	bool has_soa;    /* of a negative one: ttl_s is the zone's word */
	uint32_t ttl_s;  /* as said, of the shortest-lived record on the way */
	char *alias;     /* where CNAMEs lead; NULL: no CNAME */
	uint32_t count;
	struct tr_dns_record *records; /* names and texts are in `bytes` */
	char *bytes;
};

/* One without records. `why` is a literal. NULL: no memory. */
struct tr_dns_answer *tr_dns_answer_new(enum tr_dns_status status, int err, const char *why);
static inline struct tr_dns_answer *
tr_dns_answer_ref(struct tr_dns_answer *answer)
{
	return answer != NULL ? tr_dns_item_ref(&answer->item) : NULL;
}
static inline void
tr_dns_answer_unref(struct tr_dns_answer *answer)
{
	if (answer != NULL)
		tr_dns_item_unref(&answer->item);
}

/* Collects records, then makes the answer of them. Zero-initialised is empty. */
struct tr_dns_builder {
	struct tr_dns_record records[TR_DNS_RECORDS_MAX]; /* name.data is an offset into bytes until the end */
	uint32_t count;
	struct tr_buf bytes;
};
void tr_dns_builder_add(
	struct tr_dns_builder *builder, uint16_t preference, struct tr_str text);           /* name or text; copied */
void tr_dns_builder_add_addr(struct tr_dns_builder *builder, const void *addr, size_t len); /* 4 or 16 bytes */
/* TR_DNS_OK with what was added, or TR_DNS_NODATA. Empties the builder. NULL: no memory. */
struct tr_dns_answer *tr_dns_builder_end(struct tr_dns_builder *builder, enum tr_dns_type type);

/* Reads a reply to a question for `name` (NULL: whatever name the reply repeats) and `type`. A reply that makes no
 * sense gives TR_DNS_FAILED. `name` is lower case without the dot at the end. NULL: no memory. */
struct tr_dns_answer *tr_dns_message_parse(const void *message, size_t len, const char *name, enum tr_dns_type type);

/* --- names (dns_name.c) -------------------------------------------------------------------------------------- */
/* Lower case, ASCII (IDNA 2008, UTS 46), without the dot at the end. TR_EINVAL: it cannot be asked for (empty or
 * overlong labels, bytes that are no UTF-8). The root gives "". TR_ENOMEM. */
int tr_dns_name_normal(struct tr_str name, char out[TR_DNS_NAME_MAX]);
/* The name that has an address's PTR record ("4.3.2.1.in-addr.arpa"), or only its reversed labels. */
int tr_dns_name_reverse(struct tr_str addr, bool with_zone, char out[128]); /* TR_OK or TR_EINVAL */

#endif
