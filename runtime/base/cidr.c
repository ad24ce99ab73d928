#include "base/cidr.h"

#include <arpa/inet.h>
#include <stdio.h>

/* Digits only, 0 to 999; -1 otherwise. */
static int
parse_bits(struct tr_str text)
{
	int bits = 0;

	if (text.len == 0 || text.len > 3)
		return -1;
	for (size_t i = 0; i < text.len; i++) {
		if (text.data[i] < '0' || text.data[i] > '9')
			return -1;
		bits = bits * 10 + (text.data[i] - '0');
	}
	return bits;
}

int
tr_cidr_parse(struct tr_str text, struct tr_cidr *out, char *hint)
{
	const char *slash = text.len > 0 ? memchr(text.data, '/', text.len) : NULL;
	size_t host_len = slash != NULL ? (size_t)(slash - text.data) : text.len;
	char host[INET6_ADDRSTRLEN];
	bool clean = true;
	int max, bits;

	if (hint != NULL)
		hint[0] = '\0';
	if (host_len == 0 || host_len >= sizeof host)
		return TR_EINVAL;
	memcpy(host, text.data, host_len);
	host[host_len] = '\0';
	memset(out, 0, sizeof *out);
	if (inet_pton(AF_INET, host, out->addr) == 1)
		out->family = 4;
	else if (inet_pton(AF_INET6, host, out->addr) == 1)
		out->family = 6;
	else
		return TR_EINVAL;
	max = out->family == 4 ? 32 : 128;
	bits = slash == NULL ? max : parse_bits((struct tr_str){slash + 1, text.len - host_len - 1});
	if (bits < 0 || bits > max)
		return TR_EINVAL;
	out->bits = (uint8_t)bits;
	for (int i = 0; i < max / 8; i++) {
		int kept = bits - i * 8;
		uint8_t mask = kept >= 8 ? 255 : kept <= 0 ? 0 : (uint8_t)(255 << (8 - kept));

		clean = clean && (out->addr[i] & ~mask) == 0;
		out->addr[i] &= mask;
	}
	if (clean)
		return TR_OK;
	if (hint != NULL) {
		inet_ntop(out->family == 4 ? AF_INET : AF_INET6, out->addr, host, sizeof host);
		snprintf(hint, 64, "%s/%d", host, bits);
	}
	return TR_EINVAL;
}
