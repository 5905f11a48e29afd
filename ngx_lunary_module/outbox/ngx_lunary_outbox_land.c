/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The end of a flight: what Redis took, what its errors mean, how long to
 * pause.
 *
 *     retry    Redis will be well again: backoff with jitter
 *     fatal    an operator must act: told once, tried every 10 seconds
 *     other    it may be a record: ngx_lunary_outbox_refuse.c finds out
 *
 * Invariants
 *   - a lost connection says nothing about records: it never sets one aside;
 *   - with wait= nothing is acknowledged that a watermark alone tells of: it
 *     may have been moved by a worker before this one, or for a reply that was
 *     lost, and the replicas need not have it;
 *   - the log says what changed, not what goes on.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "ngx_lunary_outbox_internal.h"
#include "stats/ngx_lunary_stats.h"


static ngx_uint_t ngx_lunary_outbox_wrote(ngx_lunary_outbox_flight_t *f);
static ngx_msec_t ngx_lunary_outbox_judge(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_lunary_outbox_batch_t *b);
static ngx_msec_t ngx_lunary_outbox_error(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_lunary_outbox_batch_t *b);
static ngx_msec_t ngx_lunary_outbox_astray(ngx_lunary_outbox_shard_t *shard);
static void ngx_lunary_outbox_sampled(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_lunary_outbox_batch_t *b);
static void ngx_lunary_outbox_held(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_lunary_outbox_batch_t *b);
static ngx_msec_t ngx_lunary_outbox_backoff(ngx_lunary_outbox_t *ob);


/* the last reply is there */

void
ngx_lunary_outbox_land(ngx_lunary_outbox_t *ob)
{
    ngx_uint_t                   i;
    ngx_msec_t                   pause, ms;
    ngx_lunary_outbox_op_e       op;
    ngx_lunary_outbox_source_t  *src;
    ngx_lunary_outbox_flight_t  *f;

    f = ob->flight;
    src = f->source;
    op = f->op;

    f->op = NGX_LUNARY_OUTBOX_IDLE;
    pause = 0;

    switch (op) {

    case NGX_LUNARY_OUTBOX_OPEN:
        src->verify = 0;
        /* fall through */

    case NGX_LUNARY_OUTBOX_ADD:

        for (i = 0; i < f->nbatches; i++) {
            ms = ngx_lunary_outbox_judge(ob, src, &f->batches[i]);
            pause = ngx_max(pause, ms);
        }

        break;

    case NGX_LUNARY_OUTBOX_DELETE:

        if (f->failed) {
            pause = ngx_lunary_outbox_backoff(ob);
            break;
        }

        src->life = NGX_LUNARY_OUTBOX_CLOSING;
        ngx_lunary_outbox_thread_job(ob, src);
        break;

    default:
        break;
    }

    ngx_lunary_outbox_armed(ob, src);

    if (op == NGX_LUNARY_OUTBOX_ADD && ob->conf->redis->wait) {

        if (!f->waited) {
            src->unwaited = 1;

        } else if (ngx_lunary_outbox_wrote(f)) {
            src->unwaited = 0;
        }

        if (src->unwaited) {
            pause = ngx_max(pause, NGX_LUNARY_OUTBOX_RETRY_MIN);
        }
    }

    if (src->life == NGX_LUNARY_OUTBOX_LIVE) {
        ngx_lunary_outbox_settle(ob, src);
    }

    ngx_lunary_redis_idle(ob->redis, !ngx_lunary_outbox_pending(ob));

    if (pause) {
        ngx_add_timer(&ob->pause, pause);
        return;
    }

    if (op != NGX_LUNARY_OUTBOX_ADD || src->shards[0].mend) {

        /* what it was for comes next */

        if (!ob->flush.posted) {
            ngx_post_event(&ob->flush, &ngx_posted_events);
        }

        return;
    }

    ngx_lunary_outbox_schedule(ob);
}


/*
 * WAIT is about the connection's own writes.  A batch that finds another
 * watermark has written nothing, so the answer says nothing about who moved
 * it; one that comes late may even have done so behind the others' writes.
 */

static ngx_uint_t
ngx_lunary_outbox_wrote(ngx_lunary_outbox_flight_t *f)
{
    ngx_uint_t  i, wrote;

    wrote = 0;

    for (i = 0; i < f->nbatches; i++) {

        switch (f->batches[i].result) {

        case NGX_LUNARY_OUTBOX_OK:
        case NGX_LUNARY_OUTBOX_FULL:
            wrote = 1;
            break;

        case NGX_LUNARY_OUTBOX_STALE:
        case NGX_LUNARY_OUTBOX_LOST:
            return 0;

        default:
            break;
        }
    }

    return wrote;
}


