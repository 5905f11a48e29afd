/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Flights: which one starts, and what of it is sent to Redis.
 *
 * A flight carries records of one source (ngx_lunary_outbox_flight.c), or a
 * question about its watermarks.  Its end, in ngx_lunary_outbox_land.c, moves
 * `send` over what Redis has, acknowledges, and decides when the next one
 * starts.
 *
 * Invariants
 *   - one flight at a time, so a batch's expected watermark is never that of
 *     another batch of ours;
 *   - records of a flight are not acknowledged before its last reply, so
 *     their bytes stay where they are.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "ngx_lunary_outbox_internal.h"


static ngx_uint_t ngx_lunary_outbox_start(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src);
static void ngx_lunary_outbox_start_open(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src);
static void ngx_lunary_outbox_start_multi(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src);
static void ngx_lunary_outbox_start_mend(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src);
static void ngx_lunary_outbox_start_add(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src);
static void ngx_lunary_outbox_start_wait(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src);
static void ngx_lunary_outbox_send_wait(ngx_lunary_outbox_t *ob);
static void ngx_lunary_outbox_start_delete(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src);
static ngx_int_t ngx_lunary_outbox_prepare(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_lunary_outbox_op_e op, size_t size);
static void ngx_lunary_outbox_send(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_batch_t *b);
static void ngx_lunary_outbox_reply(void *data, redisReply *reply);
static void ngx_lunary_outbox_wait_reply(void *data, redisReply *reply);
static void ngx_lunary_outbox_delete_reply(void *data, redisReply *reply);


/* of one worker, as there is one flight: where a shard's call begins */
static ngx_lunary_outbox_t  *ngx_lunary_outbox_flying;


void
ngx_lunary_outbox_state(void *data, ngx_uint_t up)
{
    ngx_lunary_outbox_t *ob = data;

    ngx_uint_t                   i;
    ngx_queue_t                 *q;
    ngx_lunary_outbox_source_t  *src;

    if (!up) {
        return;
    }

    ob->in_multi = 0;
    ob->armed = 0;
    ob->multi_off = 0;
    ob->memory_warned = 0;

    if (ob->own->shards[0].mend && ob->own->shards[0].watermark[0] != '~') {

        /* the same text may mean less than it did: rather twice than never */

        ob->own->shards[0].mend = 0;
    }

    /* it may be another Redis, or an older one: ask for every watermark */

    for (q = ngx_queue_head(&ob->sources);
         q != ngx_queue_sentinel(&ob->sources);
         q = ngx_queue_next(q))
    {
        src = ngx_queue_data(q, ngx_lunary_outbox_source_t, queue);

        for (i = 0; i < src->spool.shards; i++) {
            src->shards[i].known = 0;
            src->shards[i].length = -1;
            src->shards[i].stale = 0;
        }

        if (src->life == NGX_LUNARY_OUTBOX_LIVE) {
            src->verify = (src->spool.next_seq > 1);
            src->spool.send = src->spool.head;
        }
    }

    /* a pause for what Redis said goes on, or a replica would be asked again
     * and again */

    if (ob->pause.timer_set && !ob->in_error) {
        ngx_del_timer(&ob->pause);
    }

    ngx_lunary_outbox_policy(ob);
    ngx_lunary_outbox_kick(ob);
}


void
ngx_lunary_outbox_pause_handler(ngx_event_t *ev)
{
    ngx_connection_t     *c;
    ngx_lunary_outbox_t  *ob;

    c = ev->data;
    ob = c->data;
    ob->lonely = 0;

    ngx_lunary_outbox_kick(ob);
}


/* starts the next flight if it can; sources take turns */

void
ngx_lunary_outbox_kick(ngx_lunary_outbox_t *ob)
{
    ngx_uint_t                   n;
    ngx_queue_t                 *q;
    ngx_lunary_outbox_source_t  *src;

    if (ob->flight->op != NGX_LUNARY_OUTBOX_IDLE || ob->pause.timer_set) {
        return;
    }

    if (!ngx_lunary_redis_up(ob->redis)) {
        ngx_lunary_redis_connect(ob->redis);
        return;
    }

    n = 0;

    for (q = ngx_queue_head(&ob->sources);
         q != ngx_queue_sentinel(&ob->sources);
         q = ngx_queue_next(q))
    {
        n++;
    }

    while (n--) {
        q = ngx_queue_head(&ob->sources);
        ngx_queue_remove(q);
        ngx_queue_insert_tail(&ob->sources, q);

        src = ngx_queue_data(q, ngx_lunary_outbox_source_t, queue);

        if (ngx_lunary_outbox_start(ob, src)) {
            break;
        }
    }

    ngx_lunary_redis_idle(ob->redis, !ngx_lunary_outbox_pending(ob));
}


