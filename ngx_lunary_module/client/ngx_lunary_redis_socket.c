/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The socket to a Redis over loopback, where the system's congestion control
 * is BBR.  BBR spaces out what it sends by timers, each an interrupt of this
 * processor, and there is no link to be spared: that was an eighth of all that
 * a call of 213 KB cost the worker.  So such a socket is `reno`, which is in
 * every kernel, and allowed to everybody.
 *
 * Invariants
 *   - it is set before connect(): what BBR has once begun stays paced, whatever
 *     is set then, and over loopback connect() is all of the handshake;
 *   - where it cannot be set, or need not be, nginx opens the socket as it
 *     always does.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "ngx_lunary_redis_internal.h"


#if (NGX_LINUX && defined TCP_CONGESTION)

static ngx_uint_t ngx_lunary_redis_loopback(struct sockaddr *sa);
static ngx_int_t ngx_lunary_redis_unpaced(ngx_socket_t s);


ngx_int_t
ngx_lunary_redis_get_peer(ngx_peer_connection_t *pc, void *data)
{
    int                value;
    ngx_err_t          err;
    ngx_socket_t       s;
    ngx_connection_t  *c;

    /* poll and select have other ways to add a connection */

    if (!ngx_add_conn || !ngx_lunary_redis_loopback(pc->sockaddr)) {
        return NGX_OK;
    }

    s = ngx_socket(pc->sockaddr->sa_family, SOCK_STREAM, 0);

    if (s == (ngx_socket_t) -1) {
        return NGX_OK;
    }

    if (ngx_lunary_redis_unpaced(s) != NGX_OK || ngx_nonblocking(s) == -1) {
        (void) ngx_close_socket(s);
        return NGX_OK;
    }

    c = ngx_get_connection(s, pc->log);

    if (c == NULL) {
        (void) ngx_close_socket(s);
        return NGX_ERROR;
    }

    value = 1;

    (void) setsockopt(s, SOL_SOCKET, SO_KEEPALIVE, (const void *) &value,
                      sizeof(int));

    c->type = SOCK_STREAM;

    c->recv = ngx_recv;
    c->send = ngx_send;
    c->recv_chain = ngx_recv_chain;
    c->send_chain = ngx_send_chain;
    c->sendfile = 1;

    c->log_error = pc->log_error;
    c->read->log = pc->log;
    c->write->log = pc->log;

    c->number = ngx_atomic_fetch_add(ngx_connection_counter, 1);
    c->start_time = ngx_current_msec;

    if (ngx_add_conn(c) == NGX_ERROR) {
        ngx_close_connection(c);
        return NGX_ERROR;
    }

    if (connect(s, pc->sockaddr, pc->socklen) == -1) {
        err = ngx_socket_errno;

        if (err != NGX_EINPROGRESS) {
            ngx_close_connection(c);
            ngx_set_socket_errno(err);
            return NGX_DECLINED;
        }
    }

    /* of a connection that is there already the event tells */

    pc->connection = c;

    return NGX_AGAIN;
}


/* addresses of this host only: "any" is connected to over loopback, too */

static ngx_uint_t
ngx_lunary_redis_loopback(struct sockaddr *sa)
{
    in_addr_t         addr;
#if (NGX_HAVE_INET6)
    struct in6_addr  *in6;
#endif

    switch (sa->sa_family) {

    case AF_INET:
        addr = ntohl(((struct sockaddr_in *) sa)->sin_addr.s_addr);
        return addr >> 24 == IN_LOOPBACKNET || addr == INADDR_ANY;

#if (NGX_HAVE_INET6)
    case AF_INET6:
        in6 = &((struct sockaddr_in6 *) sa)->sin6_addr;
        return IN6_IS_ADDR_LOOPBACK(in6) || IN6_IS_ADDR_UNSPECIFIED(in6);
#endif

    default:
        return 0;
    }
}


/* NGX_DECLINED where it would not have been paced anyway, or cannot be set */

static ngx_int_t
ngx_lunary_redis_unpaced(ngx_socket_t s)
{
    char       name[16];
    socklen_t  len;

    len = sizeof(name);

    if (getsockopt(s, IPPROTO_TCP, TCP_CONGESTION, (void *) name, &len) == -1
        || len < 3
        || ngx_memcmp(name, "bbr", 3) != 0)
    {
        return NGX_DECLINED;
    }

    return setsockopt(s, IPPROTO_TCP, TCP_CONGESTION, (const void *) "reno", 4)
           == 0
           ? NGX_OK : NGX_DECLINED;
}

#else

ngx_int_t
ngx_lunary_redis_get_peer(ngx_peer_connection_t *pc, void *data)
{
    return NGX_OK;
}

#endif
