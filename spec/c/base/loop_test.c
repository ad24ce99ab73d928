#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <ev.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/loop.h"

#define SENDERS 3
#define LETTERS 5000
#define LIMIT_NS (120 * TR_NS_PER_S)
#define FAR_NS (3600 * TR_NS_PER_S) /* no test lasts so long */

static struct tr_loop *loop;

static int
setup(void **state)
{
	return tr_loop_new(&loop);
}

static int
setup_virtual(void **state)
{
	tr_clock_virtual(INT64_C(1795630930) * TR_NS_PER_S);
	return tr_loop_new(&loop);
}

static int
teardown(void **state)
{
	tr_loop_free(loop);
	tr_clock_real();
	return tr_hold_count();
}

/* --- mail ---------------------------------------------------------------------------------------------- */

struct letter {
	struct tr_mail mail;
	int sender, number;
};

static int next_number[SENDERS], received;

static void
read_letter(struct tr_mail *mail)
{
	struct letter *letter = tr_container_of(mail, struct letter, mail);

	assert_ptr_equal(tr_loop_current(), loop);
	assert_int_equal(letter->number, next_number[letter->sender]); /* in order of each sender */
	next_number[letter->sender]++;
	received++;
	free(letter);
	if (received == SENDERS * LETTERS)
		tr_loop_stop(loop);
}

static struct letter *
new_letter(int sender, int number)
{
	struct letter *letter = malloc(sizeof *letter);

	if (letter == NULL)
		abort();
	*letter = (struct letter){{NULL, read_letter}, sender, number};
	return letter;
}

static void *
send_letters(void *arg)
{
	int sender = *(int *)arg;

	for (int number = 0; number < LETTERS;) {
		struct letter *one = new_letter(sender, number++);

		if (number % 3 != 0 || number + 2 > LETTERS) {
			tr_loop_post(loop, &one->mail);
			continue;
		}
		struct letter *two = new_letter(sender, number++), *three = new_letter(sender, number++);

		one->mail.next = &two->mail;
		two->mail.next = &three->mail;
		tr_loop_post_chain(loop, &one->mail, &three->mail);
	}
	return NULL;
}

