/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What group.c (the loop), group_read.c (how entries come), group_ack.c (how
 * they end) and report.c (telling how it goes) share.
 */

#ifndef LW_GROUP_INTERNAL_H
#define LW_GROUP_INTERNAL_H

#include "group.h"


#define LW_PROGRESS_MS   1000
#define LW_BLOCK_MS      1000          /* of XREADGROUP                      */


struct lw_group_s {
    const lw_handler_t   *handler;
    lw_batch_t            batch;
    int64_t               next_claim;
    int64_t               next_report;
    int64_t               next_metrics;
    int64_t               started;
    uint64_t              reported;
    uint64_t              unburied;      /* that could not be buried          */
    int64_t               next_unburied;      /* when that is told again      */
    unsigned              again:1;       /* read what is pending with us      */
    unsigned              full:1;        /* the last read got what it asked   */
    int64_t               asked;         /* entries, by the last read         */
    int64_t               mean;          /* bytes of an entry, lately         */
    unsigned              first;         /* stream, of the next read          */
    int64_t               lag[LW_STREAMS_MAX];
    int64_t               pending[LW_STREAMS_MAX];
};


/* group.c: makes the groups that are missing; hands the batch to the command */
int lw_group_join(lw_t *w);
int lw_group_take(lw_t *w, int last);

/*
 * group_read.c: what this consumer was given before, and what others left, is
 * handed to the command at once; collect() fills the batch with new entries.
 */
int lw_group_again(lw_t *w);
int lw_group_claim(lw_t *w);
int lw_group_collect(lw_t *w);

/* removes members with a made-up name that have ended, and nothing pending */
int lw_group_tidy(lw_t *w, unsigned stream);

/* the progress line and the metrics, where they are due */
void lw_group_report(lw_t *w);

/* the metrics now, as they are known; up: it goes on (else it is not up) */
void lw_group_metrics(lw_t *w, int up);


#endif /* LW_GROUP_INTERNAL_H */
