#include "net/dns_zone.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#define CHAIN_MAX 16
#define TTL_S 60 /* of records whose zone says nothing */
#define TOKENS_MAX 64

struct zone_record {
	struct zone_record *next; /* in the order of the files */
	char *name;
	uint16_t type, preference;
	uint32_t ttl_s;
	bool secure;
	size_t order, len; /* order: of the file */
	char data[];       /* address, name, or text */
};

struct servfail {
	struct servfail *next;
	char name[];
};

struct tr_zones {
	struct zone_record *first, **end;
	struct servfail *servfails;
	struct zone_record **sorted; /* by name, in the order of the files within one; made by the last add */
	size_t count;
};

int
tr_zones_new(struct tr_zones **out)
{
	*out = calloc(1, sizeof **out);
	if (*out == NULL)
		return TR_ENOMEM;
	(*out)->end = &(*out)->first;
	return TR_OK;
}

void
tr_zones_free(struct tr_zones *zones)
{
	if (zones == NULL)
		return;
	while (zones->first != NULL) {
		struct zone_record *record = zones->first;

		zones->first = record->next;
		free(record->name);
		free(record);
	}
	while (zones->servfails != NULL) {
		struct servfail *servfail = zones->servfails;

		zones->servfails = servfail->next;
		free(servfail);
	}
	free(zones->sorted);
	free(zones);
}

/* --- reading ------------------------------------------------------------------------------------------- */

struct token {
	const char *data;
	size_t len;
	bool quoted;
};

struct reading {
	struct tr_zones *zones;
	const char *at, *end;
	uint32_t line;
	char origin[TR_DNS_NAME_MAX], owner[TR_DNS_NAME_MAX];
	bool has_origin, has_owner, secure;
	uint32_t ttl_s;
	struct token tokens[TOKENS_MAX];
	size_t count;
	bool blank; /* the entry began with a blank: the owner is the last one */
	char *error;
};

static int
wrong(struct reading *reading, const char *what, struct token token)
{
	snprintf(reading->error, 256, "line %u: %s%s%.*s%s", reading->line, what, token.len > 0 ? " '" : "",
		(int)(token.len < 100 ? token.len : 100), token.data != NULL ? token.data : "",
		token.len > 0 ? "'" : "");
	return TR_EINVAL;
}

/* The tokens of the next entry. TR_EAGAIN: there is none left. */
static int
next_entry(struct reading *reading)
{
	int depth = 0;

	reading->count = 0;
	reading->blank = reading->at < reading->end && (*reading->at == ' ' || *reading->at == '\t');
	while (reading->at < reading->end) {
		char c = *reading->at;

		if (c == '\n') {
			reading->at++;
			reading->line++;
			if (depth == 0 && reading->count > 0) {
				reading->line--; /* of the entry; given back below */
				return TR_OK;
			}
			if (depth == 0)
				reading->blank =
					reading->at < reading->end && (*reading->at == ' ' || *reading->at == '\t');
		} else if (c == ' ' || c == '\t' || c == '\r') {
			reading->at++;
		} else if (c == ';') {
			while (reading->at < reading->end && *reading->at != '\n')
				reading->at++;
		} else if (c == '(' || c == ')') {
			depth += c == '(' ? 1 : -1;
			if (depth < 0)
				return wrong(reading, "a ')' without '('", (struct token){0});
			reading->at++;
		} else {
			struct token token = {reading->at, 0, c == '"'};

			if (reading->count == TOKENS_MAX)
				return wrong(reading, "too many words in an entry", (struct token){0});
			if (token.quoted) {
				token.data = ++reading->at;
				while (reading->at < reading->end && *reading->at != '"' && *reading->at != '\n')
					reading->at += *reading->at == '\\' && reading->end - reading->at > 1 ? 2 : 1;
				if (reading->at >= reading->end || *reading->at != '"')
					return wrong(reading, "a text without its closing '\"'", (struct token){0});
				token.len = (size_t)(reading->at++ - token.data);
			} else {
				while (reading->at < reading->end && strchr(" \t\r\n;()", *reading->at) == NULL)
					reading->at++;
				token.len = (size_t)(reading->at - token.data);
			}
			reading->tokens[reading->count++] = token;
		}
	}
	if (depth > 0)
		return wrong(reading, "a '(' without ')'", (struct token){0});
	return reading->count > 0 ? TR_OK : TR_EAGAIN;
}

