#include "net/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/un.h>

/* Digits only, 0 to 65535; -1 otherwise. */
static int
parse_port(struct tr_str text)
{
	int port = 0;

	if (text.len == 0 || text.len > 5)
		return -1;
	for (size_t i = 0; i < text.len; i++) {
		if (text.data[i] < '0' || text.data[i] > '9')
			return -1;
		port = port * 10 + (text.data[i] - '0');
	}
	return port <= 65535 ? port : -1;
}

/* A literal of either family into *out; false if it is none. */
static bool
parse_ip(struct tr_str text, uint16_t port, struct tr_sockaddr *out)
{
	char z[INET6_ADDRSTRLEN];
	struct sockaddr_in *in = (struct sockaddr_in *)&out->ss;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&out->ss;

	if (text.len == 0 || text.len >= sizeof z || memchr(text.data, '\0', text.len) != NULL)
		return false;
	memcpy(z, text.data, text.len);
	z[text.len] = '\0';
	memset(out, 0, sizeof *out);
	if (inet_pton(AF_INET, z, &in->sin_addr) == 1) {
		in->sin_family = AF_INET;
		in->sin_port = htons(port);
		out->len = sizeof *in;
		return true;
	}
	if (inet_pton(AF_INET6, z, &in6->sin6_addr) == 1) {
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(port);
		out->len = sizeof *in6;
		return true;
	}
	return false;
}

static int
parse_unix(struct tr_str text, struct tr_sockaddr *out)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&out->ss;

	if (text.len >= sizeof un->sun_path || memchr(text.data, '\0', text.len) != NULL)
		return TR_EINVAL;
	memset(out, 0, sizeof *out);
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path, text.data, text.len);
	out->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + text.len + 1);
	return TR_OK;
}

int
tr_sockaddr_parse(struct tr_str text, uint16_t default_port, struct tr_sockaddr *out)
{
	struct tr_str host = text, rest = {NULL, 0};
	int port = default_port;
	const char *at;

	if (text.len > 0 && text.data[0] == '/')
		return parse_unix(text, out);
	if (text.len > 0 && text.data[0] == '[') {
		at = memchr(text.data, ']', text.len);
		if (at == NULL)
			return TR_EINVAL;
		host = (struct tr_str){text.data + 1, (size_t)(at - text.data - 1)};
		if (memchr(host.data, ':', host.len) == NULL) /* brackets are for IPv6 */
			return TR_EINVAL;
		rest = (struct tr_str){at + 1, text.len - (size_t)(at + 1 - text.data)};
		if (rest.len > 0 && rest.data[0] != ':')
			return TR_EINVAL;
	} else if ((at = memchr(text.data, ':', text.len)) != NULL && memrchr(text.data, ':', text.len) == at) {
		host.len = (size_t)(at - text.data);
		rest = (struct tr_str){at, text.len - host.len};
	} /* several colons and no brackets: IPv6 without a port */
	if (rest.len > 0)
		port = parse_port((struct tr_str){rest.data + 1, rest.len - 1});
	else if (default_port == 0)
		return TR_EINVAL;
	return port >= 0 && parse_ip(host, (uint16_t)port, out) ? TR_OK : TR_EINVAL;
}

size_t
tr_sockaddr_text(const struct tr_sockaddr *addr, bool port, char out[64])
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)&addr->ss;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&addr->ss;
	const struct sockaddr_un *un = (const struct sockaddr_un *)&addr->ss;
	char ip[INET6_ADDRSTRLEN];
	int len = 0;

	switch (addr->len == 0 ? AF_UNSPEC : addr->ss.ss_family) {
	case AF_INET:
		inet_ntop(AF_INET, &in->sin_addr, ip, sizeof ip);
		len = port ? snprintf(out, 64, "%s:%u", ip, ntohs(in->sin_port)) : snprintf(out, 64, "%s", ip);
		break;
	case AF_INET6:
		inet_ntop(AF_INET6, &in6->sin6_addr, ip, sizeof ip);
		len = port ? snprintf(out, 64, "[%s]:%u", ip, ntohs(in6->sin6_port)) : snprintf(out, 64, "%s", ip);
		break;
	case AF_UNIX:
		len = snprintf(
			out, 64, "%s", addr->len > offsetof(struct sockaddr_un, sun_path) ? un->sun_path : "unix");
		break;
	default:
		len = snprintf(out, 64, "unknown");
	}
	return len < 64 ? (size_t)len : 63;
}

uint16_t
tr_sockaddr_port(const struct tr_sockaddr *addr)
{
	if (addr->ss.ss_family == AF_INET)
		return ntohs(((const struct sockaddr_in *)&addr->ss)->sin_port);
	if (addr->ss.ss_family == AF_INET6)
		return ntohs(((const struct sockaddr_in6 *)&addr->ss)->sin6_port);
	return 0;
}

void
tr_sockaddr_set_port(struct tr_sockaddr *addr, uint16_t port)
{
	if (addr->ss.ss_family == AF_INET)
		((struct sockaddr_in *)&addr->ss)->sin_port = htons(port);
	else if (addr->ss.ss_family == AF_INET6)
		((struct sockaddr_in6 *)&addr->ss)->sin6_port = htons(port);
}

/* --- blocks ---------------------------------------------------------------------------------------------- */

bool
tr_cidr_contains(const struct tr_cidr *cidr, const struct tr_sockaddr *addr)
{
	const struct in6_addr *in6 = &((const struct sockaddr_in6 *)&addr->ss)->sin6_addr;
	const uint8_t *bytes;
	int family, whole = cidr->bits / 8, rest = cidr->bits % 8;

	if (addr->ss.ss_family == AF_INET) {
		family = 4;
		bytes = (const uint8_t *)&((const struct sockaddr_in *)&addr->ss)->sin_addr;
	} else if (addr->ss.ss_family == AF_INET6) {
		family = IN6_IS_ADDR_V4MAPPED(in6) ? 4 : 6;
		bytes = in6->s6_addr + (family == 4 ? 12 : 0);
	} else {
		return false;
	}
	if (family != cidr->family || memcmp(bytes, cidr->addr, (size_t)whole) != 0)
		return false;
	return rest == 0 || ((bytes[whole] ^ cidr->addr[whole]) >> (8 - rest)) == 0;
}
