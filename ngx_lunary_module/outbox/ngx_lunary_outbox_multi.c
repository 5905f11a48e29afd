/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Batches by MULTI: what the script does at half of its cost to Redis, a
 * third where contents are large, for it never makes Lua strings of them.
 *
 *     WATCH watermark, GET watermark, MULTI         behind one batch
 *     EVAL begin, XADD ..., EVAL end, EXEC          the next one
 *
 * The connection waits inside of MULTI.  So before the first XADD leaves, it
 * is certain that the watermark was the expected one when it was watched, and
 * that no XADD can be executed by itself, whatever Redis thinks of MULTI: a
 * batch that is late finds that its watermark was touched, and EXEC does
 * nothing.
 *
 * EXEC takes nothing back: an XADD in it may fail (no id left in the stream,
 * another type, a right that was taken away while the batch was on its way)
 * and what follows is executed.  So `begin` writes the stream's length into
 * the watermark, "~length~watermark", and `end` moves it for as many as the
 * stream has become longer, or puts it back.  Nobody sees what is in between,
 * but where `end` itself fails: that is a watermark like the one it names.
 * Both are EVAL, not EVALSHA: NOSCRIPT would come too late.
 *
 * It is for a busy worker's own spool with one shard and room in the stream.
 * Everything else is for the script, and where EXEC does not say that all went
 * well the next batches go that way: what an error means is found out there.
 *
 * Invariants
 *   - `in_multi`: the connection is inside of MULTI; whatever is not a batch
 *     of this kind says EXEC first, of nothing;
 *   - `armed`: and the watermark it watches is the shard's.
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

/* ms, after a failure; twice as long after the next one, six times */
#define NGX_LUNARY_OUTBOX_MULTI_WAIT 1000
#define NGX_LUNARY_OUTBOX_MULTI_ROW  6

/* KEYS: stream, watermark; ARGV: watermark */

#define NGX_LUNARY_OUTBOX_BEGIN                                               \
    "local w = '~' .. redis.call('XLEN', KEYS[1]) .. '~' .. ARGV[1]\n"        \
    "redis.call('SET', KEYS[2], w)\n"                                         \
    "return w\n"

/* ARGV: number of records, the sequence before the first, the last one */

#define NGX_LUNARY_OUTBOX_END                                                 \
    "local len, w = string.match(redis.call('GET', KEYS[2]), "                \
        "'^~(%d+)~(.*)$')\n"                                                  \
    "if not len then return redis.error_reply('ERR not begun') end\n"         \
    "local now = redis.call('XLEN', KEYS[1])\n"                               \
    "local n = now - len\n"                                                   \
    "if n == tonumber(ARGV[1]) then\n"                                        \
    "  redis.call('SET', KEYS[2], ARGV[3])\n"                                 \
    "  return now\n"                                                          \
    "end\n"                                                                   \
    "if n > 0 then w = string.format('%.0f', ARGV[2] + n) end\n"              \
    "redis.call('SET', KEYS[2], w)\n"                                         \
    "return {w, now}\n"


static void ngx_lunary_outbox_multi_add_reply(void *data, redisReply *reply);
static void ngx_lunary_outbox_multi_exec(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_batch_t *b, redisReply *reply);
static void ngx_lunary_outbox_multi_text(ngx_lunary_outbox_batch_t *b,
    redisReply *reply);
static void ngx_lunary_outbox_multi_partly(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_batch_t *b, redisReply **e);
static u_char *ngx_lunary_outbox_multi_eval(u_char *p, ngx_uint_t args,
    ngx_lunary_outbox_shard_t *shard, const char *text, size_t len);
static void ngx_lunary_outbox_disarm_reply(void *data, redisReply *reply);
static void ngx_lunary_outbox_multi_later(ngx_lunary_outbox_t *ob);
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

    if (limit == 0) {
        return 1;
    }

    if (limit < NGX_LUNARY_OUTBOX_ROOMY) {
        return 0;
    }

    return shard->roomy
           || (shard->length >= 0
               && (ngx_uint_t) shard->length + ob->max_count <= limit);
}


/* bytes of a batch at most; one that is lost is sent again whole */

size_t
ngx_lunary_outbox_multi_bytes(ngx_lunary_outbox_t *ob)
{
    size_t  max;

    max = NGX_LUNARY_OUTBOX_MULTI_BYTES;

    if (ob->conf->maxbytes && ob->conf->maxbytes / 64 < max) {
        max = ngx_max(ob->conf->maxbytes / 64, NGX_LUNARY_OUTBOX_MAX_BYTES);
    }

    return max;
}


/* bytes of a batch's commands, without its records */

