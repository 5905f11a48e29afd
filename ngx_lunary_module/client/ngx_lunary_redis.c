/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The commands of a Redis connection: what is accepted, waits, is queued, is
 * forgotten, ends.  Their bytes and replies go through ngx_lunary_redis_wire.c;
 * opening and losing the connection is the business of
 * ngx_lunary_redis_connect.c.
 *
 * Invariants
 *   - handlers are called from events only, so that a command's caller is
 *     never re-entered;
 *   - rc->out holds only links of requests that are in `inflight`.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "ngx_lunary_redis_internal.h"
#include "stats/ngx_lunary_stats.h"


static ngx_lunary_redis_request_t *ngx_lunary_redis_request(
    ngx_lunary_redis_t *rc, ngx_uint_t nbufs, size_t size, ngx_buf_t **bufs);
static ngx_int_t ngx_lunary_redis_accept(ngx_lunary_redis_t *rc,
    ngx_lunary_redis_request_t *req);
static void ngx_lunary_redis_patience_handler(ngx_event_t *ev);
static ngx_int_t ngx_lunary_redis_lent(ngx_lunary_redis_t *rc, ngx_chain_t *in,
    ngx_uint_t replies, ngx_uint_t exec, ngx_lunary_redis_handler_pt handler,
    void *data);
static ngx_queue_t *ngx_lunary_redis_owner(ngx_lunary_redis_t *rc, void *data);


ngx_lunary_redis_t *
ngx_lunary_redis_create(ngx_cycle_t *cycle, ngx_lunary_redis_conf_t *conf,
    const char *purpose, ngx_msec_t timeout,
    ngx_lunary_redis_state_pt state, void *data)
{
    ngx_uint_t           i;
    ngx_lunary_redis_t  *rc;

    rc = ngx_pcalloc(cycle->pool, sizeof(ngx_lunary_redis_t));
    if (rc == NULL) {
        return NULL;
    }

    rc->conf = conf;
    rc->purpose = purpose;
    rc->timeout = timeout;
    rc->handler = state;
    rc->data = data;
    rc->log = cycle->log;
    rc->idle = 1;
    rc->last_out = &rc->out;

    ngx_queue_init(&rc->waiting);
    ngx_queue_init(&rc->inflight);
    ngx_queue_init(&rc->lost);

    for (i = 0; i < NGX_LUNARY_REDIS_OWNERS; i++) {
        ngx_queue_init(&rc->owners[i]);
    }

    rc->dummy.fd = (ngx_socket_t) -1;
    rc->dummy.data = rc;

    rc->timer.handler = ngx_lunary_redis_timer_handler;
    rc->timer.data = &rc->dummy;
    rc->timer.log = cycle->log;

    rc->patience.handler = ngx_lunary_redis_patience_handler;
    rc->patience.data = &rc->dummy;
    rc->patience.log = cycle->log;

    rc->retry.handler = ngx_lunary_redis_retry_handler;
    rc->retry.data = &rc->dummy;
    rc->retry.log = cycle->log;
    rc->retry.cancelable = 1;

    return rc;
}


ngx_int_t
ngx_lunary_redis_command(ngx_lunary_redis_t *rc, ngx_chain_t *in,
    ngx_uint_t replies, ngx_lunary_redis_handler_pt handler, void *data)
{
    return ngx_lunary_redis_lent(rc, in, replies, 0, handler, data);
}


ngx_int_t
ngx_lunary_redis_exec(ngx_lunary_redis_t *rc, ngx_chain_t *in,
    ngx_uint_t replies, ngx_lunary_redis_handler_pt handler, void *data)
{
    return ngx_lunary_redis_lent(rc, in, replies, 1, handler, data);
}


static ngx_int_t
ngx_lunary_redis_lent(ngx_lunary_redis_t *rc, ngx_chain_t *in,
    ngx_uint_t replies, ngx_uint_t exec, ngx_lunary_redis_handler_pt handler,
    void *data)
{
    ngx_chain_t                 *last;
    ngx_lunary_redis_request_t  *req;

    req = ngx_lunary_redis_request(rc, 0, 0, NULL);
    if (req == NULL) {
        return NGX_ERROR;
    }

    for (last = in; last->next; last = last->next) { /* void */ }

    last->buf->flush = 1;

    req->in = in;
    req->last = last;
    req->replies = replies;
    req->exec = exec;
    req->handler = handler;
    req->data = data;

    return ngx_lunary_redis_accept(rc, req);
}


