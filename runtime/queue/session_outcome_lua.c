/* What becomes of the messages that a session has in hand. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "message/message_lua.h"
#include "queue/session_hand_lua.h"

/* --- the hand ---------------------------------------------------------------------------------------- */

struct tr_message *
tr_hand_let_go(struct tr_hand *hand)
{
	struct tr_message *list = hand->list;

	for (struct tr_message *message = list; message != NULL; message = message->next)
		tr_message_revoke(message);
	hand->list = NULL;
	hand->list_end = &hand->list;
	hand->count = 0;
	return list;
}

void
tr_hand_give_back(struct tr_hand *hand, const char *reason)
{
	uint32_t count = hand->count;
	struct tr_outcome outcome = {.kind = TR_OUT_REQUEUE, .reason = reason, .retry_after_ns = -1};

	if (count > 0)
		tr_session_report(hand->session, tr_hand_let_go(hand), count, &outcome);
}

/* The first `count` of what is in hand; the rest stays. */
static struct tr_message *
take_first(struct tr_hand *hand, uint32_t count)
{
	struct tr_message *list = hand->list, **end = &hand->list;

	if (count >= hand->count)
		return tr_hand_let_go(hand);
	for (uint32_t i = 0; i < count; i++) {
		tr_message_revoke(*end);
		end = &(*end)->next;
	}
	hand->list = *end;
	hand->count -= count;
	*end = NULL;
	return count > 0 ? list : NULL;
}

bool
tr_hand_resume(struct tr_hand *hand)
{
	struct tr_aside *aside = hand->aside;

	if (aside == NULL)
		return false;
	hand->aside = aside->next;
	*hand->list_end = aside->list;
	while (*hand->list_end != NULL)
		hand->list_end = &(*hand->list_end)->next;
	hand->count += aside->count;
	free(aside);
	return true;
}

/* session:keep(count) puts all but the first `count` in hand away; session:resume() -> count takes up again what was
 * put away last. For trying the parts of a batch one after the other. */
static int
l_keep(lua_State *L)
{
	struct tr_hand *hand = tr_hand_check(L, 1);
	lua_Integer count = luaL_checkinteger(L, 2);
	struct tr_aside *aside;
	struct tr_message **end = &hand->list;

	luaL_argcheck(L, count >= 1 && count < (lua_Integer)hand->count, 2, "a part of what is in hand expected");
	aside = malloc(sizeof *aside);
	if (aside == NULL)
		return luaL_error(L, "out of memory");
	for (lua_Integer i = 0; i < count; i++)
		end = &(*end)->next;
	*aside = (struct tr_aside){hand->aside, *end, hand->count - (uint32_t)count};
	*end = NULL;
	hand->list_end = end;
	hand->count = (uint32_t)count;
	hand->aside = aside;
	return 0;
}

static int
l_resume(lua_State *L)
{
	struct tr_hand *hand = tr_hand_check(L, 1);

	tr_hand_resume(hand);
	lua_pushinteger(L, hand->count);
	return 1;
}

/* --- outcomes -------------------------------------------------------------------------------------- */

static struct tr_str
opt_str(lua_State *L, int idx)
{
	struct tr_str str = {NULL, 0};

	if (!lua_isnoneornil(L, idx))
		str.data = luaL_checklstring(L, idx, &str.len);
	return str;
}

/* session:report(kind, code, text, peer_name, retry_after_s, gate, count) for the first `count` in hand, nil: all.
 * kind: "delivered", "bounced", "transient"; peer_name nil: the record has no peer; gate: "counts", "at_once" or nil
 * (says nothing of the endpoint). */
