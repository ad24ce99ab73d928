/* Names on their way to the name system. */
#include <arpa/inet.h>
#include <idn2.h>
#include <stdio.h>
#include <stdlib.h>

#include "net/dns_answer.h"

/* Labels of 1 to 63 bytes, 253 in all; other ASCII than letters is left to the servers, blanks and controls not. */
static bool
is_sound(const char *name, size_t len)
{
	size_t label = 0;

	if (len > 253)
		return false;
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)name[i];

		if (c <= ' ' || c >= 0x7f || c == ':' || c == '@' || c == '\\' || c == '/' || c == '[' || c == ']')
			return false;
		label = c == '.' ? 0 : label + 1;
		if (label > 63 || (c == '.' && (i == 0 || i + 1 == len || name[i - 1] == '.')))
			return false;
	}
	return true;
}

int
tr_dns_name_normal(struct tr_str name, char out[TR_DNS_NAME_MAX])
{
	bool ascii = true;

	if (name.len > 0 && name.data[name.len - 1] == '.')
		name.len--;
	else if (name.len == 0)
		return TR_EINVAL;
	if (name.len >= TR_DNS_NAME_MAX)
		return TR_EINVAL;
	for (size_t i = 0; i < name.len; i++) {
		char c = name.data[i];

		if (c == '\0')
			return TR_EINVAL;
		ascii = ascii && (unsigned char)c < 0x80;
		out[i] = c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
	}
	out[name.len] = '\0';
	if (!ascii) {
		uint8_t *wire = NULL;
		int rc = idn2_lookup_u8((const uint8_t *)out, &wire, IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL);

		if (rc != IDN2_OK)
			return rc == IDN2_MALLOC ? TR_ENOMEM : TR_EINVAL;
		snprintf(out, TR_DNS_NAME_MAX, "%s", (const char *)wire);
		idn2_free(wire);
	}
	return is_sound(out, strlen(out)) ? TR_OK : TR_EINVAL;
}

int
tr_dns_name_reverse(struct tr_str addr, bool with_zone, char out[128])
{
	static const char hex[] = "0123456789abcdef";
	char text[64];
	uint8_t bytes[16];
	size_t at = 0;

	if (addr.len == 0 || addr.len >= sizeof text)
		return TR_EINVAL;
	memcpy(text, addr.data, addr.len);
	text[addr.len] = '\0';
	if (inet_pton(AF_INET, text, bytes) == 1) {
		snprintf(out, 128, "%u.%u.%u.%u%s", bytes[3], bytes[2], bytes[1], bytes[0],
			with_zone ? ".in-addr.arpa" : "");
		return TR_OK;
	}
	if (inet_pton(AF_INET6, text, bytes) != 1)
		return TR_EINVAL;
	for (int i = 15; i >= 0; i--) {
		out[at++] = hex[bytes[i] & 0xf];
		out[at++] = '.';
		out[at++] = hex[bytes[i] >> 4];
		if (i > 0)
			out[at++] = '.';
	}
	snprintf(out + at, 128 - at, "%s", with_zone ? ".ip6.arpa" : "");
	return TR_OK;
}
