/* Configurations of librdkafka: names and values, and what is wrong with them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "base/diag.h"
#include "base/options.h"
#include "transport/kafka_internal.h"
#include <librdkafka/rdkafka_mock.h> /* needs the other */

enum { NAMES_MAX = 512 }; /* properties of librdkafka; 2.0 has about 190 */

static void
log_line(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
	tr_log(level <= LOG_ERR       ? TR_LEVEL_WARN
		: level <= LOG_NOTICE ? TR_LEVEL_INFO
				      : TR_LEVEL_DEBUG,
		"kafka", "%s: %s: %s", rk != NULL ? rd_kafka_name(rk) : "librdkafka", facility, text);
}

static void
log_nothing(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
}

static struct tr_str
property(const struct tr_str *pairs, uint32_t count, const char *name)
{
	for (uint32_t i = 0; i < count; i++) {
		if (tr_str_eq(pairs[2 * i], tr_str(name)))
			return pairs[2 * i + 1];
	}
	return (struct tr_str){NULL, 0};
}

/* Idempotence is the default unless the configuration cannot go with it. */
static bool
can_be_idempotent(const struct tr_str *pairs, uint32_t count)
{
	static const char *const acks[] = {"acks", "request.required.acks"};
	static const char *const retries[] = {"retries", "message.send.max.retries"};
	static const char *const flights[] = {"max.in.flight", "max.in.flight.requests.per.connection"};

	if (property(pairs, count, "enable.idempotence").data != NULL ||
		tr_str_eq(property(pairs, count, "queuing.strategy"), TR_STR("lifo")))
		return false;
	for (int i = 0; i < 2; i++) {
		struct tr_str value = property(pairs, count, acks[i]);

		if (value.data != NULL && !tr_str_eq(value, TR_STR("all")) && !tr_str_eq(value, TR_STR("-1")))
			return false;
		value = property(pairs, count, retries[i]);
		if (tr_str_eq(value, TR_STR("0")))
			return false;
		value = property(pairs, count, flights[i]);
		if (value.data != NULL && (value.len != 1 || value.data[0] > '5'))
			return false;
	}
	return true;
}

/* librdkafka tells the names of its properties, aliases too, only as a table in Markdown: "name | C/P | ...". */
static void
say_unknown(const char *name, char *error)
{
	const char *names[NAMES_MAX + 1] = {NULL}, *nearest;
	char *table = NULL, *line, *rest;
	size_t len, count = 0;
	FILE *stream = open_memstream(&table, &len);

	if (stream != NULL) {
		rd_kafka_conf_properties_show(stream);
		fclose(stream);
	}
	for (rest = table; rest != NULL && count < NAMES_MAX && (line = strsep(&rest, "\n")) != NULL;) {
		char *end = strchr(line, ' ');

		if (end == NULL || strchr(end, '|') == NULL || strchr(line, '.') == NULL || strchr(line, '.') > end)
			continue; /* a heading; names without a dot are few and short */
		*end = '\0';
		names[count++] = line;
	}
	nearest = tr_nearest(name, names);
	snprintf(error, TR_KAFKA_ERROR_MAX, "property '%.200s': librdkafka knows none of that name%s%s%s", name,
		nearest != NULL ? " (did you mean '" : "", nearest != NULL ? nearest : "",
		nearest != NULL ? "'?)" : "");
	free(table);
}

static int
set_property(rd_kafka_conf_t *conf, struct tr_str name, struct tr_str value, char *error)
{
	char *texts = malloc(name.len + value.len + 2), text[TR_KAFKA_ERROR_MAX];
	rd_kafka_conf_res_t result;

	if (texts == NULL)
		return TR_ENOMEM;
	memcpy(texts, name.data, name.len);
	texts[name.len] = '\0';
	memcpy(texts + name.len + 1, value.data, value.len);
	texts[name.len + 1 + value.len] = '\0';
	result = rd_kafka_conf_set(conf, texts, texts + name.len + 1, text, sizeof text);
	if (result == RD_KAFKA_CONF_UNKNOWN)
		say_unknown(texts, error);
	else if (result != RD_KAFKA_CONF_OK)
		snprintf(error, TR_KAFKA_ERROR_MAX, "property '%.200s': %.250s", texts, text);
	free(texts);
	return result == RD_KAFKA_CONF_OK ? TR_OK : TR_EINVAL;
}

