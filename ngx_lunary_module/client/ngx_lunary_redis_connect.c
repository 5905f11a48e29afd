/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * How a Redis connection comes about and ends: addresses, connect, TLS,
 * AUTH, SELECT, CLIENT SETNAME, failure, backoff.
 *
 * Invariants
 *   - names are resolved by nginx's resolver, or were at configuration;
 *   - while the retry timer is set no attempt is made, whoever asks;
 *   - one row of failures is one log line, another where the reason changes
 *     (at most one a second), and one again every minute.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "ngx_lunary_redis_internal.h"
#include "stats/ngx_lunary_stats.h"


static void ngx_lunary_redis_resolve(ngx_lunary_redis_t *rc);
static void ngx_lunary_redis_resolve_handler(ngx_resolver_ctx_t *ctx);
static void ngx_lunary_redis_unresolved(ngx_lunary_redis_t *rc,
    const char *why);
static void ngx_lunary_redis_open(ngx_lunary_redis_t *rc);
static void ngx_lunary_redis_connect_handler(ngx_event_t *ev);
static ngx_int_t ngx_lunary_redis_test_connect(ngx_connection_t *c,
    ngx_err_t *err);
static void ngx_lunary_redis_hello(ngx_lunary_redis_t *rc);
static ngx_int_t ngx_lunary_redis_hello_send(ngx_lunary_redis_t *rc,
    ngx_uint_t argc, const ngx_str_t *argv,
    ngx_lunary_redis_handler_pt handler);
static void ngx_lunary_redis_hello_reply(void *data, redisReply *reply);
static void ngx_lunary_redis_setname_reply(void *data, redisReply *reply);
static void ngx_lunary_redis_close_connection(ngx_lunary_redis_t *rc);

#if (NGX_SSL)
static void ngx_lunary_redis_ssl_init(ngx_lunary_redis_t *rc);
static void ngx_lunary_redis_ssl_handler(ngx_connection_t *c);
#endif


/* of this worker */
static int64_t  ngx_lunary_redis_connected;


void
ngx_lunary_redis_connect(ngx_lunary_redis_t *rc)
{
    if (rc->closed
        || rc->state != NGX_LUNARY_REDIS_DOWN
        || rc->retry.timer_set)
    {
        return;
    }

    /* the addresses of the configuration are as good as any at first */

    if (rc->conf->resolver && rc->conf->named && rc->ever) {
        ngx_lunary_redis_resolve(rc);
        return;
    }

    ngx_lunary_redis_open(rc);
}


static void
ngx_lunary_redis_resolve(ngx_lunary_redis_t *rc)
{
    ngx_resolver_ctx_t  *ctx;

    ctx = ngx_resolve_start(rc->conf->resolver, NULL);

    if (ctx == NULL || ctx == NGX_NO_RESOLVER) {
        ngx_lunary_redis_open(rc);
        return;
    }

    ctx->name = rc->conf->host;
    ctx->handler = ngx_lunary_redis_resolve_handler;
    ctx->data = rc;
    ctx->timeout = rc->conf->resolver_timeout;
    ctx->cancelable = 1;

    rc->state = NGX_LUNARY_REDIS_RESOLVING;
    rc->resolving = ctx;

    ngx_lunary_redis_set_timer(rc);
    ngx_add_timer(&rc->timer, rc->conf->connect_timeout);

    if (ngx_resolve_name(ctx) != NGX_OK) {

        /* it is freed already */

        ngx_lunary_redis_unresolved(rc, "no resolver");
    }
}


