#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "base/buf.h"

static void
buffers_grow_and_shrink(void **state)
{
	struct tr_buf buf = {0};
	char big[5000];

	memset(big, 'x', sizeof big);
	tr_buf_addz(&buf, "ab");
	tr_buf_addc(&buf, 'c');
	tr_buf_add(&buf, NULL, 0);
	tr_buf_add_str(&buf, TR_STR("de"));
	tr_buf_add_u64(&buf, UINT64_MAX);
	tr_buf_addc(&buf, ' ');
	tr_buf_add_i64(&buf, INT64_MIN);
	tr_buf_add_i64(&buf, 0);
	assert_true(tr_str_eq(
		(struct tr_str){buf.data, buf.len}, TR_STR("abcde18446744073709551615 -92233720368547758080")));
	tr_buf_consume(&buf, 5);
	assert_memory_equal(buf.data, "18446", 5);
	tr_buf_consume(&buf, 1000);
	assert_int_equal(buf.len, 0);
	tr_buf_add(&buf, big, sizeof big);
	tr_buf_addf(&buf, "%.*s-%d", 4999, big, 7);
	assert_int_equal(buf.len, 5000 + 4999 + 2);
	assert_memory_equal(buf.data + buf.len - 3, "x-7", 3);
	assert_false(buf.failed);
	tr_buf_free(&buf);
	assert_null(buf.data);
}

static void
formatted_text_of_every_length_fits(void **state)
{
	for (int len = 0; len < 300; len++) {
		struct tr_buf buf = {0};

		tr_buf_addc(&buf, '>');
		tr_buf_addf(&buf, "%*s", len, "");
		tr_buf_addc(&buf, '<');
		assert_int_equal(buf.len, len + 2);
		assert_int_equal(buf.data[len + 1], '<');
		tr_buf_free(&buf);
	}
}

static void
a_failed_buffer_drops_all(void **state)
{
	struct tr_buf buf = {0};

	tr_buf_addz(&buf, "kept");
	assert_null(tr_buf_reserve(&buf, SIZE_MAX - 2));
	assert_true(buf.failed);
	tr_buf_addz(&buf, "dropped");
	tr_buf_put_u64(&buf, 1);
	tr_buf_addf(&buf, "%d", 1);
	assert_int_equal(buf.len, 4);
	tr_buf_clear(&buf);
	tr_buf_addz(&buf, "new");
	assert_int_equal(buf.len, 3);
	tr_buf_free(&buf);
}

static void
stored_numbers_are_read_back(void **state)
{
	static const uint64_t values[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, UINT64_C(1) << 63, UINT64_MAX};
	struct tr_buf buf = {0};

	tr_buf_put_u8(&buf, 0xfe);
	tr_buf_put_u16(&buf, 0xfedc);
	tr_buf_put_u32(&buf, 0xfedcba98);
	tr_buf_put_u64(&buf, UINT64_C(0xfedcba9876543210));
	assert_memory_equal(buf.data, "\xfe\xdc\xfe\x98\xba\xdc\xfe\x10\x32\x54\x76\x98\xba\xdc\xfe", 15);
	for (size_t i = 0; i < TR_COUNT(values); i++)
		tr_buf_put_varint(&buf, values[i]);
	tr_buf_put_bytes(&buf, TR_STR("bytes"));
	tr_buf_put_bytes(&buf, (struct tr_str){NULL, 0});

	struct tr_reader reader = {buf.data, buf.data + buf.len, false};
	assert_int_equal(tr_read_u8(&reader), 0xfe);
	assert_int_equal(tr_read_u16(&reader), 0xfedc);
	assert_int_equal(tr_read_u32(&reader), 0xfedcba98);
	assert_true(tr_read_u64(&reader) == UINT64_C(0xfedcba9876543210));
	for (size_t i = 0; i < TR_COUNT(values); i++)
		assert_true(tr_read_varint(&reader) == values[i]);
	assert_true(tr_str_eq(tr_read_bytes(&reader), TR_STR("bytes")));
	assert_int_equal(tr_read_bytes(&reader).len, 0);
	assert_false(reader.failed);
	assert_ptr_equal(reader.at, reader.end);
	tr_buf_free(&buf);
}

