/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * One non-blocking, pipelining connection to a Redis, over nginx's events:
 * connect, TLS, AUTH, SELECT, CLIENT SETNAME, reconnect with backoff and
 * jitter.  hiredis' reader is the codec, nginx the transport.  It knows RESP,
 * never what is sent.
 *
 * Invariants
 *   - nothing here blocks: no DNS, connect, read or write that waits;
 *   - every accepted command's handler is called exactly once: with a reply,
 *     or with NULL (lost, timed out, shut down), never from inside
 *     ngx_lunary_redis_command();
 *   - replies come in the order of the commands;
 *   - errors are logged on change and at most once a second, never keys,
 *     values or passwords.
 */

#ifndef NGX_LUNARY_REDIS_H
#define NGX_LUNARY_REDIS_H

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include <hiredis/hiredis.h>


/* a target, from the configuration; shared by the connections to it */

typedef struct {
    ngx_str_t                  name;           /* lunary_redis NAME, or ""   */
    ngx_str_t                  url;            /* as written, for messages
                                                  without its password       */
    ngx_str_t                  host;
    in_port_t                  port;
    ngx_str_t                  path;           /* unix socket                */
    ngx_int_t                  db;
    ngx_str_t                  user;
    ngx_str_t                  password;
    ngx_msec_t                 connect_timeout;
    ngx_msec_t                 timeout;        /* look-ups                   */
    ngx_msec_t                 send_timeout;   /* delivery                   */
    ngx_uint_t                 wait;           /* WAIT replicas, 0: none     */
    ngx_addr_t                *addrs;          /* resolved at configuration  */
    ngx_uint_t                 naddrs;
    ngx_flag_t                 named;          /* host is no address         */
    ngx_resolver_t            *resolver;       /* NULL: addrs is all we have */
    ngx_msec_t                 resolver_timeout;
    void                      *ssl;            /* ngx_ssl_t; NULL: plain     */
    ngx_flag_t                 verify;
} ngx_lunary_redis_conf_t;


/*
 * Parses `lunary_redis [NAME] URL [param=...]` (cf->args, from index 1).
 * NGX_CONF_OK, or NGX_CONF_ERROR after logging what is wrong and the mend.
 * Resolves names once here; later again on reconnect where a resolver is
 * configured.
 */
char *ngx_lunary_redis_parse(ngx_conf_t *cf, ngx_lunary_redis_conf_t *conf);


typedef struct ngx_lunary_redis_s  ngx_lunary_redis_t;

/* reply is freed when the handler returns; NULL: none will come */
typedef void (*ngx_lunary_redis_handler_pt)(void *data, redisReply *reply);

/* called when the connection becomes usable (1) or is lost (0) */
typedef void (*ngx_lunary_redis_state_pt)(void *data, ngx_uint_t up);


/*
 * A connection that is not yet open, for this worker's life.  purpose
 * ("lookup", "outbox") goes into CLIENT SETNAME and log lines.  timeout
 * bounds each command from its sending to its reply.
 */
ngx_lunary_redis_t *ngx_lunary_redis_create(ngx_cycle_t *cycle,
    ngx_lunary_redis_conf_t *conf, const char *purpose, ngx_msec_t timeout,
    ngx_lunary_redis_state_pt state, void *data);

/* opens the connection if it is not; also done by the first command */
void ngx_lunary_redis_connect(ngx_lunary_redis_t *rc);

/*
 * Sends what is already in RESP, given as a chain of memory bufs: `replies`
 * commands, answered by as many replies, of which the handler gets the last,
 * or the first that is an error.  Links, bufs and bytes are lent: they belong
 * to the connection, which changes links and bufs, until the handler is
 * called (or this fails).
 * NGX_OK, or NGX_ERROR: not accepted (down, in backoff, too many under way);
 * the handler is then not called.
 */
ngx_int_t ngx_lunary_redis_command(ngx_lunary_redis_t *rc, ngx_chain_t *in,
    ngx_uint_t replies, ngx_lunary_redis_handler_pt handler, void *data);

/* the same for commands that end with EXEC: of the strings in the array that
 * answers it (not in arrays in there) only the first element's is kept, the
 * others, such as what XADD answers, are empty */
ngx_int_t ngx_lunary_redis_exec(ngx_lunary_redis_t *rc, ngx_chain_t *in,
    ngx_uint_t replies, ngx_lunary_redis_handler_pt handler, void *data);

/* ... for argv strings, copied; for small commands */
ngx_int_t ngx_lunary_redis_argv(ngx_lunary_redis_t *rc, ngx_uint_t argc,
    const ngx_str_t *argv, ngx_lunary_redis_handler_pt handler, void *data);

/* forgets one requester: the handlers of its commands will not be called */
void ngx_lunary_redis_forget(ngx_lunary_redis_t *rc, void *data);

/* 1 where the connection is open and authenticated */
ngx_uint_t ngx_lunary_redis_up(ngx_lunary_redis_t *rc);

/*
 * Whether a graceful shutdown may close the connection while no command is
 * under way: 1 (as created), or 0 while the owner has more to send.
 */
void ngx_lunary_redis_idle(ngx_lunary_redis_t *rc, ngx_uint_t idle);

/* a graceful shutdown leaves the connection open: its owner closes it */
void ngx_lunary_redis_keep(ngx_lunary_redis_t *rc);

/*
 * Sends a last small command and expects no reply; ngx_lunary_redis_close()
 * must follow.  NGX_OK where all of it was handed to the kernel.
 */
ngx_int_t ngx_lunary_redis_farewell(ngx_lunary_redis_t *rc, ngx_uint_t argc,
    const ngx_str_t *argv);

/* treats the connection as broken: closes it, and connects again after the
 * usual backoff; what is under way gets NULL */
void ngx_lunary_redis_reset(ngx_lunary_redis_t *rc, const char *why);

/* closes; handlers under way get NULL */
void ngx_lunary_redis_close(ngx_lunary_redis_t *rc);


/* how an error reply is to be taken */

typedef enum {
    NGX_LUNARY_REDIS_RETRY = 0,        /* LOADING READONLY OOM MASTERDOWN
                                          CLUSTERDOWN TRYAGAIN BUSY ...     */
    NGX_LUNARY_REDIS_FATAL,            /* NOAUTH WRONGPASS NOPERM WRONGTYPE */
    NGX_LUNARY_REDIS_OTHER
} ngx_lunary_redis_error_e;

ngx_lunary_redis_error_e ngx_lunary_redis_error(redisReply *reply);

/* an error reply's text fit for the log, in place: without control characters
 * and without the arguments (keys) that some errors quote; else empty */
void ngx_lunary_redis_text(redisReply *reply, ngx_str_t *text);


#endif /* NGX_LUNARY_REDIS_H */
