#include "message/meta.h"

#include <stdlib.h>

#include "base/json.h"
#include "base/pool.h"

static size_t
bytes_size(const struct tr_meta_item *item)
{
	return (size_t)item->key_len + item->value_len + 1; /* + 1: never a block of 0 */
}

#define BLOCK_ITEMS 4
#define BLOCK_BYTES 320

static bool
in_block(const struct tr_meta *meta, const void *at)
{
	return meta->block != NULL && (const char *)at >= meta->block &&
	       (const char *)at < meta->block + meta->block_bytes;
}

static void
drop_bytes(struct tr_meta *meta, struct tr_meta_item *item)
{
	if (!in_block(meta, item->bytes))
		tr_pool_put(item->bytes, bytes_size(item));
}

void
tr_meta_fini(struct tr_meta *meta)
{
	for (uint32_t i = 0; i < meta->count; i++)
		drop_bytes(meta, &meta->items[i]);
	if (!in_block(meta, meta->items))
		tr_pool_put(meta->items, meta->cap * sizeof *meta->items);
	if (!meta->lent)
		tr_pool_put(meta->block, meta->block_bytes);
	*meta = (struct tr_meta){0};
}

void
tr_meta_lend(struct tr_meta *meta, char *block, uint32_t bytes)
{
	meta->block = block;
	meta->block_bytes = bytes;
	meta->block_used = 0;
	meta->lent = true;
}

/* Linear: a message has a handful of keys, and order is kept. */
static struct tr_meta_item *
find(const struct tr_meta *meta, struct tr_str key)
{
	for (uint32_t i = 0; i < meta->count; i++) {
		struct tr_meta_item *item = &meta->items[i];

		if (item->key_len == key.len && memcmp(item->bytes, key.data, key.len) == 0)
			return item;
	}
	return NULL;
}

struct tr_str
tr_meta_get(const struct tr_meta *meta, struct tr_str key)
{
	const struct tr_meta_item *item = find(meta, key);

	if (item == NULL)
		return (struct tr_str){NULL, 0};
	return (struct tr_str){item->bytes + item->key_len, item->value_len};
}

static int
grow(struct tr_meta *meta, uint32_t cap)
{
	struct tr_meta_item *items;

	if (meta->items == NULL && cap <= BLOCK_ITEMS) {
		if (meta->block == NULL) {
			meta->block = tr_pool_get(BLOCK_BYTES);
			if (meta->block == NULL)
				return TR_ENOMEM;
			meta->block_bytes = BLOCK_BYTES;
		}
		meta->block_used = BLOCK_ITEMS * sizeof *items;
		meta->items = (struct tr_meta_item *)meta->block;
		meta->cap = BLOCK_ITEMS;
		return TR_OK;
	}
	items = tr_pool_get(cap * sizeof *items);
	if (items == NULL)
		return TR_ENOMEM;
	if (meta->count > 0 && meta->items != NULL)
		memcpy(items, meta->items, meta->count * sizeof *items);
	if (!in_block(meta, meta->items))
		tr_pool_put(meta->items, meta->cap * sizeof *items);
	meta->items = items;
	meta->cap = cap;
	return TR_OK;
}

static int
fill(struct tr_meta *meta, struct tr_meta_item *item, struct tr_str key, struct tr_str json)
{
	size_t size;
	char *bytes;

	if (key.len > UINT32_MAX || json.len > UINT32_MAX)
		return TR_ENOMEM;
	*item = (struct tr_meta_item){(uint32_t)key.len, (uint32_t)json.len, NULL};
	size = bytes_size(item);
	if (meta->block != NULL && size <= meta->block_bytes - meta->block_used) {
		bytes = meta->block + meta->block_used;
		meta->block_used += (uint32_t)size;
	} else {
		bytes = tr_pool_get(size);
		if (bytes == NULL)
			return TR_ENOMEM;
	}
	if (key.len > 0)
		memcpy(bytes, key.data, key.len);
	if (json.len > 0)
		memcpy(bytes + key.len, json.data, json.len);
	item->bytes = bytes;
	return TR_OK;
}

int
tr_meta_set(struct tr_meta *meta, struct tr_str key, struct tr_str json)
{
	struct tr_meta_item *item = find(meta, key), fresh;
	int err;

	if (key.data == NULL)
		key.data = "";
	if (item == NULL && meta->count == meta->cap) {
		err = grow(meta, meta->cap == 0 ? 4 : meta->cap * 2);
		if (err != TR_OK)
			return err;
	}
	err = fill(meta, &fresh, key, json); /* before the old value goes: json may lie in it */
	if (err != TR_OK)
		return err;
	if (item != NULL)
		drop_bytes(meta, item);
	else
		item = &meta->items[meta->count++];
	*item = fresh;
	return TR_OK;
}

