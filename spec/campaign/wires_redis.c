/* Redis: hiredis reads its answers. */
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "transport/redis.h"
#include "wires.h"

/* Whatever it is asked. */
static void
serve(struct wire_conn *conn)
{
	static const char answer[] = "*3\r\n$5\r\nhello\r\n:7\r\n*2\r\n+fine\r\n$-1\r\n";
	char line[64], text[512];

	while (wire_line(conn, line, sizeof line) && line[0] == '*') {
		bool is_setup = false;

		for (int left = atoi(line + 1); left > 0; left--) {
			size_t len;

			if (!wire_line(conn, line, sizeof line))
				return;
			len = strtoul(line + 1, NULL, 10) + 2;
			if (len > sizeof text || !wire_read(conn, text, len))
				return;
			is_setup = is_setup || memcmp(text, "SELECT", 6) == 0 || memcmp(text, "AUTH", 4) == 0;
		}
		if (is_setup)
			wire_say(conn, "+OK\r\n", 5);
		else
			wire_say(conn, answer, sizeof answer - 1);
	}
}

struct asked {
	struct tr_redis_call call;
	bool ended, well;
};

static void
then(struct tr_redis_call *call, const redisReply *reply)
{
	struct asked *asked = (struct asked *)call;

	asked->ended = true;
	asked->well = reply != NULL;
	if (reply == NULL && call->err != TR_ENOMEM && (call->error == NULL || call->error[0] == '\0') && wire_tells())
		wire_wrong("it ended as %s, and no text tells why", tr_err_name(call->err));
	if (reply == NULL)
		return;
	if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 3 || reply->element[0]->type != REDIS_REPLY_STRING ||
		strcmp(reply->element[0]->str, "hello") != 0 || reply->element[1]->integer != 7 ||
		reply->element[2]->elements != 2 || reply->element[2]->element[1]->type != REDIS_REPLY_NIL)
		wire_wrong("another answer was given: type %d", reply->type);
}

/* Two commands, one behind the other. Returns whether both were answered. */
static bool
ask(struct tr_loop *loop, struct tr_redis *redis)
{
	static const struct tr_str argv[] = {{"GET", 3}, {"key", 3}};
	struct asked asked[2] = {0};
	bool well = true;

	for (int i = 0; i < 2; i++) {
		asked[i].call.then = then;
		if (tr_redis_start(redis, &asked[i].call, 2, argv) != TR_OK)
			asked[i].ended = true;
	}
	for (int i = 0; i < 2; i++) {
		if (!wire_wait(loop, &asked[i].ended))
			wire_wrong("command %d does not end", i);
		well = well && asked[i].well;
	}
	return well;
}

static void
life(struct tr_loop *loop, const char *scheme, bool tls)
{
	struct tr_redis_settings settings;
	struct wire_peer peer;
	struct tr_redis *redis;
	bool well = false;
	const char *why;
	char url[64];

	wire_peer_start(&peer, serve, tls);
	setenv("SSL_CERT_FILE", wire_ca(), 1);
	snprintf(url, sizeof url, "%s://user:secret@127.0.0.1:%u/1", scheme, peer.port);
	if (tr_redis_parse_url(tr_str(url), &settings, &why) != TR_OK)
		wire_wrong("%s", why);
	settings.connect_timeout_ns = settings.wait_timeout_ns = settings.response_timeout_ns = WIRE_STEP_NS;
	wire_begin();
	WIRE_MAKE(tr_redis_new(loop, &settings, NULL, NULL, &redis));
	for (int i = 0; i < 2; i++)
		(void)ask(loop, redis);
	wire_calm();
	for (int64_t until_ns = tr_mono_ns() + WIRE_LIMIT_NS; !well && tr_mono_ns() < until_ns;) {
		well = ask(loop, redis);
		if (!well)
			wire_pause(loop, 50 * TR_NS_PER_MS); /* it waits before it connects again */
	}
	if (!well)
		wire_wrong("it does not work after the faults either");
	tr_redis_free(redis);
	tr_redis_free_settings(&settings);
}

static void
run_redis(struct tr_loop *loop)
{
	life(loop, "redis", false);
}

static void
run_rediss(struct tr_loop *loop)
{
	life(loop, "rediss", true);
}

const struct wire wire_redis = {"redis", run_redis}, wire_rediss = {"rediss", run_rediss};
