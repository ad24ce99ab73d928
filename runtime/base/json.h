/* JSON text: escaping into a buffer, checking, and walking without building a tree. */
#ifndef TR_JSON_H
#define TR_JSON_H

#include "base/buf.h"

/* Adds "..." with the escapes JSON needs; UTF-8 stays as it is, a byte that is not valid UTF-8
 * becomes U+FFFD. */
void tr_json_add_string(struct tr_buf *buf, struct tr_str str);
/* Adds `"key":` with no escaping: the key must be a plain literal. */
void tr_json_add_key(struct tr_buf *buf, const char *key);

/* Checks that `text` is one JSON value (nesting at most 128). Returns TR_OK or TR_EINVAL with
 * *error_at set to the offset. */
int tr_json_check(struct tr_str text, size_t *error_at);

enum tr_json_type { TR_JSON_NULL, TR_JSON_BOOL, TR_JSON_NUMBER, TR_JSON_STRING, TR_JSON_ARRAY, TR_JSON_OBJECT };
/* Walks the members of an object (or elements of an array: key is empty). `*at` starts at 0.
 * Returns true with raw texts (key still escaped, without quotes; value trimmed). Valid JSON only. */
bool tr_json_next(struct tr_str container, size_t *at, struct tr_str *key, struct tr_str *value);
enum tr_json_type tr_json_type(struct tr_str value);
/* Member of an object by its plain name; value.data NULL if absent. */
struct tr_str tr_json_get(struct tr_str object, const char *name);
/* Unescapes a string value ("..." with quotes) into buf. TR_OK or TR_EINVAL. */
int tr_json_unescape(struct tr_str value, struct tr_buf *out);

/* UTF-8 validity as RFC 3629. */
bool tr_utf8_valid(struct tr_str str);

#endif
