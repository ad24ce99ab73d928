#include "transport/kafka.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "transport/kafka_internal.h"

#define IDLE_NS (60 * TR_NS_PER_S) /* an unused producer is kept for the next session */
#define IDLE_MAX 8                 /* unused producers kept: each has threads */
#define END_S 5                    /* for the threads of librdkafka to end */
#define EVENTS_A_TURN 64           /* each may carry thousands of reports */

/* --- the end of a producer: off the loop, because it joins threads --------------------------------------- */

static struct {
	pthread_mutex_t lock;
	pthread_cond_t ended;
	uint32_t count;
} ends = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};

static void *
end_thread(void *arg)
{
	rd_kafka_destroy(arg);
	pthread_mutex_lock(&ends.lock);
	ends.count--;
	pthread_cond_broadcast(&ends.ended);
	pthread_mutex_unlock(&ends.lock);
	return NULL;
}

static void
end_librdkafka(rd_kafka_t *rk)
{
	pthread_t thread;

	rd_kafka_purge(rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING);
	pthread_mutex_lock(&ends.lock);
	ends.count++;
	pthread_mutex_unlock(&ends.lock);
	if (pthread_create(&thread, NULL, end_thread, rk) == 0)
		pthread_detach(thread);
	else
		end_thread(rk); /* here, then: it blocks for a moment */
}

/* False: some go on. */
static bool
await_ends(void)
{
	struct timespec until;
	bool ended;

	clock_gettime(CLOCK_REALTIME, &until); /* real threads, also under the virtual clock */
	until.tv_sec += END_S;
	pthread_mutex_lock(&ends.lock);
	while (ends.count > 0) {
		if (pthread_cond_timedwait(&ends.ended, &ends.lock, &until) != 0)
			break;
	}
	if (ends.count > 0)
		tr_log(TR_LEVEL_WARN, "kafka", "%u producers did not end within %d s", ends.count, END_S);
	ended = ends.count == 0;
	pthread_mutex_unlock(&ends.lock);
	return ended;
}

static void
producer_free(struct tr_kafka_producer *producer)
{
	free(producer->id);
	free(producer);
}

/* Off the list, its threads on their way out; what refers to it may still do so. */
static void
producer_retire(struct tr_kafka_producer *producer)
{
	struct tr_kafka *kafka = producer->kafka;

	*producer->prev = producer->next;
	if (producer->next != NULL)
		producer->next->prev = producer->prev;
	producer->kafka = NULL;
	tr_timer_stop(tr_loop_wheel(kafka->loop), &producer->idle);
	tr_loop_undefer(kafka->loop, &producer->more);
	ev_io_stop(tr_loop_ev(kafka->loop), &producer->readable);
	rd_kafka_queue_io_event_enable(producer->queue, -1, NULL, 0);
	close(producer->fd);
	rd_kafka_queue_destroy(producer->queue);
	if (producer->topic != NULL)
		rd_kafka_topic_destroy(producer->topic);
	producer->topic = NULL;
	tr_kafka_drop_spares(producer);
	end_librdkafka(producer->rk);
	producer->rk = NULL;
	if (producer->is_solo)
		producer->calls = 0; /* it hears of them no more */
	tr_kafka_unref(producer->solo);
	producer->solo = NULL;
	if (producer->refs == 0)
		producer_free(producer);
}

static void
idle_too_long(struct tr_timer *timer)
{
	producer_retire(tr_container_of(timer, struct tr_kafka_producer, idle));
}

/* Configurations may vary without end, a client.id made from a message, say: the one unused for longest goes. */
static void
bound_idle(struct tr_kafka *kafka)
{
	struct tr_kafka_producer *oldest = NULL;
	uint32_t count = 0;

	for (struct tr_kafka_producer *each = kafka->producers; each != NULL; each = each->next) {
		if (!tr_timer_running(&each->idle))
			continue;
		count++;
		if (oldest == NULL || each->idle.due_ns <= oldest->idle.due_ns)
			oldest = each;
	}
	if (count > IDLE_MAX)
		producer_retire(oldest);
}

/* Its last reference or call may have gone. */
static void
rest(struct tr_kafka_producer *producer)
{
	if (producer->refs > 0 || producer->calls > 0)
		return;
	if (producer->kafka == NULL)
		producer_free(producer);
	else if (producer->kafka->ending)
		return; /* all are about to be retired */
	else if (tr_kafka_is_fatal(producer))
		producer_retire(producer);
	else {
		tr_kafka_drop_spares(producer);
		tr_timer_start(tr_loop_wheel(producer->kafka->loop), &producer->idle, IDLE_NS, idle_too_long);
		bound_idle(producer->kafka);
	}
}

/* --- events ---------------------------------------------------------------------------------------------- */