int
tr_kafka_conf(const struct tr_str *pairs, uint32_t count, rd_kafka_conf_t **out, char *error)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	int err = conf != NULL ? TR_OK : TR_ENOMEM;

	*out = NULL;
	for (uint32_t i = 0; i < count && err == TR_OK; i++)
		err = set_property(conf, pairs[2 * i], pairs[2 * i + 1], error);
	if (err == TR_OK && can_be_idempotent(pairs, count))
		err = set_property(conf, TR_STR("enable.idempotence"), TR_STR("true"), error);
	if (err == TR_OK && property(pairs, count, "client.id").data == NULL)
		err = set_property(conf, TR_STR("client.id"), TR_STR("tailrace"), error);
	if (err != TR_OK) {
		if (conf != NULL)
			rd_kafka_conf_destroy(conf);
		return err;
	}
	rd_kafka_conf_set_log_cb(conf, log_line);
	rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_STATS);
	*out = conf;
	return TR_OK;
}

static bool
set_text(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char error[TR_KAFKA_ERROR_MAX];

	return set_property(conf, tr_str(name), tr_str(value), error) == TR_OK;
}

rd_kafka_conf_t *
tr_kafka_conf_solo(rd_kafka_t *rk)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_dup(rd_kafka_conf(rk));
	rd_kafka_mock_cluster_t *mock = rd_kafka_handle_mock_cluster(rk);
	bool ok = conf != NULL && set_text(conf, "batch.num.messages", "1") && set_text(conf, "linger.ms", "0");

	if (ok && mock != NULL) /* one of its own would have nothing to do with it */
		ok = set_text(conf, "test.mock.num.brokers", "0") &&
		     set_text(conf, "bootstrap.servers", rd_kafka_mock_cluster_bootstraps(mock));
	if (!ok && conf != NULL)
		rd_kafka_conf_destroy(conf);
	return ok ? conf : NULL;
}

/* What librdkafka would contact, or start, at once. */
static bool
is_place(struct tr_str name)
{
	static const struct tr_str names[] = {
		{"bootstrap.servers", 17}, {"metadata.broker.list", 20}, {"test.mock.num.brokers", 21}};

	for (size_t i = 0; i < TR_COUNT(names); i++) {
		if (tr_str_eq(name, names[i]))
			return true;
	}
	return false;
}

/* Which properties go together librdkafka says only when it makes a producer: so one is made, without brokers, and
 * ended. */
int
tr_kafka_check(const struct tr_str *pairs, uint32_t count, char error[TR_KAFKA_ERROR_MAX])
{
	struct tr_str *others = malloc((count + 1) * 2 * sizeof *others);
	uint32_t left = 0;
	rd_kafka_conf_t *conf = NULL;
	rd_kafka_t *rk;
	int err;

	snprintf(error, TR_KAFKA_ERROR_MAX, "%s", tr_err_text(TR_ENOMEM));
	if (others == NULL)
		return TR_ENOMEM;
	err = tr_kafka_conf(pairs, count, &conf, error);
	if (err == TR_OK) {
		rd_kafka_conf_destroy(conf);
		for (uint32_t i = 0; i < count; i++) {
			if (is_place(pairs[2 * i]))
				continue;
			others[2 * left] = pairs[2 * i];
			others[2 * left++ + 1] = pairs[2 * i + 1];
		}
		err = tr_kafka_conf(others, left, &conf, error);
	}
	free(others);
	if (err != TR_OK)
		return err;
	rd_kafka_conf_set_log_cb(conf, log_nothing); /* that it has no brokers */
	rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, TR_KAFKA_ERROR_MAX);
	if (rk == NULL) {
		rd_kafka_conf_destroy(conf);
		return TR_EINVAL;
	}
	rd_kafka_destroy(rk);
	return TR_OK;
}
