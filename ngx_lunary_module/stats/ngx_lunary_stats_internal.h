/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What counting (ngx_lunary_stats.c) and showing (ngx_lunary_stats_page.c)
 * share.  Private to stats/.
 */

#ifndef NGX_LUNARY_STATS_INTERNAL_H
#define NGX_LUNARY_STATS_INTERNAL_H

#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_lunary_stats.h"


#define NGX_LUNARY_STATS_SLOTS    256
#define NGX_LUNARY_STATS_APIS     64
#define NGX_LUNARY_STATS_API_LEN  47
#define NGX_LUNARY_STATS_BOUNDS   16


typedef enum {
    NGX_LUNARY_H_DURATION = 0,
    NGX_LUNARY_H_TTFT,
    NGX_LUNARY_H_MAX
} ngx_lunary_histogram_e;


typedef struct {
    ngx_atomic_t               bucket[NGX_LUNARY_STATS_BOUNDS + 1];
    ngx_atomic_t               sum;                         /* ms */
} ngx_lunary_stats_histogram_t;


/*
 * What a worker is about to count.  Values, not increments: carried out twice
 * it is the same.  `when` is stored after all the rest, and cleared after all
 * of it was done.
 */

#define NGX_LUNARY_STATS_CHANGES  4

typedef struct {
    ngx_uint_t                 counter;
    ngx_atomic_uint_t          value;
} ngx_lunary_stats_change_t;


typedef struct {
    volatile ngx_uint_t        when;         /* ngx_lunary_stats_when_e      */
    uint64_t                   epoch;
    uint64_t                   seq;
    ngx_uint_t                 n;
    ngx_lunary_stats_change_t  change[NGX_LUNARY_STATS_CHANGES];
} ngx_lunary_stats_plan_t;


/* words of one kind only: they are summed as an array */

typedef struct {
    ngx_atomic_t               counter[NGX_LUNARY_C_MAX];
    ngx_atomic_t               missing[NGX_LUNARY_STATS_APIS];
    ngx_lunary_stats_histogram_t
                               histogram[NGX_LUNARY_STATS_APIS]
                                        [NGX_LUNARY_H_MAX];
} ngx_lunary_stats_values_t;


typedef struct {
    u_char                     len;
    u_char                     name[NGX_LUNARY_STATS_API_LEN];
} ngx_lunary_stats_api_t;


typedef struct {
    char                      *metric;
    ngx_uint_t                 max;          /* unsigned  max:1 */
} ngx_lunary_stats_gauge_t;

extern ngx_lunary_stats_gauge_t  ngx_lunary_stats_gauges[];


/* what all workers have counted together */

typedef struct {
    int64_t                    gauge[NGX_LUNARY_G_MAX];
    ngx_uint_t                 napis;
    ngx_lunary_stats_api_t    *api;          /* in shared memory             */
    ngx_lunary_stats_values_t  values;
} ngx_lunary_stats_total_t;


/* the sum of all slots, in memory of the pool, or NULL */
ngx_lunary_stats_total_t *ngx_lunary_stats_total(ngx_pool_t *pool);


#endif /* NGX_LUNARY_STATS_INTERNAL_H */