/* A name of the file: "@", relative to the origin, or with its dot at the end. */
static int
read_name(struct reading *reading, struct token token, char out[TR_DNS_NAME_MAX])
{
	char text[2 * TR_DNS_NAME_MAX];
	int len;

	if (token.len == 1 && token.data[0] == '@') {
		if (!reading->has_origin)
			return wrong(reading, "'@' without $ORIGIN", (struct token){0});
		memcpy(out, reading->origin, sizeof reading->origin);
		return TR_OK;
	}
	if (token.len == 0 || token.len >= TR_DNS_NAME_MAX)
		return wrong(reading, "not a name", token);
	if (token.data[token.len - 1] == '.')
		len = snprintf(text, sizeof text, "%.*s", (int)token.len, token.data);
	else if (!reading->has_origin)
		return wrong(reading, "a name without its dot at the end, and no $ORIGIN", token);
	else
		len = snprintf(text, sizeof text, "%.*s.%s", (int)token.len, token.data, reading->origin);
	if (tr_dns_name_normal((struct tr_str){text, (size_t)len}, out) != TR_OK)
		return wrong(reading, "not a name", token);
	return TR_OK;
}

/* "3600", "1h", "1d12h". */
static bool
read_ttl(struct token token, uint32_t *out)
{
	uint64_t total = 0, value = 0;
	bool digits = false;

	if (token.quoted || token.len == 0 || !isdigit((unsigned char)token.data[0]))
		return false;
	for (size_t i = 0; i < token.len; i++) {
		char c = token.data[i];

		if (isdigit((unsigned char)c)) {
			value = value * 10 + (uint64_t)(c - '0');
			digits = true;
		} else {
			const char *units = "smhdw", *unit = strchr(units, tolower((unsigned char)c));
			static const uint32_t seconds[] = {1, 60, 3600, 86400, 604800};

			if (!digits || unit == NULL || c == '\0')
				return false;
			total += value * seconds[unit - units];
			value = 0;
			digits = false;
		}
		if (value > INT32_MAX || total > INT32_MAX)
			return false;
	}
	*out = (uint32_t)(total + value);
	return true;
}

static int
add_record(struct reading *reading, uint16_t type, uint32_t ttl_s, uint16_t preference, const void *data, size_t len)
{
	struct zone_record *record = calloc(1, sizeof *record + len + 1);

	if (record == NULL)
		return TR_ENOMEM;
	record->name = strdup(reading->owner);
	if (record->name == NULL) {
		free(record);
		return TR_ENOMEM;
	}
	record->type = type;
	record->preference = preference;
	record->ttl_s = ttl_s;
	record->secure = reading->secure;
	record->order = reading->zones->count;
	record->len = len;
	memcpy(record->data, data, len);
	*reading->zones->end = record;
	reading->zones->end = &record->next;
	reading->zones->count++;
	return TR_OK;
}

static uint16_t
type_of(struct token token)
{
	static const struct {
		const char *name;
		uint16_t type;
	} types[] = {{"A", TR_DNS_A}, {"AAAA", TR_DNS_AAAA}, {"CNAME", TR_DNS_CNAME}, {"MX", TR_DNS_MX},
		{"NS", TR_DNS_NS}, {"PTR", TR_DNS_PTR}, {"SOA", TR_DNS_SOA}, {"TXT", TR_DNS_TXT}};

	for (size_t i = 0; i < TR_COUNT(types) && !token.quoted; i++) {
		if (tr_str_ieq((struct tr_str){token.data, token.len}, tr_str(types[i].name)))
			return types[i].type;
	}
	return 0;
}

