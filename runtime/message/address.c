#include "message/address.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <strings.h>

#include "base/json.h"
#include "base/pool.h"

/* RFC 5321 section 4.5.3.1 asks for at least 64 and 255; senders that put a recipient into the local
 * part (VERP) write longer ones, so only absurd lengths are refused. */
#define LOCAL_MAX 512
#define DOMAIN_MAX 255
#define LABEL_MAX 63

/* Shared by all null senders, so that the commonest sender of reports costs no allocation. */
static char no_address[1];

static bool
is_alnum(unsigned char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c >= 0x80;
}

static bool
is_atext(unsigned char c)
{
	return is_alnum(c) || (c != '\0' && strchr("!#$%&'*+-/=?^_`{|}~", c) != NULL);
}

/* Each scanner takes what it knows from text at *at and moves *at behind it; false: bad syntax. */
static bool
scan_quoted(struct tr_str text, size_t *at)
{
	size_t i = *at + 1;

	for (; i < text.len; i++) {
		unsigned char c = (unsigned char)text.data[i];

		if (c == '"') {
			*at = i + 1;
			return true;
		}
		if (c == '\\') {
			if (++i >= text.len)
				return false;
			c = (unsigned char)text.data[i];
		}
		if (c < 0x20 || c == 0x7f)
			return false;
	}
	return false;
}

static bool
scan_local(struct tr_str text, size_t *at)
{
	size_t i = *at, start = i;

	if (i < text.len && text.data[i] == '"') {
		if (!scan_quoted(text, &i))
			return false;
	} else {
		for (;;) { /* dot-string: atoms with single dots between */
			size_t atom = i;

			while (i < text.len && is_atext((unsigned char)text.data[i]))
				i++;
			if (i == atom)
				return false;
			if (i == text.len || text.data[i] != '.')
				break;
			i++;
		}
	}
	*at = i;
	return i - start <= LOCAL_MAX;
}

static bool
literal_ok(struct tr_str inside)
{
	char text[64];
	unsigned char bytes[16];
	size_t colon;

	if (inside.len == 0 || inside.len >= sizeof text)
		return false;
	memcpy(text, inside.data, inside.len);
	text[inside.len] = '\0';
	if (strlen(text) != inside.len)
		return false;
	if (strncasecmp(text, "IPv6:", 5) == 0)
		return inet_pton(AF_INET6, text + 5, bytes) == 1;
	colon = strcspn(text, ":");
	if (text[colon] == '\0')
		return inet_pton(AF_INET, text, bytes) == 1;
	if (colon == 0 || text[colon - 1] == '-' || text[colon + 1] == '\0')
		return false;
	for (size_t i = 0; i < colon; i++) /* Standardized-tag */
		if (!is_alnum((unsigned char)text[i]) && text[i] != '-')
			return false;
	for (size_t i = colon + 1; i < inside.len; i++)
		if (text[i] <= ' ' || text[i] > '~' || text[i] == '\\' || text[i] == '[')
			return false;
	return true;
}

static bool
scan_domain(struct tr_str text, size_t *at)
{
	size_t i = *at, start = i;

	if (i < text.len && text.data[i] == '[') {
		const char *end = memchr(text.data + i, ']', text.len - i);

		if (end == NULL || !literal_ok((struct tr_str){text.data + i + 1, (size_t)(end - text.data) - i - 1}))
			return false;
		*at = (size_t)(end - text.data) + 1;
		return true;
	}
	for (;;) {
		size_t label = i;

		/* '_' is no host name character, but names with it are in use and resolve */
		while (i < text.len &&
			(is_alnum((unsigned char)text.data[i]) || text.data[i] == '-' || text.data[i] == '_'))
			i++;
		if (i == label || i - label > LABEL_MAX || text.data[label] == '-' || text.data[i - 1] == '-')
			return false;
		if (i == text.len || text.data[i] != '.')
			break;
		i++;
	}
	*at = i;
	return i - start <= DOMAIN_MAX;
}

/* "@a,@b:" before the mailbox. */
static bool
skip_route(struct tr_str *text)
{
	size_t at = 0;

	if (text->len == 0 || text->data[0] != '@')
		return true;
	for (;;) {
		if (at >= text->len || text->data[at] != '@')
			return false;
		at++;
		if (!scan_domain(*text, &at) || at >= text->len)
			return false;
		if (text->data[at] == ':')
			break;
		if (text->data[at] != ',')
			return false;
		at++;
	}
	text->data += at + 1;
	text->len -= at + 1;
	return true;
}

static int
store(struct tr_str text, size_t at, struct tr_addr *out)
{
	if (text.len == 0) {
		*out = (struct tr_addr){.email = no_address, .len = 0, .at = 0};
		return TR_OK;
	}
	char *email = tr_pool_get(text.len + 1);
	if (email == NULL)
		return TR_ENOMEM;
	memcpy(email, text.data, text.len);
	email[text.len] = '\0';
	*out = (struct tr_addr){.email = email, .len = (uint32_t)text.len, .at = (uint32_t)at};
	return TR_OK;
}

int
tr_addr_parse(struct tr_str text, struct tr_addr *out)
{
	size_t at = 0, split;

	*out = (struct tr_addr){0};
	if (text.len > 0 && text.data[0] == '<') {
		if (text.len < 2 || text.data[text.len - 1] != '>')
			return TR_EINVAL;
		text.data++;
		text.len -= 2;
	}
	if (text.len == 0)
		return store(text, 0, out);
	if (text.len > 8 * (LOCAL_MAX + DOMAIN_MAX)) /* a route may be long, but not endless */
		return TR_EINVAL;
	if (!tr_utf8_valid(text) || !skip_route(&text))
		return TR_EINVAL;
	if (tr_str_ieq(text, TR_STR("postmaster")))
		return store(TR_STR("Postmaster"), sizeof "Postmaster" - 1, out);
	if (!scan_local(text, &at) || at >= text.len || text.data[at] != '@')
		return TR_EINVAL;
	split = at++;
	if (!scan_domain(text, &at) || at != text.len)
		return TR_EINVAL;
	return store(text, split, out);
}

int
tr_addr_copy(const struct tr_addr *from, struct tr_addr *out)
{
	return store(tr_addr_str(from), from->at, out);
}

void
tr_addr_fini(struct tr_addr *addr)
{
	if (!addr->lent && addr->email != no_address)
		tr_pool_put(addr->email, (size_t)addr->len + 1);
	*addr = (struct tr_addr){0};
}

void
tr_addr_user(const struct tr_addr *addr, struct tr_buf *out)
{
	if (addr->at >= addr->len) {
		if (addr->len > 0)
			tr_buf_addz(out, "postmaster");
		return;
	}
	if (addr->email[0] != '"') {
		tr_buf_add(out, addr->email, addr->at);
		return;
	}
	for (uint32_t i = 1; i + 1 < addr->at; i++) {
		if (addr->email[i] == '\\')
			i++;
		tr_buf_addc(out, addr->email[i]);
	}
}
