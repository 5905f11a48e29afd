/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * How a group's reading goes: the progress line on a terminal, and counters
 * for the node exporter (--metrics).
 */

#include <errno.h>
#include <unistd.h>

#include "group_internal.h"


#define LW_METRICS_MS    5000


static int lw_group_lag(lw_t *w);


void
lw_group_report(lw_t *w)
{
    int64_t      now, lag;
    double       rate;
    size_t       i;
    lw_group_t  *g;

    g = w->group;
    now = lw_clock();

    if (w->options->metrics && now >= g->next_metrics) {
        g->next_metrics = now + LW_METRICS_MS;

        if (lw_group_lag(w) == LW_OK) {
            lw_group_metrics(w, 1);
        }
    }

    if (w->options->quiet || !isatty(2) || now < g->next_report) {
        return;
    }

    (void) lw_group_lag(w);

    lag = 0;

    for (i = 0; i < w->options->nstreams; i++) {
        lag += g->lag[i] > 0 ? g->lag[i] : 0;
    }

    rate = (double) (w->entries - g->reported) * 1000.0
           / (double) (now - g->next_report + LW_PROGRESS_MS);

    lw_progress("%s: %llu entries, %.0f/s, %lld to come, %llu dead letters",
                w->options->name, (unsigned long long) w->entries, rate,
                (long long) lag, (unsigned long long) w->dead);

    g->reported = w->entries;
    g->next_report = now + LW_PROGRESS_MS;
}


/* how much of each stream this group has not read, and not acknowledged */

static int
lw_group_lag(lw_t *w)
{
    size_t       i, k, m;
    redisReply  *reply, *row;
    lw_group_t  *g;

    g = w->group;

    for (i = 0; i < w->options->nstreams; i++) {

        g->lag[i] = -1;
        g->pending[i] = -1;

        reply = lw_redis_call(w->redis, 3, "XINFO", "GROUPS",
                              w->options->streams[i]);

        if (reply == NULL) {
            return LW_REDIS;
        }

        for (k = 0; lw_reply_is_array(reply) && k < reply->elements; k++) {

            row = reply->element[k];

            if (!lw_reply_is_array(row) || row->elements < 2
                || !lw_str_same(lw_reply_str(row->element[1]),
                                lw_str(w->options->group)))
            {
                continue;
            }

            for (m = 0; m + 1 < row->elements; m += 2) {

                if (row->element[m + 1]->type != REDIS_REPLY_INTEGER) {
                    continue;
                }

                if (lunary_eq(lw_reply_str(row->element[m]), "lag")) {
                    g->lag[i] = row->element[m + 1]->integer;
                }

                if (lunary_eq(lw_reply_str(row->element[m]), "pending")) {
                    g->pending[i] = row->element[m + 1]->integer;
                }
            }
        }

        lw_reply_free(reply);
    }

    return LW_OK;
}


/* written whole under another name, then renamed: never half a file */

void
lw_group_metrics(lw_t *w, int up)
{
    FILE                *f;
    char                 path[1024];
    size_t               i;
    const lw_options_t  *o;

    o = w->options;

    if (o->metrics == NULL
        || (size_t) snprintf(path, sizeof(path), "%s.%ld.new", o->metrics,
                             (long) getpid()) >= sizeof(path))
    {
        return;
    }

    f = fopen(path, "we");

    if (f == NULL) {
        lw_log(LW_LOG_WARN, "%s: %s", path, strerror(errno));
        return;
    }

#define LW_COUNTER(what, help, value)                                        \
    fprintf(f, "# HELP lunary_worker_" what " " help "\n"                    \
            "# TYPE lunary_worker_" what " counter\n"                        \
            "lunary_worker_" what "{command=\"%s\"} %llu\n",                 \
            o->name, (unsigned long long) (value))

    LW_COUNTER("entries_total", "Entries acknowledged.", w->entries);
    LW_COUNTER("dead_total", "Entries moved to the dead letters.", w->dead);
    LW_COUNTER("skipped_total", "Entries acknowledged without effect.",
               w->skipped);
    LW_COUNTER("unpriced_total", "Runs with usage but no known price.",
               w->unpriced);
    LW_COUNTER("failures_total", "Requests and connections that failed.",
               w->failures);

#undef LW_COUNTER

    fprintf(f, "# HELP lunary_worker_up Redis is connected.\n"
            "# TYPE lunary_worker_up gauge\n"
            "lunary_worker_up{command=\"%s\"} %d\n", o->name,
            up && lw_redis_connected(w->redis));

    fprintf(f, "# HELP lunary_worker_lag Entries this group has not read.\n"
            "# TYPE lunary_worker_lag gauge\n");

    for (i = 0; i < o->nstreams; i++) {
        if (w->group->lag[i] >= 0) {
            fprintf(f, "lunary_worker_lag{command=\"%s\",stream=\"%s\"} "
                    "%lld\n", o->name, o->streams[i],
                    (long long) w->group->lag[i]);
        }
    }

    fprintf(f, "# HELP lunary_worker_pending Entries read and not "
            "acknowledged.\n# TYPE lunary_worker_pending gauge\n");

    for (i = 0; i < o->nstreams; i++) {
        if (w->group->pending[i] >= 0) {
            fprintf(f, "lunary_worker_pending{command=\"%s\",stream=\"%s\"} "
                    "%lld\n", o->name, o->streams[i],
                    (long long) w->group->pending[i]);
        }
    }

    if (fclose(f) != 0 || rename(path, o->metrics) != 0) {
        lw_log(LW_LOG_WARN, "%s: %s", o->metrics, strerror(errno));
        (void) unlink(path);
    }
}