static void
all_mail_arrives_in_order(void **state)
{
	pthread_t threads[SENDERS];
	int ids[SENDERS];

	received = 0;
	memset(next_number, 0, sizeof next_number);
	for (int i = 0; i < SENDERS; i++) {
		ids[i] = i;
		assert_int_equal(pthread_create(&threads[i], NULL, send_letters, &ids[i]), 0);
	}
	tr_loop_run(loop); /* without a time-out: a lost wake hangs here */
	for (int i = 0; i < SENDERS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(received, SENDERS * LETTERS);
	assert_int_equal(tr_hold_count(), 0);
}

/* --- order of a turn -------------------------------------------------------------------------------------- */

static char trail[64];

static void
mark(char c)
{
	size_t len = strlen(trail);

	assert_true(len + 1 < sizeof trail);
	trail[len] = c;
	trail[len + 1] = '\0';
}

static struct tr_defer defer_a, defer_b;
static struct tr_timer timer;
static struct tr_mail mail;
static ev_io reader;
static int pipe_fds[2];

static void
on_defer(struct tr_defer *defer)
{
	mark(defer == &defer_a ? 'a' : 'b');
	if (defer == &defer_a)
		tr_loop_defer(loop, &defer_b, on_defer);
}

static void
on_timer(struct tr_timer *t)
{
	mark('t');
	tr_loop_defer(loop, &defer_a, on_defer);
	tr_loop_defer(loop, &defer_a, on_defer); /* changes nothing */
}

static void
on_mail(struct tr_mail *m)
{
	mark('m');
	assert_true(tr_hold_count() > 0);
}

static void
on_hook(struct tr_turn_hook *hook)
{
	mark('H');
}

static void
on_readable(struct ev_loop *ev, ev_io *watcher, int revents)
{
	char byte;

	assert_int_equal(read(pipe_fds[0], &byte, 1), 1);
	mark('r');
}

static void
a_turn_has_its_order(void **state)
{
	struct tr_turn_hook hook = {.fn = on_hook};

	trail[0] = '\0';
	mail.fn = on_mail;
	tr_loop_enter(loop);
	tr_loop_add_turn_hook(loop, &hook);
	assert_int_equal(pipe(pipe_fds), 0);
	ev_io_init(&reader, on_readable, pipe_fds[0], EV_READ);
	ev_io_start(tr_loop_ev(loop), &reader);
	assert_int_equal(write(pipe_fds[1], "x", 1), 1);
	tr_timer_start(tr_loop_wheel(loop), &timer, -1, on_timer);
	tr_loop_post(loop, &mail);
	assert_true(tr_loop_turn(loop));
	assert_string_equal(trail, "rmtabH");
	assert_false(tr_loop_turn(loop));
	assert_string_equal(trail, "rmtabHH"); /* for work done outside of a turn */
	tr_loop_remove_turn_hook(loop, &hook);
	ev_io_stop(tr_loop_ev(loop), &reader);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

static void
deferred_work_can_be_taken_back(void **state)
{
	trail[0] = '\0';
	tr_loop_defer(loop, &defer_b, on_defer);
	tr_loop_defer(loop, &defer_a, on_defer);
	tr_loop_undefer(loop, &defer_a);
	tr_loop_undefer(loop, &defer_a);
	assert_false(defer_a.queued);
	tr_loop_turn(loop);
	assert_string_equal(trail, "b");
	tr_loop_defer(loop, &defer_b, on_defer); /* the end of the queue is still right */
	tr_loop_turn(loop);
	assert_string_equal(trail, "bb");
}

/* --- time ---------------------------------------------------------------------------------------------- */

static bool
timer_is_done(void *arg)
{
	return !tr_timer_running(&timer);
}

static void
nothing(struct tr_timer *t)
{
}

static void
real_timers_fire_in_time(void **state)
{
	int64_t start_ns = tr_mono_ns();

	tr_timer_start(tr_loop_wheel(loop), &timer, 20 * TR_NS_PER_MS, nothing);
	assert_true(tr_loop_run_until(loop, timer_is_done, NULL, LIMIT_NS));
	assert_true(tr_mono_ns() - start_ns >= 20 * TR_NS_PER_MS);
	tr_timer_start(tr_loop_wheel(loop), &timer, FAR_NS, nothing);
	assert_false(tr_loop_run_until(loop, timer_is_done, NULL, 5 * TR_NS_PER_MS));
	tr_timer_stop(tr_loop_wheel(loop), &timer);
}

static int ticks;

static void
on_tick(struct tr_timer *t)
{
	ticks++;
	tr_timer_start(tr_loop_wheel(loop), t, 3600 * TR_NS_PER_S, on_tick);
}

static void
virtual_time_jumps(void **state)
{
	int64_t start_ns = tr_mono_ns(), wall_ns = tr_wall_ns();
	int64_t week_ns = 7 * 86400 * TR_NS_PER_S;

	ticks = 0;
	tr_timer_start(tr_loop_wheel(loop), &timer, 3600 * TR_NS_PER_S, on_tick);
	tr_loop_advance(loop, week_ns);
	assert_int_equal(ticks, 7 * 24);
	assert_true(tr_mono_ns() == start_ns + week_ns);
	assert_true(tr_wall_ns() == wall_ns + week_ns);
	tr_loop_advance(loop, 1);
	assert_true(tr_mono_ns() == start_ns + week_ns + 1);
	tr_timer_stop(tr_loop_wheel(loop), &timer);
}

static bool
ten_ticks(void *arg)
{
	return ticks >= 10;
}

static void
virtual_time_is_bounded(void **state)
{
	int64_t start_ns = tr_mono_ns();

	ticks = 0;
	tr_timer_start(tr_loop_wheel(loop), &timer, 3600 * TR_NS_PER_S, on_tick);
	assert_false(tr_loop_run_until(loop, ten_ticks, NULL, 9 * 3600 * TR_NS_PER_S));
	assert_int_equal(ticks, 9);
	assert_true(tr_loop_run_until(loop, ten_ticks, NULL, 9 * 3600 * TR_NS_PER_S));
	assert_true(tr_mono_ns() == start_ns + 10 * 3600 * TR_NS_PER_S);
	tr_timer_stop(tr_loop_wheel(loop), &timer);
}

static _Atomic bool answered, turned;

static void
on_turned(struct tr_turn_hook *hook)
{
	atomic_store(&turned, true);
}

static void
on_answer(struct tr_mail *m)
{
	assert_int_equal(ticks, 0); /* time stood still while the hold was out */
	atomic_store(&answered, true);
}

static void *
answer(void *arg)
{
	while (!atomic_load(&turned)) /* until the loop has had a chance to jump too early */
		sched_yield();
	tr_loop_post(loop, &mail);
	tr_hold_drop();
	return NULL;
}

static void
holds_stop_virtual_time(void **state)
{
	struct tr_turn_hook hook = {.fn = on_turned};
	pthread_t thread;

	ticks = 0;
	answered = turned = false;
	tr_loop_add_turn_hook(loop, &hook);
	mail.fn = on_answer;
	tr_timer_start(tr_loop_wheel(loop), &timer, 1, on_tick);
	tr_hold_take();
	assert_int_equal(pthread_create(&thread, NULL, answer, NULL), 0);
	tr_loop_advance(loop, TR_NS_PER_S);
	pthread_join(thread, NULL);
	assert_true(answered);
	assert_int_equal(ticks, 1);
	tr_timer_stop(tr_loop_wheel(loop), &timer);
	tr_loop_remove_turn_hook(loop, &hook);
}

static void
stop_now(struct tr_timer *t)
{
	tr_loop_stop(loop);
}

static void
run_jumps_and_stops(void **state)
{
	int64_t start_ns = tr_mono_ns();

	tr_timer_start(tr_loop_wheel(loop), &timer, 86400 * TR_NS_PER_S, stop_now);
	tr_loop_run(loop);
	assert_true(tr_mono_ns() == start_ns + 86400 * TR_NS_PER_S);
}

static char order[8];

static void
note(char c)
{
	order[strlen(order)] = c;
}

static struct tr_idle idles[2];
static struct tr_defer late;

static void
note_deferred(struct tr_defer *defer)
{
	note('d');
}

static void
note_first(struct tr_idle *idle)
{
	note('1');
	tr_loop_defer(loop, &late, note_deferred);
}

static void
note_second(struct tr_idle *idle)
{
	note('2');
}

static void
note_timer(struct tr_timer *t)
{
	note('t');
	tr_loop_idle(loop, &idles[0], note_first);
	tr_loop_idle(loop, &idles[1], note_second);
	tr_loop_defer(loop, &late, note_deferred);
}

static void
idle_work_waits_for_all_other_and_goes_before_time(void **state)
{
	static struct tr_timer later;

	memset(order, 0, sizeof order);
	tr_timer_start(tr_loop_wheel(loop), &timer, TR_NS_PER_S, note_timer);
	tr_timer_start(tr_loop_wheel(loop), &later, 2 * TR_NS_PER_S, stop_now);
	tr_loop_run(loop);
	assert_string_equal(order, "td1d2");
	tr_loop_idle(loop, &idles[0], note_first);
	tr_loop_unidle(loop, &idles[0]);
	tr_loop_advance(loop, TR_NS_PER_S);
	assert_string_equal(order, "td1d2");
}

static void
monotonic_time_goes_on_after_virtual_time(void **state)
{
	int64_t before_ns = tr_mono_ns(), after_ns;

	tr_clock_virtual_from_here(INT64_C(1795630930) * TR_NS_PER_S);
	assert_true(tr_mono_ns() >= before_ns);
	assert_int_equal(tr_mono_ns() % (60 * TR_NS_PER_S), 0);
	tr_loop_advance(loop, 86400 * TR_NS_PER_S);
	after_ns = tr_mono_ns();
	tr_clock_real();
	assert_true(tr_mono_ns() >= after_ns);
	tr_timer_start(tr_loop_wheel(loop), &timer, TR_NS_PER_MS, stop_now);
	tr_loop_run(loop);
	assert_true(tr_mono_ns() - after_ns < FAR_NS);
}

static sem_t asleep;

static void
wake_the_waker(struct tr_timer *t)
{
	sem_post(&asleep); /* the next thing that the loop does is to sleep for long */
}

static void
stop_by_mail(struct tr_mail *letter)
{
	tr_loop_stop(loop);
}

static void *
waker_main(void *arg)
{
	static struct tr_mail letter = {.fn = stop_by_mail};

	sem_wait(&asleep);
	tr_loop_post(loop, &letter);
	return NULL;
}

/* What libev was told before is for later once the clock has stepped. */
static void
timers_fire_in_time_after_virtual_time(void **state)
{
	struct tr_timer far = {0};
	pthread_t waker;

	sem_init(&asleep, 0, 0);
	pthread_create(&waker, NULL, waker_main, NULL);
	tr_timer_start(tr_loop_wheel(loop), &far, FAR_NS, nothing);
	tr_timer_start(tr_loop_wheel(loop), &timer, TR_NS_PER_MS, wake_the_waker);
	tr_loop_run(loop);
	pthread_join(waker, NULL);
	sem_destroy(&asleep);
	tr_timer_stop(tr_loop_wheel(loop), &far);
	tr_clock_virtual_from_here(INT64_C(1795630930) * TR_NS_PER_S);
	tr_clock_advance(3600 * TR_NS_PER_S);
	tr_clock_real();
	tr_timer_start(tr_loop_wheel(loop), &timer, TR_NS_PER_MS, stop_now);
	tr_loop_run(loop); /* a timer that is late is so by an hour: it hangs here */
}

struct numbered {
	struct tr_mail mail;
	char c;
};

static void
note_a(struct tr_mail *letter)
{
	note(tr_container_of(letter, struct numbered, mail)->c);
}

static void
note_b(struct tr_mail *letter) /* not the same as note_a(): the compiler would make one of them */
{
	struct numbered *letter_b = tr_container_of(letter, struct numbered, mail);

	assert_int_equal(letter_b->c, 'b');
	note('b');
}

/* Whoever posts first: the order of functions, and of posts within one. */
/* What a process that may open so many descriptors more gets for a loop: minus the error. */
static int
loop_with_descriptors(int count)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		int lowest = dup(0);
		struct rlimit limit = {(rlim_t)(lowest + count), (rlim_t)(lowest + count)};
		struct tr_loop *made;

		close(lowest);
		if (lowest < 0 || setrlimit(RLIMIT_NOFILE, &limit) != 0)
			_exit(100);
		int err = tr_loop_new(&made);
		if (err == TR_OK)
			tr_loop_turn(made);
		_exit(-err);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status)); /* libev does not end it */
	return WEXITSTATUS(status);
}

