/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Commands and replies of a Redis connection: what is queued, sent, read,
 * timed out.  Opening and losing the connection is the business of
 * ngx_lunary_redis_connect.c.
 *
 * Invariants
 *   - handlers are called from events only, so that a command's caller is
 *     never re-entered;
 *   - rc->out holds only links of requests that are in `inflight`;
 *   - a handler may do anything to the connection: after each one the loop
 *     looks again whether it is still the same.
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
static void ngx_lunary_redis_replies(ngx_lunary_redis_t *rc,
    ngx_uint_t generation);
static ngx_queue_t *ngx_lunary_redis_owner(ngx_lunary_redis_t *rc, void *data);
static void ngx_lunary_redis_finish(ngx_lunary_redis_t *rc,
    ngx_lunary_redis_request_t *req, redisReply *reply);


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
ngx_lunary_redis_write_handler(ngx_event_t *wev)
{
    ngx_chain_t         *cl;
    ngx_connection_t    *c;
    ngx_lunary_redis_t  *rc;

    c = wev->data;
    rc = c->data;

    if (rc->out == NULL && !c->buffered) {
        return;
    }

    ngx_lunary_redis_set_lowat(rc);

    cl = c->send_chain(c, rc->out, 0);

    if (cl == NGX_CHAIN_ERROR) {
        ngx_lunary_redis_failed(rc, NGX_LOG_ERR, ngx_socket_errno, NULL,
                                "sending failed");
        return;
    }

    rc->out = cl;

    if (cl == NULL) {
        rc->last_out = &rc->out;
    }

    if (ngx_handle_write_event(wev, 0) != NGX_OK) {
        ngx_lunary_redis_failed(rc, NGX_LOG_ALERT, 0, NULL,
                                "event registration failed");
    }
}


void
ngx_lunary_redis_read_handler(ngx_event_t *rev)
{
    ssize_t              n;
    ngx_err_t            err;
    ngx_uint_t           generation;
    ngx_connection_t    *c;
    ngx_lunary_redis_t  *rc;
    static u_char        buf[16384];

    c = rev->data;
    rc = c->data;

    if (c->close) {

        /* a graceful quit closes what is idle; at worker_shutdown_timeout
         * (c->error) everything goes, and nothing comes again */

        if (c->error) {
            rc->closed = 1;
        }

        ngx_lunary_redis_disconnect(rc);
        return;
    }

    for ( ;; ) {

        n = c->recv(c, buf, sizeof(buf));

        if (n == NGX_AGAIN) {
            break;
        }

        if (n == NGX_ERROR || n == 0) {
            err = (n == NGX_ERROR) ? ngx_socket_errno : 0;

            ngx_lunary_redis_failed(rc, NGX_LOG_ERR, err, NULL,
                                    n ? "receiving failed"
                                      : "the connection was closed by Redis");
            return;
        }

        if (redisReaderFeed(rc->reader, (char *) buf, n) != REDIS_OK) {
            ngx_lunary_stats_inc(NGX_LUNARY_C_REDIS_ERR_PROTOCOL);
            ngx_lunary_redis_failed(rc, NGX_LOG_ERR, 0, NULL,
                                    "no memory for a reply");
            return;
        }

        generation = rc->generation;

        ngx_lunary_redis_replies(rc, generation);

        if (rc->peer.connection == NULL || rc->generation != generation) {
            return;
        }

        if (rc->reader->len - rc->reader->pos > NGX_LUNARY_REDIS_MAX_REPLY) {
            ngx_lunary_stats_inc(NGX_LUNARY_C_REDIS_ERR_PROTOCOL);
            ngx_lunary_redis_failed(rc, NGX_LOG_ERR, 0, NULL,
                                    "a reply is too long");
            return;
        }

        if (!rev->ready) {

            /* it was less than there was room for: no need to ask */

            break;
        }
    }

    if (ngx_handle_read_event(rev, 0) != NGX_OK) {
        ngx_lunary_redis_failed(rc, NGX_LOG_ALERT, 0, NULL,
                                "event registration failed");
        return;
    }

    ngx_lunary_redis_set_lowat(rc);
    ngx_lunary_redis_set_timer(rc);
    ngx_lunary_redis_set_idle(rc);
}


