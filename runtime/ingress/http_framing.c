#include "ingress/http_framing.h"

#include <string.h>
#include <strings.h>

struct framing {
	unsigned lengths, codings;
	bool chunked, odd;
};

static bool
is(const char *text, size_t len, const char *word)
{
	return len == strlen(word) && strncasecmp(text, word, len) == 0;
}

static enum MHD_Result
look(void *arg, enum MHD_ValueKind kind, const char *name, size_t name_len, const char *value, size_t value_len)
{
	struct framing *framing = arg;

	(void)kind;
	if (value == NULL)
		value = "";
	if (memchr(name, ' ', name_len) != NULL || memchr(name, '\t', name_len) != NULL || strlen(name) != name_len ||
		strlen(value) != value_len)
		framing->odd = true;
	if (is(name, name_len, MHD_HTTP_HEADER_CONTENT_LENGTH)) {
		framing->lengths++;
	} else if (is(name, name_len, MHD_HTTP_HEADER_TRANSFER_ENCODING)) {
		framing->codings++;
		framing->chunked = is(value, value_len, "chunked");
	}
	return MHD_YES;
}

bool
tr_http_framing_is_plain(struct MHD_Connection *connection, const char *method)
{
	struct framing framing = {0};
	bool bodyless = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;

	MHD_get_connection_values_n(connection, MHD_HEADER_KIND, look, &framing);
	if (framing.odd || framing.lengths + framing.codings > 1)
		return false;
	return framing.codings == 0 || (framing.chunked && !bodyless);
}