static void
without_descriptors_there_is_no_loop(void **state)
{
	int count = 0;

	assert_int_equal(loop_with_descriptors(0), -TR_EMFILE);
	while (loop_with_descriptors(count) == -TR_EMFILE)
		assert_true(++count < 10);
	assert_int_equal(loop_with_descriptors(count), 0);
	assert_non_null(strstr(tr_err_text(tr_err_from_errno(EMFILE)), "ulimit -n"));
	assert_string_equal(tr_errno_text(-ENFILE), tr_err_text(TR_EMFILE));
	assert_string_equal(tr_errno_text(ENOENT), "No such file or directory");
}

static void
orderly_mail_does_not_depend_on_who_was_first(void **state)
{
	bool a_first = (uintptr_t)note_a < (uintptr_t)note_b;

	tr_clock_virtual_from_here(INT64_C(1795630930) * TR_NS_PER_S);
	for (int turn = 0; turn < 2; turn++) {
		struct numbered a[2] = {{.mail.fn = note_a, .c = '1'}, {.mail.fn = note_a, .c = '2'}},
				b = {.mail.fn = note_b, .c = 'b'};

		memset(order, 0, sizeof order);
		tr_loop_orderly(loop, true);
		if (turn == 0)
			tr_loop_post(loop, &b.mail);
		tr_loop_post(loop, &a[0].mail);
		tr_loop_post(loop, &a[1].mail);
		if (turn == 1)
			tr_loop_post(loop, &b.mail);
		if (turn == 0)
			tr_loop_advance(loop, 1);
		else
			tr_loop_turn(loop); /* nothing else is runnable */
		assert_string_equal(order, a_first ? "12b" : "b12");
	}
	tr_loop_orderly(loop, false);
	tr_clock_real();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(all_mail_arrives_in_order, setup, teardown),
		cmocka_unit_test_setup_teardown(a_turn_has_its_order, setup, teardown),
		cmocka_unit_test_setup_teardown(deferred_work_can_be_taken_back, setup, teardown),
		cmocka_unit_test_setup_teardown(real_timers_fire_in_time, setup, teardown),
		cmocka_unit_test_setup_teardown(virtual_time_jumps, setup_virtual, teardown),
		cmocka_unit_test_setup_teardown(virtual_time_is_bounded, setup_virtual, teardown),
		cmocka_unit_test_setup_teardown(holds_stop_virtual_time, setup_virtual, teardown),
		cmocka_unit_test_setup_teardown(run_jumps_and_stops, setup_virtual, teardown),
		cmocka_unit_test_setup_teardown(
			idle_work_waits_for_all_other_and_goes_before_time, setup_virtual, teardown),
		cmocka_unit_test_setup_teardown(monotonic_time_goes_on_after_virtual_time, setup, teardown),
		cmocka_unit_test_setup_teardown(timers_fire_in_time_after_virtual_time, setup, teardown),
		cmocka_unit_test(without_descriptors_there_is_no_loop),
		cmocka_unit_test_setup_teardown(orderly_mail_does_not_depend_on_who_was_first, setup_virtual, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
