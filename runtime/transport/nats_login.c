/* What we say of ourselves to a NATS server: CONNECT {...}, with the answer to its challenge if there is a credentials
 * file (a user's JWT and the seed of its key). Pure but for that file. */
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "transport/nats_internal.h"

enum { SEED_BYTES = 32, SIGNATURE_BYTES = 64, PREFIX_BYTES = 2, CRC_BYTES = 2 };

static void
add_text(struct tr_buf *out, const char *key, struct tr_str value)
{
	tr_buf_addc(out, ',');
	tr_json_add_key(out, key);
	tr_json_add_string(out, value);
}

static void
add_flag(struct tr_buf *out, const char *key, bool value)
{
	tr_buf_addc(out, ',');
	tr_json_add_key(out, key);
	tr_buf_addz(out, value ? "true" : "false");
}

/* What stands between the lines "-----BEGIN NAME-----" and "------END NAME------" (the dashes vary). */
static struct tr_str
section(const char *text, const char *name)
{
	const char *at = text, *end;

	while ((at = strstr(at, "BEGIN ")) != NULL && strncmp(at + 6, name, strlen(name)) != 0)
		at += 6;
	at = at != NULL ? strchr(at, '\n') : NULL;
	end = at != NULL ? strstr(at, "--") : NULL;
	if (end == NULL)
		return (struct tr_str){NULL, 0};
	while (*at == '\n' || *at == '\r' || *at == ' ')
		at++;
	while (end > at && (end[-1] == '\n' || end[-1] == '\r' || end[-1] == ' ' || end[-1] == '-'))
		end--;
	return end > at ? (struct tr_str){at, (size_t)(end - at)} : (struct tr_str){NULL, 0};
}

static uint16_t
crc16(const unsigned char *data, size_t len)
{
	uint16_t crc = 0;

	for (size_t i = 0; i < len; i++) {
		crc ^= (uint16_t)(data[i] << 8);
		for (int bit = 0; bit < 8; bit++)
			crc = (uint16_t)(crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1);
	}
	return crc;
}

/* "SU...": base32 of a two-byte prefix, the seed and a CRC-16 of both. */
static bool
decode_seed(struct tr_str text, unsigned char seed[SEED_BYTES])
{
	unsigned char bytes[PREFIX_BYTES + SEED_BYTES + CRC_BYTES];
	uint32_t bits = 0, count = 0;
	size_t len = 0;
	bool ok;

	for (size_t i = 0; i < text.len; i++) {
		char c = text.data[i];
		uint32_t value = c >= 'A' && c <= 'Z' ? (uint32_t)(c - 'A') : (uint32_t)(c - '2' + 26);

		if (!((c >= 'A' && c <= 'Z') || (c >= '2' && c <= '7')))
			return false;
		bits = bits << 5 | value;
		count += 5;
		if (count < 8)
			continue;
		count -= 8;
		if (len == sizeof bytes)
			return false;
		bytes[len++] = (unsigned char)(bits >> count);
	}
	ok = len == sizeof bytes && (bytes[0] & 0xf8) == 18 << 3 && /* 'S' */
	     crc16(bytes, PREFIX_BYTES + SEED_BYTES) == (bytes[len - 2] | bytes[len - 1] << 8);
	if (ok)
		memcpy(seed, bytes + PREFIX_BYTES, SEED_BYTES);
	explicit_bzero(bytes, sizeof bytes);
	return ok;
}

static bool
sign(const unsigned char seed[SEED_BYTES], struct tr_str nonce, unsigned char signature[SIGNATURE_BYTES])
{
	EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, SEED_BYTES);
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	size_t len = SIGNATURE_BYTES;
	bool ok = key != NULL && context != NULL && EVP_DigestSignInit(context, NULL, NULL, NULL, key) == 1 &&
		  EVP_DigestSign(context, signature, &len, (const unsigned char *)nonce.data, nonce.len) == 1;

	EVP_MD_CTX_free(context);
	EVP_PKEY_free(key);
	return ok;
}

