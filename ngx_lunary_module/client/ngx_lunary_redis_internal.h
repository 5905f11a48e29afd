/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What the files of client/ share.
 *
 *     ngx_lunary_redis.c           commands and their timeouts
 *     ngx_lunary_redis_wire.c      bytes out, bytes in, whose reply it is
 *     ngx_lunary_redis_reply.c     what a reply may be, and what it means
 *     ngx_lunary_redis_connect.c   addresses, connecting, TLS, log-in, backoff
 *     ngx_lunary_redis_socket.c    a socket over loopback
 *     ngx_lunary_redis_conf.c      the directive
 *
 * A connection goes DOWN -> RESOLVING -> CONNECTING -> HELLO -> UP and from
 * anywhere back to DOWN.  A command waits in `waiting` until UP and moves to
 * `inflight` when its bytes are queued for sending; replies belong to
 * `inflight`'s first.
 */

#ifndef NGX_LUNARY_REDIS_INTERNAL_H
#define NGX_LUNARY_REDIS_INTERNAL_H

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_event_connect.h>

#include "ngx_lunary_redis.h"


#define NGX_LUNARY_REDIS_MAX_COMMANDS  4096     /* under way, a connection   */
#define NGX_LUNARY_REDIS_OWNERS        256      /* buckets                   */
#define NGX_LUNARY_REDIS_QUEUED        9        /* bytes: "+QUEUED" CRLF     */
#define NGX_LUNARY_REDIS_LEAST         4        /* ... of the shortest reply */
#define NGX_LUNARY_REDIS_BRIEF         100      /* ms, for a last look       */
#define NGX_LUNARY_REDIS_MAX_REPLY     (16 * 1024 * 1024)
#define NGX_LUNARY_REDIS_MAX_ELEMENTS  (1024 * 1024)
#define NGX_LUNARY_REDIS_MAX_DEPTH     7
#define NGX_LUNARY_REDIS_BACKOFF_MIN   50       /* ms                        */
#define NGX_LUNARY_REDIS_BACKOFF_MAX   1000
#define NGX_LUNARY_REDIS_FATAL_DELAY   10000    /* an operator must act      */
#define NGX_LUNARY_REDIS_LOG_EVERY     60000    /* the same failure, again   */


typedef enum {
    NGX_LUNARY_REDIS_DOWN = 0,
    NGX_LUNARY_REDIS_RESOLVING,
    NGX_LUNARY_REDIS_CONNECTING,               /* and the TLS handshake      */
    NGX_LUNARY_REDIS_HELLO,
    NGX_LUNARY_REDIS_UP
} ngx_lunary_redis_state_e;


typedef struct {
    ngx_queue_t                   queue;
    ngx_queue_t                   owned;       /* in owners[]; next is NULL:
                                                  one of our own             */
    ngx_lunary_redis_handler_pt   handler;     /* NULL: forgotten            */
    void                         *data;
    ngx_uint_t                    replies;     /* still to come              */
    ngx_uint_t                    exec;        /* the last is EXEC's         */
    redisReply                   *error;       /* the first that was one     */
    ngx_msec_t                    start;
    ngx_chain_t                  *last;        /* its last link in rc->out   */
    ngx_chain_t                  *in;          /* its links: its own, behind
                                                  it, or lent                */
} ngx_lunary_redis_request_t;


struct ngx_lunary_redis_s {
    ngx_lunary_redis_conf_t      *conf;
    const char                   *purpose;
    ngx_msec_t                    timeout;
    ngx_lunary_redis_state_pt     handler;
    void                         *data;

    ngx_lunary_redis_state_e      state;
    ngx_log_t                    *log;
    ngx_log_t                     peer_log;    /* silent in a row of failures*/

    ngx_peer_connection_t         peer;
    ngx_resolver_ctx_t           *resolving;
    ngx_addr_t                    addr;        /* the one being tried        */
    ngx_sockaddr_t                sockaddr;
    u_char                        name[NGX_SOCKADDR_STRLEN];
    ngx_uint_t                    next_addr;
    ngx_uint_t                    generation;  /* connections opened         */