static void
an_overrun_fails_for_good(void **state)
{
	static const struct {
		struct tr_str bytes;
		int read; /* 1, 2, 4, 8: fixed; 0: varint; -1: bytes */
	} cases[] = {
		{{"", 0}, 1},
		{{"a", 1}, 2},
		{{"abc", 3}, 4},
		{{"abcdefg", 7}, 8},
		{{"\x80\x80", 2}, 0},
		{{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 10}, 0},
		{{"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 11}, 0},
		{{"\x05"
		  "abcd",
			 5},
			-1},
		{{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10}, -1},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_reader reader = {cases[i].bytes.data, cases[i].bytes.data + cases[i].bytes.len, false};
		uint64_t value = 0;

		switch (cases[i].read) {
		case 1:
			value = tr_read_u8(&reader);
			break;
		case 2:
			value = tr_read_u16(&reader);
			break;
		case 4:
			value = tr_read_u32(&reader);
			break;
		case 8:
			value = tr_read_u64(&reader);
			break;
		case 0:
			value = tr_read_varint(&reader);
			break;
		default:
			value = tr_read_bytes(&reader).len;
			break;
		}
		assert_true(reader.failed && value == 0);
		reader.at = cases[i].bytes.data; /* even where bytes would be there */
		assert_int_equal(tr_read_u8(&reader), 0);
		assert_int_equal(tr_read_varint(&reader), 0);
		assert_int_equal(tr_read_bytes(&reader).len, 0);
	}
}

static void
checksums_are_those_of_rfc_3720(void **state)
{
	unsigned char bytes[1000];

	memset(bytes, 0, 32);
	assert_true(tr_crc32c(0, bytes, 32) == 0x8a9136aa);
	memset(bytes, 0xff, 32);
	assert_true(tr_crc32c(0, bytes, 32) == 0x62a8ab43);
	assert_true(tr_crc32c(0, "123456789", 9) == 0xe3069283);
	assert_true(tr_crc32c(0, "", 0) == 0);
	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = (unsigned char)(i * 7 + i / 13);
	for (size_t start = 0; start < 20; start++) {
		for (size_t len = 0; len < 100; len++) {
			uint32_t crc = tr_crc32c(0, bytes + start, len);

			assert_true(crc == tr_crc32c_table(0, bytes + start, len));
			assert_true(tr_crc32c(crc, bytes + start + len, 900 - len) == tr_crc32c(0, bytes + start, 900));
		}
	}
}

/* Streams side by side from some lengths on. */
static void
checksums_of_long_runs(void **state)
{
	enum { MOST = 20000 };
	unsigned char *bytes = malloc(MOST);

	for (size_t i = 0; i < MOST; i++)
		bytes[i] = (unsigned char)(i * 11 + i / 17 + i / 4099);
	for (size_t len = 300; len < MOST - 3; len += len < 1200 ? 1 : 397)
		assert_true(tr_crc32c((uint32_t)len, bytes + len % 4, len) ==
			    tr_crc32c_table((uint32_t)len, bytes + len % 4, len));
	free(bytes);
}

static void
hashes_differ(void **state)
{
	assert_true(tr_hash("abcdefgh", 8) == tr_hash("abcdefgh", 8));
	assert_true(tr_hash("abcdefgh", 8) != tr_hash("abcdefgi", 8));
	assert_true(tr_hash("", 0) != tr_hash("\0", 1));
	assert_true(tr_hash("\0", 1) != tr_hash("\0\0", 2));
}

static void
blobs_are_counted(void **state)
{
	size_t before = tr_blob_total_bytes();
	struct tr_blob *blob = tr_blob_new("hello", 5), *empty = tr_blob_new(NULL, 0);

	assert_non_null(blob);
	assert_non_null(empty);
	assert_string_equal(blob->data, "hello");
	assert_int_equal(tr_blob_total_bytes(), before + 5);
	assert_ptr_equal(tr_blob_ref(blob), blob);
	tr_blob_unref(blob);
	assert_int_equal(tr_blob_total_bytes(), before + 5);
	tr_blob_unref(blob);
	tr_blob_unref(empty);
	tr_blob_unref(NULL);
	assert_int_equal(tr_blob_total_bytes(), before);
	assert_null(tr_blob_new(NULL, SIZE_MAX - 4));
}

static void
ascii_case_does_not_count(void **state)
{
	assert_true(tr_str_ieq(TR_STR("X-Tag[1]"), TR_STR("x-tAG[1]")));
	assert_false(tr_str_ieq(TR_STR("a["), TR_STR("A{")));
	assert_false(tr_str_ieq(TR_STR("a"), TR_STR("ab")));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(buffers_grow_and_shrink),
		cmocka_unit_test(formatted_text_of_every_length_fits),
		cmocka_unit_test(a_failed_buffer_drops_all),
		cmocka_unit_test(stored_numbers_are_read_back),
		cmocka_unit_test(an_overrun_fails_for_good),
		cmocka_unit_test(checksums_are_those_of_rfc_3720),
		cmocka_unit_test(checksums_of_long_runs),
		cmocka_unit_test(hashes_differ),
		cmocka_unit_test(blobs_are_counted),
		cmocka_unit_test(ascii_case_does_not_count),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