ngx_int_t
ngx_lunary_redis_argv(ngx_lunary_redis_t *rc, ngx_uint_t argc,
    const ngx_str_t *argv, ngx_lunary_redis_handler_pt handler, void *data)
{
    ngx_lunary_redis_request_t  *req;

    req = ngx_lunary_redis_build(rc, argc, argv, handler, data);
    if (req == NULL) {
        return NGX_ERROR;
    }

    return ngx_lunary_redis_accept(rc, req);
}


ngx_lunary_redis_request_t *
ngx_lunary_redis_build(ngx_lunary_redis_t *rc, ngx_uint_t argc,
    const ngx_str_t *argv, ngx_lunary_redis_handler_pt handler, void *data)
{
    size_t                       size;
    ngx_buf_t                   *b;
    ngx_uint_t                   i;
    ngx_lunary_redis_request_t  *req;

    size = sizeof("*\r\n") - 1 + NGX_SIZE_T_LEN;

    for (i = 0; i < argc; i++) {
        size += sizeof("$\r\n\r\n") - 1 + NGX_SIZE_T_LEN + argv[i].len;
    }

    req = ngx_lunary_redis_request(rc, 1, size, &b);
    if (req == NULL) {
        return NULL;
    }

    b->last = ngx_sprintf(b->last, "*%ui\r\n", argc);

    for (i = 0; i < argc; i++) {
        b->last = ngx_sprintf(b->last, "$%uz\r\n", argv[i].len);

        if (argv[i].len) {
            b->last = ngx_cpymem(b->last, argv[i].data, argv[i].len);
        }

        *b->last++ = CR;
        *b->last++ = LF;
    }

    req->replies = 1;
    req->handler = handler;
    req->data = data;

    return req;
}


/*
 * One allocation: the request, its links, its bufs and, where size is given,
 * the bytes that the first buf is for.  No bufs: the links are lent.
 */

static ngx_lunary_redis_request_t *
ngx_lunary_redis_request(ngx_lunary_redis_t *rc, ngx_uint_t nbufs,
    size_t size, ngx_buf_t **bufs)
{
    ngx_buf_t                   *b;
    ngx_uint_t                   i;
    ngx_chain_t                 *cl;
    ngx_lunary_redis_request_t  *req;

    req = ngx_alloc(sizeof(ngx_lunary_redis_request_t)
                    + nbufs * (sizeof(ngx_chain_t) + sizeof(ngx_buf_t))
                    + size, rc->log);
    if (req == NULL) {
        return NULL;
    }

    ngx_memzero(req, sizeof(ngx_lunary_redis_request_t)
                     + nbufs * (sizeof(ngx_chain_t) + sizeof(ngx_buf_t)));

    if (nbufs == 0) {
        return req;
    }

    cl = (ngx_chain_t *) &req[1];
    b = (ngx_buf_t *) &cl[nbufs];

    for (i = 0; i < nbufs; i++) {
        b[i].memory = 1;
        cl[i].buf = &b[i];
        cl[i].next = (i + 1 < nbufs) ? &cl[i + 1] : NULL;
    }

    b[nbufs - 1].flush = 1;

    req->in = cl;
    req->last = &cl[nbufs - 1];

    if (size) {
        b[0].pos = (u_char *) &b[nbufs];
        b[0].last = b[0].pos;
    }

    *bufs = b;

    return req;
}


static ngx_int_t
ngx_lunary_redis_accept(ngx_lunary_redis_t *rc,
    ngx_lunary_redis_request_t *req)
{
    if (rc->state == NGX_LUNARY_REDIS_DOWN) {
        ngx_lunary_redis_connect(rc);
    }

    if (rc->state == NGX_LUNARY_REDIS_DOWN
        || rc->ncommands >= NGX_LUNARY_REDIS_MAX_COMMANDS)
    {
        ngx_free(req);
        return NGX_ERROR;
    }

    rc->ncommands++;
    req->start = ngx_current_msec;

    ngx_queue_insert_tail(&rc->waiting, &req->queue);
    ngx_queue_insert_tail(ngx_lunary_redis_owner(rc, req->data), &req->owned);

    if (rc->state == NGX_LUNARY_REDIS_UP) {
        ngx_lunary_redis_start_waiting(rc);
        return NGX_OK;
    }

    ngx_lunary_redis_set_timer(rc);

    if (!rc->patience.timer_set) {
        ngx_add_timer(&rc->patience, rc->timeout);
    }

    return NGX_OK;
}