    redisReader                  *reader;
    ngx_queue_t                   waiting;
    ngx_queue_t                   inflight;
    ngx_queue_t                   lost;        /* to be told so              */
    ngx_queue_t                   owners[NGX_LUNARY_REDIS_OWNERS];
                                               /* commands by their data     */
    ngx_uint_t                    ncommands;   /* in both                    */
    ngx_chain_t                  *out;         /* bytes still to be sent     */
    ngx_chain_t                 **last_out;

    int                           lowat;       /* SO_RCVLOWAT, as it is set  */
    ngx_event_t                   timer;       /* connect, or first command  */
    ngx_event_t                   patience;    /* of commands in `waiting`   */
    ngx_event_t                   retry;       /* backoff                    */
    ngx_connection_t              dummy;       /* what timers are logged by  */

    ngx_uint_t                    failures;    /* in a row                   */
    ngx_msec_t                    logged;
    ngx_uint_t                    last_failure;/* hash of its text           */

    unsigned                      idle:1;
    unsigned                      keep:1;
    unsigned                      silent:1;    /* the row is already logged  */
    unsigned                      ever:1;      /* it has been up             */
    unsigned                      closed:1;    /* by its owner, or shut down */
    unsigned                      fatal:1;     /* waits for an operator      */
    unsigned                      brief:1;     /* it answers with less than a
                                                  Redis does                 */
};


/* ngx_lunary_redis.c */

ngx_lunary_redis_request_t *ngx_lunary_redis_build(ngx_lunary_redis_t *rc,
    ngx_uint_t argc, const ngx_str_t *argv,
    ngx_lunary_redis_handler_pt handler, void *data);
void ngx_lunary_redis_queue(ngx_lunary_redis_t *rc,
    ngx_lunary_redis_request_t *req);
void ngx_lunary_redis_start_waiting(ngx_lunary_redis_t *rc);
void ngx_lunary_redis_set_timer(ngx_lunary_redis_t *rc);
void ngx_lunary_redis_set_idle(ngx_lunary_redis_t *rc);
void ngx_lunary_redis_fail_commands(ngx_lunary_redis_t *rc);

/* calls the handler with the reply, or the first that was an error, and frees
 * the request, which is in no queue but its owner's */
void ngx_lunary_redis_finish(ngx_lunary_redis_t *rc,
    ngx_lunary_redis_request_t *req, redisReply *reply);

/* ngx_lunary_redis_wire.c */

void ngx_lunary_redis_read_handler(ngx_event_t *rev);
void ngx_lunary_redis_write_handler(ngx_event_t *wev);
void ngx_lunary_redis_set_lowat(ngx_lunary_redis_t *rc);

/* ngx_lunary_redis_reply.c */

redisReader *ngx_lunary_redis_reader(void);
void ngx_lunary_redis_free(redisReply *reply);

/* ngx_lunary_redis_socket.c */

/*
 * A peer's `get`: NGX_OK leaves the socket to ngx_event_connect_peer(), which
 * returns whatever else this does: NGX_AGAIN, the socket is being connected;
 * NGX_DECLINED, it was refused, as errno says; NGX_ERROR.
 */
ngx_int_t ngx_lunary_redis_get_peer(ngx_peer_connection_t *pc, void *data);

/* ngx_lunary_redis_connect.c */

void ngx_lunary_redis_timer_handler(ngx_event_t *ev);
void ngx_lunary_redis_retry_handler(ngx_event_t *ev);
void ngx_lunary_redis_disconnect(ngx_lunary_redis_t *rc);
void ngx_lunary_redis_failed(ngx_lunary_redis_t *rc, ngx_uint_t level,
    ngx_err_t err, ngx_str_t *reply, const char *why);


#endif /* NGX_LUNARY_REDIS_INTERNAL_H */
