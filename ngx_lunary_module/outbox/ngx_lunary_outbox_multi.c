/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Batches by MULTI: what the script does at half of its cost to Redis, a
 * third where contents are large, for it never makes Lua strings of them.
 *
 *     WATCH watermark, GET watermark, MULTI      behind one batch
 *     XADD ..., EVAL (moves the watermark), EXEC  the next one
 *
 * The connection waits inside of MULTI.  So before the first XADD leaves, it
 * is certain that the watermark was the expected one when it was watched, and
 * that no XADD can be executed by itself, whatever Redis thinks of MULTI: a
 * batch that is late finds that its watermark was touched, and EXEC does
 * nothing.
 *
 * It is for a busy worker's own spool with one shard and room in the stream.
 * Everything else, all errors among it, is for the script: where EXEC
 * does not say that all went well the next batch goes that way.
 *
 * Invariants
 *   - `in_multi`: the connection is inside of MULTI; whatever is not a batch
 *     of this kind says DISCARD first;
 *   - `armed`: and the watermark it watches is the shard's;
 *   - the watermark moves by EVAL, not EVALSHA: NOSCRIPT would come after the
 *     XADDs, and nothing takes these back.  It moves only where the stream is
 *     one, for an XADD that fails rolls nothing back either.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "ngx_lunary_outbox_internal.h"


/* from so many entries on a limit may be passed by a batch for a moment */
#define NGX_LUNARY_OUTBOX_ROOMY      1024

/* batches that are worth it: fewer records cost as much by the script */
#define NGX_LUNARY_OUTBOX_BUSY       4
#define NGX_LUNARY_OUTBOX_BUSY_SIZE  (16 * 1024)

#define NGX_LUNARY_OUTBOX_MULTI_WAIT 1000      /* ms, after an error         */

#define NGX_LUNARY_OUTBOX_MOVE                                                \
    "local n = redis.call('XLEN', KEYS[1])\n"                                 \
    "redis.call('SET', KEYS[2], ARGV[1])\n"                                   \
    "return n\n"


static void ngx_lunary_outbox_multi_add_reply(void *data, redisReply *reply);
static void ngx_lunary_outbox_multi_exec(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_batch_t *b, redisReply *reply);
static void ngx_lunary_outbox_multi_text(ngx_lunary_outbox_batch_t *b,
    redisReply *reply);
static void ngx_lunary_outbox_multi_partly(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_batch_t *b, redisReply **added, redisReply *moved);
static void ngx_lunary_outbox_multi_watch_reply(void *data,
    redisReply *reply);
static void ngx_lunary_outbox_multi_reply(void *data, redisReply *reply);
static void ngx_lunary_outbox_multi_refused(ngx_lunary_outbox_t *ob,
    redisReply *reply);
static ngx_chain_t *ngx_lunary_outbox_multi_link(
    ngx_lunary_outbox_flight_t *f, ngx_uint_t i, u_char *p, u_char *last);


ngx_uint_t
ngx_lunary_outbox_multi_ready(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src)
{
    ngx_uint_t                  limit;
    ngx_lunary_outbox_shard_t  *shard;

    if (!ob->armed || !src->own) {
        return 0;
    }

    shard = &src->shards[0];

    if (ngx_lunary_outbox_sample_due(ob, shard)) {
        return 0;
    }

    limit = ngx_lunary_outbox_limit(ob, shard);

    return limit == 0
           || (shard->length >= 0
               && (ngx_uint_t) shard->length + ob->max_count <= limit)
           || (shard->roomy && limit >= NGX_LUNARY_OUTBOX_ROOMY);
}


/* bytes of a batch's commands, without its records */

size_t
ngx_lunary_outbox_multi_size(ngx_lunary_outbox_shard_t *shard)
{
    return NGX_LUNARY_OUTBOX_MAX_COUNT * (shard->stream.len + 64)
           + 2 * (shard->stream.len + shard->key.len)
           + sizeof(NGX_LUNARY_OUTBOX_MOVE) + 512
           + ngx_lunary_outbox_arm_size(shard);
}


/* what stands in front of a record's fields */

u_char *
ngx_lunary_outbox_multi_xadd(u_char *p, ngx_lunary_outbox_shard_t *shard,
    ngx_uint_t fields)
{
    *p++ = '*';
    p = ngx_lunary_outbox_decimal(p, 3 + 2 * fields);
    p = ngx_cpymem(p, CRLF "$4" CRLF "XADD" CRLF,
                   sizeof(CRLF "$4" CRLF "XADD" CRLF) - 1);
    p = ngx_lunary_outbox_bulk(p, shard->stream.data, shard->stream.len);

    return ngx_lunary_outbox_bulk(p, "*", 1);
}