/* 1 where a flight of the source has started */

static ngx_uint_t
ngx_lunary_outbox_start(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src)
{
    if (src->life == NGX_LUNARY_OUTBOX_RETIRED) {
        ngx_lunary_outbox_start_delete(ob, src);
        return 1;
    }

    if (src->life != NGX_LUNARY_OUTBOX_LIVE) {
        return 0;
    }

    if (src->verify) {
        ngx_lunary_outbox_start_open(ob, src);
        return 1;
    }

    if (src->shards[0].mend) {
        ngx_lunary_outbox_start_mend(ob, src);
        return 1;
    }

    if (ngx_lunary_outbox_collect(ob, src)) {

        if (src->verify) {
            ngx_lunary_outbox_start_open(ob, src);
            return 1;
        }

        if (ob->flight->multi && ob->flight->count) {
            ngx_lunary_outbox_start_multi(ob, src);
            return 1;
        }

        ngx_lunary_outbox_start_add(ob, src);
        return 1;
    }

    if (src->unwaited) {
        ngx_lunary_outbox_start_wait(ob, src);
        return 1;
    }

    if (!src->own && lunary_spool_empty(&src->spool)) {
        src->life = NGX_LUNARY_OUTBOX_RETIRING;
        ngx_lunary_outbox_thread_job(ob, src);
    }

    return 0;
}


/* asks for the watermarks that are not known, and makes those that are not
 * there */

static void
ngx_lunary_outbox_start_open(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src)
{
    u_char                      *p;
    size_t                       size;
    ngx_uint_t                   i;
    ngx_lunary_outbox_batch_t   *b;
    ngx_lunary_outbox_flight_t  *f;

    f = ob->flight;
    size = 0;

    for (i = 0; i < src->spool.shards; i++) {
        if (!src->shards[i].known) {
            size += ngx_lunary_outbox_script_size(&src->shards[i]);
        }
    }

    if (size == 0) {
        src->verify = 0;
        ngx_lunary_outbox_schedule(ob);
        return;
    }

    if (ngx_lunary_outbox_prepare(ob, src, NGX_LUNARY_OUTBOX_OPEN, size)
        != NGX_OK)
    {
        return;
    }

    p = f->prefix;

    for (i = 0; i < src->spool.shards; i++) {

        if (src->shards[i].known) {
            continue;
        }

        b = ngx_lunary_outbox_batch(f, i);

        size = ngx_lunary_outbox_script_open(p, f->eval, &src->shards[i])
               - p;

        ngx_lunary_outbox_append(f, b, p, size);
        p += size;

        ngx_lunary_outbox_send(ob, b);
    }

    if (f->pending == 0) {
        ngx_lunary_outbox_land(ob);
    }
}


static void
ngx_lunary_outbox_start_add(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src)
{
    size_t                       size, maxbytes;
    u_char                      *p;
    ngx_buf_t                   *buf;
    ngx_uint_t                   i, limit;
    ngx_chain_t                 *cl;
    ngx_lunary_outbox_shard_t   *shard;
    ngx_lunary_outbox_batch_t   *b;
    ngx_lunary_outbox_flight_t  *f;

    f = ob->flight;
    f->multi = 0;
    size = ngx_lunary_outbox_arm_size(&src->shards[0]);

    for (i = 0; i < f->nbatches; i++) {
        size += ngx_lunary_outbox_script_size(
                                        &src->shards[f->batches[i].shard]);
    }

    if (ngx_lunary_outbox_prepare(ob, src, NGX_LUNARY_OUTBOX_ADD, size)
        != NGX_OK)
    {
        return;
    }

    p = f->prefix;

    for (i = 0; i < f->nbatches; i++) {
        b = &f->batches[i];
        shard = &src->shards[b->shard];

        limit = ngx_lunary_outbox_limit(ob, shard);
        maxbytes = 0;

        if (ngx_lunary_outbox_sample_due(ob, shard)) {
            maxbytes = ob->conf->maxbytes;
            limit = ob->conf->maxlen;

            shard->sampled = ngx_current_msec;
            shard->since = 0;
        }

        shard->since += b->bytes;

        /* the call's own arguments go in front */

        cl = &f->links[i];
        buf = &f->bufs[i];

        ngx_memzero(buf, sizeof(ngx_buf_t));

        buf->memory = 1;
        buf->pos = p;

        p = ngx_lunary_outbox_script_add(p, f->eval, shard, b, limit,
                                         maxbytes);
        buf->last = p;

        cl->buf = buf;
        cl->next = b->out;
        b->out = cl;

        ngx_lunary_outbox_send(ob, b);
    }

    if (ob->conf->redis->wait) {
        ngx_lunary_outbox_send_wait(ob);
    }

    if (ngx_lunary_outbox_arms(ob, src)) {
        ngx_lunary_outbox_arm(ob, src, p);
    }

    if (f->pending == 0) {
        ngx_lunary_outbox_land(ob);
    }
}