static void
failure(struct tr_kafka_producer *producer, rd_kafka_event_t *event)
{
	char text[512];

	if (rd_kafka_fatal_error(producer->rk, text, sizeof text) != RD_KAFKA_RESP_ERR_NO_ERROR)
		tr_log(TR_LEVEL_ERROR, "kafka", "%s: fatal, the producer is made anew: %s", rd_kafka_name(producer->rk),
			text);
	else
		tr_log(TR_LEVEL_WARN, "kafka", "%s: %s", rd_kafka_name(producer->rk),
			rd_kafka_event_error_string(event));
}

static void look(struct tr_kafka_producer *producer);

static void
look_more(struct tr_defer *defer)
{
	look(tr_container_of(defer, struct tr_kafka_producer, more));
}

static void
look(struct tr_kafka_producer *producer)
{
	for (int i = 0; i < EVENTS_A_TURN; i++) {
		rd_kafka_event_t *event = rd_kafka_queue_poll(producer->queue, 0);

		if (event == NULL) {
			tr_kafka_line_pump(producer);
			return;
		}
		switch (rd_kafka_event_type(event)) {
		case RD_KAFKA_EVENT_DR:
			tr_kafka_reports(producer, event);
			break;
		case RD_KAFKA_EVENT_ERROR:
			failure(producer, event);
			break;
		case RD_KAFKA_EVENT_STATS:
			tr_log(TR_LEVEL_DEBUG, "kafka", "statistics: %s", rd_kafka_event_stats(event));
			break;
		default:
			break;
		}
		rd_kafka_event_destroy(event);
	}
	tr_kafka_line_pump(producer);
	tr_loop_defer(producer->kafka->loop, &producer->more, look_more);
}

static void
readable(struct ev_loop *ev, ev_io *watcher, int revents)
{
	struct tr_kafka_producer *producer = tr_container_of(watcher, struct tr_kafka_producer, readable);
	uint64_t count;

	if (read(producer->fd, &count, sizeof count) < 0 && errno != EAGAIN)
		tr_log(TR_LEVEL_ERROR, "kafka", "eventfd: %s", strerror(errno));
	look(producer);
}

/* --- opening --------------------------------------------------------------------------------------------- */

static int
connect_queue(struct tr_kafka_producer *producer)
{
	static const uint64_t one = 1;

	producer->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	producer->queue = producer->fd >= 0 ? rd_kafka_queue_get_main(producer->rk) : NULL;
	if (producer->queue == NULL) {
		if (producer->fd < 0)
			return tr_err_from_errno(errno);
		close(producer->fd);
		return TR_ENOMEM;
	}
	rd_kafka_queue_io_event_enable(producer->queue, producer->fd, &one, sizeof one);
	/* It writes when the queue is no longer empty. What came before, that no broker is there, say, is to be looked
	 * at all the same: else nothing would ever be heard again. */
	if (eventfd_write(producer->fd, 1) != 0)
		tr_log(TR_LEVEL_ERROR, "kafka", "eventfd: %s", strerror(errno));
	ev_io_init(&producer->readable, readable, producer->fd, EV_READ);
	ev_io_start(tr_loop_ev(producer->kafka->loop), &producer->readable);
	return TR_OK;
}

/* Takes conf. */
static int
make(struct tr_kafka_producer *producer, rd_kafka_conf_t *conf, char *error)
{
	int err;

	producer->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, TR_KAFKA_ERROR_MAX);
	if (producer->rk == NULL) {
		rd_kafka_conf_destroy(conf);
		return TR_EINVAL;
	}
	err = connect_queue(producer);
	if (err != TR_OK)
		rd_kafka_destroy(producer->rk);
	return err;
}

/* Takes id and conf. */
static int
producer_new(struct tr_kafka *kafka, char *id, rd_kafka_conf_t *conf, struct tr_kafka_producer **out, char *error)
{
	struct tr_kafka_producer *producer = id != NULL ? calloc(1, sizeof *producer) : NULL;
	int err;

	*out = NULL;
	if (producer == NULL) {
		free(id);
		rd_kafka_conf_destroy(conf);
		return TR_ENOMEM;
	}
	producer->id = id;
	producer->kafka = kafka;
	producer->line_end = &producer->line;
	err = make(producer, conf, error);
	if (err != TR_OK) {
		producer_free(producer);
		return err;
	}
	producer->refs = 1;
	producer->next = kafka->producers;
	producer->prev = &kafka->producers;
	if (kafka->producers != NULL)
		kafka->producers->prev = &producer->next;
	kafka->producers = producer;
	*out = producer;
	return TR_OK;
}

