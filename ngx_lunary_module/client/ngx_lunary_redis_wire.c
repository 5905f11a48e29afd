/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The bytes of a Redis connection that is open: what is written, what is read,
 * and which command a reply belongs to.
 *
 * Invariants
 *   - a handler may do anything to the connection: after each one the loop
 *     looks again whether it is still the same;
 *   - the worker is woken at the latest when all replies are there, or the
 *     connection is lost, or the first command's time is over.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "ngx_lunary_redis_internal.h"
#include "stats/ngx_lunary_stats.h"


static void ngx_lunary_redis_replies(ngx_lunary_redis_t *rc,
    ngx_uint_t generation);


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
    ngx_connection_t            *c;
    ngx_lunary_redis_request_t  *req;

    c = rc->peer.connection;

#if (NGX_SSL)

    /* of a TLS record that is not all here, OpenSSL holds what came */

    if (c->ssl) {
        return;
    }

#endif

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

    if (setsockopt(c->fd, SOL_SOCKET, SO_RCVLOWAT, (const void *) &least,
                   sizeof(int))
        == 0)
    {
        rc->lowat = least;
    }

#endif
}
