/* NATS: its texts: subjects and headers, acknowledgements, and what a login says. */
#include "nats_fixture.h"

static void
test_subjects(void **state)
{
	static const char *const good[] = {"a", "a.b", "events.mail.1", "$JS.API.INFO", "\xc3\xa4.b"};
	static const char *const bad[] = {"", ".", "a.", ".a", "a..b", "a b", "a\tb", "a\r\nPUB x 0", "\x7f"};

	for (size_t i = 0; i < TR_COUNT(good); i++)
		assert_null(tr_nats_check_subject(tr_str(good[i])));
	for (size_t i = 0; i < TR_COUNT(bad); i++)
		assert_non_null(tr_nats_check_subject(tr_str(bad[i])));
	assert_non_null(tr_nats_check_subject((struct tr_str){NULL, 0}));
	assert_non_null(tr_nats_check_subject((struct tr_str){"a\0b", 3}));
}

static void
test_headers(void **state)
{
	assert_null(tr_nats_check_header(TR_STR("Nats-Msg-Id"), TR_STR("a: b \xc3\xa4")));
	assert_null(tr_nats_check_header(TR_STR("x"), TR_STR("")));
	assert_non_null(tr_nats_check_header(TR_STR(""), TR_STR("x")));
	assert_non_null(tr_nats_check_header(TR_STR("a b"), TR_STR("x")));
	assert_non_null(tr_nats_check_header(TR_STR("a:"), TR_STR("x")));
	assert_non_null(tr_nats_check_header(TR_STR("\xc3\xa4"), TR_STR("x")));
	assert_non_null(tr_nats_check_header(TR_STR("a"), TR_STR("x\nb: c")));
	assert_non_null(tr_nats_check_header(TR_STR("a"), TR_STR("x\r")));
	assert_non_null(tr_nats_check_header(TR_STR("a"), (struct tr_str){"x\0y", 3}));
}

static struct tr_nats_result
parse(const char *body, struct tr_buf *memory)
{
	struct tr_nats_result result;

	tr_buf_free(memory);
	*memory = (struct tr_buf){0};
	tr_nats_parse_ack(tr_str(body), &result, memory);
	return result;
}

#define ASSERT_TEXT(expected, text)                                     \
	do {                                                            \
		assert_int_equal((text).len, strlen(expected));         \
		assert_memory_equal((text).data, expected, (text).len); \
	} while (0)

static void
test_acks(void **state)
{
	struct tr_buf memory = {0};
	struct tr_nats_result ack = parse("{\"stream\":\"E\\u00e4\",\"seq\":18446744073709551,\"domain\":\"d\","
					  "\"duplicate\":true,\"val\":\"7\"}",
		&memory);

	assert_int_equal(ack.err, TR_OK);
	ASSERT_TEXT("E\xc3\xa4", ack.stream);
	ASSERT_TEXT("d", ack.domain);
	ASSERT_TEXT("7", ack.value);
	assert_true(ack.sequence == 18446744073709551U);
	assert_true(ack.duplicate);
	ack = parse("{\"stream\":\"S\",\"seq\":2}", &memory);
	assert_int_equal(ack.err, TR_OK);
	assert_false(ack.duplicate);
	assert_int_equal(ack.domain.len, 0);
	tr_buf_free(&memory);
}

static void
test_refusals(void **state)
{
	static const char *const senseless[] = {"", "+OK", "[]", "{}", "{\"stream\":1}", "{\"stream\":\"S\"", "\xff"};
	struct tr_buf memory = {0};
	struct tr_nats_result ack = parse(
		"{\"type\":\"x\",\"error\":{\"code\":400,\"err_code\":10054,\"description\":\"too large\"}}", &memory);

	assert_int_equal(ack.err, TR_ETOOBIG);
	assert_int_equal(ack.code, 10054);
	assert_true(ack.permanent);
	ASSERT_TEXT("10054 too large", ack.text);
	ack = parse("{\"error\":{\"code\":503,\"err_code\":10077,\"description\":\"maximum messages exceeded\"},"
		    "\"stream\":\"S\",\"seq\":0}",
		&memory);
	assert_int_equal(ack.err, TR_EPROTO);
	assert_false(ack.permanent);
	ASSERT_TEXT("10077 maximum messages exceeded", ack.text);
	ack = parse("{\"error\":{}}", &memory);
	assert_int_equal(ack.err, TR_EPROTO);
	for (size_t i = 0; i < TR_COUNT(senseless); i++) {
		ack = parse(senseless[i], &memory);
		assert_int_equal(ack.err, TR_EPROTO);
		assert_false(ack.permanent);
		assert_true(ack.text.len > 0);
	}
	tr_buf_free(&memory);
}

