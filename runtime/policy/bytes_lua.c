/* tr.bytes: base64, base32 and hex; character sets; digests and HMAC; AES; random bytes. kumo.encode, kumo.digest and
 * kumo.crypto are made of them. */
#include <errno.h>
#include <iconv.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "policy/library.h"
#include "policy/offload.h"

#define CONVERTER "tr.converter"
#define MUCH_BYTES (1U << 20) /* 0.5 to 3 ms of work: more than a wake of another thread costs */

static const struct encoding {
	const char *name, *alphabet;
	int bits;  /* per character */
	int group; /* characters that padding completes; 0: none */
} encodings[] = {
	{"base64", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", 6, 4},
	{"base64url", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", 6, 4},
	{"base32", "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 5, 8},
	{"base32hex", "0123456789ABCDEFGHIJKLMNOPQRSTUV", 5, 8},
	{"hex", "0123456789abcdef", 4, 0},
};

static const struct encoding *
check_encoding(lua_State *L, int idx)
{
	const char *name = luaL_checkstring(L, idx);

	for (size_t i = 0; i < TR_COUNT(encodings); i++)
		if (strcmp(encodings[i].name, name) == 0)
			return &encodings[i];
	luaL_argerror(L, idx, "unknown encoding");
	return NULL;
}

/* encode(name, bytes, pad) */
static int
l_encode(lua_State *L)
{
	const struct encoding *encoding = check_encoding(L, 1);
	size_t len, count = 0;
	const unsigned char *bytes = (const unsigned char *)luaL_checklstring(L, 2, &len);
	uint32_t held = 0;
	int bits = 0;
	luaL_Buffer out;

	luaL_buffinit(L, &out);
	for (size_t i = 0; i < len; i++) {
		held = held << 8 | bytes[i];
		for (bits += 8; bits >= encoding->bits; count++) {
			bits -= encoding->bits;
			luaL_addchar(&out, encoding->alphabet[held >> bits & ((1U << encoding->bits) - 1)]);
		}
		/* NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult): bits < encoding->bits <= 6 */
		held &= (1U << bits) - 1;
	}
	if (bits > 0) {
		luaL_addchar(&out, encoding->alphabet[held << (encoding->bits - bits) & ((1U << encoding->bits) - 1)]);
		count++;
	}
	if (lua_toboolean(L, 3) && encoding->group > 0)
		for (; count % encoding->group != 0; count++)
			luaL_addchar(&out, '=');
	luaL_pushresult(&out);
	return 1;
}

/* decode(name, text) -> bytes, or nil and the 1-based position of what is wrong. '=' at the end does not count. */
static int
l_decode(lua_State *L)
{
	const struct encoding *encoding = check_encoding(L, 1);
	size_t len, i;
	const char *text = luaL_checklstring(L, 2, &len);
	uint32_t held = 0;
	int bits = 0;
	luaL_Buffer out;

	while (encoding->group > 0 && len > 0 && text[len - 1] == '=')
		len--;
	luaL_buffinit(L, &out);
	for (i = 0; i < len; i++) {
		char c = text[i];
		if (encoding->bits == 4 && c >= 'A' && c <= 'F')
			c += 'a' - 'A';
		const char *at = c != '\0' ? strchr(encoding->alphabet, c) : NULL;
		if (at == NULL)
			goto bad;
		held = held << encoding->bits | (uint32_t)(at - encoding->alphabet);
		bits += encoding->bits;
		if (bits >= 8) {
			bits -= 8;
			luaL_addchar(&out, (char)(held >> bits & 0xff));
			held &= (1U << bits) - 1;
		}
	}
	if (bits >= encoding->bits || held != 0) /* a character too many, or bits that no encoder leaves */
		goto bad;
	luaL_pushresult(&out);
	return 1;
bad:
	luaL_pushresult(&out);
	lua_pushnil(L);
	lua_pushinteger(L, (lua_Integer)i + 1);
	return 2;
}

/* --- digests: of much data in a thread -------------------------------------------------------------- */

struct digest_op {
	struct tr_offload offload;
	const EVP_MD *md;
	struct tr_buf bytes; /* key, data */
	size_t key_len;
	bool keyed, good;
	unsigned char out[EVP_MAX_MD_SIZE];
	unsigned int out_len;
};

static void
digest_run(struct tr_offload *offload)
{
	struct digest_op *op = tr_container_of(offload, struct digest_op, offload);
	const unsigned char *data = (const unsigned char *)op->bytes.data + op->key_len;
	size_t len = op->bytes.len - op->key_len;

	op->good = op->keyed ? HMAC(op->md, op->bytes.data, (int)op->key_len, data, len, op->out, &op->out_len) != NULL
			     : EVP_Digest(data, len, op->out, &op->out_len, op->md, NULL) == 1;
}

static int
digest_push(lua_State *L, struct tr_offload *offload)
{
	struct digest_op *op = tr_container_of(offload, struct digest_op, offload);

	if (!op->good)
		return luaL_error(L, "the digest is not available");
	lua_pushlstring(L, (const char *)op->out, op->out_len);
	return 1;
}

static void
digest_free(struct tr_offload *offload)
{
	struct digest_op *op = tr_container_of(offload, struct digest_op, offload);

	if (op->keyed && op->bytes.data != NULL)
		OPENSSL_cleanse(op->bytes.data, op->key_len);
	tr_buf_free(&op->bytes);
	free(op);
}

static int
digest_later(lua_State *L, const EVP_MD *md, struct tr_str key, bool keyed, struct tr_str bytes)
{
	struct digest_op *op = calloc(1, sizeof *op);

	if (op != NULL) {
		op->md = md;
		op->keyed = keyed;
		op->key_len = key.len;
		tr_buf_reserve(&op->bytes, key.len + bytes.len);
		tr_buf_add_str(&op->bytes, key);
		tr_buf_add_str(&op->bytes, bytes);
		op->offload.run = digest_run;
		op->offload.push = digest_push;
		op->offload.free = digest_free;
	}
	if (op == NULL || op->bytes.failed) {
		if (op != NULL)
			digest_free(&op->offload);
		return luaL_error(L, "out of memory");
	}
	return tr_offload(L, &op->offload, TR_OFFLOAD_LIMIT_NS, "a digest", "");
}

/* digest(name of OpenSSL, bytes) */
static int
l_digest(lua_State *L)
{
	const EVP_MD *md = EVP_get_digestbyname(luaL_checkstring(L, 1));
	struct tr_str bytes;
	unsigned char out[EVP_MAX_MD_SIZE];
	unsigned int out_len = 0;

	bytes.data = luaL_checklstring(L, 2, &bytes.len);
	if (md != NULL && bytes.len >= MUCH_BYTES)
		return digest_later(L, md, (struct tr_str){"", 0}, false, bytes);
	if (md == NULL || EVP_Digest(bytes.data, bytes.len, out, &out_len, md, NULL) != 1)
		return luaL_error(L, "digest '%s' is not available", lua_tostring(L, 1));
	lua_pushlstring(L, (const char *)out, out_len);
	return 1;
}

/* hmac(name of OpenSSL, key, bytes) */
static int
l_hmac(lua_State *L)
{
	const EVP_MD *md = EVP_get_digestbyname(luaL_checkstring(L, 1));
	struct tr_str key, bytes;
	unsigned char out[EVP_MAX_MD_SIZE];
	unsigned int out_len = 0;

	key.data = luaL_checklstring(L, 2, &key.len);
	bytes.data = luaL_checklstring(L, 3, &bytes.len);
	luaL_argcheck(L, key.len <= INT32_MAX, 2, "key too long");
	if (md != NULL && bytes.len >= MUCH_BYTES)
		return digest_later(L, md, key, true, bytes);
	if (md == NULL ||
		HMAC(md, key.data, (int)key.len, (const unsigned char *)bytes.data, bytes.len, out, &out_len) == NULL)
		return luaL_error(L, "digest '%s' is not available", lua_tostring(L, 1));
	lua_pushlstring(L, (const char *)out, out_len);
	return 1;
}

/* --- ciphers ------------------------------------------------------------------------------------------ */

/* aes(mode, encrypt, key, iv, bytes) -> bytes, or nil: they were not made with this key. mode "ecb" or "cbc"; the key
 * has 16 or 32 bytes, the vector 16 ("" for ecb); padding of PKCS 7. */
static int
l_aes(lua_State *L)
{
	static const char *const modes[] = {"ecb", "cbc", NULL};
	int cbc = luaL_checkoption(L, 1, NULL, modes);
	int encrypt = lua_toboolean(L, 2), len = 0, rest = 0;
	struct tr_str key, iv, bytes;
	EVP_CIPHER_CTX *context;
	const EVP_CIPHER *cipher;
	unsigned char *out;
	bool good;

	key.data = luaL_checklstring(L, 3, &key.len);
	iv.data = luaL_checklstring(L, 4, &iv.len);
	bytes.data = luaL_checklstring(L, 5, &bytes.len);
	luaL_argcheck(L, key.len == 16 || key.len == 32, 3, "16 or 32 bytes expected");
	luaL_argcheck(L, iv.len == (cbc ? 16 : 0), 4, "16 bytes expected");
	luaL_argcheck(L, bytes.len < INT32_MAX - 64, 5, "too long");
	cipher = key.len == 16 ? (cbc ? EVP_aes_128_cbc() : EVP_aes_128_ecb())
			       : (cbc ? EVP_aes_256_cbc() : EVP_aes_256_ecb());
	out = lua_newuserdata(L, bytes.len + 32);
	context = EVP_CIPHER_CTX_new();
	good = context != NULL &&
	       EVP_CipherInit_ex(context, cipher, NULL, (const unsigned char *)key.data,
		       cbc ? (const unsigned char *)iv.data : NULL, encrypt) == 1 &&
	       EVP_CipherUpdate(context, out, &len, (const unsigned char *)bytes.data, (int)bytes.len) == 1 &&
	       EVP_CipherFinal_ex(context, out + len, &rest) == 1;
	EVP_CIPHER_CTX_free(context);
	if (good)
		lua_pushlstring(L, (const char *)out, (size_t)len + (size_t)rest);
	else
		lua_pushnil(L);
	OPENSSL_cleanse(out, bytes.len + 32);
	return 1;
}

/* --- character sets ------------------------------------------------------------------------------------- */

struct converter { /* a userdata: closed whatever Lua raises */
	iconv_t handle;
};

static int
l_converter_gc(lua_State *L)
{
	struct converter *converter = luaL_checkudata(L, 1, CONVERTER);

	if (converter->handle != (iconv_t)-1)
		iconv_close(converter->handle);
	converter->handle = (iconv_t)-1;
	return 0;
}

static size_t
utf8_length(unsigned char first)
{
	return first < 0xC0 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

/* convert(from, to, bytes, instead) -> bytes; nil: a set is unknown; false, position: what cannot be converted, unless
 * there is a text that stands for it. */
static int
l_convert(lua_State *L)
{
	const char *from = luaL_checkstring(L, 1), *to = luaL_checkstring(L, 2);
	size_t len, instead_len = 0;
	char *at = (char *)luaL_checklstring(L, 3, &len); /* iconv() does not write there */
	const char *start = at, *instead = lua_isnoneornil(L, 4) ? NULL : luaL_checklstring(L, 4, &instead_len);
	struct converter *converter = lua_newuserdata(L, sizeof *converter);
	luaL_Buffer out;

	converter->handle = (iconv_t)-1;
	luaL_getmetatable(L, CONVERTER);
	lua_setmetatable(L, -2);
	converter->handle = iconv_open(to, from);
	if (converter->handle == (iconv_t)-1)
		return 0;
	luaL_buffinit(L, &out);
	for (bool flush = false;;) {
		char chunk[1024], *into = chunk;
		size_t room = sizeof chunk;
		size_t result = iconv(converter->handle, flush ? NULL : &at, flush ? NULL : &len, &into, &room);
		int errnum = errno;

		luaL_addlstring(&out, chunk, sizeof chunk - room);
		if (result != (size_t)-1) {
			if (flush)
				break;
			flush = true; /* back to the first state of the set */
		} else if (errnum == E2BIG) {
			continue;
		} else if (instead == NULL) {
			luaL_pushresult(&out);
			lua_pushboolean(L, 0);
			lua_pushinteger(L, (lua_Integer)(at - start) + 1);
			return 2;
		} else {
			size_t skip = strcmp(from, "UTF-8") == 0 ? utf8_length((unsigned char)*at) : 1;
			luaL_addlstring(&out, instead, instead_len);
			skip = skip < len ? skip : len;
			at += skip;
			len -= skip;
		}
	}
	luaL_pushresult(&out);
	return 1;
}

/* crc32(bytes) -> 4 bytes, big-endian: the CRC of IEEE 802.3 and zip. */
static int
l_crc32(lua_State *L)
{
	size_t len;
	const unsigned char *bytes = (const unsigned char *)luaL_checklstring(L, 1, &len);
	uint32_t crc = UINT32_MAX;

	for (size_t i = 0; i < len; i++) {
		crc ^= bytes[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (UINT32_C(0xEDB88320) & (0 - (crc & 1)));
	}
	crc = ~crc;
	char out[4] = {(char)(crc >> 24), (char)(crc >> 16), (char)(crc >> 8), (char)crc};
	lua_pushlstring(L, out, sizeof out);
	return 1;
}

/* random(count) -> that many bytes, at most 1024. */
static int
l_random(lua_State *L)
{
	unsigned char out[1024];
	lua_Integer count = luaL_checkinteger(L, 1);

	luaL_argcheck(L, count >= 0 && count <= (lua_Integer)sizeof out, 1, "0 to 1024 expected");
	if (RAND_bytes(out, (int)count) != 1)
		return luaL_error(L, "no random bytes");
	lua_pushlstring(L, (const char *)out, count);
	return 1;
}

int
luaopen_tr_bytes(lua_State *L)
{
	static const luaL_Reg functions[] = {
		{"encode", l_encode},
		{"decode", l_decode},
		{"digest", l_digest},
		{"hmac", l_hmac},
		{"crc32", l_crc32},
		{"random", l_random},
		{"aes", l_aes},
		{"convert", l_convert},
		{NULL, NULL},
	};

	luaL_newmetatable(L, CONVERTER);
	lua_pushcfunction(L, l_converter_gc);
	lua_setfield(L, -2, "__gc");
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
