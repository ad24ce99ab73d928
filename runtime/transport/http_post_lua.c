/* Posts of messages' bytes, from where they lie, for connections that send many records: part of tr.http. */
#include "transport/http_post_lua.h"

#include <openssl/evp.h>
#include <openssl/params.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/clock.h"
#include "base/json.h"
#include "message/message_lua.h"
#include "policy/policy.h"
#include "transport/http.h"

#define KEPT_BYTES (256 * 1024) /* a larger buffer is not kept for the next post */
#define SECRETS_MAX 2           /* the second while one replaces the other */
#define DYNAMIC_MAX 6           /* headers of a request beside those of its poster */
#define GZIP_LEVEL 3            /* JSON of records: nine tenths of the best ratio at a third of its time */
#define ZSTD_LEVEL 1
#define POSTER_TYPE "tr.http.poster"

enum compression { NONE, GZIP, ZSTD };

/* What the posts of a client to one URL share. Counted: by its owner and by each of its posts under way. */
struct http_poster {
	uint32_t refs;
	struct post_op *idle; /* finished, kept for their buffers */
	struct tr_http_client *client;
	uint64_t headers_id; /* 0: each request has headers of its own */
	bool identify;       /* tell event id and attempt, or the batch's id and size */
	enum compression compression;
	z_stream gzip; /* of GZIP */
	bool gzip_ready;
	ZSTD_CCtx *zstd; /* of ZSTD */
	struct tr_str secrets[SECRETS_MAX];
	uint32_t secret_count;
	EVP_MAC_CTX *mac;   /* with secrets */
	struct tr_str url;  /* NUL-terminated */
	size_t shown_at;    /* in text: the URL as logs may have it, NUL-terminated */
	struct tr_buf text; /* what url, headers and secrets point into */
	uint32_t header_count;
	struct tr_str headers[]; /* name, value ...: fixed ones, with room for DYNAMIC_MAX pairs behind */
};

struct post_op {
	struct tr_http_call call;
	struct tr_ticket ticket;
	struct http_poster *poster;
	struct tr_bytes bytes;  /* body of the one message, shared */
	struct tr_buf joined;   /* body of several */
	struct tr_buf packed;   /* body compressed */
	struct tr_buf values;   /* of its own headers */
	struct tr_str *headers; /* NULL: the poster's */
	struct post_op *next;   /* idle */
};

void
http_push_lossy(lua_State *L, struct tr_str text)
{
	luaL_Buffer out;
	size_t at = 0;

	if (tr_utf8_valid(text)) {
		lua_pushlstring(L, text.data, text.len);
		return;
	}
	luaL_buffinit(L, &out);
	while (at < text.len) {
		size_t len = 1;

		while (len < 4 && at + len <= text.len && !tr_utf8_valid((struct tr_str){text.data + at, len}))
			len++;
		if (at + len <= text.len && tr_utf8_valid((struct tr_str){text.data + at, len})) {
			luaL_addlstring(&out, text.data + at, len);
			at += len;
		} else {
			luaL_addlstring(&out, "\xEF\xBF\xBD", 3);
			at++;
		}
	}
	luaL_pushresult(&out);
}

/* --- posters ------------------------------------------------------------------------------------------------ */

static void
post_free(struct post_op *op)
{
	tr_http_call_fini(&op->call);
	tr_buf_free(&op->joined);
	tr_buf_free(&op->packed);
	tr_buf_free(&op->values);
	free(op->headers);
	free(op);
}

