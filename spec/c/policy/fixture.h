/* A host on a fresh loop under the virtual clock, with a policy given as text, for the tests of runtime/policy. The
 * policy gets a module `t`: t.park() parks until fixture_wake(), t.fire(event, arg) starts a task from inside a task,
 * t.hook() calls fixture_hook().
 */
#ifndef POLICY_FIXTURE_H
#define POLICY_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/diag.h"
#include "policy/policy.h"

#define WALL_NS (INT64_C(1764000000) * TR_NS_PER_S)

struct fixture {
	struct tr_loop *loop;
	struct tr_host *host;
	char path[64];
	char load_error[8192]; /* "" when the policy loaded */
	bool loaded;
	/* Of the last end. */
	int ended, status, count, reject_code, disconnect;
	char text[8192], result[4096], reject_text[256];
	struct tr_ticket ticket; /* of the last t.park() */
	int cancelled;           /* how often its cancel ran */
};

static struct fixture *fixture_now; /* for the functions of `t` */

static inline void
fixture_end(void *arg, const struct tr_task_result *result)
{
	struct fixture *f = arg;
	size_t at = 0;

	f->ended++;
	f->status = result->status;
	f->count = result->count;
	f->reject_code = result->reject_code;
	f->disconnect = result->disconnect;
	snprintf(f->text, sizeof f->text, "%s", result->text ? result->text : "");
	snprintf(f->reject_text, sizeof f->reject_text, "%s", result->reject_text ? result->reject_text : "");
	f->result[0] = '\0';
	for (int i = 0; i < result->count; i++) { /* results as one text: "1|nil|x" */
		int idx = i - result->count;
		const char *text = lua_isnil(result->L, idx)       ? "nil"
				   : lua_isboolean(result->L, idx) ? (lua_toboolean(result->L, idx) ? "true" : "false")
				   : lua_type(result->L, idx) == LUA_TSTRING || lua_type(result->L, idx) == LUA_TNUMBER
					   ? lua_tostring(result->L, idx)
					   : luaL_typename(result->L, idx);
		at += snprintf(
			f->result + at, at < sizeof f->result ? sizeof f->result - at : 0, "%s%s", i ? "|" : "", text);
	}
}

static inline int
fixture_push(lua_State *L, void *arg)
{
	lua_pushstring(L, arg);
	return 1;
}

static inline struct tr_task *
fixture_fire(struct fixture *f, const char *event, const char *arg, int64_t deadline_ns, const char *ids)
{
	struct tr_task *task = NULL;
	struct tr_task_call call = {.push = arg ? fixture_push : NULL,
		.push_arg = (void *)arg,
		.end = fixture_end,
		.end_arg = f,
		.deadline_ns = deadline_ns,
		.ids = ids};

	assert_int_equal(tr_event_fire(f->host, event, &call, &task), TR_OK);
	return task;
}

static inline bool
fixture_wake(struct fixture *f, const char *value, bool raise)
{
	return tr_task_wake(&f->ticket, value ? fixture_push : NULL, (void *)value, raise);
}

static inline void
fixture_cancelled(void *op)
{
	((struct fixture *)op)->cancelled++;
}

static inline int
fixture_l_park(lua_State *L)
{
	struct tr_task *task = tr_task_check(L);

	tr_task_describe(task, "the test");
	return tr_task_park(task, L, fixture_cancelled, fixture_now, &fixture_now->ticket);
}

static inline int
fixture_l_fire(lua_State *L)
{
	fixture_fire(fixture_now, luaL_checkstring(L, 1), luaL_optstring(L, 2, NULL), 0, NULL);
	return 0;
}

static void (*fixture_hook)(void); /* what t.hook() calls */

static inline int
fixture_l_hook(lua_State *L)
{
	fixture_hook();
	return 0;
}

static inline int
fixture_l_open(lua_State *L)
{
	lua_newtable(L);
	lua_pushcfunction(L, fixture_l_park);
	lua_setfield(L, -2, "park");
	lua_pushcfunction(L, fixture_l_fire);
	lua_setfield(L, -2, "fire");
	lua_pushcfunction(L, fixture_l_hook);
	lua_setfield(L, -2, "hook");
	return 1;
}

static inline void
fixture_loaded(void *arg, const char *error)
{
	struct fixture *f = arg;

	f->loaded = true;
	snprintf(f->load_error, sizeof f->load_error, "%s", error ? error : "");
}

/* with: NULL, or further settings (limit, jit). The policy may still be waiting: see `loaded`. */
static inline struct fixture *
fixture_new(const char *policy, const struct tr_host_config *with)
{
	static const struct tr_module modules[] = {{"t", fixture_l_open}, {NULL, NULL}};
	static char share[512];
	struct fixture *f = calloc(1, sizeof *f);
	struct tr_host_config config = {0};

	assert_non_null(f);
	if (with != NULL)
		config = *with;
	snprintf(share, sizeof share, "%s", __FILE__);
	char *cut = strstr(share, "/spec/c/policy/");
	if (cut != NULL)
		*cut = '\0';
	else
		snprintf(share, sizeof share, ".");
	strcpy(f->path, "/tmp/tr-policy-XXXXXX");
	int fd = mkstemp(f->path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, policy, strlen(policy)), (ssize_t)strlen(policy));
	close(fd);
	tr_clock_virtual(WALL_NS);
	assert_int_equal(tr_loop_new(&f->loop), TR_OK);
	tr_loop_enter(f->loop);
	config.loop = f->loop;
	config.share_dir = share;
	config.policy = f->path;
	config.modules = modules;
	fixture_now = f;
	assert_int_equal(tr_host_new(&config, &f->host), TR_OK);
	tr_host_load(f->host, fixture_loaded, f);
	return f;
}

static inline void
fixture_free(struct fixture *f)
{
	tr_host_free(f->host);
	tr_loop_free(f->loop);
	tr_clock_real();
	unlink(f->path);
	free(f);
}

#endif
