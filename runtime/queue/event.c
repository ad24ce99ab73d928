#include "queue/event.h"

static const char *const names[TR_EVENT_TYPES] = {"Reception", "Delivery", "Bounce", "TransientFailure", "Expiration",
	"AdminBounce", "OOB", "Feedback", "Rejection", "AdminRebind", "DeferredInjectionRebind", "Delayed", "XferOut",
	"XferIn"};

const char *
tr_event_type_name(enum tr_event_type type)
{
	return (unsigned)type < TR_EVENT_TYPES ? names[type] : "Unknown";
}

int
tr_event_type_from_name(struct tr_str name)
{
	for (int i = 0; i < TR_EVENT_TYPES; i++) {
		if (tr_str_eq(name, tr_str(names[i])))
			return i;
	}
	return -1;
}

/* 1 to 3 digits at *at; -1: none. */
static int
number(struct tr_str text, size_t *at)
{
	int value = 0;
	size_t start = *at;

	while (*at < text.len && *at - start < 3 && text.data[*at] >= '0' && text.data[*at] <= '9')
		value = value * 10 + (text.data[(*at)++] - '0');
	return *at > start ? value : -1;
}

void
tr_response_split_enhanced(struct tr_response *response)
{
	struct tr_str text = response->content;
	int part[3];
	size_t at = 0;

	for (int i = 0; i < 3; i++) {
		if (i > 0 && (at >= text.len || text.data[at++] != '.'))
			return;
		part[i] = number(text, &at);
		if (part[i] < 0)
			return;
	}
	if ((part[0] != 2 && part[0] != 4 && part[0] != 5) || at >= text.len || text.data[at] != ' ')
		return;
	memcpy(response->enhanced, part, sizeof part);
	response->content = (struct tr_str){text.data + at + 1, text.len - at - 1};
}

void
tr_response_line(const struct tr_response *response, struct tr_buf *out)
{
	tr_buf_addf(out, "%d ", response->code);
	if (response->enhanced[0] != 0)
		tr_buf_addf(out, "%d.%d.%d ", response->enhanced[0], response->enhanced[1], response->enhanced[2]);
	for (size_t i = 0; i < response->content.len; i++) {
		char c = response->content.data[i];

		if (c == '\r' && i + 1 < response->content.len && response->content.data[i + 1] == '\n')
			continue;
		tr_buf_addc(out, c == '\n' || c == '\r' ? ' ' : c);
	}
}