/*
 * Sends the flight's batch, which multi_xadd() was put in front of each
 * record of; p: room behind that.  Returns where it ended.
 */

u_char *
ngx_lunary_outbox_multi_add(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, u_char *p)
{
    u_char                      *start;
    ngx_uint_t                   limit, replies;
    ngx_lunary_outbox_shard_t   *shard;
    ngx_lunary_outbox_batch_t   *b;
    ngx_lunary_outbox_flight_t  *f;

    f = ob->flight;
    b = &f->batches[0];
    shard = &src->shards[0];

    start = p;
    replies = b->count + 2;

    p = ngx_cpymem(p, "*6" CRLF, sizeof("*6" CRLF) - 1);
    p = ngx_lunary_outbox_bulk(p, "EVAL", 4);
    p = ngx_lunary_outbox_bulk(p, NGX_LUNARY_OUTBOX_MOVE,
                               sizeof(NGX_LUNARY_OUTBOX_MOVE) - 1);
    p = ngx_lunary_outbox_bulk(p, "2", 1);
    p = ngx_lunary_outbox_bulk(p, shard->stream.data, shard->stream.len);
    p = ngx_lunary_outbox_bulk(p, shard->key.data, shard->key.len);
    p = ngx_lunary_outbox_bulk_decimal(p, b->last_seq);

    limit = ngx_lunary_outbox_limit(ob, shard);

    if (limit
        && (shard->length < 0
            || (ngx_uint_t) shard->length + b->count > limit))
    {
        p = ngx_lunary_outbox_script_trim(p, shard, limit);
        replies++;
        b->trim = limit;
    }

    p = ngx_cpymem(p, "*1" CRLF, sizeof("*1" CRLF) - 1);
    p = ngx_lunary_outbox_bulk(p, "EXEC", 4);

    *b->last = ngx_lunary_outbox_multi_link(f, 0, start, p);

    shard->since += b->bytes;

    ob->in_multi = 0;
    ob->armed = 0;

    if (ngx_lunary_redis_command(ob->redis, b->out, replies,
                                 ngx_lunary_outbox_multi_add_reply, ob)
        == NGX_OK)
    {
        f->pending++;

    } else {
        ngx_lunary_outbox_script_reply(b, NULL);
    }

    return p;
}


static void
ngx_lunary_outbox_multi_add_reply(void *data, redisReply *reply)
{
    ngx_lunary_outbox_t *ob = data;

    ngx_lunary_outbox_multi_exec(ob, &ob->flight->batches[0], reply);
    ngx_lunary_outbox_replied(ob);
}


static void
ngx_lunary_outbox_multi_exec(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_batch_t *b, redisReply *reply)
{
    ngx_uint_t                   i, n;
    redisReply                 **e, *moved;
    ngx_lunary_outbox_shard_t   *shard;

    if (reply == NULL) {
        ngx_lunary_outbox_script_reply(b, NULL);
        return;
    }

    shard = &ob->flight->source->shards[0];

    b->watermark_len = 0;
    b->text_len = 0;
    b->length = -1;
    b->memory = 0;

    if (reply->type == REDIS_REPLY_NIL) {

        /* somebody touched the watermark: it is asked for */

        b->result = NGX_LUNARY_OUTBOX_STALE;
        return;
    }

    n = b->count;

    if (reply->type != REDIS_REPLY_ARRAY
        || reply->elements != n + 1 + (b->trim != 0))
    {
        /* one was not accepted, and so none was executed */

        ngx_lunary_outbox_multi_text(b, reply);
        ob->multi_after = ngx_current_msec + NGX_LUNARY_OUTBOX_MULTI_WAIT;
        return;
    }

    e = reply->element;
    moved = e[n];

    for (i = 0; i < n; i++) {
        if (e[i]->type == REDIS_REPLY_ERROR) {
            break;
        }
    }

    if (i < n || moved->type != REDIS_REPLY_INTEGER) {
        ngx_lunary_outbox_multi_partly(ob, b, e, moved);
        return;
    }

    b->result = NGX_LUNARY_OUTBOX_OK;
    b->watermark_len = ngx_lunary_outbox_decimal(b->watermark, b->last_seq)
                       - b->watermark;
    b->length = moved->integer;

    if (b->trim) {
        shard->roomy = 0;

        if (e[n + 1]->type == REDIS_REPLY_ARRAY
            && e[n + 1]->elements >= 4
            && e[n + 1]->element[3]->type == REDIS_REPLY_INTEGER)
        {
            b->length = e[n + 1]->element[3]->integer;
            shard->roomy = (b->length <= (int64_t) b->trim);
        }
    }
}