static void
ngx_lunary_redis_resolve_handler(ngx_resolver_ctx_t *ctx)
{
    char                 *why;
    ngx_lunary_redis_t   *rc;
    ngx_resolver_addr_t  *addr;

    rc = ctx->data;

    if (ctx->state || ctx->naddrs == 0) {
        why = ctx->state ? ngx_resolver_strerror(ctx->state) : "no address";

        ngx_resolve_name_done(ctx);
        ngx_lunary_redis_unresolved(rc, why);

        return;
    }

    rc->resolving = NULL;
    rc->state = NGX_LUNARY_REDIS_DOWN;

    if (rc->timer.timer_set) {
        ngx_del_timer(&rc->timer);
    }

    addr = &ctx->addrs[rc->next_addr++ % ctx->naddrs];

    ngx_memcpy(&rc->sockaddr, addr->sockaddr, addr->socklen);
    ngx_inet_set_port(&rc->sockaddr.sockaddr, rc->conf->port);

    rc->addr.sockaddr = &rc->sockaddr.sockaddr;
    rc->addr.socklen = addr->socklen;
    rc->addr.name.data = rc->name;
    rc->addr.name.len = ngx_sock_ntop(rc->addr.sockaddr, rc->addr.socklen,
                                      rc->name, NGX_SOCKADDR_STRLEN, 1);

    ngx_resolve_name_done(ctx);

    ngx_lunary_redis_open(rc);
}


static void
ngx_lunary_redis_unresolved(ngx_lunary_redis_t *rc, const char *why)
{
    rc->resolving = NULL;
    rc->state = NGX_LUNARY_REDIS_DOWN;
    rc->addr.socklen = 0;

    if (!rc->silent) {
        ngx_log_error(NGX_LOG_WARN, rc->log, 0,
                      "lunary: redis %V: \"%V\" could not be resolved (%s), "
                      "using the address of the configuration",
                      &rc->conf->url, &rc->conf->host, why);
    }

    if (rc->timer.timer_set) {
        ngx_del_timer(&rc->timer);
    }

    ngx_lunary_redis_open(rc);
}


static void
ngx_lunary_redis_open(ngx_lunary_redis_t *rc)
{
    ngx_int_t          n;
    ngx_err_t          err;
    ngx_connection_t  *c;

    rc->peer_log = *rc->log;

    if (rc->silent && rc->log->log_level < NGX_LOG_DEBUG_FIRST) {
        rc->peer_log.log_level = NGX_LOG_EMERG;
    }

    if (rc->addr.socklen == 0) {
        rc->addr = rc->conf->addrs[rc->next_addr++ % rc->conf->naddrs];
    }

    ngx_memzero(&rc->peer, sizeof(ngx_peer_connection_t));

    rc->peer.sockaddr = rc->addr.sockaddr;
    rc->peer.socklen = rc->addr.socklen;
    rc->peer.name = &rc->addr.name;
    rc->peer.get = ngx_lunary_redis_get_peer;
    rc->peer.log = &rc->peer_log;
    rc->peer.log_error = NGX_ERROR_IGNORE_ECONNRESET;
    rc->peer.so_keepalive = (rc->conf->path.len == 0);

    /* the failure is logged once, by us */
    if (rc->peer_log.log_level < NGX_LOG_DEBUG_FIRST) {
        rc->peer_log.log_level = NGX_LOG_EMERG;
    }

    ngx_set_errno(0);

    n = ngx_event_connect_peer(&rc->peer);

    err = (n == NGX_OK || n == NGX_AGAIN) ? 0 : ngx_socket_errno;

    if (!rc->silent) {
        rc->peer_log.log_level = rc->log->log_level;
    }

    rc->state = NGX_LUNARY_REDIS_CONNECTING;
    rc->generation++;
    rc->lowat = 1;
    rc->brief = 0;

    if (n != NGX_OK && n != NGX_AGAIN) {
        ngx_lunary_stats_inc(NGX_LUNARY_C_REDIS_ERR_CONNECT);
        ngx_lunary_redis_failed(rc, NGX_LOG_ERR, err, NULL,
                                "connecting failed");
        return;
    }

    c = rc->peer.connection;

    c->data = rc;
    c->log = &rc->peer_log;
    c->read->log = c->log;
    c->write->log = c->log;

    ngx_lunary_redis_set_timer(rc);
    ngx_add_timer(&rc->timer, rc->conf->connect_timeout);

    c->pool = ngx_create_pool(256, rc->log);
    if (c->pool == NULL) {
        ngx_lunary_redis_failed(rc, NGX_LOG_ERR, 0, NULL, "no memory");
        return;
    }

    rc->reader = ngx_lunary_redis_reader();
    if (rc->reader == NULL) {
        ngx_lunary_redis_failed(rc, NGX_LOG_ERR, 0, NULL, "no memory");
        return;
    }

    c->read->handler = ngx_lunary_redis_connect_handler;
    c->write->handler = ngx_lunary_redis_connect_handler;

    if (n == NGX_OK) {

        /* not from within whoever asked */
        ngx_post_event(c->write, &ngx_posted_events);
    }
}


