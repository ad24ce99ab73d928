#include "net/dns_lua.h"

#include <arpa/inet.h>
#include <stdlib.h>

#include "base/clock.h"
#include "net/mx.h"

#define RESOLVER_TYPE "tr.dns.resolver"

static struct tr_dns *
dns_of(lua_State *L)
{
	struct tr_dns *dns = tr_service(L, TR_SERVICE_DNS);

	if (dns == NULL)
		luaL_error(L, "dns: no resolver in this program");
	return dns;
}

/* --- resolvers ------------------------------------------------------------------------------------------- */

static struct tr_resolver **
new_box(lua_State *L)
{
	struct tr_resolver **box = lua_newuserdata(L, sizeof(struct tr_resolver *));

	*box = NULL;
	luaL_getmetatable(L, RESOLVER_TYPE);
	lua_setmetatable(L, -2);
	return box;
}

static int
l_gc(lua_State *L)
{
	struct tr_resolver **box = luaL_checkudata(L, 1, RESOLVER_TYPE);

	tr_resolver_unref(*box);
	*box = NULL;
	return 0;
}

static void
copy_text(lua_State *L, int idx, const char *key, char **out)
{
	const char *text = tr_opt_string(L, idx, key, NULL, NULL);

	if (text != NULL && (*out = strdup(text)) == NULL)
		luaL_error(L, "out of memory");
}

static void
read_options(lua_State *L, int idx, const char *function, struct tr_resolver *resolver)
{
	static const char *const orders[] = {"QueryStatistics", "RoundRobin", "UserProvidedOrder", NULL};
	static const char *const hosts[] = {"Always", "Auto", "Never", NULL};
	struct {
		const char *key;
		int64_t *ns;
	} durations[] = {
		{"timeout", &resolver->try_ns},
		{"positive_min_ttl", &resolver->positive_min_ns},
		{"positive_max_ttl", &resolver->positive_max_ns},
		{"negative_min_ttl", &resolver->negative_min_ns},
		{"negative_max_ttl", &resolver->negative_max_ns},
	};
	const char *text;
	size_t len;
	int found;

	for (size_t i = 0; i < TR_COUNT(durations); i++)
		*durations[i].ns = tr_opt_duration_ns(L, idx, function, durations[i].key, *durations[i].ns);
	if (resolver->try_ns < TR_NS_PER_MS || resolver->try_ns > 3600 * TR_NS_PER_S)
		luaL_error(L, "%s: options.timeout: 1 ms to 1 hour is expected", function);
	if (resolver->positive_min_ns > resolver->positive_max_ns)
		resolver->positive_max_ns = resolver->positive_min_ns;
	if (resolver->negative_min_ns > resolver->negative_max_ns)
		resolver->negative_max_ns = resolver->negative_min_ns;
	int64_t attempts = tr_opt_int(L, idx, "attempts", resolver->attempts);
	int64_t ndots = tr_opt_int(L, idx, "ndots", resolver->ndots);
	int64_t cache_size = tr_opt_int(L, idx, "cache_size", resolver->cache_size);
	if (attempts > 100 || ndots > 255 || cache_size > 100000000)
		luaL_error(L, "%s: options.%s is absurd", function,
			attempts > 100 ? "attempts"
			: ndots > 255  ? "ndots"
				       : "cache_size");
	resolver->attempts = attempts > 0 ? (uint32_t)attempts : 1;
	resolver->ndots = (uint32_t)ndots;
	resolver->cache_size = (uint32_t)cache_size;
	resolver->edns = tr_opt_bool(L, idx, "edns0", resolver->edns);
	resolver->recursion = tr_opt_bool(L, idx, "recursion_desired", resolver->recursion);
	text = tr_opt_string(L, idx, "ip_strategy", NULL, &len);
	if (text != NULL && tr_ip_strategy_parse((struct tr_str){text, len}, &resolver->strategy) != TR_OK)
		luaL_error(L, "%s: options.ip_strategy = '%s': one of %s is expected", function, text,
			tr_ip_strategy_names);
	lua_getfield(L, idx, "server_ordering_strategy");
	found = luaL_checkoption(L, -1, orders[0], orders);
	resolver->rotate = found == 1;
	lua_getfield(L, idx, "use_hosts_file");
	found = luaL_checkoption(L, -1, hosts[1], hosts);
	resolver->hosts_file = found == 0 || (found == 1 && resolver->hosts_file);
	lua_pop(L, 2);
}

