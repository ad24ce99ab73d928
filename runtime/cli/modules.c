/* The C modules of the runtime, by the name that `require` takes. The only list of them. */
#include "cli/server.h"
#include "cli/testing.h"
#include "ingress/http_server_lua.h"
#include "ingress/run_lua.h"
#include "ingress/smtp_server_lua.h"
#include "message/message_lua.h"
#include "net/dns_lua.h"
#include "net/scripted_lua.h"
#include "policy/library.h"
#include "queue/dead_lua.h"
#include "queue/queue_lua.h"
#include "record/record_lua.h"
#include "shaping/throttle_lua.h"
#include "transport/amqp_lua.h"
#include "transport/http_lua.h"
#include "transport/kafka_lua.h"
#include "transport/nats_lua.h"
#include "transport/redis_lua.h"
#include "transport/smtp_client_lua.h"
#include "transport/websocket_lua.h"

const struct tr_module tr_modules[] = {
	{"tr.bytes", luaopen_tr_bytes},
	{"tr.fs", luaopen_tr_fs},
	{"tr.regex", luaopen_tr_regex},
	{"tr.toml", luaopen_tr_toml},
	{"tr.message", luaopen_tr_message},
	{"tr.shaping", luaopen_tr_shaping},
	{"tr.queue", luaopen_tr_queue},
	{"tr.session", luaopen_tr_session},
	{"tr.dead", luaopen_tr_dead},
	{"tr.record", luaopen_tr_record},
	{"tr.run", luaopen_tr_run},
	{"tr.dns", luaopen_tr_dns},
	{"tr.scripted", luaopen_tr_scripted},
	{"tr.http", luaopen_tr_http},
	{"tr.amqp", luaopen_tr_amqp},
	{"tr.kafka", luaopen_tr_kafka},
	{"tr.nats", luaopen_tr_nats},
	{"tr.http_server", luaopen_tr_http_server},
	{"tr.smtp_server", luaopen_tr_smtp_server},
	{"tr.smtp_client", luaopen_tr_smtp_client},
	{"tr.redis", luaopen_tr_redis},
	{"tr.websocket", luaopen_tr_websocket},
	{"tr.testing", luaopen_tr_testing},
	{NULL, NULL},
};