static void
ngx_lunary_redis_connect_handler(ngx_event_t *ev)
{
    ngx_err_t            err;
    ngx_connection_t    *c;
    ngx_lunary_redis_t  *rc;

    c = ev->data;
    rc = c->data;

    if (c->close) {
        rc->closed = c->error;
        ngx_lunary_redis_disconnect(rc);
        return;
    }

    if (ngx_lunary_redis_test_connect(c, &err) != NGX_OK) {
        ngx_lunary_stats_inc(NGX_LUNARY_C_REDIS_ERR_CONNECT);
        ngx_lunary_redis_failed(rc, NGX_LOG_ERR, err, NULL,
                                "connecting failed");
        return;
    }

    if (!c->write->ready) {
        return;
    }

    if (rc->conf->path.len == 0) {
        (void) ngx_tcp_nodelay(c);
    }

#if (NGX_SSL)
    if (rc->conf->ssl) {
        ngx_lunary_redis_ssl_init(rc);
        return;
    }
#endif

    ngx_lunary_redis_hello(rc);
}


static ngx_int_t
ngx_lunary_redis_test_connect(ngx_connection_t *c, ngx_err_t *err)
{
    int        value;
    socklen_t  len;

    value = 0;
    len = sizeof(int);

    /* BSDs and Linux return 0 and set a pending error in value */

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, (void *) &value, &len) == -1) {
        value = ngx_socket_errno;
    }

    *err = value;

    return value ? NGX_ERROR : NGX_OK;
}


#if (NGX_SSL)

static void
ngx_lunary_redis_ssl_init(ngx_lunary_redis_t *rc)
{
    u_char             *host;
    ngx_int_t           n;
    X509_VERIFY_PARAM  *param;
    ngx_connection_t   *c;

    c = rc->peer.connection;

    if (ngx_ssl_create_connection(rc->conf->ssl, c,
                                  NGX_SSL_BUFFER|NGX_SSL_CLIENT)
        != NGX_OK)
    {
        ngx_lunary_redis_failed(rc, NGX_LOG_ERR, 0, NULL, "TLS setup failed");
        return;
    }

    c->ssl->handler = ngx_lunary_redis_ssl_handler;

    host = ngx_pnalloc(c->pool, rc->conf->host.len + 1);
    if (host == NULL) {
        ngx_lunary_redis_failed(rc, NGX_LOG_ERR, 0, NULL, "no memory");
        return;
    }

    (void) ngx_cpystrn(host, rc->conf->host.data, rc->conf->host.len + 1);

    param = SSL_get0_param(c->ssl->connection);

    if (X509_VERIFY_PARAM_set1_ip_asc(param, (char *) host) != 1) {

        /* not an address: a name, to be asked for and checked */

        ERR_clear_error();

        if (SSL_set_tlsext_host_name(c->ssl->connection, (char *) host) != 1
            || X509_VERIFY_PARAM_set1_host(param, (char *) host,
                                           rc->conf->host.len)
               != 1)
        {
            ngx_lunary_redis_failed(rc, NGX_LOG_ERR, 0, NULL,
                                    "TLS setup failed");
            return;
        }
    }

    n = ngx_ssl_handshake(c);

    if (n == NGX_AGAIN) {
        return;
    }

    ngx_lunary_redis_ssl_handler(c);
}


