/* What a session waits for: work, the commit of its outcomes, a rate, a lease; its phase and the watchdog over that. */
#include "base/clock.h"
#include "base/diag.h"
#include "queue/session_hand_lua.h"

/* --- waiting ----------------------------------------------------------------------------------- */

static int
push_worked(lua_State *L, void *arg)
{
	lua_pushboolean(L, arg != NULL);
	return 1;
}

static int
push_nothing(lua_State *L, void *arg)
{
	return 0;
}

static void
end_wait(struct tr_hand *hand, bool worked)
{
	if (!hand->waiting)
		return;
	hand->waiting = false;
	tr_timer_stop(tr_loop_wheel(tr_host_loop(hand->host)), &hand->timeout);
	if (hand->session != NULL)
		tr_session_unwait(hand->session);
	struct tr_ticket ticket = hand->ticket;
	tr_task_wake(&ticket, hand->asks ? push_nothing : push_worked, worked ? hand : NULL, false);
}

static void
wait_timed_out(struct tr_timer *timer)
{
	end_wait(tr_container_of(timer, struct tr_hand, timeout), false);
}

static void
wait_cancelled(void *op)
{
	struct tr_hand *hand = op;

	hand->waiting = false;
	tr_timer_stop(tr_loop_wheel(tr_host_loop(hand->host)), &hand->timeout);
	if (hand->session != NULL)
		tr_session_unwait(hand->session);
}

static void
run_waker(struct tr_defer *defer)
{
	end_wait(tr_container_of(defer, struct tr_hand, waker), true);
}

void
tr_session_lua_wake(struct tr_session *session)
{
	struct tr_hand *hand = session->task;

	if (hand != NULL && hand->waiting)
		tr_loop_defer(tr_host_loop(hand->host), &hand->waker, run_waker);
}

static int
park(lua_State *L, struct tr_hand *hand, int64_t wait_ns, const char *what)
{
	struct tr_task *task = tr_task_check(L);

	hand->waiting = true;
	hand->asks = false;
	tr_timer_start(tr_loop_wheel(tr_host_loop(hand->host)), &hand->timeout, wait_ns, wait_timed_out);
	tr_task_describe_text(task, what, "");
	return tr_task_park(task, L, wait_cancelled, hand, &hand->ticket);
}

/* session:wait(seconds) -> true when there is something to do, false after the time. */
static int
l_wait(lua_State *L)
{
	struct tr_hand *hand = tr_hand_check(L, 1);
	lua_Number seconds = luaL_checknumber(L, 2);

	if (!tr_session_wait(hand->session)) {
		lua_pushboolean(L, true);
		return 1;
	}
	return park(L, hand, (int64_t)(seconds * 1e9), "work");
}

/* session:settle() waits while too many outcomes of this session are not yet committed. */
static int
l_settle(lua_State *L)
{
	struct tr_hand *hand = tr_hand_check(L, 1);

	if (!tr_session_wait_settled(hand->session)) {
		lua_pushboolean(L, true);
		return 1;
	}
	return park(L, hand, 60 * TR_NS_PER_S, "commit of outcomes");
}

/* --- phase and its watchdog ------------------------------------------------------------------------- */

static const char *const phases[] = {
	"Starting",
	"Idle",
	"AccumulatingBatch",
	"AttemptingConnection",
	"DeliveringMessage",
	"Closing",
	"Throttled",
	NULL,
};

static int64_t
watchdog_due_ns(const struct tr_hand *hand)
{
	const struct tr_path_config *path = hand->session->path;
	int64_t limit_ns = path->watchdog_timeout_ns;

	if (limit_ns == 0 && hand->session->queue->protocol == TR_PROTO_SMTP)
		limit_ns = tr_max_i64(60 * TR_NS_PER_S,
			2 * tr_max_i64(tr_max_i64(path->mail_from_timeout_ns, path->rcpt_to_timeout_ns),
				    tr_max_i64(path->data_timeout_ns, path->data_dot_timeout_ns)));
	else if (limit_ns == 0)
		limit_ns = 600 * TR_NS_PER_S;
	return hand->session->phase_at_ns + limit_ns;
}

