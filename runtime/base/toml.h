/* TOML 1.0 text as a flat list of items with the place of each in the file: what configuration files are read with.
 * tomlplusplus does the reading; no C++ shows here, and no exception leaves. No Lua. Any thread; a document is not
 * changed after it is made. */
#ifndef TR_TOML_H
#define TR_TOML_H

#include "base/base.h" /* not buf.h: C++ cannot read its atomics */

#ifdef __cplusplus
extern "C" {
#endif

#define TR_TOML_MAX_DEPTH 64                 /* tables and arrays inside each other */
#define TR_TOML_MAX_BYTES (64 * 1024 * 1024) /* of text */

enum tr_toml_type {
	TR_TOML_TABLE, /* begins a table; the document itself is the first one. Then KEY, value, KEY, value ... END */
	TR_TOML_ARRAY, /* begins an array: values up to END */
	TR_TOML_END,
	TR_TOML_KEY,     /* text; the next item is its value. Keys of a table come in the order of the file */
	TR_TOML_STRING,  /* text */
	TR_TOML_INTEGER, /* integer */
	TR_TOML_REAL,    /* real; may be infinite or not a number */
	TR_TOML_BOOL,    /* boolean */
	TR_TOML_TIME,    /* text: a date, a time or both, as RFC 3339 writes them */
};

struct tr_toml_item {
	enum tr_toml_type type;
	uint32_t line, column; /* from 1; 0 for END and where the file has no place for it */
	const char *text;      /* borrowed from the document; may hold NUL, does not end with one */
	size_t text_len;
	int64_t integer;
	double real;
	bool boolean;
};

struct tr_toml_error {
	uint32_t line, column; /* from 1; 0: not at one place */
	char text[200];        /* why, without the place */
};

struct tr_toml; /* opaque */

/* Reads a document. The caller owns *out and frees it with tr_toml_free().
 * TR_OK, TR_EINVAL (not TOML, or nested too deep), TR_ETOOBIG, TR_ENOMEM; then *out is NULL and *error says why. */
int tr_toml_parse(const char *text, size_t len, struct tr_toml **out, struct tr_toml_error *error);

/* The item at *at (starts at 0), which moves on; false at the end. */
bool tr_toml_next(const struct tr_toml *doc, size_t *at, struct tr_toml_item *out);

void tr_toml_free(struct tr_toml *doc); /* NULL is fine */

#ifdef __cplusplus
}
#endif

#endif
