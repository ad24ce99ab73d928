/* Where a Redis server is, as text. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transport/redis.h"

#define DEFAULT_PORT 6379

static int
hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : isxdigit((unsigned char)c) ? (c | 32) - 'a' + 10 : -1;
}

/* With %XX undone. NULL: no memory. */
static char *
copy_decoded(struct tr_str text)
{
	char *copy = malloc(text.len + 1), *at = copy;

	if (copy == NULL)
		return NULL;
	for (size_t i = 0; i < text.len; i++) {
		if (text.data[i] == '%' && i + 2 < text.len && hex(text.data[i + 1]) >= 0 &&
			hex(text.data[i + 2]) >= 0) {
			*at++ = (char)(hex(text.data[i + 1]) * 16 + hex(text.data[i + 2]));
			i += 2;
		} else {
			*at++ = text.data[i];
		}
	}
	*at = '\0';
	return copy;
}

/* Up to `c`, which goes too; false: it is not there. */
static bool
take_until(struct tr_str *text, char c, struct tr_str *out)
{
	const char *at = text->len > 0 ? memchr(text->data, c, text->len) : NULL;

	if (at == NULL)
		return false;
	*out = (struct tr_str){text->data, (size_t)(at - text->data)};
	text->len -= out->len + 1;
	text->data = at + 1;
	return true;
}

static bool
read_number(struct tr_str text, uint32_t max, uint32_t *out)
{
	uint64_t value = 0;

	if (text.len == 0 || text.len > 9)
		return false;
	for (size_t i = 0; i < text.len; i++) {
		if (!isdigit((unsigned char)text.data[i]))
			return false;
		value = value * 10 + (uint64_t)(text.data[i] - '0');
	}
	*out = (uint32_t)value;
	return value <= max;
}

static int
parse_path(struct tr_str rest, struct tr_redis_settings *out, const char **why)
{
	struct tr_str path;

	tr_str_take(&rest, "//");
	if (take_until(&rest, '?', &path)) {
		if (!tr_str_take(&rest, "db=") || !read_number(rest, 65535, &out->db)) {
			*why = "only '?db=NUMBER' may follow the path of a socket";
			return TR_EINVAL;
		}
	} else {
		path = rest;
	}
	if (path.len == 0 || path.data[0] != '/' || path.len > 107) {
		*why = "the path of a Unix socket must be absolute, and at most 107 bytes";
		return TR_EINVAL;
	}
	out->path = copy_decoded(path);
	return out->path != NULL ? TR_OK : TR_ENOMEM;
}

static int
parse_host(struct tr_str rest, struct tr_redis_settings *out, const char **why)
{
	struct tr_str host = rest, port = {NULL, 0};
	uint32_t number = DEFAULT_PORT;

	if (tr_str_take(&rest, "[")) { /* IPv6 */
		if (!take_until(&rest, ']', &host) || (rest.len > 0 && !tr_str_take(&rest, ":"))) {
			*why = "an IPv6 address is written [::1]:6379";
			return TR_EINVAL;
		}
		port = rest;
	} else if (take_until(&rest, ':', &host)) {
		port = rest;
	} else {
		host = rest;
	}
	if (host.len == 0) {
		*why = "it names no host";
		return TR_EINVAL;
	}
	if (memchr(host.data, '#', host.len) != NULL) {
		*why = "only '#insecure' may follow, and only with rediss://";
		return TR_EINVAL;
	}
	if (port.len > 0 && (!read_number(port, 65535, &number) || number == 0)) {
		*why = "the port must be a number from 1 to 65535";
		return TR_EINVAL;
	}
	out->port = (uint16_t)number;
	out->host = copy_decoded(host);
	return out->host != NULL ? TR_OK : TR_ENOMEM;
}

static int
parse_server(struct tr_str rest, struct tr_redis_settings *out, const char **why)
{
	struct tr_str credentials, user, server;

	for (size_t at = rest.len; at-- > 0;) { /* the last '@': a password may hold others */
		if (rest.data[at] != '@')
			continue;
		credentials = (struct tr_str){rest.data, at};
		rest.data += at + 1;
		rest.len -= at + 1;
		if (!take_until(&credentials, ':', &user)) {
			user = credentials;
			credentials = (struct tr_str){NULL, 0};
		}
		if (user.len > 0 && (out->user = copy_decoded(user)) == NULL)
			return TR_ENOMEM;
		if (credentials.len > 0 && (out->password = copy_decoded(credentials)) == NULL)
			return TR_ENOMEM;
		break;
	}
	if (take_until(&rest, '/', &server)) {
		if (rest.len > 0 && !read_number(rest, 65535, &out->db)) {
			*why = "what follows the '/' must be the number of a database";
			return TR_EINVAL;
		}
	} else {
		server = rest;
	}
	return parse_host(server, out, why);
}

static int
parse_tls(struct tr_str rest, struct tr_redis_settings *out, const char **why)
{
	static const char insecure[] = "#insecure";
	size_t len = sizeof insecure - 1;

	out->tls = true;
	if (rest.len >= len && memcmp(rest.data + rest.len - len, insecure, len) == 0) {
		out->tls_insecure = true;
		rest.len -= len;
	}
	return parse_server(rest, out, why);
}

int
tr_redis_parse_url(struct tr_str url, struct tr_redis_settings *out, const char **why)
{
	int err = TR_EINVAL;

	*why = "'redis://[user][:password@]host[:port][/db]', the same with 'rediss://' for TLS, or 'unix:PATH' is "
	       "expected";
	memset(out, 0, sizeof *out);
	if (tr_str_take(&url, "redis://"))
		err = parse_server(url, out, why);
	else if (tr_str_take(&url, "redis+unix:") || tr_str_take(&url, "unix:"))
		err = parse_path(url, out, why);
	else if (tr_str_take(&url, "rediss://"))
		err = parse_tls(url, out, why);
	if (err != TR_OK)
		tr_redis_free_settings(out);
	return err;
}

int
tr_redis_copy_settings(const struct tr_redis_settings *from, struct tr_redis_settings *out)
{
	*out = *from;
	out->host = from->host ? strdup(from->host) : NULL;
	out->path = from->path ? strdup(from->path) : NULL;
	out->user = from->user ? strdup(from->user) : NULL;
	out->password = from->password ? strdup(from->password) : NULL;
	if ((from->host && !out->host) || (from->path && !out->path) || (from->user && !out->user) ||
		(from->password && !out->password)) {
		tr_redis_free_settings(out);
		return TR_ENOMEM;
	}
	return TR_OK;
}

void
tr_redis_free_settings(struct tr_redis_settings *settings)
{
	if (settings->password != NULL)
		explicit_bzero(settings->password, strlen(settings->password));
	free(settings->host);
	free(settings->path);
	free(settings->user);
	free(settings->password);
	settings->host = settings->path = settings->user = settings->password = NULL;
}

size_t
tr_redis_name(const struct tr_redis_settings *settings, char out[256])
{
	int len;

	if (settings->path != NULL)
		len = snprintf(out, 256, "%s", settings->path);
	else
		len = snprintf(out, 256, strchr(settings->host, ':') ? "[%s]:%u" : "%s:%u", settings->host,
			(unsigned)settings->port);
	return len > 255 ? 255 : (size_t)len;
}
