/* CPU per log record: encoding alone, with captures, and for many recipients. One thread.
 *   cmake --build build/release --target record_bench && build/release/record_bench [RECORDS] */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "record/record.h"

static double
cpu_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now); /* how much was worked, not when: not the runtime's clock */
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static struct tr_message *
sample(uint32_t rcpts)
{
	struct tr_message *message = tr_message_new();
	char text[64];

	if (message == NULL)
		abort();
	tr_message_set_sender(message, TR_STR("newsletter@shop.example.com"));
	for (uint32_t i = 0; i < rcpts; i++) {
		snprintf(text, sizeof text, "customer.%u@mailbox.example.net", i);
		tr_message_add_rcpt(message, tr_str(text));
	}
	tr_meta_set(&message->meta, TR_STR("tenant"), TR_STR("\"shop\""));
	tr_meta_set(&message->meta, TR_STR("campaign"), TR_STR("\"spring-2026\""));
	tr_meta_set(&message->meta, TR_STR("reception_protocol"), TR_STR("\"ESMTP\""));
	tr_message_set_data(message,
		TR_STR("Received: from mailer.shop.example.com (mailer.shop.example.com [192.0.2.10])\r\n"
		       "\tby mx.example.org with ESMTP id 5c0f3a4e; Wed, 25 Nov 2026 18:22:10 +0000\r\n"
		       "From: Shop <newsletter@shop.example.com>\r\nTo: Customer <customer.0@mailbox.example.net>\r\n"
		       "Subject: =?utf-8?q?Spring_is_here_=E2=80=93_20_%_off?=\r\nMessage-ID: "
		       "<4711@shop.example.com>\r\n"
		       "X-Customer-ID: 4711\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; "
		       "charset=utf-8\r\n\r\nHello.\r\n"));
	message->queue = strdup("spring-2026:shop@mailbox.example.net");
	return message;
}

static void
measure(const char *name, const struct tr_event *event, const struct tr_capture *capture, long records)
{
	struct tr_buf out = {0};
	size_t bytes = 0;
	double start_s = cpu_s(), took_s;

	for (long i = 0; i < records; i++) {
		tr_buf_clear(&out);
		tr_record_encode(event, "0b9c1c52-8e4b-4f55-9d0e-5a3d8c1f2e77", "5c0f3a4e6f1b11f0a1b20242ac120002",
			capture, &out);
		bytes += out.len;
	}
	took_s = cpu_s() - start_s;
	printf("%-44s %8zu %10.3f\n", name, bytes / (size_t)records, took_s * 1e6 / (double)records);
	tr_buf_free(&out);
}

int
main(int argc, char **argv)
{
	static const char *const meta[] = {"tenant", "campaign", NULL}, *const headers[] = {"Subject", "X-*", NULL};
	struct tr_capture metas = {meta, NULL}, both = {meta, headers};
	long records = argc > 1 ? atol(argv[1]) : 1000000;
	struct tr_message *one = sample(1), *hundred = sample(100);
	struct tr_event event = {
		.type = TR_EV_DELIVERY,
		.when_ns = tr_wall_ns(),
		.message = one,
		.site = TR_STR("source-1->(mx1|mx2|mx3).mailbox.example.net@smtp_client"),
		.response = {250, {2, 0, 0}, TR_STR("OK: queued as 4711ABCD"), TR_STR(".")},
		.has_peer = true,
		.peer_name = TR_STR("mx1.mailbox.example.net"),
		.peer_addr = TR_STR("192.0.2.25"),
		.egress_pool = TR_STR("pool-1"),
		.egress_source = TR_STR("source-1"),
		.source_address = TR_STR("192.0.2.10:54321"),
		.delivery_protocol = TR_STR("ESMTP"),
		.session_id = TR_STR("f3b5d2c4-1c7e-4b0a-9a64-6d1c2b7e9f10"),
		.num_attempts = -1,
	};

	if (records < 1)
		return 64;
	printf("%-44s %8s %10s\n", "one record", "bytes", "CPU us");
	measure("Delivery, nothing captured", &event, NULL, records);
	measure("Delivery, two meta fields", &event, &metas, records);
	measure("Delivery, two meta fields, Subject and X-*", &event, &both, records / 4 + 1);
	event.message = hundred;
	measure("Delivery, 100 recipients", &event, NULL, records / 20 + 1);
	tr_message_free(one);
	tr_message_free(hundred);
	return 0;
}