/*
 * EXEC was executed, but not all of it went well: the watermark may have been
 * moved over records that were not added, or not have been moved over some
 * that were.  `applied` is what is there, and the first thing that is sent now
 * is the watermark for it.  No command gets here in a Redis that is well: an
 * XADD only fails where the stream has no id left, or was replaced by another
 * type (then EVAL fails, too, and there is nothing to mend).
 */

static void
ngx_lunary_outbox_multi_partly(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_batch_t *b, redisReply **added, redisReply *moved)
{
    ngx_uint_t                   i;
    redisReply                  *error;
    ngx_lunary_outbox_shard_t   *shard;

    shard = &ob->flight->source->shards[0];
    error = moved;

    for (i = 0; i < b->count; i++) {
        if (added[i]->type == REDIS_REPLY_ERROR) {
            error = added[i];
            break;
        }
    }

    ngx_lunary_outbox_multi_text(b, error);

    ob->multi_after = ngx_current_msec + NGX_LUNARY_OUTBOX_MULTI_WAIT;

    if (moved->type == REDIS_REPLY_INTEGER) {
        shard->watermark_len = ngx_lunary_outbox_decimal(shard->watermark,
                                                         b->last_seq)
                               - shard->watermark;
        shard->mend = 1;
    }

    if (i) {

        /* a batch of one shard has no gaps */

        shard->applied = b->first_seq + i - 1;
        shard->mend = 1;
    }

    if (shard->mend) {
        ngx_log_error(NGX_LOG_ERR, ob->log, 0,
                      "lunary: redis %V added %ui of the %ui records of a "
                      "batch", &ob->conf->redis->url, i, b->count);
    }
}


static void
ngx_lunary_outbox_multi_text(ngx_lunary_outbox_batch_t *b, redisReply *reply)
{
    b->result = NGX_LUNARY_OUTBOX_ERROR;
    b->blame = NGX_LUNARY_OUTBOX_BLAME_BATCH;
    b->error = NGX_LUNARY_REDIS_OTHER;

    if (reply->type == REDIS_REPLY_ERROR) {
        b->text_len = ngx_lunary_outbox_copy(b->text, sizeof(b->text), reply);
        b->error = ngx_lunary_redis_error(reply);
    }
}


/* whether the next batch is to go this way: the connection gets ready */

ngx_uint_t
ngx_lunary_outbox_arms(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src)
{
    ngx_lunary_outbox_flight_t  *f;

    f = ob->flight;

    return src->own
           && src->spool.shards == 1
           && ngx_queue_last(&ob->sources) == ngx_queue_head(&ob->sources)
           && ob->max_count == NGX_LUNARY_OUTBOX_MAX_COUNT
           && ob->errors == 0
           && ob->alike == 0
           && !ob->multi_off
           && (ngx_msec_int_t) (ngx_current_msec - ob->multi_after) >= 0
           && !ngx_exiting
           && (f->count >= NGX_LUNARY_OUTBOX_BUSY
               || f->bytes >= NGX_LUNARY_OUTBOX_BUSY_SIZE);
}


size_t
ngx_lunary_outbox_arm_size(ngx_lunary_outbox_shard_t *shard)
{
    return 2 * shard->key.len + 128;
}