static void
test_plain_acks(void **state)
{
	static const char *const plain[] = {"{\"stream\":\"S\",\"seq\":1}",
		"{\"stream\":\"S\", \"seq\":18446744073709551615}", "{\"stream\":\"E-x y\xc3\xa4\",\"seq\":0}"};
	static const char *const others[] = {"", "{", "{\"stream\":\"S\",\"seq\":}", "{\"stream\":\"S\",\"seq\":1",
		"{\"stream\":\"\",\"seq\":1}", "{\"stream\":\"S\",\"seq\":1,\"duplicate\":true}",
		"{\"stream\":\"S\",\"seq\":1}x", "{\"stream\":\"S\\u00e4\",\"seq\":1}", "{\"stream\":\"S\",\"seq\":-1}",
		"{\"stream\":\"S\",", "{\"stream\":\"S\",\"seq", "{\"stream\":\"S", "{\"error\":{\"err_code\":1}}",
		"{\"stream\":\"S\nx\",\"seq\":1}"};

	for (size_t i = 0; i < TR_COUNT(plain); i++) {
		struct tr_nats_result result;
		struct tr_buf memory = {0};

		assert_true(tr_nats_plain_ack(tr_str(plain[i])));
		tr_nats_parse_ack(tr_str(plain[i]), &result, &memory); /* the slow way says the same */
		assert_int_equal(result.err, TR_OK);
		assert_false(result.duplicate);
		tr_buf_free(&memory);
	}
	for (size_t i = 0; i < TR_COUNT(others); i++) {
		size_t len = strlen(others[i]);
		char *exact = malloc(len + 1); /* so that a sanitizer sees what is read behind its end */

		memcpy(exact, others[i], len);
		exact = realloc(exact, len > 0 ? len : 1);
		assert_false(tr_nats_plain_ack((struct tr_str){exact, len}));
		free(exact);
	}
}

static char *
login(const struct tr_nats_settings *settings, const struct tr_nats_server *server, int expected)
{
	static char text[2048];
	struct tr_buf out = {0};
	char why[256];

	why[0] = '\0';
	assert_int_equal(tr_nats_login(settings, server, TR_STR("{\"nonce\":\"abc\"}"), &out, why), expected);
	snprintf(text, sizeof text, "%.*s", expected == TR_OK ? (int)out.len : 256, expected == TR_OK ? out.data : why);
	tr_buf_free(&out);
	return text;
}

static void
test_login(void **state)
{
	static const char jwt[] = "-----BEGIN NATS USER JWT-----\nabc.def\n------END NATS USER JWT------\n",
			  seed[] = "-----BEGIN USER NKEY SEED-----\nSUAAAA\n------END USER NKEY SEED------\n";
	struct tr_nats_settings settings = {.name = TR_STR("a\"b")};
	struct tr_nats_server none = {.host = "h"}, user = {.host = "h", .user = "u", .password = "p"},
			      token = {.host = "h", .user = "t"};
	char path[] = "/tmp/nats_test.XXXXXX";
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_non_null(strstr(login(&settings, &none, TR_OK), ",\"echo\":true,\"name\":\"a\\\"b\"}\r\n"));
	assert_non_null(strstr(login(&settings, &user, TR_OK), "\"user\":\"u\",\"pass\":\"p\"}"));
	assert_non_null(strstr(login(&settings, &token, TR_OK), "\"auth_token\":\"t\"}"));
	settings.username = TR_STR("x");
	settings.password = TR_STR("y");
	settings.no_echo = true;
	assert_non_null(strstr(login(&settings, &none, TR_OK), "\"echo\":false"));
	assert_non_null(strstr(login(&settings, &none, TR_OK), "\"user\":\"x\",\"pass\":\"y\"}"));
	assert_non_null(strstr(login(&settings, &user, TR_OK), "\"user\":\"u\",\"pass\":\"p\"}")); /* the URL's */
	settings.credentials = tr_str(path);
	assert_non_null(strstr(login(&settings, &none, TR_EINVAL), "no user JWT"));
	assert_int_equal(write(fd, jwt, sizeof jwt - 1), sizeof jwt - 1);
	assert_non_null(strstr(login(&settings, &none, TR_EINVAL), "no seed"));
	assert_int_equal(write(fd, seed, sizeof seed - 1), sizeof seed - 1);
	assert_non_null(strstr(login(&settings, &none, TR_EINVAL), "damaged"));
	close(fd);
	unlink(path);
	assert_non_null(strstr(login(&settings, &none, TR_EINVAL), "No such file"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_subjects),
		cmocka_unit_test(test_headers),
		cmocka_unit_test(test_acks),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_plain_acks),
		cmocka_unit_test(test_login),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