static void
ngx_lunary_redis_ssl_handler(ngx_connection_t *c)
{
    long                 rc;
    ngx_str_t            text;
    ngx_lunary_redis_t  *redis;

    redis = c->data;

    if (!c->ssl->handshaked) {
        ngx_lunary_stats_inc(NGX_LUNARY_C_REDIS_ERR_CONNECT);
        ngx_lunary_redis_failed(redis, NGX_LOG_ERR, 0, NULL,
                                "the TLS handshake failed");
        return;
    }

    if (redis->conf->verify) {
        rc = SSL_get_verify_result(c->ssl->connection);

        if (rc != X509_V_OK) {
            text.data = (u_char *) X509_verify_cert_error_string(rc);
            text.len = ngx_strlen(text.data);

            redis->fatal = 1;

            ngx_lunary_stats_inc(NGX_LUNARY_C_REDIS_ERR_CONNECT);
            ngx_lunary_redis_failed(redis, NGX_LOG_ERR, 0, &text,
                                    "the certificate could not be verified "
                                    "(see ca=)");
            return;
        }
    }

    ngx_lunary_redis_hello(redis);
}

#endif


/*
 * AUTH, SELECT and CLIENT SETNAME go out at once; the reply to the last
 * opens the connection to commands.
 */

static void
ngx_lunary_redis_hello(ngx_lunary_redis_t *rc)
{
    u_char                    db[NGX_INT_T_LEN], name[64];
    ngx_str_t                 argv[3];
    ngx_uint_t                n;
    ngx_connection_t         *c;
    ngx_lunary_redis_conf_t  *conf;

    c = rc->peer.connection;
    conf = rc->conf;

    c->read->handler = ngx_lunary_redis_read_handler;
    c->write->handler = ngx_lunary_redis_write_handler;

    rc->state = NGX_LUNARY_REDIS_HELLO;

    if (conf->password.len) {
        ngx_str_set(&argv[0], "AUTH");
        n = 1;

        if (conf->user.len) {
            argv[n++] = conf->user;
        }

        argv[n++] = conf->password;

        if (ngx_lunary_redis_hello_send(rc, n, argv,
                                        ngx_lunary_redis_hello_reply)
            != NGX_OK)
        {
            return;
        }
    }

    if (conf->db) {
        ngx_str_set(&argv[0], "SELECT");
        argv[1].data = db;
        argv[1].len = ngx_sprintf(db, "%i", conf->db) - db;

        if (ngx_lunary_redis_hello_send(rc, 2, argv,
                                        ngx_lunary_redis_hello_reply)
            != NGX_OK)
        {
            return;
        }
    }

    ngx_str_set(&argv[0], "CLIENT");
    ngx_str_set(&argv[1], "SETNAME");
    argv[2].data = name;
    argv[2].len = ngx_snprintf(name, sizeof(name), "nginx-lunary-%s-%P",
                               rc->purpose, ngx_pid)
                  - name;

    (void) ngx_lunary_redis_hello_send(rc, 3, argv,
                                       ngx_lunary_redis_setname_reply);

    if (rc->peer.connection == c && c->read->ready) {
        ngx_post_event(c->read, &ngx_posted_events);
    }
}


static ngx_int_t
ngx_lunary_redis_hello_send(ngx_lunary_redis_t *rc, ngx_uint_t argc,
    const ngx_str_t *argv, ngx_lunary_redis_handler_pt handler)
{
    ngx_lunary_redis_request_t  *req;

    req = ngx_lunary_redis_build(rc, argc, argv, handler, rc);

    if (req == NULL) {
        ngx_lunary_redis_failed(rc, NGX_LOG_ERR, 0, NULL, "no memory");
        return NGX_ERROR;
    }

    rc->ncommands++;
    req->start = ngx_current_msec;

    ngx_lunary_redis_queue(rc, req);

    return NGX_OK;
}


static void
ngx_lunary_redis_hello_reply(void *data, redisReply *reply)
{
    ngx_lunary_redis_t *rc = data;

    ngx_str_t  text;

    if (reply == NULL || reply->type != REDIS_REPLY_ERROR) {
        return;
    }

    rc->fatal = (ngx_lunary_redis_error(reply) == NGX_LUNARY_REDIS_FATAL);

    ngx_lunary_redis_text(reply, &text);

    ngx_lunary_stats_inc(NGX_LUNARY_C_REDIS_ERR_REPLY);
    ngx_lunary_redis_failed(rc, NGX_LOG_ERR, 0, &text,
                            "logging in was refused");
}


