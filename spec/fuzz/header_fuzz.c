/* Header fields of any message: walking covers the header once, decoding ends, and what is written is read again. */
#include "base/json.h"
#include "message/address.h"
#include "message/header.h"

#include "fuzz.h"

static void
walk(struct tr_str message)
{
	size_t end = tr_header_end(message), at = 0, last = 0;
	struct tr_header header, found;

	need(end == SIZE_MAX || end <= message.len);
	while (tr_header_next(message, &at, &header)) {
		struct tr_buf text = {0};

		need(header.start == last && header.end > header.start && header.end <= message.len);
		need(end == SIZE_MAX || header.end <= end);
		last = header.end;
		tr_header_decode(header.value, &text);
		tr_buf_free(&text);
		if (header.name.len > 0)
			need(tr_header_find(message, header.name, &found) && found.start <= header.start);
		tr_header_name_matches(header.name, header.value);
	}
}

/* A value of one line that decoding leaves alone. */
static bool
simple(struct tr_str value)
{
	for (size_t i = 0; i < value.len; i++) {
		unsigned char c = (unsigned char)value.data[i];

		if (c < ' ' || c == 127)
			return false;
	}
	return value.len > 0 && value.data[0] != ' ' && value.data[value.len - 1] != ' ' && tr_utf8_valid(value) &&
	       memmem(value.data, value.len, "=?", 2) == NULL;
}

static void
write_and_read(struct tr_str value)
{
	struct tr_buf out = {0}, text = {0};
	struct tr_header header;
	size_t at = 0;

	tr_header_write(TR_STR("Subject"), value, true, &out);
	need(out.len >= 2 && memcmp(out.data + out.len - 2, "\r\n", 2) == 0);
	if (simple(value)) {
		need(tr_header_next((struct tr_str){out.data, out.len}, &at, &header) && header.end == out.len);
		tr_header_decode(header.value, &text);
		need(tr_str_eq((struct tr_str){text.data, text.len}, value));
	}
	tr_buf_free(&text);
	tr_buf_free(&out);
}

static void
address(struct tr_str text)
{
	struct tr_addr addr, again;

	if (tr_addr_parse(text, &addr) != TR_OK)
		return;
	struct tr_buf user = {0};

	need(strlen(addr.email) == addr.len && addr.at <= addr.len);
	tr_addr_user(&addr, &user);
	need(tr_addr_parse(tr_addr_str(&addr), &again) == TR_OK);
	need(tr_str_eq(tr_addr_str(&addr), tr_addr_str(&again)));
	tr_buf_free(&user);
	tr_addr_fini(&addr);
	tr_addr_fini(&again);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char *copy = fuzz_copy(data, len);
	struct tr_str text = {copy, len};

	walk(text);
	write_and_read(text);
	address(text);
	free(copy);
	return 0;
}
