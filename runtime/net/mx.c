#include "net/mx.h"

#include <stdlib.h>

#include "base/clock.h"

#define KIND (UINT32_C(0x10000) | TR_DNS_MX) /* in a resolver's cache */
#define FAILED_NS (60 * TR_NS_PER_S)         /* contract/queues.md section 1: failures */
#define LITERAL_NS (3600 * TR_NS_PER_S)      /* it does not change */

struct tr_mx_query {
	struct tr_mx_query *all_next, **all_prev; /* of this worker */
	struct tr_mx_query *next;                 /* in the line for a place */
	struct tr_dns *dns;
	struct tr_resolver *resolver; /* referenced */
	struct tr_dns_query *query;   /* under way */
	struct tr_defer later;
	struct tr_mx *mx; /* the answer, to be told later */
	bool waiting;     /* in the line */
	void (*then)(void *arg, struct tr_mx *mx);
	void *arg;
	char domain[];
};

/* --- the object ----------------------------------------------------------------------------------------------- */

static void
destroy(struct tr_dns_item *item)
{
	struct tr_mx *mx = (struct tr_mx *)item;

	for (uint32_t i = 0; i < mx->count; i++)
		free(mx->hosts[i].name);
	free(mx->hosts);
	free(mx->site);
	free(mx->domain);
	free(mx);
}

static struct tr_mx *
mx_new(const char *domain, uint32_t hosts)
{
	struct tr_mx *mx = calloc(1, sizeof *mx);

	if (mx == NULL)
		return NULL;
	atomic_init(&mx->item.refs, 1);
	mx->item.destroy = destroy;
	mx->domain = strdup(domain);
	mx->hosts = calloc(hosts > 0 ? hosts : 1, sizeof *mx->hosts);
	if (mx->domain == NULL || mx->hosts == NULL) {
		tr_mx_unref(mx);
		return NULL;
	}
	return mx;
}

static int
add_host(struct tr_mx *mx, uint16_t preference, struct tr_str name)
{
	struct tr_mx_host *host = &mx->hosts[mx->count];

	host->preference = preference;
	host->name = strndup(name.data, name.len);
	if (host->name == NULL)
		return TR_ENOMEM;
	mx->count++;
	return TR_OK;
}

/* --- site ------------------------------------------------------------------------------------------------------- */

/* Takes the last label off what is left of a name; .data NULL: there is none. */
static struct tr_str
take_label(struct tr_str *rest)
{
	size_t begin = rest->len;
	struct tr_str label;

	if (rest->data == NULL)
		return *rest;
	while (begin > 0 && rest->data[begin - 1] != '.')
		begin--;
	label = (struct tr_str){rest->data + begin, rest->len - begin};
	*rest = begin > 0 ? (struct tr_str){rest->data, begin - 1} : (struct tr_str){NULL, 0};
	return label;
}

/* One place of the names, counted from the right. */
struct place {
	struct tr_str *labels; /* that differ, in the order of the hosts */
	uint32_t count;
	bool missing; /* some name has no label there */
};

/* The place's labels; what is left of the names gets shorter. */
static void
read_place(struct place *place, struct tr_str *rests, uint32_t hosts)
{
	place->count = 0;
	place->missing = false;
	for (uint32_t i = 0; i < hosts; i++) {
		struct tr_str label = take_label(&rests[i]);
		bool known = false;

		place->missing = place->missing || label.data == NULL;
		for (uint32_t j = 0; label.data != NULL && j < place->count && !known; j++)
			known = tr_str_eq(place->labels[j], label);
		if (label.data != NULL && !known)
			place->labels[place->count++] = label;
	}
}

static void
add_place(struct tr_buf *out, const struct place *place)
{
	bool several = place->count > 1 || place->missing;

	if (several)
		tr_buf_addc(out, '(');
	for (uint32_t i = 0; i < place->count; i++) {
		if (i > 0)
			tr_buf_addc(out, '|');
		tr_buf_add_str(out, place->labels[i]);
	}
	if (several)
		tr_buf_addz(out, place->missing ? ")?" : ")");
}

