/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The session: which one the request names (lunary_session_id), and the
 * look-up of its key (lunary_session): one round trip on nginx's event loop,
 * whatever the format.  With lunary_session_cache requests for one key share
 * what is remembered, and the look-up that is under way.
 *
 * A look-up in flight belongs to the worker, not to a request: requests queue
 * up at it, and leave the queue when they end.
 *
 * Invariants
 *   - a request that waits is forgotten by the look-up when it ends, a
 *     look-up that nobody waits for any more by the connection;
 *   - "no session" and "could not be asked" are told apart: a failed look-up
 *     never looks like a missing one, and is never remembered;
 *   - neither keys nor values are logged above debug level.
 */

#include "ngx_http_lunary_module.h"


#define NGX_HTTP_LUNARY_FLIGHTS  64


/* a look-up under way */

typedef struct {
    ngx_queue_t                queue;          /* of its bucket, if shared   */
    ngx_queue_t                waiters;
    ngx_lunary_redis_t        *redis;
    ngx_http_lunary_cache_conf_t
                              *cache;          /* NULL: not shared           */
    u_char                     digest[NGX_HTTP_LUNARY_DIGEST];
    ngx_http_lunary_found_t    found;
    ngx_uint_t                 pending;        /* replies still to come      */
    int64_t                    ttl;            /* ms, -1: none               */
    unsigned                   lost:1;         /* a reply will not come      */
} ngx_http_lunary_flight_t;


/* a request that waits for it */

typedef struct {
    ngx_queue_t                queue;
    ngx_http_request_t        *request;        /* NULL: not waiting          */
    ngx_http_lunary_flight_t  *flight;
} ngx_http_lunary_waiter_t;


static ngx_http_lunary_flight_t *ngx_http_lunary_flight_start(
    ngx_http_lunary_loc_conf_t *lcf, ngx_str_t *key, u_char *digest);
static ngx_int_t ngx_http_lunary_flight_send(ngx_http_lunary_flight_t *flight,
    const char *command, ngx_str_t *key);
static ngx_http_lunary_flight_t *ngx_http_lunary_flight_find(u_char *digest);
static void ngx_http_lunary_flight_free(ngx_http_lunary_flight_t *flight);
static ngx_int_t ngx_http_lunary_session_wait(ngx_http_request_t *r,
    ngx_http_lunary_flight_t *flight);
static void ngx_http_lunary_session_reply(void *data, redisReply *reply);
static void ngx_http_lunary_session_landed(ngx_http_lunary_flight_t *flight,
    ngx_uint_t answered);
static ngx_int_t ngx_http_lunary_session_copy(ngx_http_request_t *r,
    ngx_str_t *from, ngx_str_t *to);
static void ngx_http_lunary_session_forget(void *data);


/* this worker's shared look-ups, by the first byte of their digest */

static ngx_queue_t  ngx_http_lunary_flights[NGX_HTTP_LUNARY_FLIGHTS];