struct tr_kafka_producer *
tr_kafka_solo(struct tr_kafka_producer *producer)
{
	char error[TR_KAFKA_ERROR_MAX];
	rd_kafka_conf_t *conf;

	if (producer->solo != NULL && tr_kafka_is_fatal(producer->solo)) {
		if (producer->solo->calls > 0)
			return NULL; /* reports of it are still to come */
		tr_kafka_unref(producer->solo);
		producer->solo = NULL;
	}
	if (producer->solo != NULL || producer->kafka == NULL || producer->kafka->ending)
		return producer->solo;
	conf = tr_kafka_conf_solo(producer->rk);
	if (conf == NULL)
		return NULL;
	if (producer_new(producer->kafka, strdup("solo"), conf, &producer->solo, error) == TR_OK)
		producer->solo->is_solo = true;
	return producer->solo;
}

static int
compare_pairs(const void *a, const void *b)
{
	const struct tr_str *x = a, *y = b;
	size_t len = x->len < y->len ? x->len : y->len;
	int order = memcmp(x->data, y->data, len);

	return order != 0 ? order : (x->len > y->len) - (x->len < y->len);
}

/* The configuration as one text, whatever the order that it was given in. */
static char *
canonical(const struct tr_str *pairs, uint32_t count)
{
	struct tr_str *sorted = malloc((count + 1) * 2 * sizeof *sorted);
	struct tr_buf text = {0};

	if (sorted == NULL)
		return NULL;
	memcpy(sorted, pairs, count * 2 * sizeof *sorted);
	qsort(sorted, count, 2 * sizeof *sorted, compare_pairs);
	for (uint32_t i = 0; i < count; i++) {
		tr_buf_put_bytes(&text, sorted[2 * i]);
		tr_buf_put_bytes(&text, sorted[2 * i + 1]);
	}
	for (size_t at = 0; !text.failed && at < text.len; at++) /* it is kept as a string: a length of 0 is no end */
		text.data[at] = text.data[at] == '\0' ? '\xff' : text.data[at];
	tr_buf_addc(&text, '\0');
	free(sorted);
	if (text.failed)
		tr_buf_free(&text);
	return text.data;
}

int
tr_kafka_open(struct tr_kafka *kafka, const struct tr_str *pairs, uint32_t count, struct tr_kafka_producer **out,
	char error[TR_KAFKA_ERROR_MAX])
{
	char *id = kafka->ending ? NULL : canonical(pairs, count);
	struct tr_kafka_producer *producer;
	rd_kafka_conf_t *conf;
	int err;

	*out = NULL;
	snprintf(error, TR_KAFKA_ERROR_MAX, "%s", tr_err_text(kafka->ending ? TR_ECLOSED : TR_ENOMEM));
	if (id == NULL)
		return kafka->ending ? TR_ECLOSED : TR_ENOMEM;
	for (producer = kafka->producers; producer != NULL; producer = producer->next) {
		if (producer->is_solo || strcmp(producer->id, id) != 0 || tr_kafka_is_fatal(producer))
			continue;
		free(id);
		tr_timer_stop(tr_loop_wheel(kafka->loop), &producer->idle);
		producer->refs++;
		*out = producer;
		return TR_OK;
	}
	err = tr_kafka_conf(pairs, count, &conf, error);
	if (err != TR_OK) {
		free(id);
		return err;
	}
	return producer_new(kafka, id, conf, out, error);
}

void
tr_kafka_unref(struct tr_kafka_producer *producer)
{
	if (producer == NULL)
		return;
	producer->refs--;
	rest(producer);
}

bool
tr_kafka_is_fatal(const struct tr_kafka_producer *producer)
{
	return rd_kafka_fatal_error(producer->rk, NULL, 0) != RD_KAFKA_RESP_ERR_NO_ERROR;
}

/* --- life ------------------------------------------------------------------------------------------------ */

int
tr_kafka_new(struct tr_loop *loop, struct tr_kafka **out)
{
	static const char records[] = "records that Kafka producers have sent",
			  flight[] = "records that librdkafka has";
	struct tr_kafka *kafka = calloc(1, sizeof *kafka);

	*out = kafka;
	if (kafka == NULL)
		return TR_ENOMEM;
	kafka->loop = loop;
	kafka->delivered = tr_metric_get(TR_COUNTER, "kafka_records", records, "result", "delivered", NULL);
	kafka->failed = tr_metric_get(TR_COUNTER, "kafka_records", records, "result", "failed", NULL);
	kafka->in_flight = tr_metric_get(TR_GAUGE, "kafka_in_flight", flight, NULL);
	return TR_OK;
}

void
tr_kafka_free(struct tr_kafka *kafka)
{
	bool any, ended = true;

	if (kafka == NULL)
		return;
	kafka->ending = true;
	any = kafka->producers != NULL;
	for (struct tr_kafka_producer *producer = kafka->producers, *next; producer != NULL; producer = next) {
		next = producer->next;
		producer_retire(producer);
	}
	if (any)
		ended = await_ends();
	tr_kafka_calls_give_up(kafka, ended);
	tr_metric_unref(kafka->delivered);
	tr_metric_unref(kafka->failed);
	tr_metric_unref(kafka->in_flight);
	free(kafka);
}
