/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The counters as a page: JSON, or Prometheus' text format.
 *
 * Invariant: both show the same numbers, of one moment each.
 */

#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_lunary_stats_internal.h"


/* what a line of output takes at most, and what comes before any API */
#define NGX_LUNARY_STATS_LINE     160
#define NGX_LUNARY_STATS_LINES    (2 * (NGX_LUNARY_C_MAX + NGX_LUNARY_G_MAX)  \
                                   + 3 * (NGX_LUNARY_C_MAX + 8))


typedef struct {
    char                      *metric;
    char                      *label;
    char                      *value;
} ngx_lunary_stats_counter_t;


typedef struct {
    char                      *metric;
    char                      *help;
} ngx_lunary_stats_help_t;


static ngx_buf_t *ngx_lunary_stats_buf(ngx_pool_t *pool,
    ngx_lunary_stats_total_t **sum);
static u_char *ngx_lunary_stats_json_histogram(u_char *p,
    ngx_lunary_stats_total_t *total, ngx_lunary_histogram_e h);
static u_char *ngx_lunary_stats_prom_histogram(u_char *p,
    ngx_lunary_stats_total_t *total, ngx_lunary_histogram_e h);
static u_char *ngx_lunary_stats_head(u_char *p, char *metric, char *type);


#define NGX_LUNARY_STATS_COUNTER(sym, metric, label, value)                   \
    { metric, label, value },

static ngx_lunary_stats_counter_t  ngx_lunary_stats_counters[] = {
    NGX_LUNARY_COUNTERS(NGX_LUNARY_STATS_COUNTER)
    { NULL, NULL, NULL }
};


static char  *ngx_lunary_stats_histograms[] = {
    "request_duration_seconds",
    "ttft_seconds"
};


static ngx_lunary_stats_help_t  ngx_lunary_stats_helps[] = {
    { "runs_total", "Calls logged, by outcome." },
    { "runs_sent_total", "Runs that Redis has confirmed." },
    { "runs_recovered_total", "Runs found in the spools of earlier workers." },
    { "runs_resent_total", "Runs sent anew after Redis had lost them." },
    { "runs_dropped_total", "Runs that were lost, by reason." },
    { "runs_spooled", "Runs that wait for Redis." },
    { "identity_total", "Calls by the source of their user." },
    { "rejected_total", "Calls refused by this module, by code." },
    { "usage_missing_total", "Calls answered without token usage." },
    { "session_lookups_total", "Session look-ups, by result." },
    { "redis_connected", "Open connections to Redis." },
    { "redis_reconnects_total", "Connections to Redis made anew." },
    { "redis_errors_total", "Errors of Redis connections, by kind." },
    { "events_total", "SDK events accepted." },
    { "events_recovered_total", "SDK events found in earlier spools." },
    { "events_sent_total", "SDK events that Redis has confirmed." },
    { "events_dropped_total", "SDK events that were lost." },
    { "events_spooled", "SDK events that wait for Redis." },
    { "spool_bytes", "Bytes in the spools that wait for Redis." },
    { "spool_oldest_seconds", "Age of the oldest run that waits." },
    { "spool_used_percent", "How full the fullest worker's spool is." },
    { "request_duration_seconds", "Time from a call's head to its end." },
    { "ttft_seconds", "Time from a call's head to its first token." },
    { NULL, NULL }
};


static char  *ngx_lunary_stats_le[] = {
    "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "20",
    "30", "60", "120", "300", "600", "+Inf"
};


/* sums all workers up; room for a page of them, or NULL */

static ngx_buf_t *
ngx_lunary_stats_buf(ngx_pool_t *pool, ngx_lunary_stats_total_t **sum)
{
    size_t                     lines;
    ngx_lunary_stats_total_t  *total;

    total = ngx_lunary_stats_total(pool);
    if (total == NULL) {
        return NULL;
    }

    *sum = total;

    /* an API has a line a bucket, the sum, the count and what is missing */

    lines = NGX_LUNARY_STATS_LINES
            + total->napis * (NGX_LUNARY_H_MAX * (NGX_LUNARY_STATS_BOUNDS + 3)
                              + 1);

    return ngx_create_temp_buf(pool, lines * NGX_LUNARY_STATS_LINE);
}


