/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What the outbox counts: a record is in exactly one of sent, spooled and
 * dropped, and each is counted at one place here, once: when it is
 * acknowledged for the first time, as sent or, set aside, as refused.
 *
 * Counters and spool agree after any kill -9.  Each change of both is a plan
 * in the worker's counters (ngx_lunary_stats.h) around one store into the
 * spool: a record's head, or the hints `counted` and `recovered`.  Who adopts
 * the spool sees whether that store was made, and carries the plan out or
 * forgets it.
 */

#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_lunary_outbox_internal.h"
#include "stats/ngx_lunary_stats.h"


static void ngx_lunary_outbox_dropped(ngx_uint_t kind, ngx_uint_t counter,
    ngx_uint_t reason);


void
ngx_lunary_outbox_gauges(ngx_lunary_outbox_t *ob)
{
    lunary_spool_t  *sp;

    sp = &ob->own->spool;

    ngx_lunary_stats_set(NGX_LUNARY_G_RUNS_SPOOLED,
                         sp->unacked[NGX_LUNARY_RECORD_RUN]
                         - sp->again[NGX_LUNARY_RECORD_RUN]
                         + ob->others[NGX_LUNARY_RECORD_RUN]);

    ngx_lunary_stats_set(NGX_LUNARY_G_EVENTS_SPOOLED,
                         sp->unacked[NGX_LUNARY_RECORD_EVENT]
                         - sp->again[NGX_LUNARY_RECORD_EVENT]
                         + ob->others[NGX_LUNARY_RECORD_EVENT]);

    ngx_lunary_stats_set(NGX_LUNARY_G_SPOOL_BYTES,
                         sp->bytes + ob->others_bytes);
}


/* delivered up to seq: counted as sent, but for what was counted before */

void
ngx_lunary_outbox_acked(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, uint64_t seq)
{
    lunary_spool_t       *sp;
    lunary_spool_done_t   done;

    sp = &src->spool;

    lunary_spool_ack(sp, seq, &done);

    ngx_lunary_stats_plan(NGX_LUNARY_C_RUNS_SENT,
                          done.sent[NGX_LUNARY_RECORD_RUN]);
    ngx_lunary_stats_plan(NGX_LUNARY_C_EVENTS_SENT,
                          done.sent[NGX_LUNARY_RECORD_EVENT]);
    ngx_lunary_stats_plan(NGX_LUNARY_C_DROPPED_POISON,
                          done.refused[NGX_LUNARY_RECORD_RUN]);
    ngx_lunary_stats_plan(NGX_LUNARY_C_EVENTS_DROPPED,
                          done.refused[NGX_LUNARY_RECORD_EVENT]);

    ngx_lunary_stats_begin(sp->fd == -1 ? NGX_LUNARY_STATS_ANYWAY
                                        : NGX_LUNARY_STATS_COUNTED,
                           sp->epoch, sp->head.seq - 1);

    lunary_spool_counted(sp);

    ngx_lunary_stats_end();

    ngx_lunary_outbox_others(ob);
    ngx_lunary_outbox_gauges(ob);
}


/*
 * A spool that was adopted: what its worker was about to count when it was
 * killed; and where a master before this one counted its records, they are
 * recovered, once.
 */

void
ngx_lunary_outbox_recovered(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src)
{
    lunary_spool_t  *sp;

    sp = &src->spool;

    ngx_lunary_stats_resolve(sp->epoch, lunary_spool_last(sp), sp->counted,
                             sp->recovered);

    if (sp->generation == ob->generation
        || sp->recovered == ob->generation)
    {
        return;
    }

    ngx_lunary_stats_plan(NGX_LUNARY_C_RUNS_RECOVERED,
                          sp->unacked[NGX_LUNARY_RECORD_RUN]
                          - sp->again[NGX_LUNARY_RECORD_RUN]);
    ngx_lunary_stats_plan(NGX_LUNARY_C_EVENTS_RECOVERED,
                          sp->unacked[NGX_LUNARY_RECORD_EVENT]
                          - sp->again[NGX_LUNARY_RECORD_EVENT]);

    ngx_lunary_stats_begin(NGX_LUNARY_STATS_RECOVERED, sp->epoch,
                           ob->generation);

    lunary_spool_recovered(sp, ob->generation);

    ngx_lunary_stats_end();
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
            ob->others[i] += src->spool.unacked[i] - src->spool.again[i];
        }

        ob->others_bytes += src->spool.bytes;
    }
}


/* a record is dropped: counted by reason */

void
ngx_lunary_outbox_drop(ngx_lunary_outbox_t *ob, ngx_uint_t kind,
    ngx_uint_t counter, lunary_spool_status_e why, size_t size)
{
    ngx_lunary_outbox_dropped(kind, counter,
                              why == LUNARY_SPOOL_TOO_LARGE
                              ? NGX_LUNARY_C_DROPPED_TOO_LARGE
                              : NGX_LUNARY_C_DROPPED_FULL);

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
ngx_lunary_outbox_lost(ngx_uint_t kind, ngx_uint_t counter)
{
    ngx_lunary_outbox_dropped(kind, counter, NGX_LUNARY_C_DROPPED_NO_MEMORY);
}


static void
ngx_lunary_outbox_dropped(ngx_uint_t kind, ngx_uint_t counter,
    ngx_uint_t reason)
{
    ngx_lunary_stats_plan(counter, 1);
    ngx_lunary_stats_plan(kind == NGX_LUNARY_RECORD_EVENT
                          ? NGX_LUNARY_C_EVENTS_DROPPED : reason, 1);
    ngx_lunary_stats_begin(NGX_LUNARY_STATS_ANYWAY, 0, 0);
    ngx_lunary_stats_end();
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
