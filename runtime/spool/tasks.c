/* The loader threads: reading messages back, syncing and unlinking body files. */
#include <stdlib.h>

#include "spool/internal.h"

static void *
loader_main(void *arg)
{
	struct tr_spool *spool = arg;
	struct tr_pulse pulse;

	pthread_setname_np(pthread_self(), "spool-loader");
	tr_pulse_enter(&pulse, "a loader", STUCK_AT);
	pthread_mutex_lock(&spool->task_mu);
	for (;;) {
		struct task *task = spool->task_first;

		if (task == NULL) {
			if (spool->task_stop)
				break;
			tr_pulse_rest();
			pthread_cond_wait(&spool->task_wake, &spool->task_mu);
			continue;
		}
		spool->task_first = task->next;
		if (spool->task_first == NULL)
			spool->task_last = NULL;
		pthread_mutex_unlock(&spool->task_mu);
		tr_pulse_work();
		task->fn(spool, task);
		pthread_mutex_lock(&spool->task_mu);
	}
	pthread_mutex_unlock(&spool->task_mu);
	tr_pulse_leave(&pulse);
	return NULL;
}

int
tasks_start(struct tr_spool *spool)
{
	spool->loaders = calloc(spool->config.loaders, sizeof *spool->loaders);
	if (spool->loaders == NULL)
		return TR_ENOMEM;
	while (spool->loader_count < spool->config.loaders) {
		if (pthread_create(&spool->loaders[spool->loader_count], NULL, loader_main, spool) != 0)
			return TR_ENOMEM; /* spool_close ends those that run */
		spool->loader_count++;
	}
	return TR_OK;
}

void
tasks_stop(struct tr_spool *spool)
{
	struct task *task;

	pthread_mutex_lock(&spool->task_mu);
	spool->task_stop = true;
	pthread_cond_broadcast(&spool->task_wake);
	pthread_mutex_unlock(&spool->task_mu);
	for (uint32_t i = 0; i < spool->loader_count; i++)
		tr_pulse_join(spool->loaders[i]);
	free(spool->loaders);
	spool->loaders = NULL;
	spool->loader_count = 0;
	while ((task = spool->task_first) != NULL) { /* no thread ever ran */
		spool->task_first = task->next;
		task->fn(spool, task);
	}
	spool->task_last = NULL;
}

void
task_post(struct tr_spool *spool, struct task *task)
{
	task->next = NULL;
	if (spool->config.inline_io) {
		task->fn(spool, task);
		return;
	}
	pthread_mutex_lock(&spool->task_mu);
	if (spool->task_last != NULL)
		spool->task_last->next = task;
	else
		spool->task_first = task;
	spool->task_last = task;
	pthread_cond_signal(&spool->task_wake);
	pthread_mutex_unlock(&spool->task_mu);
}
