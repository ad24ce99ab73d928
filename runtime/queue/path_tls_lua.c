/* Options of kumo.make_egress_path that TLS and AUTH will need: checked for type and form, so that a value that is
 * wrong is found where it is written. Contract: egress-path.md section 3. */
#include <openssl/ssl.h>
#include <string.h>
#include <strings.h>

#include "base/options.h"
#include "queue/config_view_lua.h"
#include "queue/path_tls_lua.h"

#define FUNCTION "kumo.make_egress_path"
#define NAME_MAX_LEN 128

/* Names of OpenSSL's options without their SSL_OP_. */
static const char *const openssl_options[] = {"ALL", "ALLOW_UNSAFE_LEGACY_RENEGOTIATION", "CIPHER_SERVER_PREFERENCE",
	"COOKIE_EXCHANGE", "DONT_INSERT_EMPTY_FRAGMENTS", "ENABLE_MIDDLEBOX_COMPAT", "NO_COMPRESSION", "NO_DTLSV1",
	"NO_DTLSV1_2", "NO_QUERY_MTU", "NO_RENEGOTIATION", "NO_SESSION_RESUMPTION_ON_RENEGOTIATION", "NO_SSLV2",
	"NO_SSLV3", "NO_SSL_MASK", "NO_TICKET", "NO_TLSV1", "NO_TLSV1_1", "NO_TLSV1_2", "NO_TLSV1_3",
	"PRIORITIZE_CHACHA", "SINGLE_DH_USE", "SINGLE_ECDH_USE", "TLS_ROLLBACK_BUG", NULL};

static const char *const rustls_suites[] = {"TLS13_AES_128_GCM_SHA256", "TLS13_AES_256_GCM_SHA384",
	"TLS13_CHACHA20_POLY1305_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
	"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
	"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
	"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", NULL};

/* One of the names, in any case; else raises. `what` is the option. */
static void
check_name(lua_State *L, const char *what, const char *name, size_t len, const char *const *names)
{
	char text[NAME_MAX_LEN];
	const char *near;

	for (const char *const *at = names; *at != NULL; at++) {
		if (strlen(*at) == len && strncasecmp(*at, name, len) == 0)
			return;
	}
	lua_pushlstring(L, name, len);
	for (size_t i = 0; i < len && i < sizeof text - 1; i++)
		text[i] = (char)(name[i] >= 'a' && name[i] <= 'z' ? name[i] - 'a' + 'A' : name[i]);
	text[len < sizeof text - 1 ? len : sizeof text - 1] = '\0';
	near = tr_nearest(text, names);
	if (near != NULL)
		luaL_error(L, FUNCTION ": %s: there is no '%s' (did you mean '%s'?)", what, lua_tostring(L, -1), near);
	lua_pushliteral(L, "");
	for (const char *const *at = names; *at != NULL; at++) {
		lua_pushstring(L, at == names ? "" : ", ");
		lua_pushstring(L, *at);
		lua_concat(L, 3);
	}
	luaL_error(L, FUNCTION ": %s: there is no '%s', expected one of %s", what, lua_tostring(L, -2),
		lua_tostring(L, -1));
}

static void
check_openssl_options(lua_State *L, int idx)
{
	const char *at = tr_opt_string(L, idx, "openssl_options", NULL, NULL);

	while (at != NULL) {
		const char *bar = strchr(at, '|');
		size_t len = bar != NULL ? (size_t)(bar - at) : strlen(at);

		while (len > 0 && *at == ' ') {
			at++;
			len--;
		}
		while (len > 0 && at[len - 1] == ' ')
			len--;
		check_name(L, "openssl_options", at, len, openssl_options);
		at = bar != NULL ? bar + 1 : NULL;
	}
}