static int
l_report(lua_State *L)
{
	static const char *const kinds[] = {"delivered", "bounced", "transient", NULL};
	struct tr_hand *hand = tr_hand_check(L, 1);
	int kind = luaL_checkoption(L, 2, NULL, kinds);
	const char *gate = luaL_optstring(L, 7, "");
	struct tr_outcome outcome = {
		.kind = (enum tr_outcome_kind)kind,
		.response = {.code = (int)luaL_checkinteger(L, 3), .content = opt_str(L, 4)},
		.peer_name = opt_str(L, 5),
		.delivery_protocol = hand->session->queue->protocol == TR_PROTO_LUA ? TR_STR("Lua") : TR_STR("ESMTP"),
		.retry_after_ns = lua_isnoneornil(L, 6) ? -1 : (int64_t)(luaL_checknumber(L, 6) * 1e9),
		.gate_counts = gate[0] != '\0',
		.gate_at_once = strcmp(gate, "at_once") == 0,
	};
	lua_Integer first = luaL_optinteger(L, 8, hand->count);
	uint32_t count = first < 0 ? 0 : first > (lua_Integer)hand->count ? hand->count : (uint32_t)first;

	outcome.has_peer = outcome.peer_name.data != NULL;
	outcome.peer_addr = TR_STR("0.0.0.0");
	if (count > 0)
		tr_session_report(hand->session, take_first(hand, count), count, &outcome);
	return 0;
}

/* session:delivered(text, peer_name) -> true: as report('delivered', 200, text, peer_name, nil, 'counts'). False, and
 * nothing is done, if the text, which is a policy's, is no string or not UTF-8. */
static int
l_delivered(lua_State *L)
{
	struct tr_hand *hand = tr_hand_check(L, 1);
	struct tr_outcome outcome = {
		.kind = TR_OUT_DELIVERED,
		.response = {.code = 200},
		.has_peer = true,
		.peer_name = opt_str(L, 3),
		.peer_addr = TR_STR("0.0.0.0"),
		.delivery_protocol = TR_STR("Lua"),
		.retry_after_ns = -1,
		.gate_counts = true,
	};
	struct tr_str *text = &outcome.response.content;
	uint32_t count = hand->count;

	if (lua_isstring(L, 2))
		text->data = lua_tolstring(L, 2, &text->len);
	if (text->data == NULL || !tr_utf8_valid(*text)) {
		lua_pushboolean(L, false);
		return 1;
	}
	if (count > 0)
		tr_session_report(hand->session, tr_hand_let_go(hand), count, &outcome);
	lua_pushboolean(L, true);
	return 1;
}

void
tr_session_lua_report(lua_State *L, int idx, const struct tr_outcome *outcome)
{
	struct tr_hand *hand = tr_hand_check(L, idx);
	uint32_t count = hand->count;

	if (count > 0)
		tr_session_report(hand->session, tr_hand_let_go(hand), count, outcome);
}

void
tr_session_lua_report_rcpts(lua_State *L, int idx, const struct tr_outcome *outcomes)
{
	struct tr_hand *hand = tr_hand_check(L, idx);
	struct tr_message *message = hand->list;

	if (message == NULL)
		return;
	hand->list = message->next;
	message->next = NULL;
	if (--hand->count == 0)
		hand->list_end = &hand->list;
	tr_message_revoke(message);
	tr_session_report_rcpts(hand->session, message, outcomes);
}

bool
tr_session_lua_tell_rcpts(lua_State *L, int idx, const struct tr_outcome *outcomes, struct tr_telling *telling)
{
	struct tr_hand *hand = tr_hand_check(L, idx);
	struct tr_message *message = hand->list, *next = message != NULL ? message->next : NULL;

	if (message == NULL)
		return false;
	message->next = NULL;
	if (!tr_session_tell_rcpts(hand->session, message, outcomes, telling)) {
		message->next = next;
		return false;
	}
	hand->list = next;
	if (--hand->count == 0)
		hand->list_end = &hand->list;
	return true;
}

void
tr_session_lua_put(struct tr_session *session, struct tr_message *message)
{
	struct tr_hand *hand = session->task;

	message->next = hand->list;
	if (hand->count++ == 0)
		hand->list_end = &message->next;
	hand->list = message;
}

/* session:requeue(reason) gives back all in hand without an attempt. */
static int
l_requeue(lua_State *L)
{
	struct tr_hand *hand = tr_hand_check(L, 1);
	static const char *const reasons[] = {
		"DispatcherDrop", "PeerClosedConnection", "TooManyRecipients", "SourceIsUnhealthyAndSuspended", NULL};

	tr_hand_give_back(hand, reasons[luaL_checkoption(L, 2, NULL, reasons)]);
	return 0;
}

const luaL_Reg tr_session_outcome_methods[] = {
	{"keep", l_keep},
	{"resume", l_resume},
	{"report", l_report},
	{"delivered", l_delivered},
	{"requeue", l_requeue},
	{NULL, NULL},
};