/* Phases change all the time, so the timer is left where it stands, and looks at the phase when it fires. */
static void
watchdog_fired(struct tr_timer *timer)
{
	struct tr_hand *hand = tr_container_of(timer, struct tr_hand, watchdog);

	if (hand->session == NULL || hand->task == NULL)
		return;
	if (tr_session_is_held_up(hand->session)) /* that is no silence */
		hand->session->phase_at_ns = tr_mono_ns();
	if (tr_mono_ns() < watchdog_due_ns(hand)) {
		tr_timer_start_at(
			tr_loop_wheel(tr_host_loop(hand->host)), timer, watchdog_due_ns(hand), watchdog_fired);
		return;
	}
	struct tr_buf text = {0};
	tr_task_report(hand->task, &text);
	tr_log(TR_LEVEL_ERROR, "session",
		"%.*s: no progress in phase %s: the session is aborted, %u messages go back: %.*s",
		(int)tr_ready_name(hand->session->ready).len, tr_ready_name(hand->session->ready).data,
		hand->session->phase, hand->count, (int)text.len, text.len > 0 ? text.data : "");
	tr_buf_free(&text);
	hand->aborted = true;
	tr_task_cancel(hand->task);
}

void
tr_hand_set_phase(struct tr_hand *hand, int phase)
{
	hand->session->phase = phases[phase];
	hand->session->phase_at_ns = tr_mono_ns();
	if (phase == TR_PHASE_IDLE || phase == TR_PHASE_ACCUMULATING || phase == TR_PHASE_THROTTLED)
		tr_timer_stop(tr_loop_wheel(tr_host_loop(hand->host)), &hand->watchdog);
	else if (!tr_timer_running(&hand->watchdog))
		tr_timer_start_at(tr_loop_wheel(tr_host_loop(hand->host)), &hand->watchdog, watchdog_due_ns(hand),
			watchdog_fired);
}

/* session:phase(name): one of a fixed set; the watchdog counts from here unless the session just waits for work. */
static int
l_phase(lua_State *L)
{
	struct tr_hand *hand = tr_hand_check(L, 1);

	tr_hand_set_phase(hand, luaL_checkoption(L, 2, NULL, phases));
	return 0;
}

/* --- rates and leases ------------------------------------------------------------------------------ */

static int
park_asking(lua_State *L, struct tr_hand *hand, int64_t wait_ns, const char *what)
{
	struct tr_task *task = tr_task_check(L);

	tr_hand_set_phase(hand, TR_PHASE_THROTTLED);
	hand->waiting = true;
	hand->asks = true;
	tr_timer_start(tr_loop_wheel(tr_host_loop(hand->host)), &hand->timeout,
		tr_min_i64(wait_ns, 86400 * TR_NS_PER_S), wait_timed_out);
	tr_task_describe_text(task, what, "");
	return tr_task_park(task, L, wait_cancelled, hand, &hand->ticket);
}

static void
report_unasked(struct tr_hand *hand, const char *error)
{
	uint32_t count = hand->count;
	struct tr_buf content = {0};

	tr_buf_addf(&content, "KumoMTA internal: the message rate cannot be asked: %s", error);
	struct tr_outcome outcome = {
		.kind = TR_OUT_TRANSIENT,
		.retry_after_ns = -1,
		.response = {.code = 400, .content = {content.data, content.len}},
		.delivery_protocol = hand->session->queue->protocol == TR_PROTO_LUA ? TR_STR("Lua") : TR_STR("ESMTP"),
	};
	if (count > 0)
		tr_session_report(hand->session, tr_hand_let_go(hand), count, &outcome);
	tr_buf_free(&content);
}

/* session:pace() -> true: what is in hand may be sent; false: it is not in hand any more; nothing, after a wait: ask
 * again. */
static int
l_pace(lua_State *L)
{
	struct tr_hand *hand = tr_hand_check(L, 1);
	const char *error;
	int64_t wait_ns;
	enum tr_go go = tr_session_pace(hand->session, &wait_ns, &error);

	if (go == TR_GO_WAIT)
		return park_asking(L, hand, wait_ns, "a message rate");
	if (go == TR_GO_BACK)
		tr_hand_give_back(hand, "MessageRateThrottle");
	else if (go == TR_GO_FAIL)
		report_unasked(hand, error);
	lua_pushboolean(L, go == TR_GO);
	return 1;
}

/* session:extend() -> true: the connection may go on; false: a lease of it is lost; nothing, after a wait: ask again.
 */
static int
l_extend(lua_State *L)
{
	struct tr_hand *hand = tr_hand_check(L, 1);
	int64_t wait_ns;
	enum tr_go go = tr_session_extend(hand->session, &wait_ns);

	if (go == TR_GO_WAIT)
		return park_asking(L, hand, wait_ns, "leases of the connection");
	lua_pushboolean(L, go == TR_GO);
	return 1;
}

const luaL_Reg tr_session_wait_methods[] = {
	{"wait", l_wait},
	{"settle", l_settle},
	{"pace", l_pace},
	{"extend", l_extend},
	{"phase", l_phase},
	{NULL, NULL},
};