/* \" and \\ and \DDD of a text. */
static void
add_text(struct tr_buf *out, struct token token)
{
	for (size_t i = 0; i < token.len; i++) {
		const char *at = token.data + i;

		if (*at != '\\' || i + 1 == token.len) {
			tr_buf_addc(out, *at);
		} else if (i + 3 < token.len && isdigit((unsigned char)at[1]) && isdigit((unsigned char)at[2]) &&
			   isdigit((unsigned char)at[3])) {
			tr_buf_addc(out, (char)((at[1] - '0') * 100 + (at[2] - '0') * 10 + at[3] - '0'));
			i += 3;
		} else {
			tr_buf_addc(out, at[1]);
			i++;
		}
	}
}

static int
read_data(struct reading *reading, uint16_t type, uint32_t ttl_s, const struct token *data, size_t count)
{
	char name[TR_DNS_NAME_MAX], text[64];
	uint8_t addr[16];
	uint32_t number = 0;
	struct tr_buf buf = {0};
	int err;

	if (count == 0)
		return wrong(reading, "a record without its data", (struct token){0});
	switch (type) {
	case TR_DNS_A:
	case TR_DNS_AAAA:
		snprintf(text, sizeof text, "%.*s", (int)(data[0].len < 63 ? data[0].len : 63), data[0].data);
		if (count != 1 || inet_pton(type == TR_DNS_A ? AF_INET : AF_INET6, text, addr) != 1)
			return wrong(reading, "not an address", data[0]);
		return add_record(reading, type, ttl_s, 0, addr, type == TR_DNS_A ? 4 : 16);
	case TR_DNS_TXT:
		for (size_t i = 0; i < count; i++)
			add_text(&buf, data[i]);
		err = buf.failed ? TR_ENOMEM
				 : add_record(reading, type, ttl_s, 0, buf.data != NULL ? buf.data : "", buf.len);
		tr_buf_free(&buf);
		return err;
	case TR_DNS_MX:
		if (count != 2 || !read_ttl(data[0], &number) || number > UINT16_MAX)
			return wrong(reading, "MX: a preference and a host expected, got", data[0]);
		err = read_name(reading, data[1], name);
		return err != TR_OK ? err : add_record(reading, type, ttl_s, (uint16_t)number, name, strlen(name));
	case TR_DNS_SOA:
		if (count != 7 || !read_ttl(data[6], &number))
			return wrong(reading, "SOA: mname, rname and five numbers expected, got", data[0]);
		if (reading->ttl_s == UINT32_MAX) /* the old meaning: also the default of what follows */
			reading->ttl_s = number;
		number = number < ttl_s || ttl_s == UINT32_MAX ? number : ttl_s;
		return add_record(reading, type, number, 0, "", 0);
	default:
		if (count != 1)
			return wrong(reading, "one name expected behind the type, got", data[0]);
		err = read_name(reading, data[0], name);
		return err != TR_OK ? err : add_record(reading, type, ttl_s, 0, name, strlen(name));
	}
}

static int
read_entry(struct reading *reading)
{
	struct token *tokens = reading->tokens;
	size_t at = 0;
	uint32_t ttl_s = reading->ttl_s;
	int err;

	if (tokens[0].len > 0 && tokens[0].data[0] == '$' && !tokens[0].quoted) {
		struct tr_str word = {tokens[0].data, tokens[0].len};

		if (tr_str_ieq(word, TR_STR("$ORIGIN")) && reading->count == 2) {
			char origin[TR_DNS_NAME_MAX];

			err = read_name(reading, tokens[1], origin);
			if (err == TR_OK)
				memcpy(reading->origin, origin, sizeof origin);
			reading->has_origin = err == TR_OK;
			return err;
		}
		if (tr_str_ieq(word, TR_STR("$TTL")) && reading->count == 2 && read_ttl(tokens[1], &reading->ttl_s))
			return TR_OK;
		return wrong(reading, "$ORIGIN name or $TTL seconds expected, got", tokens[0]);
	}
	if (!reading->blank) {
		err = read_name(reading, tokens[at++], reading->owner);
		if (err != TR_OK)
			return err;
		reading->has_owner = true;
	} else if (!reading->has_owner) {
		if (!reading->has_origin)
			return wrong(reading, "a record without a name", tokens[0]);
		memcpy(reading->owner, reading->origin, sizeof reading->owner);
		reading->has_owner = true;
	}
	for (; at < reading->count && type_of(tokens[at]) == 0; at++) { /* class and TTL, in either order */
		if (tr_str_ieq((struct tr_str){tokens[at].data, tokens[at].len}, TR_STR("IN")) ||
			read_ttl(tokens[at], &ttl_s))
			continue;
		return wrong(reading, "a type of A AAAA CNAME MX NS PTR SOA TXT expected, got", tokens[at]);
	}
	if (at == reading->count)
		return wrong(reading, "a record without a type", (struct token){0});
	return read_data(reading, type_of(tokens[at]), ttl_s, &tokens[at + 1], reading->count - at - 1);
}