/* An answer may bring 256 names of 127 labels, chosen by whoever wants us to work: each label is read once. */
char *
tr_mx_site(const struct tr_mx_host *hosts, uint32_t count)
{
	struct tr_str *rests = calloc(2 * (size_t)count + 1, sizeof *rests);
	struct place place = {.labels = rests != NULL ? rests + count : NULL};
	struct tr_buf reversed[256] = {{0}}, site = {0};
	uint32_t places = 0;

	if (rests == NULL)
		return NULL;
	for (uint32_t i = 0; i < count; i++) {
		const char *name = hosts[i].name;

		if (name != NULL && *name != '\0')
			rests[i] = tr_str(name);
	}
	for (; places < TR_COUNT(reversed); places++) { /* 255 bytes, escaped dots included */
		read_place(&place, rests, count);
		if (place.count == 0)
			break;
		add_place(&reversed[places], &place);
	}
	while (places-- > 0) {
		if (reversed[places].data != NULL) /* of a name that ends with a dot it is nothing */
			tr_buf_add(&site, reversed[places].data, reversed[places].len);
		if (places > 0)
			tr_buf_addc(&site, '.');
		site.failed = site.failed || reversed[places].failed;
		tr_buf_free(&reversed[places]);
	}
	tr_buf_addc(&site, '\0');
	if (site.failed)
		tr_buf_free(&site);
	free(rests);
	return site.data;
}

/* --- from an answer --------------------------------------------------------------------------------------------- */

static int
by_preference(const void *a, const void *b)
{
	const struct tr_mx_host *one = a, *other = b;

	if (one->preference != other->preference)
		return one->preference < other->preference ? -1 : 1;
	return strcmp(one->name, other->name);
}

static void
drop_repeated(struct tr_mx *mx)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < mx->count; i++) {
		bool again = false;

		for (uint32_t j = 0; j < kept && !again; j++)
			again = strcmp(mx->hosts[j].name, mx->hosts[i].name) == 0;
		if (again)
			free(mx->hosts[i].name);
		else
			mx->hosts[kept++] = mx->hosts[i];
	}
	mx->count = kept;
}

static int
take_records(struct tr_mx *mx, const struct tr_dns_answer *answer)
{
	for (uint32_t i = 0; i < answer->count; i++) {
		const struct tr_dns_record *record = &answer->records[i];

		/* "." beside hosts says nothing: RFC 7505 section 3 forbids it */
		if (record->name.len > 0 && add_host(mx, record->preference, record->name) != TR_OK)
			return TR_ENOMEM;
	}
	mx->is_mx = true;
	mx->is_null = mx->count == 0;
	if (mx->is_null)
		return add_host(mx, answer->records[0].preference, TR_STR(""));
	qsort(mx->hosts, mx->count, sizeof *mx->hosts, by_preference);
	drop_repeated(mx);
	return TR_OK;
}

/* NULL: no memory. */
static struct tr_mx *
mx_of(const char *domain, const struct tr_dns_answer *answer, int64_t negative_ns)
{
	struct tr_mx *mx = mx_new(domain, answer->count);
	int64_t now_ns = tr_mono_ns();
	int err = TR_OK;

	if (mx == NULL)
		return NULL;
	mx->status = answer->status;
	mx->secure = answer->secure;
	mx->err = answer->err;
	mx->why = answer->why;
	mx->item.expires_ns = answer->item.expires_ns;
	switch (answer->status) {
	case TR_DNS_OK:
		err = take_records(mx, answer);
		break;
	case TR_DNS_NODATA:
		mx->status = TR_DNS_OK;
		mx->err = TR_OK;
		mx->why = NULL;
		err = add_host(mx, 0, tr_str(domain));
		break;
	case TR_DNS_NXDOMAIN:
		mx->item.expires_ns = now_ns + negative_ns;
		break;
	case TR_DNS_FAILED:
		mx->item.expires_ns = now_ns + tr_min_i64(negative_ns, FAILED_NS);
		break;
	}
	mx->site = tr_mx_site(mx->hosts, mx->count);
	if (err != TR_OK || mx->site == NULL) {
		tr_mx_unref(mx);
		return NULL;
	}
	return mx;
}