static void
check_rustls_suites(lua_State *L, int idx)
{
	lua_getfield(L, idx, "rustls_cipher_suites");
	if (lua_istable(L, -1)) {
		int count = 0, listed = (int)lua_objlen(L, -1);

		for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1))
			count++;
		if (count != listed)
			luaL_error(L, FUNCTION ": rustls_cipher_suites: a list of names is expected");
		for (int i = 1; i <= listed; i++) {
			size_t len;
			const char *name;

			lua_rawgeti(L, -1, i);
			if (lua_type(L, -1) != LUA_TSTRING)
				luaL_error(L, FUNCTION ": rustls_cipher_suites[%d]: a name is expected, got %s", i,
					luaL_typename(L, -1));
			name = lua_tolstring(L, -1, &len);
			check_name(L, "rustls_cipher_suites", name, len, rustls_suites);
			lua_pop(L, 1);
		}
	} else if (!lua_isnil(L, -1)) {
		luaL_error(L, FUNCTION ": rustls_cipher_suites: a list of names is expected, got %s",
			luaL_typename(L, -1));
	}
	lua_pop(L, 1);
}

/* OpenSSL is the judge. */
static void
check_ciphers(lua_State *L, int idx)
{
	const char *list = tr_opt_string(L, idx, "openssl_cipher_list", NULL, NULL);
	const char *suites = tr_opt_string(L, idx, "openssl_cipher_suites", NULL, NULL);
	bool list_ok = true, suites_ok = true;
	SSL_CTX *context;

	if (list == NULL && suites == NULL)
		return;
	context = SSL_CTX_new(TLS_client_method());
	if (context == NULL)
		luaL_error(L, "out of memory");
	list_ok = list == NULL || SSL_CTX_set_cipher_list(context, list) == 1;
	suites_ok = suites == NULL || SSL_CTX_set_ciphersuites(context, suites) == 1;
	SSL_CTX_free(context);
	if (!list_ok)
		luaL_error(L,
			FUNCTION ": openssl_cipher_list = '%s': no cipher that OpenSSL knows, as in "
				 "'ECDHE+AESGCM:ECDHE+CHACHA20'",
			list);
	if (!suites_ok)
		luaL_error(L,
			FUNCTION ": openssl_cipher_suites = '%s': not a list of TLS 1.3 suites, as in "
				 "'TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256'",
			suites);
}

/* The name of a file, { key_data = TEXT }, or where a vault or an event has it. What is behind it is not read: nothing
 * uses it yet. */
static void
check_key_source(lua_State *L, int idx, const char *key)
{
	static const struct tr_key keys[] = {{"key_data", 's', false}, {"vault_mount", 's', false},
		{"vault_path", 's', false}, {"vault_key", 's', false}, {"vault_address", 's', false},
		{"vault_token", 's', false}, {"event_name", 's', false}, {"event_args", 't', false}};
	bool named = false;

	lua_getfield(L, idx, key);
	if (lua_istable(L, -1)) {
		lua_pushfstring(L, FUNCTION ": %s", key);
		tr_check_options(L, lua_gettop(L) - 1, lua_tostring(L, -1), keys, TR_COUNT(keys));
		lua_pop(L, 1);
		for (size_t i = 0; i < TR_COUNT(keys); i++) {
			lua_getfield(L, -1, keys[i].name);
			named = named || !lua_isnil(L, -1);
			lua_pop(L, 1);
		}
	} else if (!lua_isnil(L, -1)) {
		named = lua_type(L, -1) == LUA_TSTRING && lua_objlen(L, -1) > 0;
	} else {
		named = true;
	}
	if (!named)
		luaL_error(L, FUNCTION ": %s: the name of a file or { key_data = TEXT } is expected, got %s", key,
			lua_istable(L, -1) ? "an empty table" : luaL_typename(L, -1));
	lua_pop(L, 1);
}

void
config_check_path_tls(lua_State *L, int idx)
{
	check_openssl_options(L, idx);
	check_rustls_suites(L, idx);
	check_ciphers(L, idx);
	check_key_source(L, idx, "tls_certificate");
	check_key_source(L, idx, "tls_private_key");
	check_key_source(L, idx, "smtp_auth_plain_password");
}
