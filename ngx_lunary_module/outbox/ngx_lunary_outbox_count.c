/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What the outbox counts: a record is in exactly one of sent, spooled and
 * dropped, and each is counted at one place here (but for the record that is
 * set aside, in ngx_lunary_outbox_land.c).  A record that is sent again was
 * counted before: `uncounted` of its source says how many of those are to
 * come.
 */

#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_lunary_outbox_internal.h"
#include "stats/ngx_lunary_stats.h"


void
ngx_lunary_outbox_gauges(ngx_lunary_outbox_t *ob)
{
    lunary_spool_t  *sp;

    sp = &ob->own->spool;

    ngx_lunary_stats_set(NGX_LUNARY_G_RUNS_SPOOLED,
                         sp->unacked[NGX_LUNARY_RECORD_RUN]
                         - ob->own->uncounted[NGX_LUNARY_RECORD_RUN]
                         + ob->others[NGX_LUNARY_RECORD_RUN]);

    ngx_lunary_stats_set(NGX_LUNARY_G_EVENTS_SPOOLED,
                         sp->unacked[NGX_LUNARY_RECORD_EVENT]
                         - ob->own->uncounted[NGX_LUNARY_RECORD_EVENT]
                         + ob->others[NGX_LUNARY_RECORD_EVENT]);

    ngx_lunary_stats_set(NGX_LUNARY_G_SPOOL_BYTES,
                         sp->bytes + ob->others_bytes);
}


/* delivered up to seq: counted as sent, but for what was counted before */

void
ngx_lunary_outbox_acked(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, uint64_t seq)
{
    uint64_t    before[LUNARY_SPOOL_KINDS], n, k;
    ngx_uint_t  i;

    ngx_memcpy(before, src->spool.unacked, sizeof(before));

    lunary_spool_ack(&src->spool, seq);

    for (i = 0; i < LUNARY_SPOOL_KINDS; i++) {
        n = before[i] - src->spool.unacked[i];
        k = ngx_min(n, src->uncounted[i]);

        src->uncounted[i] -= k;

        ngx_lunary_stats_add(i == NGX_LUNARY_RECORD_RUN
                             ? NGX_LUNARY_C_RUNS_SENT
                             : NGX_LUNARY_C_EVENTS_SENT, n - k);
    }

    ngx_lunary_outbox_others(ob);
    ngx_lunary_outbox_gauges(ob);
}


/* sums up the adopted spools */

void
ngx_lunary_outbox_others(ngx_lunary_outbox_t *ob)
{
    ngx_uint_t                   i;
    ngx_queue_t                 *q;
    ngx_lunary_outbox_source_t  *src;

    ngx_memzero(ob->others, sizeof(ob->others));
    ob->others_bytes = 0;

    for (q = ngx_queue_head(&ob->sources);
         q != ngx_queue_sentinel(&ob->sources);
         q = ngx_queue_next(q))
    {
        src = ngx_queue_data(q, ngx_lunary_outbox_source_t, queue);

        if (src->own) {
            continue;
        }

        for (i = 0; i < LUNARY_SPOOL_KINDS; i++) {
            ob->others[i] += src->spool.unacked[i] - src->uncounted[i];
        }

        ob->others_bytes += src->spool.bytes;
    }
}


/* a record is dropped: counted by reason */

void
ngx_lunary_outbox_drop(ngx_lunary_outbox_t *ob, ngx_uint_t kind,
    lunary_spool_status_e why, size_t size)
{
    if (kind == NGX_LUNARY_RECORD_EVENT) {
        ngx_lunary_stats_inc(NGX_LUNARY_C_EVENTS_DROPPED);

    } else if (why == LUNARY_SPOOL_TOO_LARGE) {
        ngx_lunary_stats_inc(NGX_LUNARY_C_DROPPED_TOO_LARGE);

    } else {
        ngx_lunary_stats_inc(NGX_LUNARY_C_DROPPED_FULL);
    }

    if (why == LUNARY_SPOOL_TOO_LARGE) {
        if (ob->large_logged != ngx_time()) {
            ob->large_logged = ngx_time();

            ngx_log_error(NGX_LOG_ERR, ob->log, 0,
                          "lunary: a record of %uz bytes is dropped, at most "
                          "%uz fit: see lunary_capture_max and the size= of "
                          "lunary_spool", size, ob->own->spool.max_record);
        }

        return;
    }

    ob->dropped++;

    ngx_lunary_outbox_log_drops(ob);
}


void
ngx_lunary_outbox_log_drops(ngx_lunary_outbox_t *ob)
{
    if (ob->dropped == 0 || ob->drop_logged == ngx_time()) {
        return;
    }

    ob->drop_logged = ngx_time();

    ngx_log_error(NGX_LOG_ERR, ob->log, 0,
                  "lunary: the spool is full, %ui records dropped; %uL wait "
                  "for redis %V", ob->dropped,
                  ob->own->spool.next_seq - ob->own->spool.head.seq,
                  &ob->conf->redis->url);

    ob->dropped = 0;
}
