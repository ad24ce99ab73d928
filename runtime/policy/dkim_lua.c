/* tr.dkim: what of signing by DKIM (RFC 6376, RFC 8463) is bytes: the hash of a body, keys, signatures.
 * lua/kumo/dkim.lua makes kumo.dkim of it. Much data and signatures of RSA are done in threads while the task waits. */
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#include "policy/library.h"
#include "policy/offload.h"

#define KEY "tr.dkim_key"
#define MUCH_BYTES (1U << 20)

/* --- canonical bodies, RFC 6376 section 3.4.3 and 3.4.4 ------------------------------------------------- */

static bool
is_blank(char c)
{
	return c == ' ' || c == '\t';
}

/* Adds a line without its end: runs of blanks become one, those at the end go. */
static void
add_relaxed(struct tr_buf *out, const char *line, size_t len)
{
	while (len > 0 && is_blank(line[len - 1]))
		len--;
	for (size_t i = 0; i < len;) {
		size_t run = i;

		while (run < len && !is_blank(line[run]))
			run++;
		tr_buf_add(out, line + i, run - i);
		if (run < len)
			tr_buf_addc(out, ' ');
		while (run < len && is_blank(line[run]))
			run++;
		i = run;
	}
}

/* Where the line that begins at `at` ends: its CRLF, or the end of the body. */
static size_t
line_end(struct tr_str body, size_t at)
{
	const char *found;

	for (; (found = memchr(body.data + at, '\r', body.len - at)) != NULL; at++) {
		at = (size_t)(found - body.data);
		if (at + 1 < body.len && body.data[at + 1] == '\n')
			return at;
	}
	return body.len;
}

static void
canonical_body(struct tr_str body, bool relaxed, struct tr_buf *out)
{
	size_t end = 0; /* behind the last line that holds something: empty ones at the end do not count */

	for (size_t at = 0; at < body.len;) {
		size_t len = line_end(body, at) - at;
		size_t before = out->len;

		if (relaxed)
			add_relaxed(out, body.data + at, len);
		else
			tr_buf_add(out, body.data + at, len);
		bool empty = out->len == before;
		tr_buf_add(out, "\r\n", 2); /* a last line without its end gets one */
		if (!empty)
			end = out->len;
		at += len + 2;
	}
	if (out->len > end)
		out->len = end;
	if (!relaxed && end == 0)
		tr_buf_add(out, "\r\n", 2);
}

struct hash_op {
	struct tr_offload offload;
	struct tr_buf text; /* a copy of the body */
	bool relaxed, good;
	size_t length; /* of the canonical body */
	unsigned char hash[SHA256_DIGEST_LENGTH];
};

static void
hash_run(struct tr_offload *offload)
{
	struct hash_op *op = tr_container_of(offload, struct hash_op, offload);
	struct tr_buf canonical = {0};

	tr_buf_reserve(&canonical, op->text.len + 2);
	canonical_body((struct tr_str){op->text.data, op->text.len}, op->relaxed, &canonical);
	op->length = canonical.len;
	op->good = !canonical.failed &&
		   SHA256((const unsigned char *)canonical.data, canonical.len, op->hash) != NULL; /* NULL: no memory */
	tr_buf_free(&canonical);
}

static int
hash_push(lua_State *L, struct tr_offload *offload)
{
	struct hash_op *op = tr_container_of(offload, struct hash_op, offload);

	if (!op->good)
		return tr_push_error(L, TR_ENOMEM, "out of memory");
	lua_pushlstring(L, (const char *)op->hash, sizeof op->hash);
	lua_pushnumber(L, (lua_Number)op->length);
	return 2;
}

static void
hash_free(struct tr_offload *offload)
{
	struct hash_op *op = tr_container_of(offload, struct hash_op, offload);

	tr_buf_free(&op->text);
	free(op);
}

/* body_hash(text, start, relaxed) -> SHA-256 of the canonical body, its length; the body begins at `start` (1-based).
 */
static int
l_body_hash(lua_State *L)
{
	size_t len;
	const char *text = luaL_checklstring(L, 1, &len);
	size_t start = (size_t)luaL_checkinteger(L, 2) - 1;
	struct hash_op *op;
	int results;

	luaL_argcheck(L, start <= len, 2, "a place in the text expected");
	op = calloc(1, sizeof *op);
	if (op != NULL) {
		op->relaxed = lua_toboolean(L, 3);
		tr_buf_add(&op->text, text + start, len - start);
		op->offload.run = hash_run;
		op->offload.push = hash_push;
		op->offload.free = hash_free;
	}
	if (op == NULL || op->text.failed) {
		if (op != NULL)
			hash_free(&op->offload);
		return luaL_error(L, "out of memory");
	}
	if (op->text.len >= MUCH_BYTES)
		return tr_offload(L, &op->offload, TR_OFFLOAD_LIMIT_NS, "the hash of a body", "");
	hash_run(&op->offload);
	lua_pushlstring(L, (const char *)op->hash, sizeof op->hash);
	lua_pushnumber(L, (lua_Number)op->length);
	results = op->good ? 2 : 0;
	hash_free(&op->offload);
	return results == 2 ? 2 : luaL_error(L, "out of memory");
}

/* --- keys ------------------------------------------------------------------------------------------------ */