/* "[192.0.2.1]", "[IPv6:2001:db8::1]"; *out is NULL if it is none. TR_OK, TR_ENOMEM. */
static int
mx_of_literal(const char *domain, struct tr_mx **out)
{
	struct tr_str text = tr_str(domain);
	struct tr_sockaddr addr;
	struct tr_mx *mx;
	char address[64];

	*out = NULL;
	if (text.len < 3 || text.data[0] != '[' || text.data[text.len - 1] != ']')
		return TR_OK;
	text = (struct tr_str){text.data + 1, text.len - 2};
	if (text.len > 5 && tr_str_ieq((struct tr_str){text.data, 5}, TR_STR("IPv6:")))
		text = (struct tr_str){text.data + 5, text.len - 5};
	if (text.data[0] == '/' || text.data[0] == '[' || tr_sockaddr_parse(text, 1, &addr) != TR_OK ||
		tr_sockaddr_port(&addr) != 1)
		return TR_OK;
	tr_sockaddr_text(&addr, false, address);
	mx = mx_new(domain, 1);
	if (mx == NULL)
		return TR_ENOMEM;
	text = tr_str(address);
	if (text.len > 2 && address[0] == '[')
		text = (struct tr_str){address + 1, text.len - 2};
	mx->is_literal = true;
	mx->item.expires_ns = tr_mono_ns() + LITERAL_NS;
	if (add_host(mx, 0, text) != TR_OK || (mx->site = strndup(text.data, text.len)) == NULL) {
		tr_mx_unref(mx);
		return TR_ENOMEM;
	}
	*out = mx;
	return TR_OK;
}

/* --- looking up -----------------------------------------------------------------------------------------------------
 */

static void ask(struct tr_mx_query *query);

static void
forget(struct tr_mx_query *query)
{
	*query->all_prev = query->all_next;
	if (query->all_next != NULL)
		query->all_next->all_prev = query->all_prev;
	tr_loop_undefer(tr_dns_loop(query->dns), &query->later);
	tr_mx_unref(query->mx);
	tr_resolver_unref(query->resolver);
	free(query);
}

static void
tell(struct tr_mx_query *query, struct tr_mx *mx)
{
	void (*then)(void *, struct tr_mx *) = query->then;
	void *arg = query->arg;

	tr_mx_ref(mx);
	forget(query);
	then(arg, mx);
	tr_mx_unref(mx);
}

static void
tell_later(struct tr_defer *later)
{
	struct tr_mx_query *query = tr_container_of(later, struct tr_mx_query, later);

	tell(query, query->mx);
}

/* A place is free: the next of this worker's line has it. */
static void
place_free(struct tr_dns *dns)
{
	struct tr_mx_line *line = tr_dns_mx_line(dns);
	struct tr_resolvers *resolvers = tr_dns_resolvers(dns);
	struct tr_mx_query *query = line->first;

	line->running--;
	atomic_fetch_sub_explicit(&resolvers->mx_running, 1, memory_order_relaxed);
	tr_metric_add(resolvers->mx_running_metric, -1);
	if (query == NULL)
		return;
	line->first = query->next;
	if (line->first == NULL)
		line->end = &line->first;
	query->waiting = false;
	ask(query);
}

static void
answered(void *arg, struct tr_dns_answer *answer)
{
	struct tr_mx_query *query = arg;
	struct tr_resolvers *resolvers = tr_dns_resolvers(query->dns);
	struct tr_mx *mx = NULL;

	query->query = NULL;
	if (answer != NULL)
		mx = mx_of(query->domain, answer, atomic_load(&resolvers->mx_negative_ns));
	tr_metric_add(mx != NULL && mx->status == TR_DNS_OK ? resolvers->mx_ok : resolvers->mx_fail, 1);
	if (mx != NULL && mx->err != TR_ECANCELED)
		tr_dns_cache_put(query->resolver->cache, KIND, query->domain, &mx->item);
	place_free(query->dns);
	tell(query, mx);
	tr_mx_unref(mx);
}

