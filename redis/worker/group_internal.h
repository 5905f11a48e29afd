/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What group.c (reading) and report.c (telling how it goes) share.
 */

#ifndef LW_GROUP_INTERNAL_H
#define LW_GROUP_INTERNAL_H

#include "group.h"


#define LW_PROGRESS_MS   1000


struct lw_group_s {
    const lw_handler_t   *handler;
    lw_batch_t            batch;
    int64_t               next_claim;
    int64_t               next_report;
    int64_t               next_metrics;
    int64_t               started;
    uint64_t              reported;
    unsigned              again:1;       /* read what is pending with us      */
    unsigned              full:1;        /* the last read got what it asked   */
    int64_t               asked;         /* entries, by the last read         */
    int64_t               mean;          /* bytes of an entry, lately         */
    unsigned              first;         /* stream, of the next read          */
    int64_t               lag[LW_STREAMS_MAX];
    int64_t               pending[LW_STREAMS_MAX];
};


/* the progress line and the metrics, where they are due */
void lw_group_report(lw_t *w);

/* the metrics now, as they are known */
void lw_group_metrics(lw_t *w);


#endif /* LW_GROUP_INTERNAL_H */
