#include "base/pulse.h"

#include <stdio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the list */
static struct tr_pulse *pulses;

_Thread_local struct tr_pulse *tr_pulse_mine;

void
tr_pulse_enter(struct tr_pulse *pulse, const char *name, const char *what)
{
	*pulse = (struct tr_pulse){.what = what, .thread = pthread_self(), .tid = gettid(), .cpu_from_ns = -1};
	snprintf(pulse->name, sizeof pulse->name, "%s", name);
	tr_pulse_mine = pulse;
	tr_pulse_work();
	pthread_mutex_lock(&lock);
	pulse->next = pulses;
	pulses = pulse;
	pthread_mutex_unlock(&lock);
}

void
tr_pulse_leave(struct tr_pulse *pulse)
{
	pthread_mutex_lock(&lock);
	for (struct tr_pulse **at = &pulses; *at != NULL; at = &(*at)->next) {
		if (*at == pulse) {
			*at = pulse->next;
			break;
		}
	}
	pthread_mutex_unlock(&lock);
	tr_pulse_mine = NULL; /* after: a signal that was sent before finds it */
}

void
tr_pulse_join(pthread_t thread)
{
	tr_pulse_rest();
	pthread_join(thread, NULL);
	tr_pulse_work();
}

void
tr_pulse_each(void (*fn)(struct tr_pulse *pulse, void *arg), void *arg)
{
	pthread_mutex_lock(&lock);
	for (struct tr_pulse *pulse = pulses; pulse != NULL; pulse = pulse->next)
		fn(pulse, arg);
	pthread_mutex_unlock(&lock);
}