ngx_int_t
ngx_http_lunary_session_lookup(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf)
{
    u_char                           digest[NGX_HTTP_LUNARY_DIGEST];
    ngx_str_t                        id, format, *parts[6];
    ngx_http_lunary_flight_t        *flight;
    ngx_http_lunary_session_conf_t  *sc;
    ngx_http_lunary_lookup_state_t  *lookup;

    lookup = &ctx->lookup;
    sc = &lcf->session;

    if (lookup->state == NGX_HTTP_LUNARY_LOOKUP_WAIT) {
        return ngx_http_lunary_suspend(r);
    }

    if (lookup->state != NGX_HTTP_LUNARY_LOOKUP_NONE
        || sc->key == NULL
        || !ngx_http_lunary_has_source(lcf, NGX_HTTP_LUNARY_SRC_SESSION))
    {
        return NGX_OK;
    }

    ngx_memzero(lookup, sizeof(ngx_http_lunary_lookup_state_t));

    lookup->state = NGX_HTTP_LUNARY_LOOKUP_MISS;

    if (lcf->session_id_set) {

        /* no id, no session: the key's other parts would name a wrong one */

        if (ngx_http_lunary_session_id(r, lcf, &id) != NGX_OK) {
            goto failed;
        }

        if (id.len == 0) {
            return NGX_OK;
        }
    }

    if (ngx_http_lunary_session_key(r, lcf, &lookup->key) != NGX_OK) {
        goto failed;
    }

    if (lookup->key.len == 0) {
        return NGX_OK;
    }

    flight = NULL;

    if (lcf->cache.zone) {

        /* whose key it is, and how it is read, is part of what is cached */

        format.data = (u_char *) &sc->format;
        format.len = sizeof(ngx_uint_t);

        parts[0] = &sc->redis->url;
        parts[1] = &sc->redis->name;
        parts[2] = &lookup->key;
        parts[3] = &format;
        parts[4] = &sc->user;
        parts[5] = &sc->props;

        if (ngx_http_lunary_cache_digest(parts, 6, digest) != NGX_OK) {
            goto failed;
        }

        switch (ngx_http_lunary_cache_get(&lcf->cache, digest, r->pool,
                                          &lookup->user, &lookup->props))
        {

        case NGX_OK:
            lookup->state = NGX_HTTP_LUNARY_LOOKUP_HIT;
            /* fall through */

        case NGX_DONE:
            ngx_lunary_stats_inc(NGX_LUNARY_C_LOOKUP_CACHED);
            return NGX_OK;

        case NGX_ERROR:
            goto failed;

        default: /* NGX_DECLINED */
            break;
        }

        flight = ngx_http_lunary_flight_find(digest);
    }

    if (flight == NULL) {
        flight = ngx_http_lunary_flight_start(lcf, &lookup->key,
                                           lcf->cache.zone ? digest : NULL);
        if (flight == NULL) {
            goto failed;
        }
    }

    if (ngx_http_lunary_session_wait(r, flight) != NGX_OK) {
        goto failed;
    }

    lookup->state = NGX_HTTP_LUNARY_LOOKUP_WAIT;

    return ngx_http_lunary_suspend(r);

failed:

    lookup->state = NGX_HTTP_LUNARY_LOOKUP_FAILED;
    ngx_lunary_stats_inc(NGX_LUNARY_C_LOOKUP_ERROR);

    return NGX_OK;
}


/* sends the commands; NULL where that cannot be done */

static ngx_http_lunary_flight_t *
ngx_http_lunary_flight_start(ngx_http_lunary_loc_conf_t *lcf, ngx_str_t *key,
    u_char *digest)
{
    ngx_int_t                  rc;
    ngx_pool_t                *pool;
    ngx_uint_t                 format;
    ngx_queue_t               *bucket;
    ngx_lunary_redis_t        *redis;
    ngx_http_lunary_flight_t  *flight;

    redis = ngx_http_lunary_lookup_redis(lcf->session.redis);
    if (redis == NULL) {
        return NULL;
    }

    pool = ngx_create_pool(1024, ngx_cycle->log);
    if (pool == NULL) {
        return NULL;
    }

    flight = ngx_pcalloc(pool, sizeof(ngx_http_lunary_flight_t));
    if (flight == NULL) {
        ngx_destroy_pool(pool);
        return NULL;
    }

    ngx_queue_init(&flight->waiters);

    flight->redis = redis;
    flight->ttl = -1;

    flight->found.conf = &lcf->session;
    flight->found.pool = pool;
    flight->found.log = ngx_cycle->log;

    lunary_mem_init(&flight->found.mem);

    format = lcf->session.format;
    rc = NGX_OK;

    if (format != NGX_HTTP_LUNARY_FORMAT_HASH) {
        rc = ngx_http_lunary_flight_send(flight, "GET", key);
    }

    if (rc == NGX_OK
        && (format == NGX_HTTP_LUNARY_FORMAT_HASH
            || format == NGX_HTTP_LUNARY_FORMAT_AUTO))
    {
        rc = ngx_http_lunary_flight_send(flight, "HGETALL", key);
    }

    if (rc == NGX_OK && digest) {
        rc = ngx_http_lunary_flight_send(flight, "PTTL", key);
    }

    if (rc != NGX_OK) {

        if (flight->pending) {
            ngx_lunary_redis_forget(redis, flight);
        }

        ngx_http_lunary_flight_free(flight);

        return NULL;
    }

    if (digest) {
        flight->cache = &lcf->cache;
        ngx_memcpy(flight->digest, digest, NGX_HTTP_LUNARY_DIGEST);

        bucket = &ngx_http_lunary_flights[digest[0] % NGX_HTTP_LUNARY_FLIGHTS];

        if (bucket->next == NULL) {
            ngx_queue_init(bucket);
        }

        ngx_queue_insert_head(bucket, &flight->queue);
    }

    return flight;
}