void
http_poster_unref(struct http_poster *poster)
{
	if (poster == NULL || --poster->refs > 0)
		return;
	while (poster->idle != NULL) {
		struct post_op *op = poster->idle;

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

/* One for `pairs` header pairs; NULL: no memory. */
static struct http_poster *
poster_new(struct tr_http_client *client, uint32_t pairs)
{
	struct http_poster *poster = calloc(1, sizeof *poster + 2 * (pairs + DYNAMIC_MAX) * sizeof poster->headers[0]);

	if (poster == NULL)
		return NULL;
	poster->refs = 1;
	poster->client = tr_http_client_ref(client);
	return poster;
}

static void
add_shown(struct http_poster *poster, const char *url)
{
	int front;
	const char *rest = tr_http_url_shown(url, &front);

	poster->shown_at = poster->text.len;
	tr_buf_add(&poster->text, url, (size_t)front);
	tr_buf_addz(&poster->text, rest);
	tr_buf_addc(&poster->text, '\0');
}

/* The one that post_message of a client uses: its last, if URL and type are the same. */
static struct http_poster *
poster_of(struct client_box *box, struct tr_str url, struct tr_str type)
{
	struct http_poster *poster = box->poster;

	if (poster != NULL && tr_str_eq(poster->url, url) && tr_str_eq(poster->headers[1], type))
		return poster;
	poster = poster_new(box->client, 1);
	if (poster == NULL)
		return NULL;
	tr_buf_add_str(&poster->text, url);
	tr_buf_addc(&poster->text, '\0');
	tr_buf_add_str(&poster->text, type);
	tr_buf_addc(&poster->text, '\0');
	add_shown(poster, url.data);
	if (poster->text.failed) {
		http_poster_unref(poster);
		return NULL;
	}
	poster->url = (struct tr_str){poster->text.data, url.len};
	poster->headers[0] = TR_STR("Content-Type");
	poster->headers[1] = (struct tr_str){poster->text.data + url.len + 1, type.len};
	poster->header_count = 1;
	poster->headers_id = new_headers_id();
	http_poster_unref(box->poster);
	box->poster = poster;
	return poster;
}

/* --- the life of a post ------------------------------------------------------------------------------------- */

static void
post_end(struct post_op *op)
{
	struct http_poster *poster = op->poster;

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
	http_poster_unref(poster);
}

static struct post_op *
post_new(struct http_poster *poster)
{
	struct post_op *op = poster->idle;

	if (op != NULL)
		poster->idle = op->next;
	else
		op = calloc(1, sizeof *op);
	if (op == NULL)
		return NULL;
	op->poster = poster;
	poster->refs++;
	op->call.client = tr_http_client_ref(poster->client);
	return op;
}

static int
push_post_answer(lua_State *L, void *arg)
{
	struct tr_http_call *call = arg;
	struct tr_str head = {call->head.data, call->head.len}, retry_after;
	const char *reason = tr_http_reason(call->status);

	if (call->err != TR_OK)
		return http_push_answer(L, arg);
	lua_pushinteger(L, call->status);
	if (reason != NULL)
		lua_pushstring(L, reason);
	else
		lua_pushnil(L);
	http_push_lossy(L, (struct tr_str){call->content.len > 0 ? call->content.data : "", call->content.len});
	retry_after =
		call->status >= 300 && head.len > 0 ? tr_http_header(head, "retry-after") : (struct tr_str){NULL, 0};
	if (retry_after.data == NULL)
		return 3;
	lua_pushlstring(L, retry_after.data, retry_after.len);
	return 4;
}

static void
post_done(struct tr_http_call *call)
{
	struct post_op *op = tr_container_of(call, struct post_op, call);

	tr_task_wake(&op->ticket, push_post_answer, call, false);
	post_end(op);
}

static void
post_cancel(void *arg)
{
	struct post_op *op = arg;

	tr_http_cancel(&op->call);
	post_end(op);
}

/* --- body --------------------------------------------------------------------------------------------------- */

/* A JSON array of the messages of the list at idx; their line ends, which the array does not need, are left out. */
static void
join(lua_State *L, int idx, struct tr_buf *out)
{
	size_t count = lua_objlen(L, idx);

	tr_buf_clear(out);
	tr_buf_addc(out, '[');
	for (size_t i = 1; i <= count; i++) {
		const struct tr_message *message;
		struct tr_str body;

		lua_rawgeti(L, idx, (int)i);
		message = tr_message_check(L, -1, "post_messages"); /* was checked: does not raise */
		lua_pop(L, 1);
		body = tr_bytes_str(&message->body);
		while (body.len > 0 && (body.data[body.len - 1] == '\n' || body.data[body.len - 1] == '\r'))
			body.len--;
		if (i > 1)
			tr_buf_addc(out, ',');
		tr_buf_add_str(out, tr_bytes_str(&message->head));
		tr_buf_add_str(out, body);
	}
	tr_buf_addc(out, ']');
}

static bool
gzip(struct http_poster *poster, struct tr_str body, struct tr_buf *out)
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
zstd(struct http_poster *poster, struct tr_str body, struct tr_buf *out)
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
compress_body(struct post_op *op)
{
	struct http_poster *poster = op->poster;

	if (poster->compression == NONE)
		return true;
	tr_buf_clear(&op->packed);
	if (!(poster->compression == GZIP ? gzip : zstd)(poster, op->call.body, &op->packed))
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
begin(struct post_op *op, struct marks *marks, const char *name)
{
	marks->names[marks->count] = name;
	marks->at[marks->count++] = op->values.len;
}

/* The signature of Standard Webhooks (standardwebhooks.com, 1.0): v1,BASE64(HMAC-SHA256(key, "ID.TIMESTAMP.BODY")), one
 * for each secret, parted by blanks. */
static bool
sign(struct post_op *op, struct tr_str id, int64_t timestamp, struct tr_buf *out)
{
	struct http_poster *poster = op->poster;
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
add_headers(struct post_op *op, const struct tr_message *message, size_t count)
{
	struct http_poster *poster = op->poster;
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

/* --- posting ------------------------------------------------------------------------------------------------ */

/* Posts the message, or the messages of the list, at idx. Raises, or parks. */
static int
post(lua_State *L, struct http_poster *poster, int idx, bool many, const char *fn)
{
	struct tr_http *http = tr_service(L, TR_SERVICE_HTTP);
	struct tr_task *task = tr_task_check(L);
	const struct tr_message *message = NULL;
	struct post_op *op;
	int err;

	if (many) {
		luaL_checktype(L, idx, LUA_TTABLE);
		for (size_t i = lua_objlen(L, idx); i > 0; i--) {
			lua_rawgeti(L, idx, (int)i);
			tr_message_check(L, -1, fn);
			lua_pop(L, 1);
		}
	} else {
		message = tr_message_check(L, idx, fn);
	}
	op = poster != NULL ? post_new(poster) : NULL;
	if (op == NULL)
		return luaL_error(L, "%s: out of memory", fn);
	/* nothing below raises until the request is on its way */
	if (many) {
		join(L, idx, &op->joined);
		err = op->joined.failed ? TR_ENOMEM : TR_OK;
		op->call.body = (struct tr_str){op->joined.data, op->joined.len};
	} else {
		err = tr_message_data(message, &op->bytes);
		op->call.body = tr_bytes_str(&op->bytes);
	}
	op->call.headers = poster->headers;
	op->call.header_count = poster->header_count;
	op->call.headers_id = poster->headers_id;
	if (err == TR_OK &&
		(!compress_body(op) || (poster->headers_id == 0 && !add_headers(op, message, lua_objlen(L, idx)))))
		err = TR_ENOMEM;
	if (err != TR_OK) {
		post_end(op);
		return luaL_error(L, "%s: out of memory", fn);
	}
	op->call.method = TR_HTTP_POST;
	op->call.url = poster->url.data;
	op->call.done = post_done;
	err = tr_http_start(http, &op->call);
	if (err != TR_OK) {
		int front;
		const char *rest = tr_http_url_shown(poster->url.data, &front);
		int results = tr_push_error(L, err, "error sending request for url (%.*s%s): %s", front,
			poster->url.data, rest, tr_err_text(err));

		post_end(op);
		return results;
	}
	tr_task_describe_text(task, "http POST ", poster->text.data + poster->shown_at);
	return tr_task_park(task, L, post_cancel, op, &op->ticket);
}

static int
l_post_to(lua_State *L, bool many)
{
	const char *fn = many ? "post_messages" : "post_message";
	struct client_box *box = http_check_client(L, 1);
	struct tr_str url, type = TR_STR("application/json");

	url.data = luaL_checklstring(L, 2, &url.len);
	if (!lua_isnoneornil(L, 4)) {
		type.data = luaL_checklstring(L, 4, &type.len);
		if (!tr_http_header_ok(TR_STR("Content-Type"), type))
			return luaL_error(L, "%s: the content type has a control byte", fn);
	}
	if (box->client == NULL || tr_service(L, TR_SERVICE_HTTP) == NULL)
		return luaL_error(L, "%s: HTTP is not available here", fn);
	return post(L, poster_of(box, url, type), 3, many, fn);
}

/* post_message(client, url, message, content_type) -> status, reason, text, retry_after | nil, message, code */
static int
l_post_message(lua_State *L)
{
	return l_post_to(L, false);
}

/* post_messages(client, url, list, content_type): the same with a JSON array of the messages as the body */
static int
l_post_messages(lua_State *L)
{
	return l_post_to(L, true);
}

/* Copies a text behind the poster's others. The places are fixed once all are there: the buffer may move. */
static struct tr_str
copy(struct http_poster *poster, struct tr_str text)
{
	struct tr_str at = {(const char *)poster->text.len, text.len}; /* an offset until then */

	tr_buf_add_str(&poster->text, text);
	tr_buf_addc(&poster->text, '\0');
	return at;
}

static struct tr_str
list_text(lua_State *L, int idx, int i)
{
	struct tr_str text;

	lua_rawgeti(L, idx, i);
	text.data = lua_tolstring(L, -1, &text.len); /* the list keeps it */
	lua_pop(L, 1);
	return text;
}

/* poster(client, {url =, headers = {name, value, ...}, identify =, secrets = {key, ...}, compression = "gzip"|"zstd"}):
 * what lua/kumo/http.lua has checked. */
static int
l_poster(lua_State *L)
{
	static const char *const compressions[] = {"none", "gzip", "zstd", NULL};
	struct client_box *box = http_check_client(L, 1);
	struct http_poster **slot, *poster;
	size_t pairs, url_len;
	const char *url;

	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 2);
	if (box->client == NULL || tr_service(L, TR_SERVICE_HTTP) == NULL)
		return luaL_error(L, "poster: HTTP is not available here");
	url = tr_opt_string(L, 2, "url", "", &url_len);
	lua_getfield(L, 2, "headers");     /* 3 */
	lua_getfield(L, 2, "secrets");     /* 4 */
	lua_getfield(L, 2, "compression"); /* 5 */
	pairs = lua_objlen(L, 3) / 2;
	slot = lua_newuserdata(L, sizeof *slot);
	*slot = NULL;
	luaL_getmetatable(L, POSTER_TYPE);
	lua_setmetatable(L, -2);
	poster = *slot = poster_new(box->client, (uint32_t)pairs);
	if (poster == NULL)
		return luaL_error(L, "poster: out of memory");
	poster->compression = (enum compression)luaL_checkoption(L, 5, "none", compressions);
	poster->identify = tr_opt_bool(L, 2, "identify", false);
	poster->url = copy(poster, (struct tr_str){url, url_len});
	for (size_t i = 0; i < 2 * pairs; i++)
		poster->headers[i] = copy(poster, list_text(L, 3, (int)i + 1));
	poster->header_count = (uint32_t)pairs;
	for (size_t i = 0; lua_istable(L, 4) && i < lua_objlen(L, 4) && i < SECRETS_MAX; i++)
		poster->secrets[poster->secret_count++] = copy(poster, list_text(L, 4, (int)i + 1));
	if (poster->secret_count > 0) {
		EVP_MAC *hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);

		poster->mac = hmac != NULL ? EVP_MAC_CTX_new(hmac) : NULL;
		EVP_MAC_free(hmac);
		poster->text.failed = poster->text.failed || poster->mac == NULL;
	}
	add_shown(poster, url);
	if (poster->text.failed)
		return luaL_error(L, "poster: out of memory");
	poster->url.data = poster->text.data + (size_t)poster->url.data;
	for (size_t i = 0; i < 2 * pairs; i++)
		poster->headers[i].data = poster->text.data + (size_t)poster->headers[i].data;
	for (uint32_t i = 0; i < poster->secret_count; i++)
		poster->secrets[i].data = poster->text.data + (size_t)poster->secrets[i].data;
	if (!poster->identify && poster->secret_count == 0)
		poster->headers_id = new_headers_id();
	return 1;
}

static int
l_poster_gc(lua_State *L)
{
	struct http_poster **slot = luaL_checkudata(L, 1, POSTER_TYPE);

	http_poster_unref(*slot);
	*slot = NULL;
	return 0;
}

/* post(poster, message or list) -> as post_message */
static int
l_post(lua_State *L)
{
	struct http_poster **slot = luaL_checkudata(L, 1, POSTER_TYPE);

	if (*slot == NULL)
		return luaL_error(L, "post: it is closed");
	return post(L, *slot, 2, lua_istable(L, 2), "post");
}

void
http_post_register(lua_State *L)
{
	static const luaL_Reg functions[] = {{"post_message", l_post_message}, {"post_messages", l_post_messages},
		{"poster", l_poster}, {"post", l_post}, {NULL, NULL}};

	luaL_newmetatable(L, POSTER_TYPE);
	lua_pushcfunction(L, l_poster_gc);
	lua_setfield(L, -2, "__gc");
	lua_pop(L, 1);
	luaL_register(L, NULL, functions);
}