static void
read_bind(lua_State *L, int idx, const char *function, struct tr_resolver *resolver)
{
	const char *text = tr_opt_string(L, idx, "bind_addr", NULL, NULL);

	if (text == NULL || inet_pton(AF_INET, text, &resolver->bind_v4) == 1)
		return;
	resolver->has_bind_v6 = inet_pton(AF_INET6, text, &resolver->bind_v6) == 1;
	if (!resolver->has_bind_v6)
		luaL_error(L, "%s: bind_addr = '%s' is not an address", function, text);
}

static void
read_zones(lua_State *L, int idx, const char *function, struct tr_resolver *resolver)
{
	char error[256];

	if (tr_zones_new(&resolver->zones) != TR_OK)
		luaL_error(L, "out of memory");
	lua_getfield(L, idx, "zones");
	for (int i = 1; lua_istable(L, -1) && i <= (int)lua_objlen(L, -1); i++) {
		struct tr_str text;
		bool secure;

		lua_rawgeti(L, -1, i);
		lua_getfield(L, -1, "secure");
		secure = lua_toboolean(L, -1);
		lua_getfield(L, -2, "zone");
		text.data = luaL_checklstring(L, -1, &text.len);
		if (tr_zones_add(resolver->zones, text, secure, error) != TR_OK)
			luaL_error(L, "%s: zone %d, %s", function, i, error);
		lua_pop(L, 3);
	}
	lua_pop(L, 1);
	lua_getfield(L, idx, "servfail");
	for (int i = 1; lua_istable(L, -1) && i <= (int)lua_objlen(L, -1); i++) {
		struct tr_str name;

		lua_rawgeti(L, -1, i);
		name.data = luaL_checklstring(L, -1, &name.len);
		if (tr_zones_add_servfail(resolver->zones, name) != TR_OK)
			luaL_error(L, "%s: servfail: '%s' is not a name", function, name.data);
		lua_pop(L, 1);
	}
	lua_pop(L, 1);
}

static void
add_child(struct tr_resolver *resolver, struct tr_resolver *child)
{
	/* room for all is there: the caller has counted */
	resolver->children[resolver->child_count++] = tr_resolver_ref(child);
}

static void
read_children(lua_State *L, int idx, struct tr_resolver *resolver)
{
	uint32_t count = 0;

	lua_getfield(L, idx, "children");
	for (int pass = 0; pass < 2;
		pass++) { /* an aggregate in an aggregate: its own are asked one after the other, too */
		if (pass == 1 && (resolver->children = calloc(count + 1, sizeof(struct tr_resolver *))) == NULL)
			luaL_error(L, "out of memory");
		for (int i = 1; i <= (int)lua_objlen(L, -1); i++) {
			struct tr_resolver *child;

			lua_rawgeti(L, -1, i);
			child = *(struct tr_resolver **)luaL_checkudata(L, -1, RESOLVER_TYPE);
			lua_pop(L, 1);
			if (pass == 0)
				count += child->kind == TR_RESOLVER_AGGREGATE ? child->child_count : 1;
			else if (child->kind != TR_RESOLVER_AGGREGATE)
				add_child(resolver, child);
			for (uint32_t j = 0; pass == 1 && j < child->child_count; j++)
				add_child(resolver, child->children[j]);
		}
	}
	lua_pop(L, 1);
}

/* resolver(function, {kind, servers, search, transport, bind_addr, options, zones, servfail, children}) -> resolver.
 * `function` is named by errors. */
