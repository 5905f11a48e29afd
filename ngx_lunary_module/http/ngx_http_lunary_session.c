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

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>


#define NGX_HTTP_LUNARY_SESSION_ID_MAX  512
#define NGX_HTTP_LUNARY_SECRET_FILE     4096
#define NGX_HTTP_LUNARY_FLIGHTS         64


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


static ngx_int_t ngx_http_lunary_session_key(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf, ngx_str_t *key);
static ngx_int_t ngx_http_lunary_unsign(ngx_http_request_t *r,
    ngx_http_lunary_session_id_conf_t *ic, ngx_str_t *id);
static ngx_int_t ngx_http_lunary_cookie(ngx_http_request_t *r,
    ngx_str_t *name, ngx_str_t *value);
static ngx_uint_t ngx_http_lunary_own_key(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf, ngx_str_t *key);
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


ngx_array_t *
ngx_http_lunary_read_lines(ngx_conf_t *cf, ngx_str_t *file, const char *what)
{
    u_char       *p, *last, *start, *end;
    ssize_t       n;
    ngx_fd_t      fd;
    ngx_str_t    *secret;
    ngx_array_t  *secrets;
    u_char        buf[NGX_HTTP_LUNARY_SECRET_FILE];

    if (ngx_conf_full_name(cf->cycle, file, 1) != NGX_OK) {
        return NULL;
    }

    fd = ngx_open_file(file->data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "cannot open %s \"%V\"", what, file);
        return NULL;
    }

    n = ngx_read_fd(fd, buf, sizeof(buf));

    if (ngx_close_file(fd) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_ALERT, cf, ngx_errno,
                           ngx_close_file_n " \"%V\" failed", file);
    }

    if (n <= 0 || n == (ssize_t) sizeof(buf)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, n < 0 ? ngx_errno : 0,
                           "%s \"%V\" is empty, too large or cannot be read: "
                           "write one secret a line", what, file);
        ngx_explicit_memzero(buf, sizeof(buf));
        return NULL;
    }

    secrets = ngx_array_create(cf->pool, 2, sizeof(ngx_str_t));
    if (secrets == NULL) {
        return NULL;
    }

    p = buf;
    last = buf + n;

    while (p < last) {

        start = p;

        while (p < last && *p != LF) {
            p++;
        }

        end = p++;

        if (end > start && end[-1] == CR) {
            end--;
        }

        if (end == start) {
            continue;
        }

        secret = ngx_array_push(secrets);
        if (secret == NULL) {
            return NULL;
        }

        secret->len = end - start;
        secret->data = ngx_pnalloc(cf->pool, secret->len);
        if (secret->data == NULL) {
            return NULL;
        }

        ngx_memcpy(secret->data, start, secret->len);
    }

    ngx_explicit_memzero(buf, sizeof(buf));

    if (secrets->nelts == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "%s \"%V\" holds no secret: write one a line",
                           what, file);
        return NULL;
    }

    return secrets;
}