/* The caller has made sure of a place, or of nobody else's being under way here. */
static void
ask(struct tr_mx_query *query)
{
	struct tr_resolvers *resolvers = tr_dns_resolvers(query->dns);

	tr_dns_mx_line(query->dns)->running++;
	atomic_fetch_add_explicit(&resolvers->mx_running, 1, memory_order_relaxed);
	tr_metric_add(resolvers->mx_running_metric, 1);
	query->query = tr_dns_ask(query->dns, query->resolver, query->domain, TR_DNS_MX,
		atomic_load(&resolvers->mx_timeout_ns), answered, query);
	if (query->query != NULL)
		return;
	place_free(query->dns);
	tr_loop_defer(tr_dns_loop(query->dns), &query->later, tell_later); /* without an answer: no memory */
}

static void
ask_or_wait(struct tr_mx_query *query)
{
	struct tr_resolvers *resolvers = tr_dns_resolvers(query->dns);
	struct tr_mx_line *line = tr_dns_mx_line(query->dns);

	if (line->running == 0 || /* else nobody would call it */
		(line->first == NULL && atomic_load_explicit(&resolvers->mx_running, memory_order_relaxed) <
						atomic_load_explicit(&resolvers->mx_limit, memory_order_relaxed))) {
		ask(query);
		return;
	}
	query->waiting = true;
	query->next = NULL;
	*(line->first != NULL ? line->end : &line->first) = query;
	line->end = &query->next;
}

struct tr_mx_query *
tr_mx_find(struct tr_dns *dns, struct tr_resolver *resolver, const char *domain,
	void (*then)(void *arg, struct tr_mx *mx), void *arg)
{
	struct tr_resolvers *resolvers = tr_dns_resolvers(dns);
	char normal[TR_DNS_NAME_MAX];
	int name_err = tr_dns_name_normal(tr_str(domain), normal);
	bool is_name = name_err == TR_OK && normal[0] != '\0';
	struct tr_mx *literal;
	int err = mx_of_literal(domain, &literal);
	const char *key = is_name && literal == NULL ? normal : domain != NULL ? domain : "";
	bool is_known = err == TR_OK && name_err != TR_ENOMEM; /* else it might pass for a name that cannot be */
	struct tr_mx_query *query = is_known ? calloc(1, sizeof *query + strlen(key) + 1) : NULL;

	if (query == NULL) {
		tr_mx_unref(literal);
		return NULL;
	}
	memcpy(query->domain, key, strlen(key) + 1);
	query->dns = dns;
	query->resolver = resolver != NULL ? tr_resolver_ref(resolver) : tr_resolvers_get(resolvers, NULL);
	query->all_next = tr_dns_mx_line(dns)->all;
	query->all_prev = &tr_dns_mx_line(dns)->all;
	if (query->all_next != NULL)
		query->all_next->all_prev = &query->all_next;
	tr_dns_mx_line(dns)->all = query;
	query->then = then;
	query->arg = arg;
	query->mx = literal;
	if (literal == NULL && !is_name) {
		query->mx = mx_new(key, 0);
		if (query->mx != NULL) {
			query->mx->status = TR_DNS_NXDOMAIN;
			query->mx->err = TR_ENOENT;
			query->mx->why = "not a domain name";
			query->mx->item.expires_ns = tr_mono_ns() + LITERAL_NS;
		}
	} else if (literal == NULL) {
		query->mx = tr_dns_cache_get(query->resolver->cache, KIND, key, tr_mono_ns());
		tr_metric_add(query->mx != NULL ? resolvers->mx_hits : resolvers->mx_misses, 1);
		if (query->mx == NULL) {
			ask_or_wait(query);
			return query;
		}
	}
	tr_loop_defer(tr_dns_loop(dns), &query->later, tell_later);
	return query;
}

void
tr_mx_cancel(struct tr_mx_query *query)
{
	struct tr_mx_line *line;

	if (query == NULL)
		return;
	if (query->waiting) {
		line = tr_dns_mx_line(query->dns);
		line->end = &line->first;
		for (struct tr_mx_query **at = &line->first; *at != NULL;) {
			if (*at == query) {
				*at = query->next;
				continue;
			}
			line->end = &(*at)->next;
			at = &(*at)->next;
		}
	}
	if (query->query != NULL) {
		tr_dns_cancel(query->query);
		place_free(query->dns);
	}
	forget(query);
}
