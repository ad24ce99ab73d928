/* The bed on a disk in memory that fails on demand (spec/sim/disk.h), in virtual time and without log lines: for tests
 * that begin anew hundreds of times. */
#ifndef SPOOL_DISK_BED_H
#define SPOOL_DISK_BED_H

#include "base/clock.h"
#include "base/diag.h"
#include "bed.c"
#include "disk.h"

static inline void
quiet(void *arg, enum tr_level level, const char *target, const char *text)
{
	(void)arg, (void)level, (void)target, (void)text;
}

/* In place of bed_init(). */
static inline void
bed_in_memory(struct bed *bed, uint64_t segment_bytes)
{
	tr_clock_virtual(INT64_C(1790000000) * TR_NS_PER_S);
	tr_log_sink(quiet, NULL);
	bed_init(bed, segment_bytes);
	disk_install(1);
	strcpy(bed->meta, "/sim/meta");
	strcpy(bed->data, "/sim/data");
}

/* In place of bed_fini(). */
static inline void
bed_end(struct bed *bed)
{
	bed_fini(bed);
	disk_uninstall();
	tr_log_sink(NULL, NULL);
	tr_clock_real();
}

/* Whether the disk has died, as a test that cuts the power lets it. */
static inline bool
dead(struct bed *bed)
{
	return bed->crashing && tr_spool_pressure(bed->spool);
}

#endif
