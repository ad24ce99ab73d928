/* A logger's own copy of its configuration. */
#include <stdlib.h>

#include "record/internal.h"

static char **
copy_list(const char *const *list)
{
	size_t count = 0;
	char **copy;

	while (list != NULL && list[count] != NULL)
		count++;
	copy = calloc(count + 1, sizeof *copy);
	for (size_t i = 0; copy != NULL && i < count; i++) {
		copy[i] = strdup(list[i]);
		if (copy[i] == NULL) {
			while (i-- > 0)
				free(copy[i]);
			free(copy);
			return NULL;
		}
	}
	return copy;
}

static void
free_list(char **list)
{
	for (size_t i = 0; list != NULL && list[i] != NULL; i++)
		free(list[i]);
	free(list);
}

static bool
copy_text(char **to, const char *from)
{
	*to = from != NULL ? strdup(from) : NULL;
	return from == NULL || *to != NULL;
}

void
tr_logger_free(struct tr_logger *logger)
{
	if (logger == NULL)
		return;
	tr_hook_drop_waiting(logger);
	for (int type = 0; type < TR_EVENT_TYPES; type++) {
		struct tr_per_record *rule = &logger->per_record[type];

		free(rule->suffix);
		free(rule->log_dir);
		free(rule->segment_header);
		free(rule->template_text);
	}
	free(logger->name);
	free_list(logger->meta);
	free_list(logger->headers);
	free(logger->filter_event);
	tr_metric_unref(logger->full);
	tr_metric_unref(logger->latency);
	tr_metric_unref(logger->backlog);
	tr_metric_unref(logger->policy_errors);
	tr_metric_unref(logger->lost);
	pthread_mutex_destroy(&logger->lock);
	free(logger);
}

struct tr_logger *
tr_logger_new(const struct tr_logger_config *config)
{
	struct tr_logger *logger = calloc(1, sizeof *logger);
	bool ok;

	if (logger == NULL)
		return NULL;
	pthread_mutex_init(&logger->lock, NULL);
	logger->kind = config->kind;
	logger->config = *config;
	logger->back_pressure = config->back_pressure > 0 ? config->back_pressure : 1;
	logger->meta = copy_list(config->meta);
	logger->headers = copy_list(config->headers);
	ok = copy_text(&logger->name, config->name != NULL ? config->name : config->log_dir) && logger->name != NULL;
	ok = copy_text(&logger->filter_event, config->filter_event) && ok;
	for (int type = 0; type < TR_EVENT_TYPES; type++) {
		const struct tr_per_record *from = &config->per_record[type];
		struct tr_per_record *to = &logger->per_record[type];

		to->enable = from->enable;
		ok = copy_text(&to->suffix, from->suffix) && ok;
		ok = copy_text(&to->log_dir, from->log_dir) && ok;
		ok = copy_text(&to->segment_header, from->segment_header) && ok;
		ok = copy_text(&to->template_text, from->template_text) && ok;
	}
	if (ok && logger->meta != NULL && logger->headers != NULL) {
		logger->config.name = logger->name;
		logger->config.log_dir = logger->name; /* of file loggers; nobody reads it of hooks */
		logger->config.filter_event = logger->filter_event;
		return logger;
	}
	tr_logger_free(logger);
	return NULL;
}

bool
tr_same_list(const char *const *a, const char *const *b)
{
	static const char *const none[] = {NULL};
	size_t i = 0;

	a = a != NULL ? a : none;
	b = b != NULL ? b : none;
	while (a[i] != NULL && b[i] != NULL && strcmp(a[i], b[i]) == 0)
		i++;
	return a[i] == NULL && b[i] == NULL;
}

bool
tr_same_text(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool
same_limit(const struct tr_space_limit *a, const struct tr_space_limit *b)
{
	return a->percent == b->percent && a->bytes == b->bytes;
}

bool
tr_logger_same(const struct tr_logger *logger, const struct tr_logger_config *config)
{
	const struct tr_logger_config *own = &logger->config;

	if (logger->kind != config->kind ||
		!tr_same_text(logger->name, config->name != NULL ? config->name : config->log_dir) ||
		!tr_same_list((const char *const *)logger->meta, config->meta) ||
		!tr_same_list((const char *const *)logger->headers, config->headers) ||
		!tr_same_text(logger->filter_event, config->filter_event) ||
		own->back_pressure != config->back_pressure || own->deferred_spool != config->deferred_spool ||
		own->max_file_size != config->max_file_size ||
		own->max_segment_duration_ns != config->max_segment_duration_ns ||
		own->compression_level != config->compression_level ||
		!same_limit(&own->min_free_space, &config->min_free_space) ||
		!same_limit(&own->min_free_inodes, &config->min_free_inodes) || own->dead.off != config->dead.off ||
		own->dead.max_count != config->dead.max_count || own->dead.max_bytes != config->dead.max_bytes ||
		own->dead.max_age_ms != config->dead.max_age_ms)
		return false;
	for (int type = 0; type < TR_EVENT_TYPES; type++) {
		const struct tr_per_record *a = &logger->per_record[type], *b = &config->per_record[type];

		if (a->enable != b->enable || !tr_same_text(a->suffix, b->suffix) ||
			!tr_same_text(a->log_dir, b->log_dir) || !tr_same_text(a->segment_header, b->segment_header) ||
			!tr_same_text(a->template_text, b->template_text))
			return false;
	}
	return true;
}