ngx_buf_t *
ngx_lunary_stats_json(ngx_pool_t *pool)
{
    u_char                      *p;
    ngx_buf_t                   *b;
    ngx_uint_t                   i;
    ngx_lunary_stats_total_t    *total;
    ngx_lunary_stats_counter_t  *c;

    b = ngx_lunary_stats_buf(pool, &total);
    if (b == NULL) {
        return NULL;
    }

    p = b->last;
    *p++ = '{';

    for (c = ngx_lunary_stats_counters, i = 0; c->metric; c++, i++) {

        if (*c->label == '\0') {
            p = ngx_sprintf(p, "\"%s\":%uA,", c->metric,
                            total->values.counter[i]);
            continue;
        }

        /* counters of one metric stand together */

        if (i == 0 || ngx_strcmp(c->metric, c[-1].metric) != 0) {
            p = ngx_sprintf(p, "\"%s\":{", c->metric);
        }

        p = ngx_sprintf(p, "\"%s\":%uA", c->value, total->values.counter[i]);

        if (c[1].metric && ngx_strcmp(c->metric, c[1].metric) == 0) {
            *p++ = ',';

        } else {
            *p++ = '}';
            *p++ = ',';
        }
    }

    for (i = 0; i < NGX_LUNARY_G_MAX; i++) {
        p = ngx_sprintf(p, "\"%s\":%L,", ngx_lunary_stats_gauges[i].metric,
                        total->gauge[i]);
    }

    p = ngx_cpymem(p, "\"usage_missing_total\":{",
                   sizeof("\"usage_missing_total\":{") - 1);

    for (i = 0; i < total->napis; i++) {
        if (total->values.missing[i] == 0) {
            continue;
        }

        if (p[-1] != '{') {
            *p++ = ',';
        }

        p = ngx_sprintf(p, "\"%*s\":%uA", (size_t) total->api[i].len,
                        total->api[i].name, total->values.missing[i]);
    }

    *p++ = '}';

    for (i = 0; i < NGX_LUNARY_H_MAX; i++) {
        p = ngx_lunary_stats_json_histogram(p, total, i);
    }

    *p++ = '}';
    *p++ = LF;

    b->last = p;

    return b;
}


/* ,"ttft_seconds":{"API":{"count":1,"sum":0.120,"buckets":{"0.01":0,...}}} */

static u_char *
ngx_lunary_stats_json_histogram(u_char *p, ngx_lunary_stats_total_t *total,
    ngx_lunary_histogram_e h)
{
    ngx_uint_t                     i, b;
    ngx_atomic_uint_t              count;
    ngx_lunary_stats_histogram_t  *histogram;

    p = ngx_sprintf(p, ",\"%s\":{", ngx_lunary_stats_histograms[h]);

    for (i = 0; i < total->napis; i++) {
        histogram = &total->values.histogram[i][h];

        count = 0;

        for (b = 0; b <= NGX_LUNARY_STATS_BOUNDS; b++) {
            count += histogram->bucket[b];
        }

        if (count == 0) {
            continue;
        }

        if (p[-1] != '{') {
            *p++ = ',';
        }

        p = ngx_sprintf(p, "\"%*s\":{\"count\":%uA,\"sum\":%uA.%03uA,"
                        "\"buckets\":{",
                        (size_t) total->api[i].len, total->api[i].name, count,
                        histogram->sum / 1000, histogram->sum % 1000);

        count = 0;

        for (b = 0; b <= NGX_LUNARY_STATS_BOUNDS; b++) {
            count += histogram->bucket[b];

            p = ngx_sprintf(p, "%s\"%s\":%uA", b ? "," : "",
                            ngx_lunary_stats_le[b], count);
        }

        *p++ = '}';
        *p++ = '}';
    }

    *p++ = '}';

    return p;
}