static void
ngx_lunary_redis_replies(ngx_lunary_redis_t *rc, ngx_uint_t generation)
{
    void                        *p;
    ngx_buf_t                   *b;
    ngx_str_t                    text;
    redisReply                  *reply;
    ngx_lunary_redis_request_t  *req;

    for ( ;; ) {

        p = NULL;
        req = NULL;

        if (!ngx_queue_empty(&rc->inflight)) {
            req = ngx_queue_data(ngx_queue_head(&rc->inflight),
                                 ngx_lunary_redis_request_t, queue);
        }

        rc->reader->privdata = (req && req->exec) ? rc : NULL;

        if (redisReaderGetReply(rc->reader, &p) != REDIS_OK) {
            ngx_lunary_stats_inc(NGX_LUNARY_C_REDIS_ERR_PROTOCOL);
            ngx_lunary_redis_failed(rc, NGX_LOG_ERR, 0, NULL,
                                    "what answers does not speak RESP");
            return;
        }

        reply = p;

        if (reply == NULL) {
            return;
        }

        if (req) {

            /* of several commands the first are answered while the others
             * are on their way */

            b = (req->replies > 1) ? req->in->buf : req->last->buf;

            if (b->pos != b->last) {

                /* an answer to what was not yet said, such as
                 * "-ERR max number of clients reached" */

                req = NULL;
            }
        }

        if (req == NULL) {
            ngx_lunary_redis_text(reply, &text);

            ngx_lunary_stats_inc(NGX_LUNARY_C_REDIS_ERR_PROTOCOL);
            ngx_lunary_redis_failed(rc, NGX_LOG_ERR, 0, &text,
                                    "an unexpected reply");
            ngx_lunary_redis_free(reply);
            return;
        }

        if (--req->replies == 0) {
            ngx_queue_remove(&req->queue);
            rc->ncommands--;

            ngx_lunary_redis_finish(rc, req, reply);

        } else if (reply->type == REDIS_REPLY_ERROR && req->error == NULL) {
            req->error = reply;
            reply = NULL;
        }

        if (reply) {
            ngx_lunary_redis_free(reply);
        }

        if (rc->peer.connection == NULL || rc->generation != generation) {
            return;
        }
    }
}


static void
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


/*
 * A transaction's commands are answered one by one, "QUEUED", as Redis reads
 * them, and each answer would wake the worker for nothing.  So while one is
 * under way the kernel is told how many bytes are to come at least, and wakes
 * the worker then, or when the connection is lost.
 */

void
ngx_lunary_redis_set_lowat(ngx_lunary_redis_t *rc)
{
#if (NGX_LINUX)

    int                          least;
    ngx_queue_t                 *q;
    ngx_lunary_redis_request_t  *req;

    least = 0;

    for (q = ngx_queue_head(&rc->inflight);
         q != ngx_queue_sentinel(&rc->inflight) && !rc->brief;
         q = ngx_queue_next(q))
    {
        req = ngx_queue_data(q, ngx_lunary_redis_request_t, queue);

        if (req->exec) {
            least += (int) (req->replies - 1) * NGX_LUNARY_REDIS_QUEUED
                     + NGX_LUNARY_REDIS_LEAST;

        } else if (least != 0) {
            least += (int) req->replies * NGX_LUNARY_REDIS_LEAST;

        } else {
            break;
        }
    }

    least -= (int) (rc->reader->len - rc->reader->pos);
    least = ngx_max(least, 1);

    if (least == rc->lowat) {
        return;
    }

    /* of what is there already the kernel tells again, from 4.18 on */

    if (setsockopt(rc->peer.connection->fd, SOL_SOCKET, SO_RCVLOWAT,
                   (const void *) &least, sizeof(int))
        == 0)
    {
        rc->lowat = least;
    }

#endif
}