static int
l_resolver(lua_State *L)
{
	static const char *const kinds[] = {"system", "servers", "test", "aggregate", NULL};
	static const char *const transports[] = {"udp_then_tcp", "udp", "tcp", NULL};
	const char *function = luaL_checkstring(L, 1);
	struct tr_resolver **box;
	int kind, transport;

	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 2);
	lua_getfield(L, 2, "kind");
	kind = luaL_checkoption(L, -1, NULL, kinds);
	lua_getfield(L, 2, "transport");
	transport = luaL_checkoption(L, -1, transports[0], transports);
	lua_settop(L, 2);
	box = new_box(L);
	*box = tr_resolver_new((enum tr_resolver_kind)kind);
	if (*box == NULL)
		return luaL_error(L, "out of memory");
	(*box)->udp_only = transport == 1;
	(*box)->tcp_only = transport == 2;
	copy_text(L, 2, "servers", &(*box)->servers);
	copy_text(L, 2, "search", &(*box)->search);
	read_bind(L, 2, function, *box);
	if ((*box)->kind == TR_RESOLVER_TEST)
		read_zones(L, 2, function, *box);
	if ((*box)->kind == TR_RESOLVER_AGGREGATE)
		read_children(L, 2, *box);
	lua_getfield(L, 2, "options");
	if (lua_istable(L, -1))
		read_options(L, 4, function, *box);
	lua_settop(L, 3);
	if (tr_resolver_ready(*box) != TR_OK)
		return luaL_error(L, "out of memory");
	return 1;
}

/* install(resolver [, name]): for all workers; without a name it is that of the runtime. */
static int
l_install(lua_State *L)
{
	struct tr_resolver **box = luaL_checkudata(L, 1, RESOLVER_TYPE);
	const char *name = luaL_optstring(L, 2, NULL);

	if (tr_resolvers_set(tr_dns_resolvers(dns_of(L)), name, tr_resolver_ref(*box)) != TR_OK)
		return luaL_error(L, "out of memory");
	return 0;
}

/* mx_limits(at_once | nil, timeout | nil, negative_ttl | nil), durations */
static int
l_mx_limits(lua_State *L)
{
	struct tr_resolvers *resolvers = tr_dns_resolvers(dns_of(L));

	if (!lua_isnoneornil(L, 1))
		atomic_store(&resolvers->mx_limit, (uint32_t)luaL_checkinteger(L, 1));
	if (!lua_isnoneornil(L, 2))
		atomic_store(&resolvers->mx_timeout_ns,
			tr_max_i64(tr_check_duration_ns(L, 2, "kumo.dns.set_mx_timeout", "timeout"), TR_NS_PER_MS));
	if (!lua_isnoneornil(L, 3))
		atomic_store(&resolvers->mx_negative_ns,
			tr_check_duration_ns(L, 3, "kumo.dns.set_mx_negative_cache_ttl", "ttl"));
	return 0;
}

/* --- looking up ---------------------------------------------------------------------------------------------- */

/* Owned by the query under way. */
struct op {
	struct tr_ticket ticket;
	struct tr_dns_query *query;
	struct tr_mx_query *mx_query;
	enum tr_dns_type type;
};

/* The resolver named by the argument at idx, referenced; raises if there is none of that name. */
static struct tr_resolver *
resolver_at(lua_State *L, int idx)
{
	const char *name = luaL_optstring(L, idx, NULL);
	struct tr_resolver *resolver = tr_resolvers_get(tr_dns_resolvers(dns_of(L)), name);

	if (resolver == NULL)
		luaL_error(L, "there is no resolver '%s': kumo.dns.define_resolver('%s', {...})", name, name);
	return resolver;
}

static void
cancelled(void *arg)
{
	struct op *op = arg;

	tr_dns_cancel(op->query);
	tr_mx_cancel(op->mx_query);
	free(op);
}

static void
push_name(lua_State *L, struct tr_str name)
{
	lua_pushlstring(L, name.data, name.len);
	lua_pushliteral(L, ".");
	lua_concat(L, 2);
}

static int
push_failure(lua_State *L, enum tr_dns_status status, int err, const char *why)
{
	static const char *const names[] = {"OK", "NODATA", "NXDOMAIN", "FAILED"};

	lua_pushnil(L);
	lua_pushstring(L, why != NULL ? why : tr_err_text(err));
	lua_pushstring(L, status == TR_DNS_FAILED ? tr_err_name(err) : names[status]);
	return 3;
}

struct answer_push {
	const struct tr_dns_answer *answer;
	enum tr_dns_type type;
};

