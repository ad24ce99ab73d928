/* Event names as small numbers, the same in all hosts, so that "has the policy a handler?" is one bit. */
#include <pthread.h>
#include <stdlib.h>

#include "policy/internal.h"

#define MAX_NAMES 256

static pthread_mutex_t names_mutex = PTHREAD_MUTEX_INITIALIZER;
static char *names[MAX_NAMES]; /* kept for the life of the process */
static int name_count;

int
tr_event_id(const char *name)
{
	int id = -1;

	pthread_mutex_lock(&names_mutex);
	for (int i = 0; i < name_count && id < 0; i++)
		if (strcmp(names[i], name) == 0)
			id = i;
	if (id < 0 && name_count < MAX_NAMES && (names[name_count] = strdup(name)) != NULL)
		id = name_count++;
	pthread_mutex_unlock(&names_mutex);
	return id;
}

void
tr_event_mark(struct tr_host *host, const char *name)
{
	int id = tr_event_id(name);

	if (id >= 0)
		host->handled[id / 64] |= UINT64_C(1) << (id % 64);
}

/* An event without a number (more than 256 names) has to be fired to find out. */
bool
tr_event_handled(const struct tr_host *host, int id)
{
	return id < 0 || (host->handled[id / 64] >> (id % 64) & 1) != 0;
}

int
tr_event_fire(struct tr_host *host, const char *name, struct tr_task_call *call, struct tr_task **out)
{
	call->entry = "dispatch";
	if (call->event == NULL)
		call->event = name;
	return tr_event_start(host, call, name, out);
}