/* a command waits for the connection no longer than for its reply */

static void
ngx_lunary_redis_patience_handler(ngx_event_t *ev)
{
    ngx_queue_t                 *q;
    ngx_connection_t            *c;
    ngx_msec_int_t               left;
    ngx_lunary_redis_t          *rc;
    ngx_lunary_redis_request_t  *req;

    c = ev->data;
    rc = c->data;

    while (!ngx_queue_empty(&rc->waiting)) {
        q = ngx_queue_head(&rc->waiting);
        req = ngx_queue_data(q, ngx_lunary_redis_request_t, queue);

        left = (ngx_msec_int_t) (req->start + rc->timeout - ngx_current_msec);

        if (left > 0) {
            if (!ev->timer_set) {
                ngx_add_timer(ev, (ngx_msec_t) left);
            }

            return;
        }

        ngx_queue_remove(q);
        rc->ncommands--;

        ngx_lunary_stats_inc(NGX_LUNARY_C_REDIS_ERR_TIMEOUT);
        ngx_lunary_redis_finish(rc, req, NULL);
    }
}


/* gives the commands that waited for the connection to it */

void
ngx_lunary_redis_start_waiting(ngx_lunary_redis_t *rc)
{
    ngx_queue_t                 *q;
    ngx_lunary_redis_request_t  *req;

    if (rc->patience.timer_set) {
        ngx_del_timer(&rc->patience);
    }

    while (!ngx_queue_empty(&rc->waiting)) {
        q = ngx_queue_head(&rc->waiting);
        ngx_queue_remove(q);

        req = ngx_queue_data(q, ngx_lunary_redis_request_t, queue);
        req->start = ngx_current_msec;

        ngx_lunary_redis_queue(rc, req);
    }
}


/* the bytes leave in a posted event: one writev() a round of the event loop */

void
ngx_lunary_redis_queue(ngx_lunary_redis_t *rc, ngx_lunary_redis_request_t *req)
{
    ngx_connection_t  *c;

    c = rc->peer.connection;

    ngx_queue_insert_tail(&rc->inflight, &req->queue);

    *rc->last_out = req->in;
    rc->last_out = &req->last->next;

    ngx_lunary_redis_set_timer(rc);
    ngx_lunary_redis_set_idle(rc);

    if (c->write->ready) {
        ngx_post_event(c->write, &ngx_posted_events);
    }
}


void
ngx_lunary_redis_finish(ngx_lunary_redis_t *rc,
    ngx_lunary_redis_request_t *req, redisReply *reply)
{
    void                         *data;
    redisReply                   *error;
    ngx_lunary_redis_handler_pt   handler;

    handler = req->handler;
    data = req->data;
    error = req->error;

    if (req->owned.next) {
        ngx_queue_remove(&req->owned);
    }

    ngx_free(req);

    if (handler) {
        handler(data, (reply && error) ? error : reply);
    }

    if (error) {
        ngx_lunary_redis_free(error);
    }
}


/*
 * Every command gets NULL.  The queues are emptied first: what handlers send
 * in answer to that belongs to the next connection, and what they end may
 * have commands that are still to be told: these can be forgotten, too.
 */