ngx_buf_t *
ngx_lunary_stats_prometheus(ngx_pool_t *pool)
{
    u_char                      *p;
    ngx_buf_t                   *b;
    ngx_uint_t                   i;
    ngx_lunary_stats_total_t    *total;
    ngx_lunary_stats_counter_t  *c;

    b = ngx_lunary_stats_buf(pool, &total);
    if (b == NULL) {
        return NULL;
    }

    p = b->last;

    for (c = ngx_lunary_stats_counters, i = 0; c->metric; c++, i++) {

        if (i == 0 || ngx_strcmp(c->metric, c[-1].metric) != 0) {
            p = ngx_lunary_stats_head(p, c->metric, "counter");
        }

        if (*c->label == '\0') {
            p = ngx_sprintf(p, "lunary_%s %uA\n", c->metric,
                            total->values.counter[i]);
            continue;
        }

        p = ngx_sprintf(p, "lunary_%s{%s=\"%s\"} %uA\n", c->metric, c->label,
                        c->value, total->values.counter[i]);
    }

    for (i = 0; i < NGX_LUNARY_G_MAX; i++) {
        p = ngx_lunary_stats_head(p, ngx_lunary_stats_gauges[i].metric,
                                  "gauge");
        p = ngx_sprintf(p, "lunary_%s %L\n", ngx_lunary_stats_gauges[i].metric,
                        total->gauge[i]);
    }

    p = ngx_lunary_stats_head(p, "usage_missing_total", "counter");

    for (i = 0; i < total->napis; i++) {
        p = ngx_sprintf(p, "lunary_usage_missing_total{api=\"%*s\"} %uA\n",
                        (size_t) total->api[i].len, total->api[i].name,
                        total->values.missing[i]);
    }

    for (i = 0; i < NGX_LUNARY_H_MAX; i++) {
        p = ngx_lunary_stats_prom_histogram(p, total, i);
    }

    b->last = p;

    return b;
}


static u_char *
ngx_lunary_stats_prom_histogram(u_char *p, ngx_lunary_stats_total_t *total,
    ngx_lunary_histogram_e h)
{
    char                          *metric;
    size_t                         len;
    u_char                        *api;
    ngx_uint_t                     i, b;
    ngx_atomic_uint_t              count;
    ngx_lunary_stats_histogram_t  *histogram;

    metric = ngx_lunary_stats_histograms[h];

    p = ngx_lunary_stats_head(p, metric, "histogram");

    for (i = 0; i < total->napis; i++) {
        len = total->api[i].len;
        api = total->api[i].name;
        histogram = &total->values.histogram[i][h];

        count = 0;

        for (b = 0; b <= NGX_LUNARY_STATS_BOUNDS; b++) {
            count += histogram->bucket[b];

            p = ngx_sprintf(p, "lunary_%s_bucket{api=\"%*s\",le=\"%s\"} %uA\n",
                            metric, len, api, ngx_lunary_stats_le[b], count);
        }

        p = ngx_sprintf(p, "lunary_%s_sum{api=\"%*s\"} %uA.%03uA\n", metric,
                        len, api, histogram->sum / 1000,
                        histogram->sum % 1000);

        p = ngx_sprintf(p, "lunary_%s_count{api=\"%*s\"} %uA\n", metric, len,
                        api, count);
    }

    return p;
}


static u_char *
ngx_lunary_stats_head(u_char *p, char *metric, char *type)
{
    ngx_lunary_stats_help_t  *h;

    for (h = ngx_lunary_stats_helps; h->metric; h++) {

        if (ngx_strcmp(h->metric, metric) == 0) {
            p = ngx_sprintf(p, "# HELP lunary_%s %s\n", metric, h->help);
            break;
        }
    }

    return ngx_sprintf(p, "# TYPE lunary_%s %s\n", metric, type);
}
