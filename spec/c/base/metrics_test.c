#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/json.h"
#include "base/metrics.h"

static void
assert_rendered(void (*render)(struct tr_buf *out, const char *prefix), const char *prefix, const char *expected)
{
	struct tr_buf out = {0};

	render(&out, prefix);
	tr_buf_addc(&out, '\0');
	assert_false(out.failed);
	assert_string_equal(out.data, expected);
	tr_buf_free(&out);
}

static void
series_are_shared_and_pruned(void **state)
{
	struct tr_metric *a = tr_metric_get(TR_COUNTER, "a_total", "Things.", "queue", "q1", NULL);
	struct tr_metric *same = tr_metric_get(TR_COUNTER, "a_total", "Things.", "queue", "q1", NULL);
	struct tr_metric *other = tr_metric_get(TR_COUNTER, "a_total", "Things.", "queue", "q2", NULL);

	assert_ptr_equal(a, same);
	assert_ptr_not_equal(a, other);
	tr_metric_add(a, 2);
	tr_metric_add(same, 3);
	assert_int_equal(tr_metric_read("a_total", "queue", "q1", NULL), 5);
	assert_int_equal(tr_metric_read("a_total", "queue", "q2", NULL), 0);
	assert_int_equal(tr_metric_read("no_such", NULL), 0);
	tr_metric_unref(same);
	assert_int_equal(tr_metric_read("a_total", "queue", "q1", NULL), 5);
	tr_metric_unref(a);
	assert_int_equal(tr_metric_read("a_total", "queue", "q1", NULL), 0);
	assert_rendered(
		tr_metrics_text, "a_", "# HELP a_total Things.\n# TYPE a_total counter\na_total{queue=\"q2\"} 0\n");
	a = tr_metric_get(TR_COUNTER, "a_total", "Things.", "queue", "q1", NULL);
	assert_int_equal(tr_metric_read("a_total", "queue", "q1", NULL), 0); /* restarts from 0 */
	tr_metric_unref(a);
	tr_metric_unref(other);
	assert_rendered(tr_metrics_text, "a_", "");
	assert_rendered(tr_metrics_json, "a_", "{}");
}

static void
misuse_gives_a_dummy(void **state)
{
	struct tr_metric *counter = tr_metric_get(TR_COUNTER, "mis", "m", NULL);
	struct tr_metric *gauge = tr_metric_get(TR_GAUGE, "mis", "m", NULL);
	struct tr_metric *labels = tr_metric_get(TR_COUNTER, "mis", "m", "a", "b", NULL);

	assert_non_null(gauge);
	assert_ptr_equal(gauge, labels);
	tr_metric_add(gauge, 9);
	assert_int_equal(tr_metric_read("mis", NULL), 0);
	tr_metric_unref(gauge);
	tr_metric_unref(labels);
	tr_metric_unref(counter);
}

static void
collect(void *arg)
{
	tr_metric_set(arg, 42);
}

static void
the_text_form_is_prometheus(void **state)
{
	struct tr_metric *gauge = tr_metric_get(TR_GAUGE, "b_gauge", "A \\ and\na line.", NULL);
	struct tr_metric *two = tr_metric_get(TR_COUNTER, "b_two", "Two.", "x", "a\"b\\c\nd", "y", "", NULL);
	struct tr_metric *histogram = tr_metric_get(TR_HISTOGRAM, "b_hist", "Times.", "service", "s", NULL);

	tr_metrics_add_collector(collect, gauge);
	tr_metric_observe_ns(histogram, 5 * TR_NS_PER_MS); /* on the bound: within */
	tr_metric_observe_ns(histogram, 6 * TR_NS_PER_MS);
	tr_metric_observe_ns(histogram, 2 * TR_NS_PER_S);
	tr_metric_observe_ns(histogram, 100 * TR_NS_PER_S);
	assert_rendered(tr_metrics_text, "b_",
		"# HELP b_gauge A \\\\ and\\na line.\n# TYPE b_gauge gauge\nb_gauge 42\n"
		"# HELP b_hist Times.\n# TYPE b_hist histogram\n"
		"b_hist_bucket{service=\"s\",le=\"0.005\"} 1\n"
		"b_hist_bucket{service=\"s\",le=\"0.01\"} 2\n"
		"b_hist_bucket{service=\"s\",le=\"0.025\"} 2\n"
		"b_hist_bucket{service=\"s\",le=\"0.05\"} 2\n"
		"b_hist_bucket{service=\"s\",le=\"0.1\"} 2\n"
		"b_hist_bucket{service=\"s\",le=\"0.25\"} 2\n"
		"b_hist_bucket{service=\"s\",le=\"0.5\"} 2\n"
		"b_hist_bucket{service=\"s\",le=\"1\"} 2\n"
		"b_hist_bucket{service=\"s\",le=\"2.5\"} 3\n"
		"b_hist_bucket{service=\"s\",le=\"5\"} 3\n"
		"b_hist_bucket{service=\"s\",le=\"10\"} 3\n"
		"b_hist_bucket{service=\"s\",le=\"+Inf\"} 4\n"
		"b_hist_sum{service=\"s\"} 102.011\n"
		"b_hist_count{service=\"s\"} 4\n"
		"# HELP b_two Two.\n# TYPE b_two counter\nb_two{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 0\n");
	tr_metrics_remove_collector(collect, gauge);
	tr_metric_set(gauge, 1);
	assert_rendered(
		tr_metrics_text, "b_gauge", "# HELP b_gauge A \\\\ and\\na line.\n# TYPE b_gauge gauge\nb_gauge 1\n");
	tr_metric_unref(gauge);
	tr_metric_unref(two);
	tr_metric_unref(histogram);
}

