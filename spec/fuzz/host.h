/* A whole policy host, for what is written in Lua: spec/fuzz/NAME.lua sets host.entry.fuzz(input), which runs in a task
 * and must not raise. */
#ifndef FUZZ_HOST_H
#define FUZZ_HOST_H

#include "base/clock.h"
#include "base/diag.h"
#include "cli/cli.h"
#include "cli/server.h"
#include "cli/transports.h"
#include "policy/policy.h"
#include "shaping/shaping.h"

#include "fuzz.h"

static struct {
	struct tr_loop *loop;
	struct tr_host *host;
	struct tr_transports transports;
	struct tr_shaping *shaping;
	bool ended;
} fuzz_host;

static inline int
fuzz_host_push(lua_State *L, void *arg)
{
	const struct fuzz_in *in = arg;

	lua_pushlstring(L, (const char *)in->at, (size_t)(in->end - in->at));
	return 1;
}

static inline void
fuzz_host_end(void *arg, const struct tr_task_result *result)
{
	if (result->status != TR_OK)
		fprintf(stderr, "%s\n", result->text);
	need(result->status == TR_OK);
	fuzz_host.ended = true;
}

static inline bool
fuzz_host_has_ended(void *arg)
{
	return fuzz_host.ended;
}

static inline void
fuzz_host_call(const char *entry, struct fuzz_in in)
{
	struct tr_task_call call = {
		.event = "main", .entry = entry, .push = fuzz_host_push, .push_arg = &in, .end = fuzz_host_end};

	fuzz_host.ended = false;
	need(tr_task_start(fuzz_host.host, &call, NULL) == TR_OK);
	need(tr_loop_run_until(fuzz_host.loop, fuzz_host_has_ended, NULL, 60 * TR_NS_PER_S));
}

static inline void
fuzz_host_no_line(void *arg, enum tr_level level, const char *target, const char *text)
{
}

/* `script`: a path below the source directory. */
static inline void
fuzz_host_start(const char *script)
{
	char path[4096];

	if (fuzz_host.host != NULL)
		return;
	tr_log_sink(fuzz_host_no_line, NULL);
	tr_clock_virtual(INT64_C(1785000000) * TR_NS_PER_S);
	need(tr_loop_new(&fuzz_host.loop) == TR_OK);
	tr_loop_enter(fuzz_host.loop);
	struct tr_host_config config = {
		.loop = fuzz_host.loop,
		.share_dir = tr_share_dir(),
		.modules = tr_modules,
		.handler_limit_ns = 3600 * TR_NS_PER_S,
	};
	need(tr_host_new(&config, &fuzz_host.host) == TR_OK);
	need(tr_transports_init(&fuzz_host.transports, fuzz_host.loop, fuzz_host.host, NULL) == TR_OK);
	need(tr_shaping_new(&fuzz_host.shaping) == TR_OK);
	tr_host_set_service(fuzz_host.host, TR_SERVICE_SHAPING, fuzz_host.shaping);
	snprintf(path, sizeof path, "%s/%s", TR_SOURCE_DIR, script);
	fuzz_host_call("script", (struct fuzz_in){(const uint8_t *)path, (const uint8_t *)path + strlen(path)});
}

#endif