static void
ngx_lunary_redis_setname_reply(void *data, redisReply *reply)
{
    ngx_lunary_redis_t *rc = data;

    if (reply == NULL) {
        return;
    }

    if (reply->type == REDIS_REPLY_ERROR
        && ngx_strncmp(reply->str, "NOPERM", 6) != 0
        && ngx_strncmp(reply->str, "ERR unknown", 11) != 0
        && ngx_lunary_redis_error(reply) != NGX_LUNARY_REDIS_OTHER)
    {
        /* NOAUTH, LOADING, too many clients; a name that may not be set is
         * no harm */
        ngx_lunary_redis_hello_reply(data, reply);
        return;
    }

    rc->state = NGX_LUNARY_REDIS_UP;

    ngx_lunary_stats_set(NGX_LUNARY_G_REDIS_CONNECTED,
                         ++ngx_lunary_redis_connected);

    if (rc->failures) {
        ngx_log_error(NGX_LOG_NOTICE, rc->log, 0,
                      "lunary: redis %V (%s): connected again",
                      &rc->conf->url, rc->purpose);
    }

    if (rc->ever) {
        ngx_lunary_stats_inc(NGX_LUNARY_C_REDIS_RECONNECTS);
    }

    rc->ever = 1;
    rc->fatal = 0;
    rc->silent = 0;
    rc->failures = 0;
    rc->last_failure = 0;

    if (rc->timer.timer_set) {
        ngx_del_timer(&rc->timer);
    }

    ngx_lunary_redis_start_waiting(rc);
    ngx_lunary_redis_set_timer(rc);
    ngx_lunary_redis_set_idle(rc);

    if (rc->handler) {
        rc->handler(rc->data, 1);
    }
}


void
ngx_lunary_redis_timer_handler(ngx_event_t *ev)
{
    ngx_connection_t    *c;
    ngx_lunary_redis_t  *rc;

    c = ev->data;
    rc = c->data;

    if (rc->state == NGX_LUNARY_REDIS_RESOLVING) {
        ngx_resolve_name_done(rc->resolving);
        ngx_lunary_redis_unresolved(rc, "no answer in time");
        return;
    }

    if (rc->state == NGX_LUNARY_REDIS_UP && rc->lowat > 1 && !rc->brief) {

        /* it may all be there, and be less than we took it to be: once */

        rc->brief = 1;

        ngx_lunary_redis_set_lowat(rc);
        ngx_add_timer(ev, NGX_LUNARY_REDIS_BRIEF);

        rc->peer.connection->read->ready = 1;
        rc->peer.connection->read->available = -1;

        ngx_post_event(rc->peer.connection->read, &ngx_posted_events);

        return;
    }

    ngx_lunary_stats_inc(NGX_LUNARY_C_REDIS_ERR_TIMEOUT);

    ngx_lunary_redis_failed(rc, NGX_LOG_ERR, NGX_ETIMEDOUT, NULL,
                            rc->state == NGX_LUNARY_REDIS_UP
                            ? "no reply in time" : "connecting failed");
}


void
ngx_lunary_redis_retry_handler(ngx_event_t *ev)
{
    ngx_connection_t    *c;
    ngx_lunary_redis_t  *rc;

    c = ev->data;
    rc = c->data;

    ngx_lunary_redis_connect(rc);
}


/*
 * The connection, or the attempt at one, is lost: says so, closes, and
 * arranges the next attempt.  reply is what Redis said, or NULL.
 */

