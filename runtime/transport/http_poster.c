#include "transport/http_poster.h"

#include <openssl/params.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

#define KEPT_BYTES (256 * 1024) /* a larger buffer is not kept for the next post */
#define DYNAMIC_MAX 6           /* headers of a request beside those of its poster */
#define GZIP_LEVEL 3            /* JSON of records: nine tenths of the best ratio at a third of its time */
#define ZSTD_LEVEL 1

/* --- posters ------------------------------------------------------------------------------------------------ */

static void
post_free(struct tr_http_post *op)
{
	tr_http_call_fini(&op->call);
	tr_buf_free(&op->joined);
	tr_buf_free(&op->packed);
	tr_buf_free(&op->values);
	free(op->headers);
	free(op);
}

void
tr_http_poster_unref(struct tr_http_poster *poster)
{
	if (poster == NULL || --poster->refs > 0)
		return;
	while (poster->idle != NULL) {
		struct tr_http_post *op = poster->idle;

		poster->idle = op->next;
		post_free(op);
	}
	if (poster->gzip_ready)
		deflateEnd(&poster->gzip);
	ZSTD_freeCCtx(poster->zstd);
	EVP_MAC_CTX_free(poster->mac);
	tr_http_client_unref(poster->client);
	tr_buf_free(&poster->text);
	free(poster);
}

static uint64_t
new_headers_id(void)
{
	static _Atomic uint64_t ids;

	return atomic_fetch_add_explicit(&ids, 1, memory_order_relaxed) + 1;
}

struct tr_http_poster *
tr_http_poster_new(struct tr_http_client *client, uint32_t pairs)
{
	struct tr_http_poster *poster =
		calloc(1, sizeof *poster + 2 * (pairs + DYNAMIC_MAX) * sizeof poster->headers[0]);

	if (poster == NULL)
		return NULL;
	poster->refs = 1;
	poster->client = tr_http_client_ref(client);
	return poster;
}

void
tr_http_poster_show(struct tr_http_poster *poster, const char *url)
{
	int front;
	const char *rest = tr_http_url_shown(url, &front);

	poster->shown_at = poster->text.len;
	tr_buf_add(&poster->text, url, (size_t)front);
	tr_buf_addz(&poster->text, rest);
	tr_buf_addc(&poster->text, '\0');
}

int
tr_http_poster_ready(struct tr_http_poster *poster)
{
	EVP_MAC *hmac;

	if (poster->secret_count > 0) {
		hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
		poster->mac = hmac != NULL ? EVP_MAC_CTX_new(hmac) : NULL;
		EVP_MAC_free(hmac);
		return poster->mac != NULL ? TR_OK : TR_ENOMEM;
	}
	if (!poster->identify)
		poster->headers_id = new_headers_id();
	return TR_OK;
}

/* --- the life of a post ------------------------------------------------------------------------------------- */

void
tr_http_post_end(struct tr_http_post *op)
{
	struct tr_http_poster *poster = op->poster;

	tr_http_client_unref(op->call.client);
	op->call.client = NULL;
	tr_bytes_fini(&op->bytes);
	if (op->joined.cap > KEPT_BYTES)
		tr_buf_free(&op->joined);
	if (op->packed.cap > KEPT_BYTES)
		tr_buf_free(&op->packed);
	if (op->call.content.cap > KEPT_BYTES)
		tr_buf_free(&op->call.content);
	op->next = poster->idle;
	poster->idle = op;
	tr_http_poster_unref(poster);
}

struct tr_http_post *
tr_http_post_new(struct tr_http_poster *poster, size_t bytes)
{
	struct tr_http_post *op = poster->idle;

	if (op != NULL)
		poster->idle = op->next;
	else
		op = calloc(1, bytes);
	if (op == NULL)
		return NULL;
	op->poster = poster;
	poster->refs++;
	op->call.client = tr_http_client_ref(poster->client);
	return op;
}

/* --- body --------------------------------------------------------------------------------------------------- */