static void
add_base64url(struct tr_buf *out, const unsigned char *data, size_t len)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	uint32_t bits = 0, count = 0;

	for (size_t i = 0; i < len; i++) {
		bits = bits << 8 | data[i];
		for (count += 8; count >= 6; count -= 6)
			tr_buf_addc(out, digits[bits >> (count - 6) & 63]);
	}
	if (count > 0)
		tr_buf_addc(out, digits[bits << (6 - count) & 63]);
}

/* The JWT, and the server's challenge signed by the key. NULL: fine. */
static const char *
add_credentials(struct tr_buf *out, const char *text, struct tr_str info)
{
	struct tr_str jwt = section(text, "NATS USER JWT"), seed_text = section(text, "USER NKEY SEED"),
		      nonce_text = tr_json_get(info, "nonce");
	unsigned char seed[SEED_BYTES], signature[SIGNATURE_BYTES];
	struct tr_buf nonce = {0};
	bool ok;

	if (jwt.data == NULL)
		return "no user JWT in it";
	if (seed_text.data == NULL || !decode_seed(seed_text, seed))
		return "no seed of a key in it, or one that is damaged";
	add_text(out, "jwt", jwt);
	if (nonce_text.data == NULL || tr_json_type(nonce_text) != TR_JSON_STRING) {
		explicit_bzero(seed, sizeof seed);
		return NULL; /* the server does not ask */
	}
	ok = tr_json_unescape(nonce_text, &nonce) == TR_OK &&
	     sign(seed, (struct tr_str){nonce.data, nonce.len}, signature);
	explicit_bzero(seed, sizeof seed);
	tr_buf_free(&nonce);
	if (!ok)
		return "its key cannot sign";
	tr_buf_addz(out, ",\"sig\":\"");
	add_base64url(out, signature, sizeof signature);
	tr_buf_addc(out, '"');
	return NULL;
}

static int
add_file(struct tr_buf *out, const char *path, struct tr_str info, char why[256])
{
	const char *wrong;
	char *text = NULL;
	size_t len = 0;
	int err = tr_file_slurp(path, &text, &len);

	if (err < 0) {
		snprintf(why, 256, "credentials: %.150s: %s", path, strerror(-err));
		return TR_EINVAL;
	}
	wrong = add_credentials(out, text, info);
	explicit_bzero(text, len);
	free(text);
	if (wrong == NULL)
		return TR_OK;
	snprintf(why, 256, "credentials: %.150s: %s", path, wrong);
	return TR_EINVAL;
}

int
tr_nats_login(const struct tr_nats_settings *settings, const struct tr_nats_server *server, struct tr_str info,
	struct tr_buf *out, char why[256])
{
	tr_buf_addz(out, "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"c\",\"version\":\"" TR_NATS_VERSION
			 "\",\"protocol\":1,\"headers\":true,\"no_responders\":true");
	add_flag(out, "tls_required", settings->tls);
	add_flag(out, "echo", !settings->no_echo);
	if (settings->name.data != NULL)
		add_text(out, "name", settings->name);
	if (server->user != NULL && server->password == NULL) {
		add_text(out, "auth_token", tr_str(server->user));
	} else if (server->user != NULL) {
		add_text(out, "user", tr_str(server->user));
		add_text(out, "pass", tr_str(server->password));
	} else {
		if (settings->username.data != NULL) {
			add_text(out, "user", settings->username);
			add_text(out, "pass", settings->password);
		}
		if (settings->token.data != NULL)
			add_text(out, "auth_token", settings->token);
	}
	if (settings->credentials.data != NULL) {
		int err = add_file(out, settings->credentials.data, info, why);

		if (err != TR_OK)
			return err;
	}
	tr_buf_addz(out, "}\r\n");
	return out->failed ? TR_ENOMEM : TR_OK;
}