size_t
ngx_lunary_outbox_multi_size(ngx_lunary_outbox_shard_t *shard)
{
    return NGX_LUNARY_OUTBOX_MAX_COUNT * (shard->stream.len + 64)
           + 3 * (shard->stream.len + shard->key.len)
           + NGX_LUNARY_OUTBOX_WATERMARK
           + sizeof(NGX_LUNARY_OUTBOX_BEGIN) + sizeof(NGX_LUNARY_OUTBOX_END)
           + 1024
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
 * record of; p: room behind that.  Returns where it ended, or NULL: it was
 * not accepted, and the connection is given up.
 */

u_char *
ngx_lunary_outbox_multi_add(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, u_char *p)
{
    u_char                      *start;
    ngx_uint_t                   limit, replies;
    ngx_chain_t                 *cl;
    ngx_lunary_outbox_shard_t   *shard;
    ngx_lunary_outbox_batch_t   *b;
    ngx_lunary_outbox_flight_t  *f;

    f = ob->flight;
    b = &f->batches[0];
    shard = &src->shards[0];

    replies = b->count + 3;

    start = p;

    p = ngx_lunary_outbox_multi_eval(p, 1, shard, NGX_LUNARY_OUTBOX_BEGIN,
                                     sizeof(NGX_LUNARY_OUTBOX_BEGIN) - 1);
    p = ngx_lunary_outbox_bulk(p, shard->watermark, shard->watermark_len);

    cl = ngx_lunary_outbox_multi_link(f, 3, start, p);
    cl->next = b->out;

    start = p;

    p = ngx_lunary_outbox_multi_eval(p, 3, shard, NGX_LUNARY_OUTBOX_END,
                                     sizeof(NGX_LUNARY_OUTBOX_END) - 1);
    p = ngx_lunary_outbox_bulk_decimal(p, b->count);
    p = ngx_lunary_outbox_bulk_decimal(p, b->first_seq - 1);
    p = ngx_lunary_outbox_bulk_decimal(p, b->last_seq);

    limit = ngx_lunary_outbox_limit(ob, shard);

    /* others add to the stream, too */

    if (limit
        && (shard->length < 0
            || (ngx_uint_t) shard->length + b->count > limit / 2))
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

    if (ngx_lunary_redis_exec(ob->redis, cl, replies,
                              ngx_lunary_outbox_multi_add_reply, ob)
        != NGX_OK)
    {
        /* the connection is inside of MULTI, and nobody would know */

        ngx_lunary_outbox_script_reply(b, NULL);
        ngx_lunary_redis_reset(ob->redis, "no memory for a batch");

        return NULL;
    }

    f->pending++;

    return p;
}


static u_char *
ngx_lunary_outbox_multi_eval(u_char *p, ngx_uint_t args,
    ngx_lunary_outbox_shard_t *shard, const char *text, size_t len)
{
    *p++ = '*';
    p = ngx_lunary_outbox_decimal(p, 5 + args);
    *p++ = CR;
    *p++ = LF;

    p = ngx_lunary_outbox_bulk(p, "EVAL", 4);
    p = ngx_lunary_outbox_bulk(p, text, len);
    p = ngx_lunary_outbox_bulk(p, "2", 1);
    p = ngx_lunary_outbox_bulk(p, shard->stream.data, shard->stream.len);

    return ngx_lunary_outbox_bulk(p, shard->key.data, shard->key.len);
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
    ngx_uint_t                   n;
    redisReply                 **e;
    ngx_lunary_outbox_shard_t   *shard;

    if (reply == NULL) {
        ngx_lunary_outbox_multi_later(ob);
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

        ngx_lunary_outbox_multi_later(ob);
        b->result = NGX_LUNARY_OUTBOX_STALE;
        return;
    }

    n = b->count;

    if (reply->type != REDIS_REPLY_ARRAY
        || reply->elements != n + 2 + (b->trim != 0))
    {
        /* one was not accepted, and so none was executed */

        if (reply->type == REDIS_REPLY_ERROR
            && ngx_strncmp(reply->str, "EXECABORT", 9) == 0
            && ngx_strstr(reply->str, "NOPERM"))
        {
            ngx_lunary_outbox_multi_refused(ob, reply);

        } else {
            ngx_lunary_outbox_multi_later(ob);
        }

        ngx_lunary_outbox_multi_text(b, reply);
        return;
    }

    e = reply->element;

    if (e[n + 1]->type != REDIS_REPLY_INTEGER) {
        ngx_lunary_outbox_multi_later(ob);
        ngx_lunary_outbox_multi_partly(ob, b, e);
        return;
    }

    ob->multi_row = 0;

    b->result = NGX_LUNARY_OUTBOX_OK;
    b->watermark_len = ngx_lunary_outbox_decimal(b->watermark, b->last_seq)
                       - b->watermark;
    b->length = e[n + 1]->integer;

    if (b->trim) {
        shard->roomy = 0;

        if (e[n + 2]->type == REDIS_REPLY_ARRAY
            && e[n + 2]->elements >= 4
            && e[n + 2]->element[3]->type == REDIS_REPLY_INTEGER)
        {
            b->length = e[n + 2]->element[3]->integer;
            shard->roomy = (b->length <= (int64_t) b->trim);
        }
    }
}


/*
 * EXEC was executed, but not all of it went well: the first XADDs perhaps,
 * since what one of them fails for the others do, too.  `end` has said up to
 * where the watermark is.  Where it could not, that is not what was added,
 * and the first thing that is sent now is one that is (`mend`).
 */

static void
ngx_lunary_outbox_multi_partly(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_batch_t *b, redisReply **e)
{
    ngx_uint_t                   i;
    redisReply                  *error, *end;
    ngx_lunary_outbox_shard_t   *shard;

    shard = &ob->flight->source->shards[0];
    end = e[b->count + 1];
    error = end;

    for (i = 0; i < b->count; i++) {
        if (e[1 + i]->type == REDIS_REPLY_ERROR) {
            error = e[1 + i];
            break;
        }
    }

    ngx_lunary_outbox_multi_text(b, error);

    if (end->type == REDIS_REPLY_ARRAY
        && end->elements == 2
        && end->element[0]->type == REDIS_REPLY_STRING)
    {
        b->watermark_len = ngx_lunary_outbox_copy(b->watermark,
                                                  NGX_LUNARY_OUTBOX_WATERMARK,
                                                  end->element[0]);
        return;
    }

    if (e[0]->type == REDIS_REPLY_STRING) {
        shard->watermark_len = ngx_lunary_outbox_copy(shard->watermark,
                                                  NGX_LUNARY_OUTBOX_WATERMARK,
                                                  e[0]);
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
                      "batch, and did not move its watermark",
                      &ob->conf->redis->url, i, b->count);
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
           && !src->shards[0].alike
           && !src->shards[0].suspect
           && !ob->multi_off
           && !ob->multi_never
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

    ngx_str_set(&argv[0], "EXEC");

    if (ngx_lunary_redis_argv(ob->redis, 1, argv,
                              ngx_lunary_outbox_disarm_reply, ob)
        != NGX_OK)
    {
        ngx_lunary_redis_reset(ob->redis, "no memory for EXEC");
    }
}


static void
ngx_lunary_outbox_disarm_reply(void *data, redisReply *reply)
{
    ngx_lunary_outbox_t *ob = data;

    if (reply == NULL || reply->type != REDIS_REPLY_ERROR) {
        return;
    }

    ngx_lunary_outbox_multi_refused(ob, reply);

    /* that leaves MULTI, too */

    if (ngx_strncmp(reply->str, "EXECABORT", 9) != 0) {
        ngx_lunary_outbox_multi_stuck(ob);
    }
}


/* the connection stays inside of MULTI, and what follows is queued: another
 * one, and the script for good */

void
ngx_lunary_outbox_multi_stuck(ngx_lunary_outbox_t *ob)
{
    ob->multi_never = 1;

    ngx_lunary_redis_reset(ob->redis, "it does not leave MULTI");
}


/* what will not be better is not tried again before the next connection; it
 * may be that which was lost of it, in the hands of somebody in between */

static void
ngx_lunary_outbox_multi_refused(ngx_lunary_outbox_t *ob, redisReply *reply)
{
    ngx_str_t  text;

    ngx_lunary_outbox_multi_later(ob);

    if (reply == NULL
        || ob->multi_off
        || ngx_lunary_redis_error(reply) == NGX_LUNARY_REDIS_RETRY)
    {
        return;
    }

    ob->multi_off = 1;

    ngx_lunary_redis_text(reply, &text);

    ngx_log_error(NGX_LOG_WARN, ob->log, 0,
                  "lunary: redis %V takes no batches by WATCH, MULTI and "
                  "EXEC: \"%V\"; until the next connection they go by a "
                  "script, which costs it twice as much",
                  &ob->conf->redis->url, &text);
}


static void
ngx_lunary_outbox_multi_later(ngx_lunary_outbox_t *ob)
{
    if ((ngx_msec_int_t) (ngx_current_msec - ob->multi_after) < 0) {

        /* one failure has several replies */

        return;
    }

    ob->multi_after = ngx_current_msec
                      + ((ngx_msec_t) NGX_LUNARY_OUTBOX_MULTI_WAIT
                         << ob->multi_row);

    if (ob->multi_row < NGX_LUNARY_OUTBOX_MULTI_ROW) {
        ob->multi_row++;
    }
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