static void
ngx_lunary_outbox_start_multi(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src)
{
    u_char                      *p;
    ngx_lunary_outbox_flight_t  *f;

    f = ob->flight;

    (void) ngx_lunary_outbox_prepare(ob, src, NGX_LUNARY_OUTBOX_ADD, 0);

    p = ngx_lunary_outbox_multi_add(ob, src, f->prefix_last);

    if (p == NULL) {
        ngx_lunary_outbox_land(ob);
        return;
    }

    if (ob->conf->redis->wait) {
        ngx_lunary_outbox_send_wait(ob);
    }

    if (ngx_lunary_outbox_arms(ob, src)) {
        ngx_lunary_outbox_arm(ob, src, p);
    }

    if (f->pending == 0) {
        ngx_lunary_outbox_land(ob);
    }
}


/* a watermark that is wrong is set right by a batch without records */

static void
ngx_lunary_outbox_start_mend(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src)
{
    ngx_lunary_outbox_batch_t   *b;
    ngx_lunary_outbox_flight_t  *f;

    f = ob->flight;

    ngx_lunary_outbox_empty(f);

    b = ngx_lunary_outbox_batch(f, 0);
    b->last_seq = src->shards[0].applied;

    ngx_lunary_outbox_start_add(ob, src);
}


/*
 * Applied, but not on enough replicas when WAIT was asked: WAIT is about the
 * connection's own writes, and it may be a new one, so a watermark is written
 * again as it is, and the question asked behind that.
 */

static void
ngx_lunary_outbox_start_wait(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src)
{
    ngx_uint_t                  i;
    ngx_lunary_outbox_batch_t  *b;

    for (i = 0; i < src->spool.shards; i++) {

        if (src->shards[i].known && src->shards[i].moved) {
            b = ngx_lunary_outbox_batch(ob->flight, i);
            b->last_seq = src->shards[i].moved;
            break;
        }
    }

    if (ob->flight->nbatches == 0) {
        src->unwaited = 0;
        return;
    }

    ngx_lunary_outbox_start_add(ob, src);
}


/* WAIT covers every write of this connection before it */

static void
ngx_lunary_outbox_send_wait(ngx_lunary_outbox_t *ob)
{
    u_char      n[NGX_INT_T_LEN], ms[NGX_INT_T_LEN];
    ngx_str_t   argv[3];

    ngx_str_set(&argv[0], "WAIT");
    argv[1].data = n;
    argv[1].len = ngx_sprintf(n, "%ui", ob->conf->redis->wait) - n;
    argv[2].data = ms;
    argv[2].len = ngx_sprintf(ms, "%M", ngx_min(ob->conf->redis->send_timeout
                                                / 2 + 1, 1000))
                  - ms;

    if (ngx_lunary_redis_argv(ob->redis, 3, argv,
                              ngx_lunary_outbox_wait_reply, ob)
        == NGX_OK)
    {
        ob->flight->pending++;
    }
}