void
ngx_lunary_redis_fail_commands(ngx_lunary_redis_t *rc)
{
    ngx_queue_t                 *q;
    ngx_lunary_redis_request_t  *req;

    rc->out = NULL;
    rc->last_out = &rc->out;
    rc->ncommands = 0;

    if (!ngx_queue_empty(&rc->inflight)) {
        ngx_queue_add(&rc->lost, &rc->inflight);
        ngx_queue_init(&rc->inflight);
    }

    if (!ngx_queue_empty(&rc->waiting)) {
        ngx_queue_add(&rc->lost, &rc->waiting);
        ngx_queue_init(&rc->waiting);
    }

    if (rc->patience.timer_set) {
        ngx_del_timer(&rc->patience);
    }

    while (!ngx_queue_empty(&rc->lost)) {
        q = ngx_queue_head(&rc->lost);
        ngx_queue_remove(q);

        req = ngx_queue_data(q, ngx_lunary_redis_request_t, queue);
        ngx_lunary_redis_finish(rc, req, NULL);
    }
}


void
ngx_lunary_redis_forget(ngx_lunary_redis_t *rc, void *data)
{
    ngx_queue_t                 *q, *owner;
    ngx_lunary_redis_request_t  *req;

    owner = ngx_lunary_redis_owner(rc, data);

    for (q = ngx_queue_head(owner);
         q != ngx_queue_sentinel(owner);
         q = ngx_queue_next(q))
    {
        req = ngx_queue_data(q, ngx_lunary_redis_request_t, owned);

        if (req->data == data) {
            req->handler = NULL;
        }
    }
}


/* where the commands of that data are, wherever else they are queued */

static ngx_queue_t *
ngx_lunary_redis_owner(ngx_lunary_redis_t *rc, void *data)
{
    uint32_t  key;

    key = (uint32_t) ((uintptr_t) data >> 4) * 2654435761u;

    return &rc->owners[(key >> 16) % NGX_LUNARY_REDIS_OWNERS];
}


ngx_uint_t
ngx_lunary_redis_up(ngx_lunary_redis_t *rc)
{
    return rc->state == NGX_LUNARY_REDIS_UP;
}


void
ngx_lunary_redis_idle(ngx_lunary_redis_t *rc, ngx_uint_t idle)
{
    rc->idle = idle ? 1 : 0;

    ngx_lunary_redis_set_idle(rc);
}


void
ngx_lunary_redis_keep(ngx_lunary_redis_t *rc)
{
    rc->keep = 1;
}


ngx_int_t
ngx_lunary_redis_farewell(ngx_lunary_redis_t *rc, ngx_uint_t argc,
    const ngx_str_t *argv)
{
    ssize_t                      n, size;
    ngx_buf_t                   *b;
    ngx_connection_t            *c;
    ngx_lunary_redis_request_t  *req;

    c = rc->peer.connection;

    if (rc->state != NGX_LUNARY_REDIS_UP || rc->out || c->buffered) {
        return NGX_ERROR;
    }

    req = ngx_lunary_redis_build(rc, argc, argv, NULL, NULL);
    if (req == NULL) {
        return NGX_ERROR;
    }

    b = req->in->buf;
    size = b->last - b->pos;
    n = c->send(c, b->pos, size);

    ngx_free(req);

    return (n == size) ? NGX_OK : NGX_ERROR;
}


void
ngx_lunary_redis_set_idle(ngx_lunary_redis_t *rc)
{
    if (rc->peer.connection) {
        rc->peer.connection->idle = (rc->idle && !rc->keep
                                     && rc->ncommands == 0
                                     && rc->state == NGX_LUNARY_REDIS_UP);
    }
}


/*
 * The commands of a connection share one timeout and are answered in order,
 * so the first one's is the next to come.  While there is one, a graceful
 * shutdown waits for this timer.
 */

void
ngx_lunary_redis_set_timer(ngx_lunary_redis_t *rc)
{
    ngx_msec_int_t               left;
    ngx_lunary_redis_request_t  *req;

    rc->timer.cancelable = (rc->ncommands == 0 && rc->idle);

    if (rc->state != NGX_LUNARY_REDIS_UP) {
        return;
    }

    if (ngx_queue_empty(&rc->inflight)) {
        if (rc->timer.timer_set) {
            ngx_del_timer(&rc->timer);
        }

        return;
    }

    req = ngx_queue_data(ngx_queue_head(&rc->inflight),
                         ngx_lunary_redis_request_t, queue);

    left = (ngx_msec_int_t) (req->start + rc->timeout - ngx_current_msec);

    ngx_add_timer(&rc->timer, left > 0 ? (ngx_msec_t) left : 1);
}