void
tr_meta_remove(struct tr_meta *meta, struct tr_str key)
{
	struct tr_meta_item *item = find(meta, key);

	if (item == NULL)
		return;
	drop_bytes(meta, item);
	memmove(item, item + 1, (size_t)(&meta->items[--meta->count] - item) * sizeof *item);
}

int
tr_meta_set_string(struct tr_meta *meta, struct tr_str key, struct tr_str text)
{
	struct tr_buf json = {0};
	int err;

	tr_json_add_string(&json, text);
	err = json.failed ? TR_ENOMEM : tr_meta_set(meta, key, (struct tr_str){json.data, json.len});
	tr_buf_free(&json);
	return err;
}

int
tr_meta_get_string(const struct tr_meta *meta, struct tr_str key, struct tr_buf *out)
{
	struct tr_str value = tr_meta_get(meta, key);

	if (value.data == NULL)
		return TR_ENOENT;
	switch (tr_json_type(value)) {
	case TR_JSON_NULL:
		return TR_ENOENT;
	case TR_JSON_STRING:
		return tr_json_unescape(value, out);
	default:
		return TR_EINVAL;
	}
}

int
tr_meta_copy(const struct tr_meta *from, struct tr_meta *to)
{
	if (to->count == 0 && from->count > to->cap) {
		int err = grow(to, from->count);

		if (err != TR_OK)
			return err;
	}
	for (uint32_t i = 0; i < from->count; i++) {
		const struct tr_meta_item *item = &from->items[i];
		int err = tr_meta_set(to, (struct tr_str){item->bytes, item->key_len},
			(struct tr_str){item->bytes + item->key_len, item->value_len});

		if (err != TR_OK)
			return err;
	}
	return TR_OK;
}

/* As tr_buf_put_varint(), where there is room already. */
static inline char *
put_varint(char *at, uint32_t value)
{
	for (; value >= 128; value >>= 7)
		*at++ = (char)(value | 128);
	*at++ = (char)value;
	return at;
}

void
tr_meta_encode(const struct tr_meta *meta, struct tr_buf *out)
{
	size_t most = 5; /* of a varint of 32 bits */
	char *start, *at;

	for (uint32_t i = 0; i < meta->count; i++)
		most += (size_t)meta->items[i].key_len + meta->items[i].value_len + 10;
	start = at = tr_buf_reserve(out, most);
	if (start == NULL)
		return;
	at = put_varint(at, meta->count);
	for (uint32_t i = 0; i < meta->count; i++) {
		const struct tr_meta_item *item = &meta->items[i];

		at = put_varint(at, item->key_len);
		memcpy(at, item->bytes, item->key_len);
		at = put_varint(at + item->key_len, item->value_len);
		memcpy(at, item->bytes + item->key_len, item->value_len);
		at += item->value_len;
	}
	out->len += (size_t)(at - start);
}

int
tr_meta_decode(struct tr_reader *reader, struct tr_meta *out)
{
	uint64_t count = tr_read_varint(reader);
	int err = TR_OK;

	/* each item takes at least two bytes, so damage cannot ask for more memory than the frame has */
	if (reader->failed || count > (uint64_t)(reader->end - reader->at) / 2)
		return TR_ECORRUPT;
	if (count > 0)
		err = grow(out, (uint32_t)count);
	while (err == TR_OK && out->count < count) {
		struct tr_str key = tr_read_bytes(reader);
		struct tr_str value = tr_read_bytes(reader);

		if (reader->failed || value.len == 0)
			err = TR_ECORRUPT;
		else
			err = fill(out, &out->items[out->count], key, value);
		if (err == TR_OK)
			out->count++;
	}
	if (err != TR_OK)
		tr_meta_fini(out);
	return err;
}

void
tr_meta_json(const struct tr_meta *meta, struct tr_buf *out)
{
	tr_buf_addc(out, '{');
	for (uint32_t i = 0; i < meta->count; i++) {
		const struct tr_meta_item *item = &meta->items[i];

		if (i > 0)
			tr_buf_addc(out, ',');
		tr_json_add_string(out, (struct tr_str){item->bytes, item->key_len});
		tr_buf_addc(out, ':');
		tr_buf_add(out, item->bytes + item->key_len, item->value_len);
	}
	tr_buf_addc(out, '}');
}