void
ngx_lunary_outbox_arm(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, u_char *p)
{
    u_char                      *start;
    ngx_chain_t                 *cl;
    ngx_lunary_outbox_shard_t   *shard;
    ngx_lunary_outbox_flight_t  *f;

    f = ob->flight;
    shard = &src->shards[0];

    ob->watched_len = 0;

    start = p;

    p = ngx_cpymem(p, "*2" CRLF, sizeof("*2" CRLF) - 1);
    p = ngx_lunary_outbox_bulk(p, "WATCH", 5);
    p = ngx_lunary_outbox_bulk(p, shard->key.data, shard->key.len);
    p = ngx_cpymem(p, "*2" CRLF, sizeof("*2" CRLF) - 1);
    p = ngx_lunary_outbox_bulk(p, "GET", 3);
    p = ngx_lunary_outbox_bulk(p, shard->key.data, shard->key.len);

    cl = ngx_lunary_outbox_multi_link(f, 1, start, p);

    if (ngx_lunary_redis_command(ob->redis, cl, 2,
                                 ngx_lunary_outbox_multi_watch_reply, ob)
        != NGX_OK)
    {
        return;
    }

    f->pending++;

    start = p;

    p = ngx_cpymem(p, "*1" CRLF, sizeof("*1" CRLF) - 1);
    p = ngx_lunary_outbox_bulk(p, "MULTI", 5);

    cl = ngx_lunary_outbox_multi_link(f, 2, start, p);

    if (ngx_lunary_redis_command(ob->redis, cl, 1,
                                 ngx_lunary_outbox_multi_reply, ob)
        == NGX_OK)
    {
        f->pending++;
    }
}


static void
ngx_lunary_outbox_multi_watch_reply(void *data, redisReply *reply)
{
    ngx_lunary_outbox_t *ob = data;

    if (reply && reply->type == REDIS_REPLY_STRING) {
        ob->watched_len = ngx_lunary_outbox_copy(ob->watched,
                                                 sizeof(ob->watched), reply);

    } else if (reply == NULL || reply->type == REDIS_REPLY_ERROR) {
        ngx_lunary_outbox_multi_refused(ob, reply);
    }

    ngx_lunary_outbox_replied(ob);
}


static void
ngx_lunary_outbox_multi_reply(void *data, redisReply *reply)
{
    ngx_lunary_outbox_t *ob = data;

    if (reply && reply->type == REDIS_REPLY_STATUS) {
        ob->in_multi = 1;

    } else if (reply == NULL || reply->type == REDIS_REPLY_ERROR) {
        ngx_lunary_outbox_multi_refused(ob, reply);
    }

    ngx_lunary_outbox_replied(ob);
}


/* a flight has landed: did all go well, and is the watermark that is watched
 * what it left? */

void
ngx_lunary_outbox_armed(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src)
{
    ngx_lunary_outbox_shard_t   *shard;
    ngx_lunary_outbox_flight_t  *f;

    f = ob->flight;
    shard = &src->shards[0];

    ob->armed = ob->in_multi
                && src->own
                && f->nbatches
                && f->batches[0].result == NGX_LUNARY_OUTBOX_OK
                && shard->known
                && !shard->mend
                && ob->watched_len
                && ob->watched_len == shard->watermark_len
                && ngx_memcmp(ob->watched, shard->watermark,
                              shard->watermark_len) == 0;

    ob->watched_len = 0;
}


void
ngx_lunary_outbox_disarm(ngx_lunary_outbox_t *ob)
{
    ngx_str_t  argv[1];

    if (!ob->in_multi) {
        return;
    }

    ob->in_multi = 0;
    ob->armed = 0;

    ngx_str_set(&argv[0], "DISCARD");

    if (ngx_lunary_redis_argv(ob->redis, 1, argv, NULL, ob) != NGX_OK) {
        ngx_lunary_redis_reset(ob->redis, "it cannot leave MULTI");
    }
}


/* what will not be better is not tried again before the next connection; it
 * may be that which was lost of it, in the hands of somebody in between */

static void
ngx_lunary_outbox_multi_refused(ngx_lunary_outbox_t *ob, redisReply *reply)
{
    ngx_str_t  text;

    ob->multi_after = ngx_current_msec + NGX_LUNARY_OUTBOX_MULTI_WAIT;

    if (reply == NULL
        || ob->multi_off
        || ngx_lunary_redis_error(reply) == NGX_LUNARY_REDIS_RETRY)
    {
        return;
    }

    ob->multi_off = 1;

    ngx_lunary_redis_text(reply, &text);

    ngx_log_error(NGX_LOG_NOTICE, ob->log, 0,
                  "lunary: redis %V takes no batches by WATCH and MULTI: "
                  "\"%V\"; they go by a script, which costs it twice as much",
                  &ob->conf->redis->url, &text);
}


static ngx_chain_t *
ngx_lunary_outbox_multi_link(ngx_lunary_outbox_flight_t *f, ngx_uint_t i,
    u_char *p, u_char *last)
{
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    cl = &f->links[i];
    b = &f->bufs[i];

    ngx_memzero(b, sizeof(ngx_buf_t));

    b->memory = 1;
    b->pos = p;
    b->last = last;

    cl->buf = b;
    cl->next = NULL;

    return cl;
}