/* moves `send` over what Redis has, and acknowledges what is safe there */

void
ngx_lunary_outbox_settle(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src)
{
    lunary_spool_t              *sp;
    lunary_spool_record_t        rec;
    ngx_lunary_outbox_flight_t  *f;

    sp = &src->spool;
    f = ob->flight;

    if (f->source == src
        && sp->shards == 1
        && f->end.seq > sp->send.seq
        && f->end.seq <= src->shards[0].applied + 1)
    {
        /* all of the flight */

        sp->send = f->end;
    }

    f->end.seq = 0;

    while (lunary_spool_read(sp, &sp->send, &rec)
           && rec.seq <= src->shards[rec.hash % sp->shards].applied)
    {
        lunary_spool_next(sp, &sp->send);
    }

    if (sp->send.seq > sp->head.seq && !src->unwaited) {
        ngx_lunary_outbox_acked(ob, src, sp->send.seq - 1);
    }
}


/* what a batch's reply means; returns how long to pause, 0: not at all */

static ngx_msec_t
ngx_lunary_outbox_judge(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_lunary_outbox_batch_t *b)
{
    uint64_t                    applied;
    ngx_uint_t                  open;
    ngx_lunary_outbox_shard_t  *shard;

    shard = &src->shards[b->shard];
    open = !shard->known;
    applied = shard->applied;

    switch (b->result) {

    case NGX_LUNARY_OUTBOX_OK:

        if (open) {
            shard->stale++;
            ngx_lunary_outbox_watermark(ob, src, b);

        } else {
            shard->stale = 0;
            ngx_lunary_outbox_progress(ob, src, b);
            ngx_lunary_outbox_sampled(ob, src, b);

            if (!ob->flight->multi) {
                shard->roomy = 1;
            }

            shard->length = b->length;

            if (shard->applied > applied) {
                ngx_lunary_outbox_took(ob, src, b->shard);
            }
        }

        if (ob->in_error) {
            ob->in_error = 0;

            ngx_log_error(NGX_LOG_NOTICE, ob->log, 0,
                          "lunary: redis %V takes runs again",
                          &ob->conf->redis->url);
        }

        if (ob->held_len) {
            ob->held_len = 0;

            ngx_log_error(NGX_LOG_NOTICE, ob->log, 0,
                          "lunary: the stream \"%V\" has room again",
                          &shard->stream);
        }

        ob->errors = 0;
        shard->alike = 0;
        ob->use_eval = 0;

        /* to be asked where it stands is no proof that a batch gets through:
         * every lost one is followed by that */

        if (!open) {
            ob->max_count = ngx_min(ob->max_count * 2,
                                    NGX_LUNARY_OUTBOX_MAX_COUNT);
        }

        return ngx_lunary_outbox_astray(shard);

    case NGX_LUNARY_OUTBOX_LOST:

        /* a batch that takes too long must become shorter, but one that was
         * lost says nothing about its records */

        shard->known = 0;
        src->verify = 1;
        ob->max_count = ngx_max(ob->max_count / 2, 1);
        return ngx_lunary_redis_up(ob->redis) ? NGX_LUNARY_OUTBOX_RETRY_MIN : 0;

    case NGX_LUNARY_OUTBOX_STALE:
        shard->stale++;
        ngx_lunary_outbox_watermark(ob, src, b);
        return ngx_lunary_outbox_astray(shard);

    case NGX_LUNARY_OUTBOX_FULL:
        ngx_lunary_outbox_progress(ob, src, b);

        shard->length = -1;
        shard->roomy = 0;

        if (b->text_len == 0) {
            return 0;
        }

        ngx_lunary_outbox_held(ob, src, b);
        return NGX_LUNARY_OUTBOX_FULL_DELAY;

    case NGX_LUNARY_OUTBOX_NOSCRIPT:

        if (open) {
            src->verify = 1;
        }

        /* one a shard: all of them went without the script's text */

        if (!ob->flight->eval) {
            ob->use_eval = 1;
            return 0;
        }

        return ngx_lunary_outbox_error(ob, src, b);

    default: /* NGX_LUNARY_OUTBOX_ERROR */

        if (open) {
            src->verify = 1;

        } else if (b->watermark_len) {
            ngx_lunary_outbox_progress(ob, src, b);

            if (shard->applied > applied) {
                ngx_lunary_outbox_took(ob, src, b->shard);
            }
        }

        if (ob->flight->multi) {

            /* what it means, and whose fault it is, the script finds out, with
             * the next batch: MULTI is left alone for a second */

            return 0;
        }

        return ngx_lunary_outbox_error(ob, src, b);
    }
}


/*
 * How long to pause for a watermark that is another one each time.  A batch
 * that finds another one, is told which, and asks where none is there, is
 * nothing unusual; then one has to get through.
 */

