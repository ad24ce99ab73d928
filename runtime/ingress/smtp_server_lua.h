/* The module "tr.smtp_server": kumo.start_esmtp_listener, kumo.make_listener_domain, and the events of an SMTP session.
 * Needs TR_SERVICE_RUN to listen; sessions find their worker's host by tr_worker_data(). */
#ifndef TR_SMTP_SERVER_LUA_H
#define TR_SMTP_SERVER_LUA_H

#include <lua.h>

#include "ingress/smtp_params.h"

int luaopen_tr_smtp_server(lua_State *L);

/* smtp_options_lua.c */
struct tr_smtp_listen_options {
	struct tr_sockaddr listen;
	uint32_t max_connections;
};
/* Reads an option table over the values of `base` and pushes a guard userdata that holds a reference of the result,
 * which is returned. `listen` NULL: a table of the event smtp_server_get_dynamic_parameters, without the keys of the
 * top level. Raises, naming the key. */
struct tr_smtp_params *tr_smtp_params_check(lua_State *L, int idx, const char *function,
	const struct tr_smtp_params *base, struct tr_smtp_listen_options *listen);
/* kumo.make_listener_domain{...} */
int tr_l_make_listener_domain(lua_State *L);
/* The listener domain at idx; NULL if it is none. Never raises. */
const struct tr_smtp_domain *tr_smtp_domain_test(lua_State *L, int idx);

#endif