void
ngx_lunary_redis_failed(ngx_lunary_redis_t *rc, ngx_uint_t level,
    ngx_err_t err, ngx_str_t *reply, const char *why)
{
    ngx_str_t   none;
    ngx_uint_t  hash, was_up;
    ngx_msec_t  delay;

    was_up = (rc->state == NGX_LUNARY_REDIS_UP);

    if (reply == NULL) {
        ngx_str_null(&none);
        reply = &none;
    }

    /* no more than a word of it decides what is another failure */

    hash = ngx_hash_key((u_char *) why, ngx_strlen(why)) * 31 + err;
    hash = hash * 31 + ngx_hash_key(reply->data, ngx_min(reply->len, 10)) + 1;

    rc->silent = (rc->failures > 0);

    if (rc->failures == 0
        || ngx_current_msec - rc->logged >= NGX_LUNARY_REDIS_LOG_EVERY
        || (hash != rc->last_failure
            && ngx_current_msec - rc->logged >= 1000))
    {
        rc->logged = ngx_current_msec;
        rc->last_failure = hash;

        ngx_log_error(level, rc->log, err,
                      "lunary: redis %V (%s): %s%s%V%s",
                      &rc->conf->url, rc->purpose, why,
                      reply->len ? ": \"" : "", reply,
                      reply->len ? "\"" : "");
    }

    rc->failures++;

    if (rc->fatal) {
        delay = NGX_LUNARY_REDIS_FATAL_DELAY;

    } else {
        delay = NGX_LUNARY_REDIS_BACKOFF_MIN
                << ngx_min(rc->failures - 1, 10);
        delay = ngx_min(delay, NGX_LUNARY_REDIS_BACKOFF_MAX);
    }

    delay = delay - delay / 4 + (ngx_msec_t) ngx_random() % (delay / 2 + 1);

    ngx_lunary_redis_close_connection(rc);

    if (!rc->closed) {
        ngx_add_timer(&rc->retry, delay);
    }

    ngx_lunary_redis_fail_commands(rc);

    if (was_up && rc->handler) {
        rc->handler(rc->data, 0);
    }
}


void
ngx_lunary_redis_reset(ngx_lunary_redis_t *rc, const char *why)
{
    if (rc->peer.connection) {
        ngx_lunary_redis_failed(rc, NGX_LOG_ERR, 0, NULL, why);
    }
}


/* closes without a failure: asked to, or idle in a graceful shutdown */

void
ngx_lunary_redis_disconnect(ngx_lunary_redis_t *rc)
{
    ngx_uint_t  was_up;

    was_up = (rc->state == NGX_LUNARY_REDIS_UP);

    ngx_lunary_redis_close_connection(rc);
    ngx_lunary_redis_fail_commands(rc);

    if (was_up && rc->handler) {
        rc->handler(rc->data, 0);
    }
}


void
ngx_lunary_redis_close(ngx_lunary_redis_t *rc)
{
    rc->closed = 1;
    rc->handler = NULL;

    if (rc->retry.timer_set) {
        ngx_del_timer(&rc->retry);
    }

    ngx_lunary_redis_disconnect(rc);
}


static void
ngx_lunary_redis_close_connection(ngx_lunary_redis_t *rc)
{
    ngx_pool_t        *pool;
    ngx_connection_t  *c;

    if (rc->state == NGX_LUNARY_REDIS_UP) {
        ngx_lunary_stats_set(NGX_LUNARY_G_REDIS_CONNECTED,
                             --ngx_lunary_redis_connected);
    }

    rc->state = NGX_LUNARY_REDIS_DOWN;
    rc->addr.socklen = 0;

    if (rc->timer.timer_set) {
        ngx_del_timer(&rc->timer);
    }

    if (rc->resolving) {
        ngx_resolve_name_done(rc->resolving);
        rc->resolving = NULL;
    }

    if (rc->reader) {
        redisReaderFree(rc->reader);
        rc->reader = NULL;
    }

    c = rc->peer.connection;

    if (c == NULL) {
        return;
    }

    rc->peer.connection = NULL;

#if (NGX_SSL)
    if (c->ssl) {
        c->ssl->no_wait_shutdown = 1;
        c->ssl->no_send_shutdown = 1;

        (void) ngx_ssl_shutdown(c);
    }
#endif

    pool = c->pool;

    ngx_close_connection(c);

    if (pool) {
        ngx_destroy_pool(pool);
    }
}