static int
push_answer(lua_State *L, void *arg)
{
	const struct answer_push *push = arg;
	const struct tr_dns_answer *answer = push->answer;

	if (answer == NULL)
		return push_failure(L, TR_DNS_FAILED, TR_ENOMEM, NULL);
	if (answer->status != TR_DNS_OK && answer->status != TR_DNS_NODATA)
		return push_failure(L, answer->status, answer->err, answer->why);
	lua_createtable(L, (int)answer->count, 0);
	for (uint32_t i = 0; i < answer->count; i++) {
		char text[INET6_ADDRSTRLEN];

		if (push->type == TR_DNS_A || push->type == TR_DNS_AAAA) {
			inet_ntop(
				push->type == TR_DNS_A ? AF_INET : AF_INET6, &answer->records[i].v6, text, sizeof text);
			lua_pushstring(L, text);
		} else if (push->type == TR_DNS_TXT) {
			lua_pushlstring(L, answer->records[i].text.data, answer->records[i].text.len);
		} else {
			push_name(L, answer->records[i].name);
		}
		lua_rawseti(L, -2, (int)i + 1);
	}
	tr_json_set_array(L, -1);
	return 1;
}

static void
answered(void *arg, struct tr_dns_answer *answer)
{
	struct op *op = arg;
	struct tr_ticket ticket = op->ticket;
	struct answer_push push = {answer, op->type};

	free(op); /* before the wake, which runs Lua and may do anything */
	tr_task_wake(&ticket, push_answer, &push, false);
}

static int
push_found(lua_State *L, void *arg)
{
	const struct tr_dns_found *found = arg;

	if (found->status == TR_DNS_NXDOMAIN || found->status == TR_DNS_FAILED)
		return push_failure(L, found->status, found->err, found->why);
	lua_createtable(L, (int)found->count, 0);
	for (size_t i = 0; i < found->count; i++) {
		char text[64];

		lua_pushlstring(L, text, tr_sockaddr_text(&found->addrs[i], false, text));
		lua_rawseti(L, -2, (int)i + 1);
	}
	tr_json_set_array(L, -1);
	return 1;
}

static void
found_addrs(void *arg, const struct tr_dns_found *found)
{
	struct op *op = arg;
	struct tr_ticket ticket = op->ticket;

	free(op);
	tr_task_wake(&ticket, push_found, (void *)found, false);
}

static void
set_bool(lua_State *L, const char *key, bool value)
{
	lua_pushboolean(L, value);
	lua_setfield(L, -2, key);
}

/* The host's name as it is shown: names with their dot, literals without. */
static void
push_host(lua_State *L, const struct tr_mx *mx, uint32_t at)
{
	if (mx->is_literal)
		lua_pushstring(L, mx->hosts[at].name);
	else
		push_name(L, tr_str(mx->hosts[at].name));
}

static int
push_mx(lua_State *L, void *arg)
{
	const struct tr_mx *mx = arg;

	if (mx == NULL)
		return push_failure(L, TR_DNS_FAILED, TR_ENOMEM, NULL);
	if (mx->status != TR_DNS_OK)
		return push_failure(L, mx->status, mx->err, mx->why);
	lua_createtable(L, 0, 8);
	if (mx->is_literal)
		lua_pushstring(L, mx->domain);
	else
		push_name(L, tr_str(mx->domain));
	lua_setfield(L, -2, "domain_name");
	lua_pushstring(L, mx->site);
	lua_setfield(L, -2, "site_name");
	set_bool(L, "is_mx", mx->is_mx);
	set_bool(L, "is_domain_literal", mx->is_literal);
	set_bool(L, "is_secure", mx->secure);
	lua_createtable(L, (int)mx->count, 0);
	for (uint32_t i = 0; i < mx->count; i++) {
		push_host(L, mx, i);
		lua_rawseti(L, -2, (int)i + 1);
	}
	tr_json_set_array(L, -1);
	lua_setfield(L, -2, "hosts");
	lua_newtable(L);
	for (uint32_t i = 0; i < mx->count;) {
		uint16_t preference = mx->hosts[i].preference;

		lua_newtable(L);
		for (int n = 1; i < mx->count && mx->hosts[i].preference == preference; i++, n++) {
			push_host(L, mx, i);
			lua_rawseti(L, -2, n);
		}
		tr_json_set_array(L, -1);
		lua_rawseti(L, -2, preference);
	}
	lua_setfield(L, -2, "by_pref");
	return 1;
}

static void
found_mx(void *arg, struct tr_mx *mx)
{
	struct op *op = arg;
	struct tr_ticket ticket = op->ticket;

	free(op);
	tr_task_wake(&ticket, push_mx, mx, false);
}