static ngx_int_t
ngx_http_lunary_flight_send(ngx_http_lunary_flight_t *flight,
    const char *command, ngx_str_t *key)
{
    ngx_str_t  argv[2];

    argv[0].data = (u_char *) command;
    argv[0].len = ngx_strlen(command);
    argv[1] = *key;

    if (ngx_lunary_redis_argv(flight->redis, 2, argv,
                              ngx_http_lunary_session_reply, flight)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    flight->pending++;

    return NGX_OK;
}


static ngx_http_lunary_flight_t *
ngx_http_lunary_flight_find(u_char *digest)
{
    ngx_queue_t               *q, *bucket;
    ngx_http_lunary_flight_t  *flight;

    bucket = &ngx_http_lunary_flights[digest[0] % NGX_HTTP_LUNARY_FLIGHTS];

    if (bucket->next == NULL) {
        return NULL;
    }

    for (q = ngx_queue_head(bucket);
         q != ngx_queue_sentinel(bucket);
         q = ngx_queue_next(q))
    {
        flight = ngx_queue_data(q, ngx_http_lunary_flight_t, queue);

        if (ngx_memcmp(flight->digest, digest, NGX_HTTP_LUNARY_DIGEST) == 0) {
            return flight;
        }
    }

    return NULL;
}


static void
ngx_http_lunary_flight_free(ngx_http_lunary_flight_t *flight)
{
    if (flight->cache) {
        ngx_queue_remove(&flight->queue);
        flight->cache = NULL;
    }

    ngx_destroy_pool(flight->found.pool);
}


/* queues the request up at a look-up */

static ngx_int_t
ngx_http_lunary_session_wait(ngx_http_request_t *r,
    ngx_http_lunary_flight_t *flight)
{
    ngx_http_cleanup_t        *cln;
    ngx_http_lunary_waiter_t  *w;

    cln = ngx_http_cleanup_add(r, sizeof(ngx_http_lunary_waiter_t));

    if (cln == NULL) {

        if (ngx_queue_empty(&flight->waiters)) {
            ngx_lunary_redis_forget(flight->redis, flight);
            ngx_http_lunary_flight_free(flight);
        }

        return NGX_ERROR;
    }

    w = cln->data;
    w->request = r;
    w->flight = flight;

    ngx_queue_insert_tail(&flight->waiters, &w->queue);

    cln->handler = ngx_http_lunary_session_forget;

    return NGX_OK;
}


static void
ngx_http_lunary_session_forget(void *data)
{
    ngx_http_lunary_waiter_t *w = data;

    ngx_http_lunary_flight_t  *flight;

    if (w->request == NULL) {
        return;
    }

    w->request = NULL;
    ngx_queue_remove(&w->queue);

    flight = w->flight;

    /* no reply is under way where those that wait are being woken */

    if (ngx_queue_empty(&flight->waiters) && flight->pending) {
        ngx_lunary_redis_forget(flight->redis, flight);
        ngx_http_lunary_flight_free(flight);
    }
}


static void
ngx_http_lunary_session_reply(void *data, redisReply *reply)
{
    ngx_http_lunary_flight_t *flight = data;

    flight->pending--;

    if (reply == NULL) {
        flight->lost = 1;
        flight->found.failed = 1;

    } else if (reply->type == REDIS_REPLY_INTEGER) {
        flight->ttl = reply->integer;           /* PTTL */

    } else {
        ngx_http_lunary_session_value(&flight->found, reply);
    }

    if (flight->pending == 0) {
        ngx_http_lunary_session_landed(flight, reply != NULL);
    }
}


/* all replies are there, or will never be: wakes those that wait */

static void
ngx_http_lunary_session_landed(ngx_http_lunary_flight_t *flight,
    ngx_uint_t answered)
{
    ngx_msec_t                       ms;
    ngx_queue_t                     *q;
    ngx_http_request_t              *r;
    ngx_http_lunary_ctx_t           *ctx;
    ngx_http_lunary_found_t         *found;
    ngx_http_lunary_lookup_e         state;
    ngx_http_lunary_waiter_t        *w;
    ngx_http_lunary_cache_conf_t    *cache;

    found = &flight->found;
    cache = flight->cache;

    if (found->user.len) {
        state = NGX_HTTP_LUNARY_LOOKUP_HIT;

    } else if (found->failed) {
        state = NGX_HTTP_LUNARY_LOOKUP_FAILED;

    } else {
        state = NGX_HTTP_LUNARY_LOOKUP_MISS;
    }

    if (cache) {

        /* who comes from now on asks anew, or finds it remembered */

        ngx_queue_remove(&flight->queue);
        flight->cache = NULL;

        if (!found->failed) {
            ms = found->user.len ? cache->valid : cache->negative;

            if (flight->ttl >= 0 && (ngx_msec_t) flight->ttl < ms) {
                ms = (ngx_msec_t) flight->ttl;

            } else if (flight->ttl == -2 && found->user.len) {

                /* gone since it was read */

                ms = 0;
            }

            ngx_http_lunary_cache_put(cache, flight->digest, &found->user,
                                      &found->props, ms);
        }
    }

    while (!ngx_queue_empty(&flight->waiters)) {

        q = ngx_queue_head(&flight->waiters);
        ngx_queue_remove(q);

        w = ngx_queue_data(q, ngx_http_lunary_waiter_t, queue);

        r = w->request;
        w->request = NULL;

        ctx = ngx_http_lunary_get_ctx(r);

        ctx->lookup.state = state;

        if (ngx_http_lunary_session_copy(r, &found->user, &ctx->lookup.user)
            != NGX_OK
            || ngx_http_lunary_session_copy(r, &found->props,
                                            &ctx->lookup.props)
               != NGX_OK)
        {
            ctx->lookup.state = NGX_HTTP_LUNARY_LOOKUP_FAILED;
            ngx_str_null(&ctx->lookup.user);
        }

        switch (ctx->lookup.state) {

        case NGX_HTTP_LUNARY_LOOKUP_HIT:
            ngx_lunary_stats_inc(NGX_LUNARY_C_LOOKUP_HIT);
            break;

        case NGX_HTTP_LUNARY_LOOKUP_FAILED:
            ngx_lunary_stats_inc(flight->lost && !answered
                                 ? NGX_LUNARY_C_LOOKUP_TIMEOUT
                                 : NGX_LUNARY_C_LOOKUP_ERROR);
            break;

        default:
            ngx_lunary_stats_inc(found->exists ? NGX_LUNARY_C_LOOKUP_INVALID
                                               : NGX_LUNARY_C_LOOKUP_MISS);
            break;
        }

        ngx_http_lunary_resume(r);
    }

    ngx_http_lunary_flight_free(flight);
}


static ngx_int_t
ngx_http_lunary_session_copy(ngx_http_request_t *r, ngx_str_t *from,
    ngx_str_t *to)
{
    ngx_str_null(to);

    if (from->len == 0) {
        return NGX_OK;
    }

    to->data = ngx_pstrdup(r->pool, from);
    if (to->data == NULL) {
        return NGX_ERROR;
    }

    to->len = from->len;

    return NGX_OK;
}
