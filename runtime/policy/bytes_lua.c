/* tr.bytes: base64, base32 and hex; digests and HMAC; random bytes. lua/kumo/bytes.lua makes kumo.encode and the
 * like of them. */
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include "policy/library.h"
#include "policy/policy.h"

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

/* digest(name of OpenSSL, bytes) */
static int
l_digest(lua_State *L)
{
	const EVP_MD *md = EVP_get_digestbyname(luaL_checkstring(L, 1));
	size_t len;
	const char *bytes = luaL_checklstring(L, 2, &len);
	unsigned char out[EVP_MAX_MD_SIZE];
	unsigned int out_len = 0;

	if (md == NULL || EVP_Digest(bytes, len, out, &out_len, md, NULL) != 1)
		return luaL_error(L, "digest '%s' is not available", lua_tostring(L, 1));
	lua_pushlstring(L, (const char *)out, out_len);
	return 1;
}

/* hmac(name of OpenSSL, key, bytes) */
static int
l_hmac(lua_State *L)
{
	const EVP_MD *md = EVP_get_digestbyname(luaL_checkstring(L, 1));
	size_t key_len, len;
	const char *key = luaL_checklstring(L, 2, &key_len);
	const char *bytes = luaL_checklstring(L, 3, &len);
	unsigned char out[EVP_MAX_MD_SIZE];
	unsigned int out_len = 0;

	luaL_argcheck(L, key_len <= INT32_MAX, 2, "key too long");
	if (md == NULL || HMAC(md, key, (int)key_len, (const unsigned char *)bytes, len, out, &out_len) == NULL)
		return luaL_error(L, "digest '%s' is not available", lua_tostring(L, 1));
	lua_pushlstring(L, (const char *)out, out_len);
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
		{NULL, NULL},
	};

	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
