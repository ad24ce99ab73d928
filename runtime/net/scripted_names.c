#include "net/scripted_names.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#define OWN_NET 0xc6120000u /* 198.18.0.0/15 is for benchmarks: RFC 2544, nobody's own */
#define NAME_TTL_S 60

struct tr_scripted_named {
	struct tr_scripted_named *next;
	struct tr_sockaddr addr;
	char name[];
};

void
tr_scripted_names_fini(struct tr_scripted_names *names)
{
	for (struct tr_scripted_named *named = names->first, *next; named != NULL; named = next) {
		next = named->next;
		free(named);
	}
	tr_zones_free(names->zones);
	*names = (struct tr_scripted_names){0};
}

bool
tr_scripted_same(const struct tr_sockaddr *a, const struct tr_sockaddr *b)
{
	char left[64], right[64];

	tr_sockaddr_text(a, true, left);
	tr_sockaddr_text(b, true, right);
	return strcmp(left, right) == 0;
}

void
tr_scripted_own_addr(uint32_t host, uint16_t port, struct tr_sockaddr *out)
{
	struct sockaddr_in *in = (struct sockaddr_in *)&out->ss;

	memset(out, 0, sizeof *out);
	in->sin_family = AF_INET;
	in->sin_addr.s_addr = htonl(OWN_NET | host);
	in->sin_port = htons(port);
	out->len = sizeof *in;
}

int
tr_scripted_names_add(
	struct tr_scripted_names *names, const char *name, const struct tr_sockaddr *addr, struct tr_sockaddr *out)
{
	struct tr_scripted_named **at = &names->first, *named;

	for (; *at != NULL; at = &(*at)->next) {
		if (strcmp((*at)->name, name) != 0 || (addr != NULL && !tr_scripted_same(&(*at)->addr, addr)))
			continue;
		if (out != NULL)
			*out = (*at)->addr;
		return TR_OK;
	}
	named = calloc(1, sizeof *named + strlen(name) + 1);
	if (named == NULL)
		return TR_ENOMEM;
	memcpy(named->name, name, strlen(name) + 1);
	if (addr != NULL)
		named->addr = *addr;
	else
		tr_scripted_own_addr(++names->own & 0xffff, 0, &named->addr);
	*at = named;
	if (out != NULL)
		*out = named->addr;
	return TR_OK;
}

int
tr_scripted_names_zone(struct tr_scripted_names *names, struct tr_str text, char error[256])
{
	int err = names->zones != NULL ? TR_OK : tr_zones_new(&names->zones);

	error[0] = '\0';
	return err == TR_OK ? tr_zones_add(names->zones, text, false, error) : err;
}

static struct tr_dns_answer *
answer_of(const struct tr_scripted_named *named, const char *name, enum tr_dns_type type)
{
	struct tr_dns_builder *builder = calloc(1, sizeof *builder);
	struct tr_dns_answer *answer;

	if (builder == NULL)
		return tr_dns_answer_new(TR_DNS_FAILED, TR_ENOMEM, "out of memory");
	for (; named != NULL; named = named->next) {
		const struct sockaddr_in *v4 = (const struct sockaddr_in *)&named->addr.ss;
		const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&named->addr.ss;

		if (strcmp(named->name, name) != 0)
			continue;
		if (named->addr.len == 0) {
			free(builder);
			return tr_dns_answer_new(TR_DNS_NXDOMAIN, TR_ENOENT, "NXDOMAIN");
		}
		if (type == TR_DNS_A && v4->sin_family == AF_INET)
			tr_dns_builder_add_addr(builder, &v4->sin_addr, sizeof v4->sin_addr);
		else if (type == TR_DNS_AAAA && v6->sin6_family == AF_INET6)
			tr_dns_builder_add_addr(builder, &v6->sin6_addr, sizeof v6->sin6_addr);
	}
	answer = tr_dns_builder_end(builder, type);
	if (answer != NULL)
		answer->ttl_s = NAME_TTL_S;
	free(builder);
	return answer;
}

bool
tr_scripted_names_ask(
	const struct tr_scripted_names *names, const char *name, enum tr_dns_type type, struct tr_dns_answer **out)
{
	for (const struct tr_scripted_named *named = names->first; named != NULL; named = named->next) {
		if (strcmp(named->name, name) == 0) {
			*out = answer_of(named, name, type);
			return true;
		}
	}
	*out = names->zones != NULL ? tr_zones_ask(names->zones, name, type) : NULL;
	if (names->zones == NULL || (*out != NULL && (*out)->status == TR_DNS_NXDOMAIN)) {
		tr_dns_answer_unref(*out);
		*out = NULL;
		return false;
	}
	return true;
}