static void
the_json_form_depends_on_the_labels(void **state)
{
	struct tr_metric *none = tr_metric_get(TR_GAUGE, "c_none", "N", NULL);
	struct tr_metric *one = tr_metric_get(TR_COUNTER, "c_one", "O", "service", "s\"1", NULL);
	struct tr_metric *more = tr_metric_get(TR_COUNTER, "c_one", "O", "service", "s2", NULL);
	struct tr_metric *two = tr_metric_get(TR_COUNTER, "c_two", "T", "a", "1", "b", "2", NULL);
	struct tr_metric *histogram = tr_metric_get(TR_HISTOGRAM, "c_z", "H", NULL);

	tr_metric_set(none, -7);
	tr_metric_add(more, 3);
	tr_metric_observe_ns(histogram, TR_NS_PER_S);
	tr_metric_observe_ns(histogram, 2 * TR_NS_PER_S);
	assert_rendered(tr_metrics_json, "c_",
		"{\"c_none\":{\"help\":\"N\",\"type\":\"gauge\",\"value\":-7},"
		"\"c_one\":{\"help\":\"O\",\"type\":\"counter\",\"value\":{\"service\":{\"s\\\"1\":0,\"s2\":3}}},"
		"\"c_two\":{\"help\":\"T\",\"type\":\"counter\",\"value\":[{\"a\":\"1\",\"b\":\"2\",\"@\":0}]},"
		"\"c_z\":{\"help\":\"H\",\"type\":\"histogram\",\"value\":{\"count\":2,\"sum\":3,\"avg\":1.5,"
		"\"bucket\":"
		"[[0.005,0],[0.01,0],[0.025,0],[0.05,0],[0.1,0],[0.25,0],[0.5,0],[1,1],[2.5,2],[5,2],[10,2]]}}}");
	tr_metric_unref(none);
	tr_metric_unref(one);
	tr_metric_unref(more);
	tr_metric_unref(two);
	tr_metric_unref(histogram);
}

/* --- diagnostics ------------------------------------------------------------------------------------------ */

static int lines;
static char last_line[200];

static void
catch_line(void *arg, enum tr_level level, const char *target, const char *text)
{
	lines++;
	snprintf(last_line, sizeof last_line, "%d %s %s", (int)level, target, text);
}

static void
log_filters_select(void **state)
{
	assert_true(tr_log_enabled(TR_LEVEL_INFO, "spool"));
	assert_false(tr_log_enabled(TR_LEVEL_DEBUG, "spool"));
	assert_int_equal(tr_log_filter("kumod=debug,lua=trace,smtp_server=error"), TR_OK);
	assert_true(tr_log_enabled(TR_LEVEL_DEBUG, "spool"));
	assert_false(tr_log_enabled(TR_LEVEL_TRACE, "spool"));
	assert_true(tr_log_enabled(TR_LEVEL_TRACE, "lua"));
	assert_false(tr_log_enabled(TR_LEVEL_WARN, "smtp_server"));
	static const char *const bad[] = {"", "loud", "lua=", "=info", "info,,", "a b=info", "tailrace=debug,"};
	for (size_t i = 0; i < TR_COUNT(bad); i++)
		assert_int_equal(tr_log_filter(bad[i]), TR_EINVAL);
	assert_true(tr_log_enabled(TR_LEVEL_DEBUG, "spool")); /* nothing has changed */
	assert_int_equal(tr_log_filter("tailrace=warn"), TR_OK);
	assert_false(tr_log_enabled(TR_LEVEL_INFO, "spool"));
	assert_true(tr_log_enabled(TR_LEVEL_INFO, "lua"));
	assert_int_equal(tr_log_filter("info"), TR_OK);
}

static void
repeated_lines_are_summed_up(void **state)
{
	tr_clock_virtual(0);
	tr_log_sink(catch_line, NULL);
	for (int i = 0; i < 100; i++)
		tr_log(TR_LEVEL_WARN, "spool", "slow sync: %d ms", i);
	assert_int_equal(lines, 20);
	assert_string_equal(last_line, "3 spool slow sync: 19 ms");
	for (int i = 0; i < 100; i++)
		tr_log(TR_LEVEL_INFO, "lua", "%s", i % 2 ? "odd" : "even"); /* two kinds: what counts is the text */
	assert_int_equal(lines, 60);
	tr_log(TR_LEVEL_DEBUG, "spool", "off");
	assert_int_equal(lines, 60);
	tr_clock_advance(TR_NS_PER_S);
	tr_log(TR_LEVEL_INFO, "net", "hello");
	assert_int_equal(lines, 64); /* three summaries first */
	assert_string_equal(last_line, "2 net hello");
	lines = 0;
	for (int i = 0; i < 30; i++)
		tr_log(TR_LEVEL_WARN, "spool", "slow sync: %d ms", i);
	assert_int_equal(lines, 20);
	tr_clock_advance(TR_NS_PER_S);
	tr_log(TR_LEVEL_WARN, "spool", "slow sync: %d ms", 30);
	assert_int_equal(lines, 22);
	tr_log_sink(NULL, NULL);
	tr_clock_real();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(series_are_shared_and_pruned),
		cmocka_unit_test(misuse_gives_a_dummy),
		cmocka_unit_test(the_text_form_is_prometheus),
		cmocka_unit_test(the_json_form_depends_on_the_labels),
		cmocka_unit_test(log_filters_select),
		cmocka_unit_test(repeated_lines_are_summed_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
