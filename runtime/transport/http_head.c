#include <strings.h>

#include "transport/http.h"

static bool
is_token_char(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

bool
tr_http_header_ok(struct tr_str name, struct tr_str value)
{
	if (name.len == 0)
		return false;
	for (size_t i = 0; i < name.len; i++) {
		if (!is_token_char((unsigned char)name.data[i]))
			return false;
	}
	for (size_t i = 0; i < value.len; i++) {
		unsigned char c = (unsigned char)value.data[i];

		if ((c < 0x20 && c != '\t') || c == 0x7f)
			return false;
	}
	return true;
}

const char *
tr_http_url_shown(const char *url, int *front)
{
	const char *at = strstr(url, "://"), *end, *login;

	at = at != NULL ? at + 3 : url;
	end = at + strcspn(at, "/?#");
	login = memrchr(at, '@', (size_t)(end - at));
	*front = (int)(at - url);
	return login != NULL ? login + 1 : at;
}

static struct tr_str
trim(struct tr_str str)
{
	while (str.len > 0 && (str.data[0] == ' ' || str.data[0] == '\t'))
		str.data++, str.len--;
	while (str.len > 0 && (str.data[str.len - 1] == ' ' || str.data[str.len - 1] == '\t'))
		str.len--;
	return str;
}

bool
tr_http_header_next(struct tr_str head, size_t *at, struct tr_str *name, struct tr_str *value)
{
	while (*at < head.len) {
		const char *line = head.data + *at;
		const char *end = memchr(line, '\n', head.len - *at);
		size_t len = end != NULL ? (size_t)(end - line) : head.len - *at;
		const char *colon;

		*at += len + (end != NULL ? 1 : 0);
		if (len > 0 && line[len - 1] == '\r')
			len--;
		colon = memchr(line, ':', len);
		if (colon == NULL)
			continue;
		*name = trim((struct tr_str){line, (size_t)(colon - line)});
		*value = trim((struct tr_str){colon + 1, len - (size_t)(colon + 1 - line)});
		return true;
	}
	return false;
}

struct tr_str
tr_http_header(struct tr_str head, const char *name)
{
	struct tr_str wanted = tr_str(name), found, value;
	size_t at = 0;

	while (tr_http_header_next(head, &at, &found, &value)) {
		if (tr_str_ieq(found, wanted))
			return value;
	}
	return (struct tr_str){NULL, 0};
}

/* RFC 9110 section 15 and the registry of status codes. */
static const struct {
	int status;
	const char *reason;
} reasons[] = {
	{100, "Continue"},
	{101, "Switching Protocols"},
	{102, "Processing"},
	{103, "Early Hints"},
	{200, "OK"},
	{201, "Created"},
	{202, "Accepted"},
	{203, "Non-Authoritative Information"},
	{204, "No Content"},
	{205, "Reset Content"},
	{206, "Partial Content"},
	{207, "Multi-Status"},
	{208, "Already Reported"},
	{226, "IM Used"},
	{300, "Multiple Choices"},
	{301, "Moved Permanently"},
	{302, "Found"},
	{303, "See Other"},
	{304, "Not Modified"},
	{305, "Use Proxy"},
	{307, "Temporary Redirect"},
	{308, "Permanent Redirect"},
	{400, "Bad Request"},
	{401, "Unauthorized"},
	{402, "Payment Required"},
	{403, "Forbidden"},
	{404, "Not Found"},
	{405, "Method Not Allowed"},
	{406, "Not Acceptable"},
	{407, "Proxy Authentication Required"},
	{408, "Request Timeout"},
	{409, "Conflict"},
	{410, "Gone"},
	{411, "Length Required"},
	{412, "Precondition Failed"},
	{413, "Payload Too Large"},
	{414, "URI Too Long"},
	{415, "Unsupported Media Type"},
	{416, "Range Not Satisfiable"},
	{417, "Expectation Failed"},
	{418, "I'm a teapot"},
	{421, "Misdirected Request"},
	{422, "Unprocessable Entity"},
	{423, "Locked"},
	{424, "Failed Dependency"},
	{425, "Too Early"},
	{426, "Upgrade Required"},
	{428, "Precondition Required"},
	{429, "Too Many Requests"},
	{431, "Request Header Fields Too Large"},
	{451, "Unavailable For Legal Reasons"},
	{500, "Internal Server Error"},
	{501, "Not Implemented"},
	{502, "Bad Gateway"},
	{503, "Service Unavailable"},
	{504, "Gateway Timeout"},
	{505, "HTTP Version Not Supported"},
	{506, "Variant Also Negotiates"},
	{507, "Insufficient Storage"},
	{508, "Loop Detected"},
	{510, "Not Extended"},
	{511, "Network Authentication Required"},
};

const char *
tr_http_reason(int status)
{
	for (size_t i = 0; i < TR_COUNT(reasons); i++) {
		if (reasons[i].status == status)
			return reasons[i].reason;
	}
	return NULL;
}
