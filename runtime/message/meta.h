/* A message's metadata: names with JSON values, kept as JSON text. Order of first setting is kept.
 * A key set to null stays with `null` (contract/message.md section 2.2). */
#ifndef TR_META_H
#define TR_META_H

#include "base/buf.h"

struct tr_meta_item {
	uint32_t key_len, value_len;
	char *bytes; /* key then value; meta.c makes and frees it */
};

struct tr_meta {
	struct tr_meta_item *items;
	uint32_t count, cap;
	char *block; /* one for the items and bytes of a usual record; what has no room there is on its own */
	uint32_t block_bytes, block_used; /* what is replaced or removed stays until the end */
	bool lent;                        /* the block is not ours */
};

/* Gives an empty one its block, which must outlive it: suitably aligned for a pointer, at least 128 bytes. */
void tr_meta_lend(struct tr_meta *meta, char *block, uint32_t bytes);

void tr_meta_fini(struct tr_meta *meta);
/* Raw JSON text of a value; .data NULL if the key is absent. Borrowed until the next change. */
struct tr_str tr_meta_get(const struct tr_meta *meta, struct tr_str key);
/* `json` must be one valid JSON value (not checked again). TR_OK or TR_ENOMEM. */
int tr_meta_set(struct tr_meta *meta, struct tr_str key, struct tr_str json);
void tr_meta_remove(struct tr_meta *meta, struct tr_str key); /* nothing happens if it is absent */
/* Convenience: the value as a JSON string. */
int tr_meta_set_string(struct tr_meta *meta, struct tr_str key, struct tr_str text);
/* The value of a string key unescaped into out: TR_OK; TR_ENOENT absent or null; TR_EINVAL another type. */
int tr_meta_get_string(const struct tr_meta *meta, struct tr_str key, struct tr_buf *out);
int tr_meta_copy(const struct tr_meta *from, struct tr_meta *to); /* merges over what `to` has */
/* Stored form (counted strings). */
void tr_meta_encode(const struct tr_meta *meta, struct tr_buf *out);
int tr_meta_decode(
	struct tr_reader *reader, struct tr_meta *out); /* into an empty one; TR_OK, TR_ECORRUPT, TR_ENOMEM */
/* The whole as a JSON object. */
void tr_meta_json(const struct tr_meta *meta, struct tr_buf *out);

#endif