static void
ngx_lunary_outbox_start_delete(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src)
{
    ngx_str_t                    argv[2];
    ngx_uint_t                   i;
    ngx_lunary_outbox_flight_t  *f;

    f = ob->flight;

    if (ngx_lunary_outbox_prepare(ob, src, NGX_LUNARY_OUTBOX_DELETE, 0)
        != NGX_OK)
    {
        return;
    }

    for (i = 0; i < src->spool.shards; i++) {
        ngx_str_set(&argv[0], "DEL");
        argv[1] = src->shards[i].key;

        if (ngx_lunary_redis_argv(ob->redis, 2, argv,
                                  ngx_lunary_outbox_delete_reply, ob)
            == NGX_OK)
        {
            f->pending++;

        } else {
            f->failed = 1;
        }
    }

    if (f->pending == 0) {
        ngx_lunary_outbox_land(ob);
    }
}


static ngx_int_t
ngx_lunary_outbox_prepare(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_lunary_outbox_op_e op, size_t size)
{
    ngx_lunary_outbox_flight_t  *f;

    f = ob->flight;

    if (ngx_lunary_outbox_prefix(ob, size) != NGX_OK) {
        ngx_add_timer(&ob->pause, NGX_LUNARY_OUTBOX_RETRY_MAX);
        return NGX_ERROR;
    }

    if (op != NGX_LUNARY_OUTBOX_ADD || !f->multi) {
        ngx_lunary_outbox_disarm(ob);
        f->multi = 0;
    }

    if (op != NGX_LUNARY_OUTBOX_ADD) {
        ngx_lunary_outbox_empty(f);
    }

    f->op = op;
    f->eval = ob->use_eval;
    f->source = src;
    f->pending = 0;
    f->waited = 0;
    f->failed = 0;

    ngx_lunary_outbox_flying = ob;

    return NGX_OK;
}


static void
ngx_lunary_outbox_send(ngx_lunary_outbox_t *ob, ngx_lunary_outbox_batch_t *b)
{
    if (ngx_lunary_redis_command(ob->redis, b->out, 1,
                                 ngx_lunary_outbox_reply, b)
        == NGX_OK)
    {
        ob->flight->pending++;
        return;
    }

    ngx_lunary_outbox_script_reply(b, NULL);
}


static void
ngx_lunary_outbox_reply(void *data, redisReply *reply)
{
    ngx_lunary_outbox_batch_t *b = data;

    ngx_lunary_outbox_t  *ob;

    ob = ngx_lunary_outbox_flying;

    if (reply && reply->type == REDIS_REPLY_STATUS) {

        /* "QUEUED": Redis did not take EXEC for the end of MULTI */

        ngx_lunary_outbox_multi_stuck(ob);
    }

    ngx_lunary_outbox_script_reply(b, reply);
    ngx_lunary_outbox_refused_reply(ob, b, reply);

    ngx_lunary_outbox_replied(ob);
}


static void
ngx_lunary_outbox_wait_reply(void *data, redisReply *reply)
{
    ngx_lunary_outbox_t *ob = data;

    ngx_uint_t  n;

    n = 0;

    if (reply && reply->type == REDIS_REPLY_INTEGER && reply->integer > 0) {
        n = (ngx_uint_t) reply->integer;
    }

    ob->flight->waited = (n >= ob->conf->redis->wait);

    if (reply && ob->flight->waited == ob->wait_logged) {
        ob->wait_logged = !ob->flight->waited;

        if (ob->flight->waited) {
            ngx_log_error(NGX_LOG_NOTICE, ob->log, 0,
                          "lunary: redis %V: %ui replicas confirm again",
                          &ob->conf->redis->url, n);
        } else {
            ngx_log_error(NGX_LOG_WARN, ob->log, 0,
                          "lunary: redis %V: %ui of the %ui replicas of "
                          "wait= confirm; the spool keeps what was sent",
                          &ob->conf->redis->url, n, ob->conf->redis->wait);
        }
    }

    ngx_lunary_outbox_replied(ob);
}


static void
ngx_lunary_outbox_delete_reply(void *data, redisReply *reply)
{
    ngx_lunary_outbox_t *ob = data;

    if (reply == NULL || reply->type == REDIS_REPLY_ERROR) {
        ob->flight->failed = 1;
    }

    ngx_lunary_outbox_replied(ob);
}


/* one of the flight's replies was taken in */

void
ngx_lunary_outbox_replied(ngx_lunary_outbox_t *ob)
{
    if (--ob->flight->pending == 0) {
        ngx_lunary_outbox_land(ob);
    }
}