/* key(kind, bytes) -> key, or nil and what is wrong. kind "rsa" or "ed25519"; bytes: PEM, or the 32 of a private key of
 * Ed25519. */
static int
l_key(lua_State *L)
{
	static const char *const kinds[] = {"rsa", "ed25519", NULL};
	int type = luaL_checkoption(L, 1, NULL, kinds) == 0 ? EVP_PKEY_RSA : EVP_PKEY_ED25519;
	struct tr_str bytes;
	EVP_PKEY **handle, *key = NULL;
	BIO *bio;

	bytes.data = luaL_checklstring(L, 2, &bytes.len);
	luaL_argcheck(L, bytes.len < 65536, 2, "a key expected");
	handle = lua_newuserdata(L, sizeof(EVP_PKEY *));
	*handle = NULL;
	luaL_getmetatable(L, KEY);
	lua_setmetatable(L, -2);
	if (bytes.len == 32 && type == EVP_PKEY_ED25519) {
		key = EVP_PKEY_new_raw_private_key(
			EVP_PKEY_ED25519, NULL, (const unsigned char *)bytes.data, bytes.len);
	} else if ((bio = BIO_new_mem_buf(bytes.data, (int)bytes.len)) != NULL) {
		/* the text for a password: there is nobody to ask */
		key = PEM_read_bio_PrivateKey(bio, NULL, NULL, "");
		BIO_free(bio);
	}
	ERR_clear_error();
	*handle = key;
	if (key != NULL && EVP_PKEY_get_base_id(key) == type)
		return 1;
	lua_pushnil(L);
	lua_pushfstring(L, key == NULL ? "not a private key in PEM" : "not a key for %s", lua_tostring(L, 1));
	return 2;
}

static int
l_key_gc(lua_State *L)
{
	EVP_PKEY **handle = luaL_checkudata(L, 1, KEY);

	EVP_PKEY_free(*handle);
	*handle = NULL;
	return 0;
}

/* --- signatures ------------------------------------------------------------------------------------------- */

struct sign_op {
	struct tr_offload offload;
	EVP_PKEY *key; /* a reference */
	struct tr_buf data;
	unsigned char signature[1024]; /* RSA of 8192 bits */
	size_t len;
	bool good;
};

static void
sign_run(struct tr_offload *offload)
{
	struct sign_op *op = tr_container_of(offload, struct sign_op, offload);
	bool rsa = EVP_PKEY_get_base_id(op->key) == EVP_PKEY_RSA;
	const unsigned char *data = (const unsigned char *)op->data.data;
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	unsigned char hash[SHA256_DIGEST_LENGTH];

	op->len = sizeof op->signature;
	op->good = context != NULL && SHA256(data, op->data.len, hash) != NULL &&
		   (size_t)EVP_PKEY_get_size(op->key) <= sizeof op->signature &&
		   EVP_DigestSignInit(context, NULL, rsa ? EVP_sha256() : NULL, NULL, op->key) == 1 &&
		   /* RFC 8463 section 3: Ed25519 signs the hash */
		   EVP_DigestSign(
			   context, op->signature, &op->len, rsa ? data : hash, rsa ? op->data.len : sizeof hash) == 1;
	EVP_MD_CTX_free(context);
	ERR_clear_error();
}

static int
sign_push(lua_State *L, struct tr_offload *offload)
{
	struct sign_op *op = tr_container_of(offload, struct sign_op, offload);

	if (!op->good)
		return tr_push_error(L, TR_EINVAL, "the key cannot sign");
	lua_pushlstring(L, (const char *)op->signature, op->len);
	return 1;
}

static void
sign_free(struct tr_offload *offload)
{
	struct sign_op *op = tr_container_of(offload, struct sign_op, offload);

	EVP_PKEY_free(op->key);
	tr_buf_free(&op->data);
	free(op);
}

/* key:sign(data) -> signature, or nil, message, code */
static int
l_sign(lua_State *L)
{
	EVP_PKEY *key = *(EVP_PKEY **)luaL_checkudata(L, 1, KEY);
	struct tr_str data;
	struct sign_op *op;

	data.data = luaL_checklstring(L, 2, &data.len);
	op = calloc(1, sizeof *op);
	if (op != NULL) {
		tr_buf_add_str(&op->data, data);
		op->offload.run = sign_run;
		op->offload.push = sign_push;
		op->offload.free = sign_free;
	}
	if (op == NULL || op->data.failed || key == NULL || EVP_PKEY_up_ref(key) != 1) {
		if (op != NULL)
			sign_free(&op->offload);
		return luaL_error(L, "out of memory");
	}
	op->key = key;
	return tr_offload(L, &op->offload, TR_OFFLOAD_LIMIT_NS, "a signature", "");
}

int
luaopen_tr_dkim(lua_State *L)
{
	static const luaL_Reg functions[] = {{"body_hash", l_body_hash}, {"key", l_key}, {NULL, NULL}};
	static const luaL_Reg methods[] = {{"sign", l_sign}, {"__gc", l_key_gc}, {NULL, NULL}};

	luaL_newmetatable(L, KEY);
	lua_pushvalue(L, -1);
	lua_setfield(L, -2, "__index");
	luaL_register(L, NULL, methods);
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