ngx_int_t
ngx_http_lunary_session_id(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf, ngx_str_t *id)
{
    ngx_uint_t                          i;
    ngx_table_elt_t                    *h;
    ngx_http_lunary_ctx_t              *ctx;
    ngx_http_lunary_session_id_conf_t  *ic;

    ngx_str_null(id);

    ic = &lcf->session_id;

    switch (ic->from) {

    case NGX_HTTP_LUNARY_ID_COOKIE:

        if (ngx_http_lunary_cookie(r, &ic->name, id) != NGX_OK) {
            return NGX_OK;
        }

        break;

    case NGX_HTTP_LUNARY_ID_HEADER:

        /* as it came: what is read here does not reach the upstream */

        ctx = ngx_http_lunary_get_ctx(r);

        h = ngx_http_lunary_header((ctx && ctx->headers_swapped)
                                   ? &ctx->received : &r->headers_in.headers,
                                   (char *) ic->name.data, ic->name.len);
        if (h) {
            *id = h->value;
        }

        break;

    case NGX_HTTP_LUNARY_ID_BEARER:

        h = r->headers_in.authorization;

        if (h && h->value.len > 7
            && ngx_strncasecmp(h->value.data, (u_char *) "bearer ", 7) == 0)
        {
            id->data = h->value.data + 7;
            id->len = h->value.len - 7;

            while (id->len && id->data[0] == ' ') {
                id->data++;
                id->len--;
            }
        }

        break;

    default:
        return NGX_OK;
    }

    if (ngx_http_lunary_unsign(r, ic, id) != NGX_OK) {
        return NGX_ERROR;
    }

    if (id->len > NGX_HTTP_LUNARY_SESSION_ID_MAX) {
        ngx_str_null(id);
    }

    /* what was percent-encoded goes into keys and, as a variable, anywhere */

    for (i = 0; i < id->len; i++) {
        if (id->data[i] < 0x20 || id->data[i] == 0x7f) {
            ngx_str_null(id);
            break;
        }
    }

    return NGX_OK;
}


/*
 * The first cookie of that very name.  nginx's own $cookie_NAME folds case and
 * takes a comma for a separator: what it finds inside the value of another
 * cookie would be a session to us and none to the application.
 */

static ngx_int_t
ngx_http_lunary_cookie(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value)
{
    ngx_str_t          rest, whole, one;
    ngx_table_elt_t   *h;
#if (nginx_version >= 1023000)

    for (h = r->headers_in.cookie; h; h = h->next) {
#else
    ngx_uint_t         i;
    ngx_table_elt_t  **cookies;

    cookies = r->headers_in.cookies.elts;

    for (i = 0; i < r->headers_in.cookies.nelts; i++) {
        h = cookies[i];
#endif
        rest = h->value;

        while (ngx_http_lunary_next_cookie(&rest, &whole, &one, value)) {

            if (one.len == name->len
                && ngx_memcmp(one.data, name->data, name->len) == 0)
            {
                return NGX_OK;
            }
        }
    }

    ngx_str_null(value);

    return NGX_DECLINED;
}


ngx_uint_t
ngx_http_lunary_next_cookie(ngx_str_t *rest, ngx_str_t *whole,
    ngx_str_t *name, ngx_str_t *value)
{
    u_char  *p, *last, *end;

    p = rest->data;
    last = p + rest->len;

    while (p < last && (*p == ' ' || *p == '\t' || *p == ';')) {
        p++;
    }

    if (p == last) {
        return 0;
    }

    whole->data = p;

    end = ngx_strlchr(p, last, ';');

    if (end == NULL) {
        end = last;
    }

    rest->data = end;
    rest->len = last - end;

    while (end[-1] == ' ' || end[-1] == '\t') {
        end--;
    }

    whole->len = end - p;

    name->data = p;
    value->data = ngx_strlchr(p, end, '=');

    if (value->data == NULL) {
        name->len = whole->len;
        value->data = end;
        value->len = 0;
        return 1;
    }

    name->len = value->data - p;

    while (name->len
           && (p[name->len - 1] == ' ' || p[name->len - 1] == '\t'))
    {
        name->len--;
    }

    do {
        value->data++;
    } while (value->data < end
             && (*value->data == ' ' || *value->data == '\t'));

    value->len = end - value->data;

    return 1;
}


/*
 * express (cookie-signature): s:<id>.<base64 of HMAC-SHA-256 without padding>,
 * percent-encoded.  With secrets a bad or missing signature is no session;
 * without, the id is taken out of what looks signed.
 */

static ngx_int_t
ngx_http_lunary_unsign(ngx_http_request_t *r,
    ngx_http_lunary_session_id_conf_t *ic, ngx_str_t *id)
{
    u_char        *p, *src, *dst;
    ngx_str_t      mac, text, b64, *secret;
    ngx_uint_t     i;
    unsigned int   n;
    u_char         md[EVP_MAX_MD_SIZE], encoded[EVP_MAX_MD_SIZE * 2];

    if (id->len > 2
        && (ngx_strncasecmp(id->data, (u_char *) "s%3A", 4) == 0
            || ngx_strncmp(id->data, "s:", 2) == 0))
    {
        if (id->len > 3 * NGX_HTTP_LUNARY_SESSION_ID_MAX) {
            ngx_str_null(id);
            return NGX_OK;
        }

        text.data = ngx_pnalloc(r->pool, id->len);
        if (text.data == NULL) {
            return NGX_ERROR;
        }

        src = id->data;
        dst = text.data;

        ngx_unescape_uri(&dst, &src, id->len, 0);

        text.len = dst - text.data;

        text.data += 2;
        text.len -= 2;

        p = text.data + text.len;

        while (p > text.data && p[-1] != '.') {
            p--;
        }

        if (p == text.data) {
            ngx_str_null(id);
            return NGX_OK;
        }

        id->data = text.data;
        id->len = p - 1 - text.data;

        mac.data = p;
        mac.len = text.data + text.len - p;

        while (mac.len && mac.data[mac.len - 1] == '=') {
            mac.len--;
        }

        if (ic->secrets == NULL) {
            return NGX_OK;
        }

    } else {

        if (ic->secrets) {
            ngx_str_null(id);
        }

        return NGX_OK;
    }

    secret = ic->secrets->elts;

    for (i = 0; i < ic->secrets->nelts; i++) {

        if (HMAC(EVP_sha256(), secret[i].data, (int) secret[i].len, id->data,
                 id->len, md, &n)
            == NULL)
        {
            return NGX_ERROR;
        }

        text.data = md;
        text.len = n;
        b64.data = encoded;

        ngx_encode_base64(&b64, &text);

        while (b64.len && encoded[b64.len - 1] == '=') {
            b64.len--;
        }

        if (b64.len == mac.len
            && CRYPTO_memcmp(encoded, mac.data, mac.len) == 0)
        {
            return NGX_OK;
        }
    }

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "lunary: session cookie with a bad signature");

    ngx_str_null(id);

    return NGX_OK;
}


