#include "base/metrics.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/diag.h"
#include "base/json.h"

#define LABELS_MAX 3
#define TABLE_SLOTS 4096 /* chains, so it is a matter of speed only */

static const char *const kind_names[] = {"counter", "gauge", "histogram"};
static const int64_t bound_ns[11] = {5000000, 10000000, 25000000, 50000000, 100000000, 250000000, 500000000, 1000000000,
	2500000000, 5000000000, 10000000000};
static const char *const bound_text[11] = {
	"0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10"};

/* All series of one name. Stays for good; there are some hundred. */
struct family {
	struct family *next; /* sorted by name */
	enum tr_metric_kind kind;
	char *name;
	const char *help;
	int label_count;
	char *labels[LABELS_MAX];
	struct series *first, **last; /* in order of making */
};

struct series {
	struct tr_metric metric;
	uint32_t refs; /* under the lock */
	struct family *family;
	struct series *next, **prev; /* in the family */
	struct series *chain;        /* in the table */
	uint64_t hash;
	char *values[LABELS_MAX];
};

struct collector {
	struct collector *next;
	void (*fn)(void *arg);
	void *arg;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards families, table and refs */
static struct family *families;
static struct series *table[TABLE_SLOTS];
/* Held while collectors run, so that after a removal its function is not running. */
static pthread_mutex_t collectors_lock = PTHREAD_MUTEX_INITIALIZER;
static struct collector *collectors;
static struct tr_metric dummy; /* where there is no memory: written by all, read by none */

struct labels {
	int count;
	const char *names[LABELS_MAX], *values[LABELS_MAX];
};

/* False: more than LABELS_MAX pairs. A name without a value counts as "". */
static bool
take_labels(struct labels *labels, va_list args)
{
	const char *name;

	labels->count = 0;
	/* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): clang-tidy 14 misses the callers' va_start */
	while ((name = va_arg(args, const char *)) != NULL) {
		const char *value = va_arg(args, const char *);

		if (labels->count == LABELS_MAX)
			return false;
		labels->names[labels->count] = name;
		labels->values[labels->count++] = value != NULL ? value : "";
		if (value == NULL)
			break;
	}
	return true;
}

static uint64_t
hash_of(const char *name, const struct labels *labels)
{
	uint64_t hash = tr_hash(name, strlen(name));

	for (int i = 0; i < labels->count; i++)
		hash = hash * 31 + tr_hash(labels->values[i], strlen(labels->values[i]));
	return hash;
}

static struct series *
find_series(const char *name, const struct labels *labels, uint64_t hash)
{
	for (struct series *series = table[hash % TABLE_SLOTS]; series != NULL; series = series->chain) {
		bool same = series->hash == hash && strcmp(series->family->name, name) == 0 &&
			    series->family->label_count == labels->count;

		for (int i = 0; same && i < labels->count; i++)
			same = strcmp(series->values[i], labels->values[i]) == 0;
		if (same)
			return series;
	}
	return NULL;
}

static void
free_family(struct family *family)
{
	for (int i = 0; i < LABELS_MAX; i++)
		free(family->labels[i]);
	free(family->name);
	free(family);
}

/* NULL: no memory, or the name is taken by another kind or other labels. */
static struct family *
get_family(enum tr_metric_kind kind, const char *name, const char *help, const struct labels *labels)
{
	struct family **at = &families, *family;
	int order = -1;

	for (; *at != NULL && (order = strcmp((*at)->name, name)) < 0; at = &(*at)->next)
		;
	if (*at != NULL && order == 0) {
		bool same = (*at)->kind == kind && (*at)->label_count == labels->count;

		for (int i = 0; same && i < labels->count; i++)
			same = strcmp((*at)->labels[i], labels->names[i]) == 0;
		if (!same)
			tr_log(TR_LEVEL_ERROR, "metrics", "%s is used with two kinds or sets of labels", name);
		return same ? *at : NULL;
	}
	family = calloc(1, sizeof *family);
	if (family == NULL)
		return NULL;
	family->kind = kind;
	family->help = help;
	family->last = &family->first;
	family->label_count = labels->count;
	family->name = strdup(name);
	bool ok = family->name != NULL;
	for (int i = 0; i < labels->count; i++) {
		family->labels[i] = strdup(labels->names[i]);
		ok &= family->labels[i] != NULL;
	}
	if (!ok) {
		free_family(family);
		return NULL;
	}
	family->next = *at;
	*at = family;
	return family;
}

static void
free_series(struct series *series)
{
	for (int i = 0; i < LABELS_MAX; i++)
		free(series->values[i]);
	free(series);
}

static struct series *
make_series(struct family *family, const struct labels *labels, uint64_t hash)
{
	struct series *series = calloc(1, sizeof *series);

	if (series == NULL)
		return NULL;
	for (int i = 0; i < labels->count; i++) {
		series->values[i] = strdup(labels->values[i]);
		if (series->values[i] == NULL) {
			free_series(series);
			return NULL;
		}
	}
	series->family = family;
	series->hash = hash;
	series->prev = family->last;
	*family->last = series;
	family->last = &series->next;
	series->chain = table[hash % TABLE_SLOTS];
	table[hash % TABLE_SLOTS] = series;
	return series;
}

struct tr_metric *
tr_metric_get(enum tr_metric_kind kind, const char *name, const char *help, ...)
{
	struct labels labels;
	struct series *series = NULL;
	struct family *family;
	va_list args;
	bool ok;

	va_start(args, help);
	ok = take_labels(&labels, args);
	va_end(args);
	if (!ok)
		return &dummy;

	uint64_t hash = hash_of(name, &labels);
	pthread_mutex_lock(&lock);
	family = get_family(kind, name, help, &labels);
	if (family != NULL) {
		series = find_series(name, &labels, hash);
		if (series == NULL)
			series = make_series(family, &labels, hash);
		if (series != NULL)
			series->refs++;
	}
	pthread_mutex_unlock(&lock);
	return series != NULL ? &series->metric : &dummy;
}

void
tr_metric_unref(struct tr_metric *metric)
{
	struct series *series;

	if (metric == NULL || metric == &dummy)
		return;
	series = tr_container_of(metric, struct series, metric);
	pthread_mutex_lock(&lock);
	bool last = --series->refs == 0;
	if (last) {
		struct series **at = &table[series->hash % TABLE_SLOTS];

		while (*at != series)
			at = &(*at)->chain;
		*at = series->chain;
		*series->prev = series->next;
		if (series->next != NULL)
			series->next->prev = series->prev;
		else
			series->family->last = series->prev;
	}
	pthread_mutex_unlock(&lock);
	if (last)
		free_series(series);
}

void
tr_metric_observe_ns(struct tr_metric *metric, int64_t ns)
{
	atomic_fetch_add_explicit(&metric->value, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&metric->sum_ns, ns, memory_order_relaxed);
	for (size_t i = 0; i < TR_COUNT(bound_ns); i++) {
		if (ns <= bound_ns[i]) { /* summed up when rendered */
			atomic_fetch_add_explicit(&metric->bucket[i], 1, memory_order_relaxed);
			break;
		}
	}
}

int64_t
tr_metric_read(const char *name, ...)
{
	struct labels labels;
	struct series *series;
	int64_t value = 0;
	va_list args;
	bool ok;

	va_start(args, name);
	ok = take_labels(&labels, args);
	va_end(args);
	if (!ok)
		return 0;
	pthread_mutex_lock(&lock);
	series = find_series(name, &labels, hash_of(name, &labels));
	if (series != NULL)
		value = atomic_load_explicit(&series->metric.value, memory_order_relaxed);
	pthread_mutex_unlock(&lock);
	return value;
}

/* --- collectors ------------------------------------------------------------------------------------------ */

void
tr_metrics_add_collector(void (*fn)(void *arg), void *arg)
{
	struct collector *collector = malloc(sizeof *collector);

	if (collector == NULL) {
		tr_log(TR_LEVEL_ERROR, "metrics", "out of memory: some gauges will not be computed");
		return;
	}
	*collector = (struct collector){.fn = fn, .arg = arg};
	pthread_mutex_lock(&collectors_lock);
	collector->next = collectors;
	collectors = collector;
	pthread_mutex_unlock(&collectors_lock);
}

void
tr_metrics_remove_collector(void (*fn)(void *arg), void *arg)
{
	pthread_mutex_lock(&collectors_lock);
	for (struct collector **at = &collectors; *at != NULL; at = &(*at)->next) {
		struct collector *collector = *at;

		if (collector->fn == fn && collector->arg == arg) {
			*at = collector->next;
			free(collector);
			break;
		}
	}
	pthread_mutex_unlock(&collectors_lock);
}

static void
collect(void)
{
	pthread_mutex_lock(&collectors_lock);
	for (struct collector *collector = collectors; collector != NULL; collector = collector->next)
		collector->fn(collector->arg);
	pthread_mutex_unlock(&collectors_lock);
}

/* --- rendering -------------------------------------------------------------------------------------------- */

static bool
is_wanted(const struct family *family, const char *prefix)
{
	return family->first != NULL && (prefix == NULL || strncmp(family->name, prefix, strlen(prefix)) == 0);
}

static int64_t
load(const _Atomic int64_t *value)
{
	return atomic_load_explicit(value, memory_order_relaxed);
}

static void
add_seconds(struct tr_buf *out, double seconds)
{
	tr_buf_addf(out, "%.9g", isfinite(seconds) ? seconds : 0.);
}

/* Text of Prometheus: backslash and line feed are escaped, in label values the quote, too. */
static void
add_escaped(struct tr_buf *out, const char *text, bool quote)
{
	for (; *text != '\0'; text++) {
		if (*text == '\n') {
			tr_buf_addz(out, "\\n");
			continue;
		}
		if (*text == '\\' || (quote && *text == '"'))
			tr_buf_addc(out, '\\');
		tr_buf_addc(out, *text);
	}
}

/* `name suffix{labels} `; le NULL: no such label. */
static void
add_text_name(struct tr_buf *out, const struct series *series, const char *suffix, const char *le)
{
	const struct family *family = series->family;

	tr_buf_addz(out, family->name);
	tr_buf_addz(out, suffix);
	if (family->label_count > 0 || le != NULL) {
		tr_buf_addc(out, '{');
		for (int i = 0; i < family->label_count; i++) {
			if (i > 0)
				tr_buf_addc(out, ',');
			tr_buf_addz(out, family->labels[i]);
			tr_buf_addz(out, "=\"");
			add_escaped(out, series->values[i], true);
			tr_buf_addc(out, '"');
		}
		if (le != NULL)
			tr_buf_addf(out, "%sle=\"%s\"", family->label_count > 0 ? "," : "", le);
		tr_buf_addc(out, '}');
	}
	tr_buf_addc(out, ' ');
}

static void
add_text_series(struct tr_buf *out, const struct series *series)
{
	/* count last: buckets that are being counted meanwhile must not exceed it */
	int64_t buckets[TR_COUNT(bound_ns)], below = 0, sum_ns = load(&series->metric.sum_ns);

	for (size_t i = 0; i < TR_COUNT(bound_ns); i++)
		buckets[i] = below += load(&series->metric.bucket[i]);
	int64_t value = load(&series->metric.value);

	if (series->family->kind != TR_HISTOGRAM) {
		add_text_name(out, series, "", NULL);
		tr_buf_add_i64(out, value);
		tr_buf_addc(out, '\n');
		return;
	}
	value = tr_max_i64(value, below);
	for (size_t i = 0; i < TR_COUNT(bound_ns); i++) {
		add_text_name(out, series, "_bucket", bound_text[i]);
		tr_buf_add_i64(out, buckets[i]);
		tr_buf_addc(out, '\n');
	}
	add_text_name(out, series, "_bucket", "+Inf");
	tr_buf_add_i64(out, value);
	tr_buf_addc(out, '\n');
	add_text_name(out, series, "_sum", NULL);
	add_seconds(out, (double)sum_ns / 1e9);
	tr_buf_addc(out, '\n');
	add_text_name(out, series, "_count", NULL);
	tr_buf_add_i64(out, value);
	tr_buf_addc(out, '\n');
}

void
tr_metrics_text(struct tr_buf *out, const char *prefix)
{
	collect();
	pthread_mutex_lock(&lock);
	for (const struct family *family = families; family != NULL; family = family->next) {
		if (!is_wanted(family, prefix))
			continue;
		tr_buf_addf(out, "# HELP %s ", family->name);
		add_escaped(out, family->help, false);
		tr_buf_addf(out, "\n# TYPE %s %s\n", family->name, kind_names[family->kind]);
		for (const struct series *series = family->first; series != NULL; series = series->next)
			add_text_series(out, series);
	}
	pthread_mutex_unlock(&lock);
}

static void
add_json_value(struct tr_buf *out, const struct series *series)
{
	int64_t value = load(&series->metric.value), below = 0;

	if (series->family->kind != TR_HISTOGRAM) {
		tr_buf_add_i64(out, value);
		return;
	}
	double sum_s = (double)load(&series->metric.sum_ns) / 1e9;

	tr_buf_addz(out, "{\"count\":");
	tr_buf_add_i64(out, value);
	tr_buf_addz(out, ",\"sum\":");
	add_seconds(out, sum_s);
	tr_buf_addz(out, ",\"avg\":");
	add_seconds(out, value > 0 ? sum_s / (double)value : 0.);
	tr_buf_addz(out, ",\"bucket\":[");
	for (size_t i = 0; i < TR_COUNT(bound_ns); i++) {
		below += load(&series->metric.bucket[i]);
		tr_buf_addf(out, "%s[%s,%lld]", i > 0 ? "," : "", bound_text[i], (long long)below);
	}
	tr_buf_addz(out, "]}");
}

/* A number, an object by the values of the one label, or a list of objects. */
static void
add_json_family(struct tr_buf *out, const struct family *family)
{
	int count = family->label_count;

	if (count == 0) {
		add_json_value(out, family->first);
		return;
	}
	tr_buf_addc(out, count == 1 ? '{' : '[');
	if (count == 1) {
		tr_json_add_string(out, tr_str(family->labels[0]));
		tr_buf_addz(out, ":{");
	}
	for (const struct series *series = family->first; series != NULL; series = series->next) {
		if (series != family->first)
			tr_buf_addc(out, ',');
		if (count == 1) {
			tr_json_add_string(out, tr_str(series->values[0]));
			tr_buf_addc(out, ':');
			add_json_value(out, series);
			continue;
		}
		tr_buf_addc(out, '{');
		for (int i = 0; i < count; i++) {
			tr_json_add_string(out, tr_str(family->labels[i]));
			tr_buf_addc(out, ':');
			tr_json_add_string(out, tr_str(series->values[i]));
			tr_buf_addc(out, ',');
		}
		tr_buf_addz(out, "\"@\":");
		add_json_value(out, series);
		tr_buf_addc(out, '}');
	}
	tr_buf_addz(out, count == 1 ? "}}" : "]");
}

void
tr_metrics_json(struct tr_buf *out, const char *prefix)
{
	bool first = true;

	collect();
	tr_buf_addc(out, '{');
	pthread_mutex_lock(&lock);
	for (const struct family *family = families; family != NULL; family = family->next) {
		if (!is_wanted(family, prefix))
			continue;
		if (!first)
			tr_buf_addc(out, ',');
		first = false;
		tr_json_add_string(out, tr_str(family->name));
		tr_buf_addz(out, ":{\"help\":");
		tr_json_add_string(out, tr_str(family->help));
		tr_buf_addf(out, ",\"type\":\"%s\",\"value\":", kind_names[family->kind]);
		add_json_family(out, family);
		tr_buf_addc(out, '}');
	}
	pthread_mutex_unlock(&lock);
	tr_buf_addc(out, '}');
}