static int
park(lua_State *L, struct tr_task *task, struct op *op, struct tr_resolver *resolver, const char *name)
{
	tr_resolver_unref(resolver);
	if (op == NULL || (op->query == NULL && op->mx_query == NULL)) {
		free(op);
		return luaL_error(L, "dns: out of memory");
	}
	tr_task_describe(task, "dns: %.100s", name);
	return tr_task_park(task, L, cancelled, op, &op->ticket);
}

/* ask(name, type, timeout_s [, resolver]) -> texts | nil, why, code. Types: A AAAA MX(not: mx()) TXT PTR CNAME NS. */
static int
l_ask(lua_State *L)
{
	static const char *const names[] = {"A", "AAAA", "TXT", "PTR", "CNAME", "NS", NULL};
	static const enum tr_dns_type types[] = {
		TR_DNS_A, TR_DNS_AAAA, TR_DNS_TXT, TR_DNS_PTR, TR_DNS_CNAME, TR_DNS_NS};
	const char *name = luaL_checkstring(L, 1);
	enum tr_dns_type type = types[luaL_checkoption(L, 2, NULL, names)];
	lua_Number timeout_s = luaL_checknumber(L, 3);
	struct tr_task *task = tr_task_check(L);
	struct tr_resolver *resolver = resolver_at(L, 4);
	struct op *op = calloc(1, sizeof *op);

	if (op != NULL) {
		op->type = type;
		op->query = tr_dns_ask(dns_of(L), resolver, name, type, (int64_t)(timeout_s * 1e9), answered, op);
	}
	return park(L, task, op, resolver, name);
}

/* addrs(name, strategy | nil, timeout_s [, resolver]) -> addresses | nil, why, code */
static int
l_addrs(lua_State *L)
{
	const char *name = luaL_checkstring(L, 1);
	struct tr_str text = {NULL, 0};
	enum tr_ip_strategy strategy = TR_IP_V4_AND_V6;
	lua_Number timeout_s = luaL_checknumber(L, 3);
	struct tr_task *task = tr_task_check(L);
	struct tr_resolver *resolver;
	struct op *op;

	text.data = luaL_optlstring(L, 2, NULL, &text.len);
	if (text.data != NULL && tr_ip_strategy_parse(text, &strategy) != TR_OK)
		return luaL_error(L, "strategy = '%s': one of %s is expected", text.data, tr_ip_strategy_names);
	resolver = resolver_at(L, 4);
	op = calloc(1, sizeof *op);
	if (op != NULL)
		op->query = tr_dns_addrs(dns_of(L), resolver, name, text.data != NULL ? &strategy : NULL,
			(int64_t)(timeout_s * 1e9), found_addrs, op);
	return park(L, task, op, resolver, name);
}

/* mx(domain [, resolver]) -> table of contract/lua-modules.md section 6 | nil, why, code */
static int
l_mx(lua_State *L)
{
	const char *domain = luaL_checkstring(L, 1);
	struct tr_task *task = tr_task_check(L);
	struct tr_resolver *resolver = resolver_at(L, 2);
	struct op *op = calloc(1, sizeof *op);

	if (op != NULL)
		op->mx_query = tr_mx_find(dns_of(L), resolver, domain, found_mx, op);
	return park(L, task, op, resolver, domain);
}

/* reverse(address, with_zone) -> name | nil */
static int
l_reverse(lua_State *L)
{
	struct tr_str addr;
	char out[128];

	addr.data = luaL_checklstring(L, 1, &addr.len);
	if (tr_dns_name_reverse(addr, lua_toboolean(L, 2), out) != TR_OK)
		return 0;
	lua_pushstring(L, out);
	return 1;
}

int
luaopen_tr_dns(lua_State *L)
{
	static const luaL_Reg functions[] = {
		{"resolver", l_resolver},
		{"install", l_install},
		{"mx_limits", l_mx_limits},
		{"ask", l_ask},
		{"addrs", l_addrs},
		{"mx", l_mx},
		{"reverse", l_reverse},
		{NULL, NULL},
	};

	luaL_newmetatable(L, RESOLVER_TYPE);
	lua_pushcfunction(L, l_gc);
	lua_setfield(L, -2, "__gc");
	lua_pop(L, 1);
	lua_newtable(L);
	luaL_setfuncs(L, functions, 0);
	return 1;
}
