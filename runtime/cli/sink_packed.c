/* Bodies that came with Content-Encoding: gzip or zstd, so that their records are counted and recorded like others. */
#include <zlib.h>
#include <zstd.h>

#include "cli/sink.h"

static struct tr_str
encoding_of(const char *data, const struct tr_http_head *head)
{
	struct tr_str name, value;
	size_t at = head->fields_at;

	while (tr_http_field(data, head, &at, &name, &value))
		if (tr_str_ieq(name, TR_STR("content-encoding")))
			return value;
	return (struct tr_str){"", 0};
}

/* False: it is no gzip, cut off, or larger than a body may be. */
static bool
from_gzip(struct tr_str body, struct tr_buf *out)
{
	z_stream z = {0};
	int rc = Z_OK;

	if (inflateInit2(&z, 15 + 16) != Z_OK) /* 16: with a gzip header */
		return false;
	z.next_in = (unsigned char *)body.data;
	z.avail_in = (unsigned)body.len; /* at most TR_SINK_MAX_BODY_BYTES */
	while (rc == Z_OK && out->len < TR_SINK_MAX_BODY_BYTES) {
		char *room = tr_buf_reserve(out, TR_SINK_READ_BYTES);

		if (room == NULL)
			break;
		z.next_out = (unsigned char *)room;
		z.avail_out = TR_SINK_READ_BYTES;
		rc = inflate(&z, Z_NO_FLUSH);
		out->len += TR_SINK_READ_BYTES - z.avail_out;
	}
	inflateEnd(&z);
	return rc == Z_STREAM_END;
}

static bool
from_zstd(struct tr_str body, struct tr_buf *out)
{
	ZSTD_DStream *z = ZSTD_createDStream();
	ZSTD_inBuffer in = {body.data, body.len, 0};
	size_t rc = 1;

	while (z != NULL && rc != 0 && !ZSTD_isError(rc) && out->len < TR_SINK_MAX_BODY_BYTES) {
		ZSTD_outBuffer room = {tr_buf_reserve(out, TR_SINK_READ_BYTES), TR_SINK_READ_BYTES, 0};
		size_t before = in.pos;

		if (room.dst == NULL)
			break;
		rc = ZSTD_decompressStream(z, &room, &in);
		out->len += room.pos;
		if (in.pos == before && room.pos == 0)
			break; /* it wants more than there is */
	}
	ZSTD_freeDStream(z);
	return rc == 0;
}

struct tr_str
tr_sink_plain(struct tr_sink *sink, const char *data, const struct tr_http_head *head, struct tr_str body)
{
	struct tr_str encoding = encoding_of(data, head);
	struct tr_buf *out = &sink->plain;
	bool ok = false;

	tr_buf_clear(out);
	if (tr_str_ieq(encoding, TR_STR("gzip")))
		ok = from_gzip(body, out);
	else if (tr_str_ieq(encoding, TR_STR("zstd")))
		ok = from_zstd(body, out);
	return ok ? (struct tr_str){out->data, out->len} : body;
}