static int
by_name(const void *a, const void *b)
{
	const struct zone_record *one = *(struct zone_record *const *)a, *other = *(struct zone_record *const *)b;
	int order = strcmp(one->name, other->name);

	return order != 0 ? order : one->order < other->order ? -1 : 1;
}

int
tr_zones_add(struct tr_zones *zones, struct tr_str text, bool secure, char error[256])
{
	struct reading *reading = calloc(1, sizeof *reading);
	struct zone_record **sorted;
	size_t count = 0;
	int err;

	snprintf(error, 256, "out of memory");
	if (reading == NULL)
		return TR_ENOMEM;
	reading->zones = zones;
	reading->at = text.data;
	reading->end = text.data + text.len;
	reading->line = 1;
	reading->ttl_s = UINT32_MAX; /* not said */
	reading->secure = secure;
	reading->error = error;
	while ((err = next_entry(reading)) == TR_OK) {
		bool ended = reading->at > text.data && reading->at[-1] == '\n';

		err = read_entry(reading);
		if (err != TR_OK)
			break;
		reading->line += ended ? 1 : 0;
	}
	free(reading);
	if (err != TR_EAGAIN)
		return err;
	sorted = realloc(zones->sorted, (zones->count + 1) * sizeof *sorted);
	if (sorted == NULL)
		return TR_ENOMEM;
	zones->sorted = sorted;
	for (struct zone_record *record = zones->first; record != NULL; record = record->next)
		sorted[count++] = record;
	qsort(sorted, count, sizeof *sorted, by_name);
	return TR_OK;
}

int
tr_zones_add_servfail(struct tr_zones *zones, struct tr_str text)
{
	char name[TR_DNS_NAME_MAX];
	struct servfail *servfail;
	int err = tr_dns_name_normal(text, name);

	if (err != TR_OK)
		return err;
	servfail = malloc(sizeof *servfail + strlen(name) + 1);
	if (servfail == NULL)
		return TR_ENOMEM;
	memcpy(servfail->name, name, strlen(name) + 1);
	servfail->next = zones->servfails;
	zones->servfails = servfail;
	return TR_OK;
}

/* --- asking ---------------------------------------------------------------------------------------------- */

static bool
is_within(const char *name, const char *of)
{
	size_t len = strlen(name), of_len = strlen(of);

	if (of_len == 0)
		return true;
	return len >= of_len && strcmp(name + len - of_len, of) == 0 &&
	       (len == of_len || name[len - of_len - 1] == '.');
}

