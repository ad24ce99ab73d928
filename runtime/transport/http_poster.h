/* Posts of bodies that many records make: a URL, its fixed headers, and how each body is packed, identified and signed.
 * No Lua. Own thread only. Inside of runtime/transport: the binding is http_post_lua.c. */
#ifndef TR_HTTP_POSTER_H
#define TR_HTTP_POSTER_H

#include <openssl/evp.h>
#include <zlib.h>
#include <zstd.h>

#include "message/message.h"
#include "transport/http.h"

#define TR_HTTP_SECRETS_MAX 2 /* the second while one replaces the other */

enum tr_http_compression { TR_HTTP_PLAIN, TR_HTTP_GZIP, TR_HTTP_ZSTD };

/* What the posts of a client to one URL share. Counted: by its owner and by each of its posts under way. */
struct tr_http_poster {
	uint32_t refs;
	struct tr_http_post *idle; /* finished, kept for their buffers */
	struct tr_http_client *client;
	uint64_t headers_id; /* 0: each request has headers of its own */
	bool identify;       /* tell event id and attempt, or the batch's id and size */
	enum tr_http_compression compression;
	z_stream gzip; /* of TR_HTTP_GZIP */
	bool gzip_ready;
	ZSTD_CCtx *zstd; /* of TR_HTTP_ZSTD */
	struct tr_str secrets[TR_HTTP_SECRETS_MAX];
	uint32_t secret_count;
	EVP_MAC_CTX *mac;   /* with secrets */
	struct tr_str url;  /* NUL-terminated */
	size_t shown_at;    /* in text: the URL as logs may have it, NUL-terminated */
	struct tr_buf text; /* what url, headers and secrets point into */
	uint32_t header_count;
	struct tr_str headers[]; /* name, value ...: fixed ones */
};

/* The first member of its user's struct. */
struct tr_http_post {
	struct tr_http_call call;
	struct tr_http_poster *poster;
	struct tr_bytes bytes;     /* body of the one message, shared */
	struct tr_buf joined;      /* body of several */
	struct tr_buf packed;      /* body compressed */
	struct tr_buf values;      /* of its own headers */
	struct tr_str *headers;    /* NULL: the poster's */
	struct tr_http_post *next; /* idle */
};

/* One for `pairs` header pairs, with one reference; the owner fills it and calls tr_http_poster_ready(). NULL: no
 * memory. */
struct tr_http_poster *tr_http_poster_new(struct tr_http_client *client, uint32_t pairs);
void tr_http_poster_show(struct tr_http_poster *poster, const char *url); /* adds what shown_at is of */
int tr_http_poster_ready(struct tr_http_poster *poster);                  /* TR_OK, TR_ENOMEM */
void tr_http_poster_unref(struct tr_http_poster *poster);                 /* NULL is fine */

/* A post with a reference of its poster and of its client, in `bytes` of memory, as many for all of a poster; what is
 * behind it may be an earlier one's. NULL: no memory. */
struct tr_http_post *tr_http_post_new(struct tr_http_poster *poster, size_t bytes);
/* When call.body is set: packs it, and adds the headers of this request. `message` NULL: a batch of `count`. TR_OK,
 * TR_ENOMEM. */
int tr_http_post_seal(struct tr_http_post *post, const struct tr_message *message, uint32_t count);
void tr_http_post_end(struct tr_http_post *post); /* it is kept for the next one */

#endif