static bool
gzip(struct tr_http_poster *poster, struct tr_str body, struct tr_buf *out)
{
	z_stream *z = &poster->gzip;
	size_t room;

	if (!poster->gzip_ready && deflateInit2(z, GZIP_LEVEL, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
		return false;
	poster->gzip_ready = true;
	deflateReset(z);
	room = deflateBound(z, body.len);
	if (body.len > UINT32_MAX / 2 || tr_buf_reserve(out, room) == NULL)
		return false;
	z->next_in = (unsigned char *)body.data;
	z->avail_in = (unsigned)body.len;
	z->next_out = (unsigned char *)out->data;
	z->avail_out = (unsigned)room;
	if (deflate(z, Z_FINISH) != Z_STREAM_END)
		return false;
	out->len = room - z->avail_out;
	return true;
}

static bool
zstd(struct tr_http_poster *poster, struct tr_str body, struct tr_buf *out)
{
	size_t room = ZSTD_compressBound(body.len), len;

	if (poster->zstd == NULL)
		poster->zstd = ZSTD_createCCtx();
	if (poster->zstd == NULL || tr_buf_reserve(out, room) == NULL)
		return false;
	len = ZSTD_compressCCtx(poster->zstd, out->data, room, body.data, body.len, ZSTD_LEVEL);
	if (ZSTD_isError(len))
		return false;
	out->len = len;
	return true;
}

static bool
compress_body(struct tr_http_post *op)
{
	struct tr_http_poster *poster = op->poster;

	if (poster->compression == TR_HTTP_PLAIN)
		return true;
	tr_buf_clear(&op->packed);
	if (!(poster->compression == TR_HTTP_GZIP ? gzip : zstd)(poster, op->call.body, &op->packed))
		return false;
	op->call.body = (struct tr_str){op->packed.data, op->packed.len};
	return true;
}

/* --- headers of one request --------------------------------------------------------------------------------- */

/* Where a value of a header begins in op->values; its end is where the next begins. */
struct marks {
	const char *names[DYNAMIC_MAX];
	size_t at[DYNAMIC_MAX + 1];
	uint32_t count;
};

static void
begin(struct tr_http_post *op, struct marks *marks, const char *name)
{
	marks->names[marks->count] = name;
	marks->at[marks->count++] = op->values.len;
}

/* The signature of Standard Webhooks (standardwebhooks.com, 1.0): v1,BASE64(HMAC-SHA256(key, "ID.TIMESTAMP.BODY")), one
 * for each secret, parted by blanks. */
static bool
sign(struct tr_http_post *op, struct tr_str id, int64_t timestamp, struct tr_buf *out)
{
	struct tr_http_poster *poster = op->poster;
	char prefix[96];
	int len = snprintf(prefix, sizeof prefix, "%.*s.%lld.", (int)id.len, id.data, (long long)timestamp);

	for (uint32_t i = 0; i < poster->secret_count; i++) {
		OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string("digest", (char *)"SHA256", 0), OSSL_PARAM_END};
		unsigned char mac[EVP_MAX_MD_SIZE], text[2 * EVP_MAX_MD_SIZE];
		size_t mac_len = 0;

		if (!EVP_MAC_init(poster->mac, (const unsigned char *)poster->secrets[i].data, poster->secrets[i].len,
			    params) ||
			!EVP_MAC_update(poster->mac, (const unsigned char *)prefix, (size_t)len) ||
			!EVP_MAC_update(poster->mac, (const unsigned char *)op->call.body.data, op->call.body.len) ||
			!EVP_MAC_final(poster->mac, mac, &mac_len, sizeof mac))
			return false;
		EVP_EncodeBlock(text, mac, (int)mac_len);
		tr_buf_addf(out, "%sv1,%s", i > 0 ? " " : "", (const char *)text);
	}
	return true;
}

/* Headers that this request alone has. `message` NULL: a batch of `count`. */
static bool
add_headers(struct tr_http_post *op, const struct tr_message *message, size_t count)
{
	struct tr_http_poster *poster = op->poster;
	struct marks marks = {.count = 0};
	struct tr_str id = {NULL, 0};
	char own[33];

	tr_buf_clear(&op->values);
	if (message != NULL)
		id = tr_message_event_id(message);
	if (id.data == NULL) { /* no record, or several */
		uint8_t uuid[16];

		if (message != NULL)
			memcpy(uuid, message->id, 16);
		else
			tr_uuid4(uuid);
		tr_uuid_hex(uuid, own);
		id = (struct tr_str){own, 32};
	}
	if (poster->identify && message != NULL) {
		begin(op, &marks, "Tailrace-Event-Id");
		tr_buf_add_str(&op->values, id);
		begin(op, &marks, "Tailrace-Attempt");
		tr_buf_add_u64(&op->values, (uint64_t)message->attempts + 1);
	} else if (poster->identify) {
		begin(op, &marks, "Tailrace-Batch-Id");
		tr_buf_add_str(&op->values, id);
		begin(op, &marks, "Tailrace-Batch-Size");
		tr_buf_add_u64(&op->values, count);
	}
	if (poster->secret_count > 0) {
		int64_t timestamp = tr_wall_ms() / 1000;

		begin(op, &marks, "webhook-id");
		tr_buf_add_str(&op->values, id);
		begin(op, &marks, "webhook-timestamp");
		tr_buf_add_i64(&op->values, timestamp);
		begin(op, &marks, "webhook-signature");
		if (!sign(op, id, timestamp, &op->values))
			return false;
	}
	marks.at[marks.count] = op->values.len;
	if (op->headers == NULL)
		op->headers = malloc(2 * (poster->header_count + DYNAMIC_MAX) * sizeof *op->headers);
	if (op->headers == NULL || op->values.failed)
		return false;
	memcpy(op->headers, poster->headers, 2 * poster->header_count * sizeof *op->headers);
	for (uint32_t i = 0; i < marks.count; i++) {
		struct tr_str *pair = &op->headers[2 * (poster->header_count + i)];

		pair[0] = tr_str(marks.names[i]);
		pair[1] = (struct tr_str){op->values.data + marks.at[i], marks.at[i + 1] - marks.at[i]};
	}
	op->call.headers = op->headers;
	op->call.header_count = poster->header_count + marks.count;
	op->call.headers_id = 0;
	return true;
}

int
tr_http_post_seal(struct tr_http_post *op, const struct tr_message *message, uint32_t count)
{
	if (!compress_body(op) || (op->poster->headers_id == 0 && !add_headers(op, message, count)))
		return TR_ENOMEM;
	return TR_OK;
}
