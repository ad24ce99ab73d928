#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>

#include "net/dns_cache.h"

static struct tr_dns_answer *
answer_until(int64_t expires_ns)
{
	struct tr_dns_answer *answer = tr_dns_answer_new(TR_DNS_NXDOMAIN, TR_ENOENT, "NXDOMAIN");

	assert_non_null(answer);
	answer->item.expires_ns = expires_ns;
	return answer;
}

static void
put(struct tr_dns_cache *cache, uint32_t kind, const char *name, int64_t expires_ns)
{
	struct tr_dns_answer *answer = answer_until(expires_ns);

	tr_dns_cache_put(cache, kind, name, &answer->item);
	tr_dns_answer_unref(answer);
}

static bool
has(struct tr_dns_cache *cache, uint32_t kind, const char *name, int64_t now_ns)
{
	struct tr_dns_answer *answer = tr_dns_cache_get(cache, kind, name, now_ns);

	tr_dns_answer_unref(answer);
	return answer != NULL;
}

static void
items_are_found_by_kind_and_name_until_they_expire(void **state)
{
	struct tr_dns_cache *cache;

	assert_int_equal(tr_dns_cache_new(100, &cache), TR_OK);
	put(cache, TR_DNS_A, "a.test", 1000);
	assert_true(has(cache, TR_DNS_A, "a.test", 999));
	assert_false(has(cache, TR_DNS_MX, "a.test", 0));
	assert_false(has(cache, TR_DNS_A, "b.test", 0));
	assert_int_equal(tr_dns_cache_count(cache), 1);
	assert_false(has(cache, TR_DNS_A, "a.test", 1000));
	assert_int_equal(tr_dns_cache_count(cache), 0);
	put(cache, TR_DNS_A, "a.test", 10);
	put(cache, TR_DNS_A, "a.test", 2000); /* the newer one */
	assert_true(has(cache, TR_DNS_A, "a.test", 1999));
	assert_int_equal(tr_dns_cache_count(cache), 1);
	tr_dns_cache_free(cache);
}

static void
the_bound_holds_and_what_is_used_stays(void **state)
{
	struct tr_dns_cache *cache;
	char name[32];

	assert_int_equal(tr_dns_cache_new(160, &cache), TR_OK);
	put(cache, TR_DNS_A, "used.test", 1000);
	for (int i = 0; i < 10000; i++) {
		snprintf(name, sizeof name, "n%d.test", i);
		put(cache, TR_DNS_A, name, 1000);
		assert_true(has(cache, TR_DNS_A, "used.test", 0));
	}
	assert_int_equal(tr_dns_cache_count(cache), 160);
	assert_true(has(cache, TR_DNS_A, name, 0)); /* the last one */
	tr_dns_cache_free(cache);
	assert_int_equal(tr_dns_cache_new(0, &cache), TR_OK);
	put(cache, TR_DNS_A, "a.test", 1000);
	assert_false(has(cache, TR_DNS_A, "a.test", 0));
	tr_dns_cache_free(cache);
}

static void *
churn(void *arg)
{
	struct tr_dns_cache *cache = arg;
	char name[32];

	for (int i = 0; i < 20000; i++) {
		struct tr_dns_answer *answer;

		snprintf(name, sizeof name, "n%d.test", i % 300);
		answer = tr_dns_cache_get(cache, TR_DNS_A, name, i % 7 == 0 ? 2000 : 0);
		if (answer == NULL) {
			answer = tr_dns_answer_new(TR_DNS_NXDOMAIN, TR_ENOENT, "NXDOMAIN");
			answer->item.expires_ns = 1000;
			tr_dns_cache_put(cache, TR_DNS_A, name, &answer->item);
		}
		tr_dns_answer_unref(answer);
	}
	return NULL;
}

static void
threads_share_it(void **state)
{
	struct tr_dns_cache *cache;
	pthread_t threads[3];

	assert_int_equal(tr_dns_cache_new(200, &cache), TR_OK);
	for (size_t i = 0; i < TR_COUNT(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, churn, cache), 0);
	for (size_t i = 0; i < TR_COUNT(threads); i++)
		pthread_join(threads[i], NULL);
	assert_true(tr_dns_cache_count(cache) <= 208);
	tr_dns_cache_free(cache);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(items_are_found_by_kind_and_name_until_they_expire),
		cmocka_unit_test(the_bound_holds_and_what_is_used_stays),
		cmocka_unit_test(threads_share_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