/*
 * The key's text.  Empty where a variable in it is: `sess:$cookie_sid` without
 * that cookie is the key of no session, not of the session "sess:".
 */

static ngx_int_t
ngx_http_lunary_session_key(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf, ngx_str_t *key)
{
    size_t  literal;

    if (ngx_http_complex_value(r, lcf->session.key, key) != NGX_OK) {
        return NGX_ERROR;
    }

    literal = lcf->session.literal;

    if (key->len <= literal
        || key->len > literal + NGX_HTTP_LUNARY_SESSION_ID_MAX)
    {
        ngx_str_null(key);

    } else if (ngx_http_lunary_own_key(r, lcf, key)) {
        ngx_str_null(key);
    }

    return NGX_OK;
}


/*
 * 1 where what stands in the key for a variable has made it one of ours: in
 * a thread's or a run's hash is a user whom anybody may have claimed.
 */

static ngx_uint_t
ngx_http_lunary_own_key(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf, ngx_str_t *key)
{
    size_t             len;
    ngx_str_t          prefix;
    ngx_uint_t         i;
    static ngx_str_t   kinds[] = {
        ngx_string("run:"), ngx_string("thread:"), ngx_string("user:"),
        ngx_string("users:"), ngx_string("policy:"), ngx_string("budget:"),
        ngx_string("outbox:"), ngx_null_string
    };

    prefix = ngx_http_lunary_prefix(r);

    for (i = 0; kinds[i].len; i++) {

        len = prefix.len + kinds[i].len;

        if (lcf->session.head < len && key->len >= len
            && ngx_memcmp(key->data, prefix.data, prefix.len) == 0
            && ngx_memcmp(key->data + prefix.len, kinds[i].data, kinds[i].len)
               == 0)
        {
            return 1;
        }
    }

    return 0;
}


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
