/* Strings that C pushes outside of any protected call. Pushing one may need memory, and without it LuaJIT could only
 * abort the process: so they are kept in the registry, and from there pushing needs none. */
#include <stdlib.h>

#include "policy/internal.h"

#define ANCHORS_MAX 128 /* a policy may name events as it likes: then the oldest goes */

struct making {
	const char *text;
	int ref;
};

static int
make_anchor(lua_State *L)
{
	struct making *making = lua_touserdata(L, 1);

	lua_pushstring(L, making->text);
	making->ref = tr_ref(L);
	return 0;
}

void
tr_anchor_init(lua_State *L)
{
	struct tr_host *host = tr_host_of(L);

	lua_pushcfunction(L, make_anchor);
	host->anchor_ref = tr_ref(L);
}

/* NULL: no memory. */
static const struct tr_anchor *
add(struct tr_host *host, const char *text)
{
	struct making making = {text, LUA_NOREF};
	struct tr_anchor *anchor;
	char *copy = strdup(text);

	if (copy == NULL)
		return NULL;
	if (host->anchors == NULL)
		host->anchors = calloc(ANCHORS_MAX, sizeof *host->anchors);
	if (host->anchors == NULL) {
		free(copy);
		return NULL;
	}
	tr_ref_push(host->L, host->anchor_ref);
	lua_pushlightuserdata(host->L, &making);
	if (lua_pcall(host->L, 1, 0, 0) != 0) {
		lua_pop(host->L, 1);
		free(copy);
		return NULL;
	}
	anchor = &host->anchors[host->anchor_next];
	host->anchor_next = (host->anchor_next + 1) % ANCHORS_MAX;
	if (anchor->text != NULL)
		tr_unref(host->L, anchor->ref);
	free(anchor->text);
	*anchor = (struct tr_anchor){copy, making.ref};
	return anchor;
}

bool
tr_anchor_push(struct tr_host *host, lua_State *L, const char *text)
{
	const struct tr_anchor *anchor = NULL;

	for (uint32_t i = 0; host->anchors != NULL && i < ANCHORS_MAX && host->anchors[i].text != NULL; i++) {
		if (strcmp(host->anchors[i].text, text) == 0) {
			anchor = &host->anchors[i];
			break;
		}
	}
	if (anchor == NULL)
		anchor = add(host, text);
	if (anchor == NULL)
		return false;
	tr_ref_push(L, anchor->ref);
	return true;
}

void
tr_anchors_free(struct tr_host *host)
{
	for (uint32_t i = 0; host->anchors != NULL && i < ANCHORS_MAX; i++)
		free(host->anchors[i].text);
	free(host->anchors);
	host->anchors = NULL;
}