/* The first record of a name in `sorted`, or count. */
static size_t
first_of(const struct tr_zones *zones, const char *name)
{
	size_t low = 0, high = zones->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (strcmp(zones->sorted[middle]->name, name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low < zones->count && strcmp(zones->sorted[low]->name, name) == 0 ? low : zones->count;
}

static bool
exists(const struct tr_zones *zones, const char *name)
{
	if (first_of(zones, name) < zones->count)
		return true;
	for (size_t i = 0; i < zones->count; i++) { /* names below it make it exist, too */
		if (is_within(zones->sorted[i]->name, name))
			return true;
	}
	return false;
}

/* Where the records of a name are: its own, or those of a wildcard (RFC 4592: of the closest name that exists). */
static size_t
find(const struct tr_zones *zones, const char *name, bool *known)
{
	char wildcard[TR_DNS_NAME_MAX + 2];
	size_t at = first_of(zones, name);

	*known = at < zones->count || exists(zones, name);
	if (*known)
		return at;
	for (const char *dot = strchr(name, '.'); dot != NULL; dot = strchr(dot + 1, '.')) {
		snprintf(wildcard, sizeof wildcard, "*.%s", dot + 1);
		at = first_of(zones, wildcard);
		if (at < zones->count) {
			*known = true;
			return at;
		}
		if (exists(zones, dot + 1))
			break;
	}
	return zones->count;
}

static struct tr_dns_answer *
negative(const struct tr_zones *zones, const char *name, bool known, bool secure)
{
	struct tr_dns_answer *answer = known ? tr_dns_answer_new(TR_DNS_NODATA, TR_ENOENT, "no such record")
					     : tr_dns_answer_new(TR_DNS_NXDOMAIN, TR_ENOENT, "NXDOMAIN");
	size_t best = 0;

	if (answer == NULL)
		return NULL;
	answer->secure = secure;
	answer->ttl_s = TTL_S;
	for (size_t i = 0; i < zones->count; i++) {
		const struct zone_record *record = zones->sorted[i];

		if (record->type != TR_DNS_SOA || !is_within(name, record->name) || strlen(record->name) + 1 < best)
			continue;
		best = strlen(record->name) + 1;
		answer->ttl_s = record->ttl_s;
		answer->secure = record->secure;
		answer->has_soa = true;
	}
	return answer;
}

static void
add_to(struct tr_dns_builder *builder, const struct zone_record *record)
{
	if (record->type == TR_DNS_A || record->type == TR_DNS_AAAA)
		tr_dns_builder_add_addr(builder, record->data, record->len);
	else
		tr_dns_builder_add(builder, record->preference, (struct tr_str){record->data, record->len});
}

struct tr_dns_answer *
tr_zones_ask(const struct tr_zones *zones, const char *question, enum tr_dns_type type)
{
	struct tr_dns_builder *builder;
	struct tr_dns_answer *answer = NULL;
	uint32_t ttl_s = INT32_MAX;
	char name[TR_DNS_NAME_MAX];
	bool secure = true, moved = false;

	for (const struct servfail *at = zones->servfails; at != NULL; at = at->next) {
		if (is_within(question, at->name))
			return tr_dns_answer_new(TR_DNS_FAILED, TR_EPROTO, "SERVFAIL");
	}
	builder = calloc(1, sizeof *builder);
	if (builder == NULL)
		return NULL;
	snprintf(name, sizeof name, "%s", question);
	for (int step = 0; step <= CHAIN_MAX; step++) {
		const struct zone_record *cname = NULL;
		bool known;
		size_t at = find(zones, name, &known);
		const char *owner = at < zones->count ? zones->sorted[at]->name : "";

		for (; at < zones->count && strcmp(zones->sorted[at]->name, owner) == 0; at++) {
			const struct zone_record *record = zones->sorted[at];

			if (record->type == TR_DNS_CNAME)
				cname = record;
			if (record->type != type)
				continue;
			add_to(builder, record);
			secure = secure && record->secure;
			if (record->ttl_s < ttl_s)
				ttl_s = record->ttl_s;
		}
		if (builder->count > 0) {
			answer = tr_dns_builder_end(builder, type);
			if (answer != NULL) {
				answer->secure = secure;
				answer->ttl_s = ttl_s == INT32_MAX ? TTL_S : ttl_s;
			}
			break;
		}
		if (cname == NULL) {
			answer = negative(zones, name, known, false);
			break;
		}
		secure = secure && cname->secure;
		ttl_s = cname->ttl_s < ttl_s ? cname->ttl_s : ttl_s;
		snprintf(name, sizeof name, "%s", cname->data);
		moved = true;
		if (step == CHAIN_MAX)
			answer = tr_dns_answer_new(TR_DNS_FAILED, TR_EPROTO, "a loop of CNAMEs");
	}
	tr_buf_free(&builder->bytes);
	free(builder);
	if (answer != NULL && moved && answer->status != TR_DNS_FAILED && (answer->alias = strdup(name)) == NULL) {
		tr_dns_answer_unref(answer);
		return NULL;
	}
	return answer;
}
