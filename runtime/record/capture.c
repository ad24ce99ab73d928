/* Choice of meta and header fields for a record, contract/log-record.md section 3. */
#include <stdlib.h>

#include "base/json.h"
#include "message/header.h"
#include "record/internal.h"

static bool
is_prefix(struct tr_str pattern)
{
	return pattern.len > 0 && pattern.data[pattern.len - 1] == '*';
}

/* Exact names leave out null; prefixes keep it. */
static bool
meta_wanted(const struct tr_meta_item *item, const char *const *patterns)
{
	for (; *patterns != NULL; patterns++) {
		struct tr_str pattern;

		if (item->key_len > 0 && (*patterns)[0] != item->bytes[0] && (*patterns)[0] != '*')
			continue;
		pattern = tr_str(*patterns);
		if (is_prefix(pattern)) {
			size_t len = pattern.len - 1;

			if (item->key_len >= len && memcmp(item->bytes, pattern.data, len) == 0)
				return true;
		} else if (item->key_len == pattern.len && memcmp(item->bytes, pattern.data, pattern.len) == 0 &&
			   !(item->value_len == 4 && memcmp(item->bytes + item->key_len, "null", 4) == 0)) {
			return true;
		}
	}
	return false;
}

void
tr_capture_meta_json(const struct tr_meta *meta, const char *const *patterns, struct tr_buf *out)
{
	bool any = false;

	tr_buf_addc(out, '{');
	for (uint32_t i = 0; patterns != NULL && i < meta->count; i++) {
		const struct tr_meta_item *item = &meta->items[i];

		if (!meta_wanted(item, patterns))
			continue;
		if (any)
			tr_buf_addc(out, ',');
		any = true;
		tr_json_add_string(out, (struct tr_str){item->bytes, item->key_len});
		tr_buf_addc(out, ':');
		tr_buf_add(out, item->bytes + item->key_len, item->value_len);
	}
	tr_buf_addc(out, '}');
}

int
tr_capture_meta(const struct tr_meta *from, const char *const *patterns, struct tr_meta *to)
{
	for (uint32_t i = 0; patterns != NULL && i < from->count; i++) {
		const struct tr_meta_item *item = &from->items[i];
		int err;

		if (!meta_wanted(item, patterns))
			continue;
		err = tr_meta_set(to, (struct tr_str){item->bytes, item->key_len},
			(struct tr_str){item->bytes + item->key_len, item->value_len});
		if (err != TR_OK)
			return err;
	}
	return TR_OK;
}

/* --- headers -------------------------------------------------------------------------------------------- */

struct field {
	struct tr_str name, value; /* in the message */
	uint32_t next;             /* next field of the same name, or NONE */
	uint32_t last;             /* of the first field of a name: the end of its chain */
	bool first;
};
#define NONE UINT32_MAX

struct fields {
	struct field *items;
	uint32_t count, cap;
	bool failed; /* no memory */
};

static bool
header_wanted(struct tr_str name, const char *const *patterns)
{
	for (; *patterns != NULL; patterns++)
		if (tr_header_name_matches(name, tr_str(*patterns)))
			return true;
	return false;
}

static void
collect(struct fields *fields, struct tr_str bytes, const char *const *patterns)
{
	struct tr_header header;
	size_t at = 0;

	if (bytes.data == NULL)
		return;
	while (tr_header_next(bytes, &at, &header)) {
		if (header.name.len == 0 || !header_wanted(header.name, patterns))
			continue;
		if (fields->count == fields->cap) {
			uint32_t cap = fields->cap == 0 ? 16 : fields->cap * 2;
			struct field *items = realloc(fields->items, cap * sizeof *items);

			if (items == NULL) {
				fields->failed = true;
				return;
			}
			fields->items = items;
			fields->cap = cap;
		}
		fields->items[fields->count] = (struct field){header.name, header.value, NONE, fields->count, true};
		fields->count++;
	}
}

static uint32_t
name_hash(struct tr_str name)
{
	uint32_t hash = 2166136261u;

	for (size_t i = 0; i < name.len; i++) {
		unsigned char c = (unsigned char)name.data[i];

		hash = (hash ^ (c >= 'A' && c <= 'Z' ? c + 32u : c)) * 16777619u;
	}
	return hash;
}

static void
chain(struct fields *fields, uint32_t first, uint32_t i)
{
	struct field *items = fields->items;

	items[items[first].last].next = i;
	items[first].last = i;
	items[i].first = false;
}

/* Chains fields of one name in order. A message may have tens of thousands of fields, so not by comparing all pairs. */
static void
group(struct fields *fields)
{
	uint32_t size = 64, small[64], *table = small;

	while (size < fields->count * 2)
		size *= 2;
	if (size > TR_COUNT(small)) {
		table = malloc(size * sizeof *table);
		if (table == NULL) {
			fields->failed = true;
			return;
		}
	}
	for (uint32_t i = 0; i < size; i++)
		table[i] = NONE;
	for (uint32_t i = 0; i < fields->count; i++) {
		uint32_t at = name_hash(fields->items[i].name) & (size - 1);

		while (table[at] != NONE && !tr_str_ieq(fields->items[table[at]].name, fields->items[i].name))
			at = (at + 1) & (size - 1);
		if (table[at] == NONE)
			table[at] = i;
		else
			chain(fields, table[at], i);
	}
	if (table != small)
		free(table);
}

static void
add_value(struct tr_buf *out, struct tr_str raw, struct tr_buf *text)
{
	bool failed = text->failed;

	tr_buf_clear(text);
	text->failed |= failed; /* told at the end */
	tr_header_decode(raw, text);
	tr_json_add_string(out, (struct tr_str){text->data, text->len});
}

void
tr_capture_headers_json(const struct tr_message *message, const char *const *patterns, struct tr_buf *out)
{
	struct fields fields = {0};
	struct tr_buf text = {0};
	bool any = false;

	tr_buf_addc(out, '{');
	if (message != NULL && patterns != NULL && patterns[0] != NULL) {
		collect(&fields, tr_bytes_str(&message->head), patterns);
		collect(&fields, tr_bytes_str(&message->body), patterns);
		if (!fields.failed)
			group(&fields);
		if (fields.failed) { /* a record is whole, or it is not made now */
			out->failed = true;
			fields.count = 0;
		}
	}
	for (uint32_t i = 0; i < fields.count; i++) {
		const struct field *field = &fields.items[i];

		if (!field->first)
			continue;
		if (any)
			tr_buf_addc(out, ',');
		any = true;
		tr_json_add_string(out, field->name);
		tr_buf_addc(out, ':');
		if (field->next == NONE) {
			add_value(out, field->value, &text);
			continue;
		}
		tr_buf_addc(out, '[');
		for (uint32_t k = i; k != NONE; k = fields.items[k].next) {
			if (k != i)
				tr_buf_addc(out, ',');
			add_value(out, fields.items[k].value, &text);
		}
		tr_buf_addc(out, ']');
	}
	tr_buf_addc(out, '}');
	out->failed |= text.failed;
	tr_buf_free(&text);
	free(fields.items);
}