static ngx_msec_t
ngx_lunary_outbox_astray(ngx_lunary_outbox_shard_t *shard)
{
    if (shard->stale <= 2) {
        return 0;
    }

    return ngx_min(NGX_LUNARY_OUTBOX_RETRY_MIN
                   << ngx_min(shard->stale - 3, 6),
                   NGX_LUNARY_OUTBOX_RETRY_MAX);
}


/*
 * The stream's memory was looked at: an average entry says how many fit.
 * Entries that grow are noticed at the next look, a 64th of the limit later.
 */

static void
ngx_lunary_outbox_sampled(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_lunary_outbox_batch_t *b)
{
    double  entries;

    if (b->memory == -1 && !ob->memory_warned) {
        ob->memory_warned = 1;

        ngx_log_error(NGX_LOG_WARN, ob->log, 0,
                      "lunary: redis %V does not say how much memory \"%V\" "
                      "takes, so maxbytes= does not bound it: give its user "
                      "\"+memory|usage\", then reload; where there is no "
                      "MEMORY USAGE, use maxlen=",
                      &ob->conf->redis->url, &src->shards[b->shard].stream);
    }

    if (b->memory <= 0 || b->length <= 0) {
        return;
    }

    entries = (double) ob->conf->maxbytes * b->length / b->memory;

    src->shards[b->shard].limit = (entries < 1) ? 1
                                  : (entries > NGX_MAX_INT32_VALUE)
                                    ? NGX_MAX_INT32_VALUE
                                    : (ngx_uint_t) entries;
}


/* sorts an error reply: try again, tell the operator, or suspect a record */

static ngx_msec_t
ngx_lunary_outbox_error(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_lunary_outbox_batch_t *b)
{
    ngx_str_t                 text;
    ngx_uint_t                hash;
    ngx_lunary_redis_error_e  kind;

    kind = b->error;

    if (kind == NGX_LUNARY_REDIS_OTHER) {

        if (b->blame != NGX_LUNARY_OUTBOX_BLAME_NOBODY && b->count) {
            return ngx_lunary_outbox_refused(ob, src, b);
        }

        kind = NGX_LUNARY_REDIS_FATAL;
    }

    ngx_lunary_stats_inc(NGX_LUNARY_C_REDIS_ERR_REPLY);

    hash = ngx_hash_key(b->text, ngx_min(b->text_len, 16));

    if (!ob->in_error || hash != ob->error_hash) {
        ob->in_error = 1;
        ob->error_hash = hash;

        text.data = b->text;
        text.len = b->text_len;

        ngx_log_error(NGX_LOG_ERR, ob->log, 0,
                      "lunary: redis %V does not take runs into \"%V\": "
                      "\"%V\"; they wait in the spool%s",
                      &ob->conf->redis->url, &src->shards[b->shard].stream,
                      &text, kind == NGX_LUNARY_REDIS_FATAL
                             ? ", tried again every 10 seconds" : "");
    }

    if (kind == NGX_LUNARY_REDIS_FATAL) {
        return NGX_LUNARY_OUTBOX_FATAL_DELAY;
    }

    if (b->text_len > 8 && ngx_strncmp(b->text, "READONLY", 8) == 0) {

        /* a master that became a replica: its name may be another's now */

        ngx_lunary_redis_reset(ob->redis, "it is a replica now");
    }

    return ngx_lunary_outbox_backoff(ob);
}


/* a full stream: the group that holds it up is named once */

static void
ngx_lunary_outbox_held(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_lunary_outbox_batch_t *b)
{
    ngx_str_t  group;

    if (b->text_len == ob->held_len
        && ngx_memcmp(b->text, ob->held, b->text_len) == 0)
    {
        return;
    }

    ob->held_len = ngx_min(b->text_len, sizeof(ob->held));
    ngx_memcpy(ob->held, b->text, ob->held_len);

    group.data = ob->held;
    group.len = ob->held_len;

    ngx_log_error(NGX_LOG_WARN, ob->log, 0,
                  "lunary: the stream \"%V\" is full and its consumer group "
                  "\"%V\" has not acknowledged its oldest entries: runs wait "
                  "in the spool until it does",
                  &src->shards[b->shard].stream, &group);
}


static ngx_msec_t
ngx_lunary_outbox_backoff(ngx_lunary_outbox_t *ob)
{
    ngx_msec_t  ms;

    ms = NGX_LUNARY_OUTBOX_RETRY_MIN << ngx_min(ob->errors, 6);
    ms = ngx_min(ms, NGX_LUNARY_OUTBOX_RETRY_MAX);

    ob->errors++;

    return ms - ms / 4 + (ngx_msec_t) ngx_random() % (ms / 2 + 1);
}
