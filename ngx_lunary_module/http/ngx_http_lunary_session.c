/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The session: which one the request names (lunary_session_id), and what
 * Redis holds under its key (lunary_session): one round trip on nginx's event
 * loop, whatever the format.
 *
 * Invariants
 *   - a request that waits is forgotten by the connection when it ends;
 *   - "no session" and "could not be asked" are told apart: a failed look-up
 *     never looks like a missing one;
 *   - neither keys nor values are logged above debug level.
 */

#include "ngx_http_lunary_module.h"
#include "ngx_http_lunary_json.h"
#include "inspect/lunary_json.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>


#define NGX_HTTP_LUNARY_SESSION_ID_MAX  512
#define NGX_HTTP_LUNARY_SESSION_MAX     (1024 * 1024)
#define NGX_HTTP_LUNARY_SECRET_FILE     4096


/* a request that waits for its session */

typedef struct {
    ngx_http_request_t        *request;        /* NULL: it is gone           */
    ngx_lunary_redis_t        *redis;
} ngx_http_lunary_waiter_t;


static ngx_int_t ngx_http_lunary_session_key(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf, ngx_str_t *key);
static ngx_int_t ngx_http_lunary_unsign(ngx_http_request_t *r,
    ngx_http_lunary_session_id_conf_t *ic, ngx_str_t *id);
static ngx_int_t ngx_http_lunary_cookie(ngx_http_request_t *r,
    ngx_str_t *name, ngx_str_t *value);
static void ngx_http_lunary_session_reply(void *data, redisReply *reply);
static void ngx_http_lunary_session_forget(void *data);
static void ngx_http_lunary_session_string(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_str_t *value);
static void ngx_http_lunary_session_json(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_str_t *json);
static void ngx_http_lunary_session_hash(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, redisReply *reply);
static lunary_str_t ngx_http_lunary_json_path(lunary_str_t json,
    ngx_str_t *path, lunary_str_t *holder);
static ngx_int_t ngx_http_lunary_session_user(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, lunary_str_t value, ngx_str_t *user);
static ngx_int_t ngx_http_lunary_root_props(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, lunary_str_t object, ngx_str_t *props);
static ngx_uint_t ngx_http_lunary_secret_name(lunary_str_t key);


static ngx_str_t  ngx_http_lunary_user_paths[] = {
    ngx_string("user_id"),
    ngx_string("userId"),
    ngx_string("user.id"),
    ngx_string("passport.user.id"),
    ngx_string("passport.user"),
    ngx_string("user"),
    ngx_string("sub"),
    ngx_null_string
};


static ngx_str_t  ngx_http_lunary_props_paths[] = {
    ngx_string("user_props"),
    ngx_string("userProps"),
    ngx_null_string
};


ngx_array_t *
ngx_http_lunary_session_secrets(ngx_conf_t *cf, ngx_str_t *file)
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
                           "cannot open secret_file \"%V\"", file);
        return NULL;
    }

    n = ngx_read_fd(fd, buf, sizeof(buf));

    if (ngx_close_file(fd) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_ALERT, cf, ngx_errno,
                           ngx_close_file_n " \"%V\" failed", file);
    }

    if (n <= 0 || n == (ssize_t) sizeof(buf)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, n < 0 ? ngx_errno : 0,
                           "secret_file \"%V\" is empty, too large or cannot "
                           "be read: write one secret a line", file);
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
                           "secret_file \"%V\" holds no secret: write one "
                           "a line", file);
        return NULL;
    }

    return secrets;
}


ngx_int_t
ngx_http_lunary_session_id(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf, ngx_str_t *id)
{
    ngx_uint_t                          i;
    ngx_list_part_t                    *part;
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

        part = (ctx && ctx->headers_swapped) ? &ctx->received.part
                                             : &r->headers_in.headers.part;
        h = part->elts;

        for (i = 0; /* void */ ; i++) {

            if (i >= part->nelts) {
                if (part->next == NULL) {
                    break;
                }

                part = part->next;
                h = part->elts;
                i = 0;
            }

            if (h[i].key.len == ic->name.len
                && ngx_strncasecmp(h[i].key.data, ic->name.data, ic->name.len)
                   == 0)
            {
                *id = h[i].value;
                break;
            }
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

    return NGX_OK;
}


static ngx_int_t
ngx_http_lunary_cookie(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value)
{
#if (nginx_version >= 1023000)

    return ngx_http_parse_multi_header_lines(r, r->headers_in.cookie, name,
                                             value)
           ? NGX_OK : NGX_DECLINED;
#else

    return ngx_http_parse_multi_header_lines(&r->headers_in.cookies, name,
                                             value)
           != NGX_DECLINED
           ? NGX_OK : NGX_DECLINED;
#endif
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
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_lunary_session_lookup(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_str_t                         argv[2], id;
    ngx_uint_t                        format;
    ngx_http_cleanup_t               *cln;
    ngx_lunary_redis_t               *redis;
    ngx_http_lunary_waiter_t         *w;
    ngx_http_lunary_lookup_state_t   *lookup;

    lookup = &ctx->lookup;

    if (lookup->state == NGX_HTTP_LUNARY_LOOKUP_WAIT) {
        return NGX_AGAIN;
    }

    if (lookup->state != NGX_HTTP_LUNARY_LOOKUP_NONE
        || lcf->session.key == NULL
        || !ngx_http_lunary_has_source(lcf, NGX_HTTP_LUNARY_SRC_SESSION))
    {
        return NGX_OK;
    }

    ngx_memzero(lookup, sizeof(ngx_http_lunary_lookup_state_t));

    lookup->state = NGX_HTTP_LUNARY_LOOKUP_MISS;

    if (lcf->session_id_set) {

        /* no id, no session: the key's other parts would name a wrong one */

        if (ngx_http_lunary_session_id(r, lcf, &id) != NGX_OK) {
            lookup->state = NGX_HTTP_LUNARY_LOOKUP_FAILED;
            return NGX_OK;
        }

        if (id.len == 0) {
            return NGX_OK;
        }
    }

    if (ngx_http_lunary_session_key(r, lcf, &lookup->key) != NGX_OK) {
        lookup->state = NGX_HTTP_LUNARY_LOOKUP_FAILED;
        return NGX_OK;
    }

    if (lookup->key.len == 0) {
        return NGX_OK;
    }

    redis = ngx_http_lunary_lookup_redis(lcf->session.redis);

    cln = ngx_http_cleanup_add(r, sizeof(ngx_http_lunary_waiter_t));

    if (redis == NULL || cln == NULL) {
        lookup->state = NGX_HTTP_LUNARY_LOOKUP_FAILED;
        return NGX_OK;
    }

    w = cln->data;
    w->request = r;
    w->redis = redis;

    format = lcf->session.format;
    argv[1] = lookup->key;

    if (format != NGX_HTTP_LUNARY_FORMAT_HASH) {
        ngx_str_set(&argv[0], "GET");

        if (ngx_lunary_redis_argv(redis, 2, argv,
                                  ngx_http_lunary_session_reply, w)
            == NGX_OK)
        {
            lookup->pending++;

        } else {
            lookup->failed = 1;
        }
    }

    if (!lookup->failed
        && (format == NGX_HTTP_LUNARY_FORMAT_HASH
            || format == NGX_HTTP_LUNARY_FORMAT_AUTO))
    {
        ngx_str_set(&argv[0], "HGETALL");

        if (ngx_lunary_redis_argv(redis, 2, argv,
                                  ngx_http_lunary_session_reply, w)
            == NGX_OK)
        {
            lookup->pending++;

        } else {
            lookup->failed = 1;
        }
    }

    if (lookup->pending == 0) {
        lookup->state = NGX_HTTP_LUNARY_LOOKUP_FAILED;
        ngx_lunary_stats_inc(NGX_LUNARY_C_LOOKUP_ERROR);

        return NGX_OK;
    }

    cln->handler = ngx_http_lunary_session_forget;

    lookup->state = NGX_HTTP_LUNARY_LOOKUP_WAIT;

    r->read_event_handler = ngx_http_test_reading;
    r->write_event_handler = ngx_http_request_empty_handler;

    return NGX_AGAIN;
}


static void
ngx_http_lunary_session_forget(void *data)
{
    ngx_http_lunary_waiter_t *w = data;

    if (w->request) {
        w->request = NULL;
        ngx_lunary_redis_forget(w->redis, w);
    }
}


static void
ngx_http_lunary_session_reply(void *data, redisReply *reply)
{
    ngx_http_lunary_waiter_t *w = data;

    ngx_str_t                        value;
    ngx_connection_t                *c;
    ngx_http_request_t              *r;
    ngx_http_lunary_ctx_t           *ctx;
    ngx_http_lunary_lookup_state_t  *lookup;

    r = w->request;
    c = r->connection;

    ctx = ngx_http_lunary_get_ctx(r);
    lookup = &ctx->lookup;

    lookup->pending--;

    if (reply == NULL) {
        lookup->failed = 1;

    } else if (reply->type == REDIS_REPLY_ERROR) {

        /* of the two commands of format=auto one has the wrong type */

        if (reply->len < 9 || ngx_strncmp(reply->str, "WRONGTYPE", 9) != 0) {

            lookup->failed = 1;

            ngx_log_error(NGX_LOG_ERR, c->log, 0,
                          "lunary: Redis refused the session look-up: %*s",
                          (size_t) ngx_min(reply->len, 64), reply->str);

        } else if (ctx->conf->session.format != NGX_HTTP_LUNARY_FORMAT_AUTO) {

            ngx_log_error(NGX_LOG_WARN, c->log, 0,
                          "lunary: the session key holds another type than "
                          "lunary_session's format= says, "
                          "it is taken as no session");
        }

    } else if (reply->type == REDIS_REPLY_STRING) {

        lookup->exists = 1;

        value.data = (u_char *) reply->str;
        value.len = reply->len;

        ngx_http_lunary_session_string(r, ctx, &value);

    } else if (reply->type == REDIS_REPLY_ARRAY
#ifdef REDIS_REPLY_MAP
               || reply->type == REDIS_REPLY_MAP
#endif
              )
    {
        if (reply->elements) {
            lookup->exists = 1;
            ngx_http_lunary_session_hash(r, ctx, reply);
        }
    }

    if (lookup->pending) {
        return;
    }

    w->request = NULL;

    if (lookup->user.len) {
        lookup->state = NGX_HTTP_LUNARY_LOOKUP_HIT;
        ngx_lunary_stats_inc(NGX_LUNARY_C_LOOKUP_HIT);

    } else if (lookup->failed) {
        lookup->state = NGX_HTTP_LUNARY_LOOKUP_FAILED;
        ngx_lunary_stats_inc(reply ? NGX_LUNARY_C_LOOKUP_ERROR
                                   : NGX_LUNARY_C_LOOKUP_TIMEOUT);

    } else {
        lookup->state = NGX_HTTP_LUNARY_LOOKUP_MISS;
        ngx_lunary_stats_inc(lookup->exists ? NGX_LUNARY_C_LOOKUP_INVALID
                                            : NGX_LUNARY_C_LOOKUP_MISS);
    }

    ngx_http_set_log_request(c->log, r);

    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_core_run_phases;

    ngx_http_core_run_phases(r);
    ngx_http_run_posted_requests(c);
}


static void
ngx_http_lunary_session_string(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_str_t *value)
{
    ngx_str_t   json;
    ngx_uint_t  format;

    format = ctx->conf->session.format;

    if (value->len > NGX_HTTP_LUNARY_SESSION_MAX) {
        ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                      "lunary: a session of %uz bytes is not read",
                      value->len);
        return;
    }

    json = *value;

    if (format != NGX_HTTP_LUNARY_FORMAT_STRING) {

        if (ngx_http_lunary_json_object(&json) == NGX_OK) {
            ngx_http_lunary_session_json(r, ctx, &json);
            return;
        }

        if (format == NGX_HTTP_LUNARY_FORMAT_JSON
            || (value->len && value->data[0] == '{'))
        {
            ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                          "lunary: a session is not a JSON object, "
                          "it is taken as no session");
            return;
        }
    }

    if (!lunary_user_id_valid(lunary_ngx_str(*value))) {
        return;
    }

    ctx->lookup.user.data = ngx_pstrdup(r->pool, value);
    if (ctx->lookup.user.data) {
        ctx->lookup.user.len = value->len;
    }
}


static void
ngx_http_lunary_session_json(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_str_t *json)
{
    ngx_str_t                       *path, one[2];
    lunary_str_t                     text, value, holder, props;
    ngx_http_lunary_session_conf_t  *sc;

    sc = &ctx->conf->session;

    /* the reply is freed when we return: what is kept is copied */

    text.data = ngx_pstrdup(r->pool, json);
    if (text.data == NULL) {
        ctx->lookup.failed = 1;
        return;
    }

    text.len = json->len;

    path = ngx_http_lunary_user_paths;

    if (sc->user.len) {
        one[0] = sc->user;
        ngx_str_null(&one[1]);
        path = one;
    }

    holder = text;

    for ( /* void */ ; path->len; path++) {

        value = ngx_http_lunary_json_path(text, path, &holder);

        if (value.len
            && ngx_http_lunary_session_user(r, ctx, value, &ctx->lookup.user)
               == NGX_OK)
        {
            break;
        }
    }

    if (ctx->lookup.user.len == 0) {
        return;
    }

    if (sc->props.len) {
        one[0] = sc->props;
        ngx_str_null(&one[1]);
        path = one;

    } else {
        path = ngx_http_lunary_props_paths;
    }

    for ( /* void */ ; path->len; path++) {

        props = ngx_http_lunary_json_path(text, path, NULL);

        if (lunary_json_is_object(props)) {
            ctx->lookup.props = ngx_http_lunary_str(props);
            return;
        }
    }

    if (sc->props.len) {
        return;
    }

    if (holder.data != text.data) {
        ctx->lookup.props = ngx_http_lunary_str(holder);
        return;
    }

    (void) ngx_http_lunary_root_props(r, ctx, text, &ctx->lookup.props);
}


/* a member named like the whole path, else step by step; array indexes too */

static lunary_str_t
ngx_http_lunary_json_path(lunary_str_t json, ngx_str_t *path,
    lunary_str_t *holder)
{
    u_char        *p, *last, *start;
    ngx_int_t      n;
    lunary_str_t   value;

    if (holder) {
        *holder = json;
    }

    value = lunary_json_get_n(json, (const char *) path->data, path->len);

    if (value.len) {
        return value;
    }

    value = json;
    p = path->data;
    last = p + path->len;

    for ( ;; ) {

        start = p;

        while (p < last && *p != '.') {
            p++;
        }

        if (holder) {
            *holder = value;
        }

        if (lunary_json_is_array(value)) {
            n = ngx_atoi(start, p - start);

            if (n == NGX_ERROR) {
                return lunary_str(NULL, 0);
            }

            value = lunary_json_at(value, (size_t) n);

        } else {
            value = lunary_json_get_n(value, (const char *) start, p - start);
        }

        if (value.len == 0 || p == last) {
            return value;
        }

        p++;
    }
}


/* a string, or an integer as its decimal text */

static ngx_int_t
ngx_http_lunary_session_user(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    lunary_str_t value, ngx_str_t *user)
{
    int64_t        n;
    ngx_int_t      rc;
    lunary_buf_t   out;

    ngx_memzero(&out, sizeof(lunary_buf_t));
    rc = NGX_DECLINED;

    if (lunary_json_is_string(value)) {

        if (value.len > 6 * 256 + 2
            || lunary_json_unescape(&ctx->mem, &out,
                                    lunary_json_inside(value))
               != LUNARY_OK)
        {
            goto done;
        }

    } else if (lunary_json_type(value) == LUNARY_JSON_NUMBER
               && lunary_json_int(value, &n))
    {
        if (lunary_buf_append_int(&ctx->mem, &out, n) != LUNARY_OK) {
            goto done;
        }
    }

    if (!lunary_user_id_valid(lunary_buf_str(&out))) {
        goto done;
    }

    user->data = ngx_pnalloc(r->pool, out.len);
    if (user->data == NULL) {
        goto done;
    }

    ngx_memcpy(user->data, out.data, out.len);
    user->len = out.len;

    rc = NGX_OK;

done:

    lunary_buf_free(&ctx->mem, &out);

    return rc;
}


/*
 * The id stands at the top of the session: its props are the plain values
 * beside it, but for those whose names say that they are secrets.
 */

static ngx_int_t
ngx_http_lunary_root_props(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    lunary_str_t object, ngx_str_t *props)
{
    int                  rc;
    ngx_int_t            result;
    lunary_buf_t         out;
    lunary_str_t         key, value;
    lunary_json_iter_t   it;
    lunary_json_type_t   type;

    ngx_memzero(&out, sizeof(lunary_buf_t));
    rc = 0;

    lunary_json_iter(&it, object);

    while (rc == 0 && lunary_json_member(&it, &key, &value)) {

        type = lunary_json_type(value);

        if (type == LUNARY_JSON_OBJECT || type == LUNARY_JSON_ARRAY
            || type == LUNARY_JSON_NULL || value.len > 1024
            || ngx_http_lunary_secret_name(key))
        {
            continue;
        }

        rc = lunary_buf_append(&ctx->mem, &out, out.len ? ",\"" : "{\"", 2)
          || lunary_buf_append(&ctx->mem, &out, key.data, key.len)
          || lunary_buf_lit(&ctx->mem, &out, "\":")
          || lunary_buf_append(&ctx->mem, &out, value.data, value.len);
    }

    result = NGX_DECLINED;

    if (rc == 0 && out.len
        && lunary_buf_lit(&ctx->mem, &out, "}") == LUNARY_OK)
    {
        props->data = ngx_pnalloc(r->pool, out.len);

        if (props->data) {
            ngx_memcpy(props->data, out.data, out.len);
            props->len = out.len;
            result = NGX_OK;
        }
    }

    lunary_buf_free(&ctx->mem, &out);

    return result;
}


static ngx_uint_t
ngx_http_lunary_secret_name(lunary_str_t key)
{
    ngx_uint_t      i;
    static u_char  *words[] = {
        (u_char *) "pass", (u_char *) "secret", (u_char *) "token",
        (u_char *) "csrf", (u_char *) "cookie", (u_char *) "hash",
        (u_char *) "key", (u_char *) "auth", (u_char *) "_permanent",
        (u_char *) "_fresh", NULL
    };

    for (i = 0; words[i]; i++) {
        if (key.len >= ngx_strlen(words[i])
            && ngx_strlcasestrn((u_char *) key.data,
                                (u_char *) key.data + key.len, words[i],
                                ngx_strlen(words[i]) - 1))
        {
            return 1;
        }
    }

    return 0;
}


/*
 * A hash becomes a JSON object: what is JSON in a field is taken as that, so
 * that paths lead into it, all else is a string.
 */

static void
ngx_http_lunary_session_hash(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    redisReply *reply)
{
    int            rc;
    size_t         i;
    ngx_str_t      json;
    redisReply    *field, *value;
    lunary_buf_t   out;

    ngx_memzero(&out, sizeof(lunary_buf_t));

    rc = lunary_buf_lit(&ctx->mem, &out, "{");

    for (i = 0; rc == 0 && i + 1 < reply->elements; i += 2) {

        field = reply->element[i];
        value = reply->element[i + 1];

        if (field->type != REDIS_REPLY_STRING
            || value->type != REDIS_REPLY_STRING
            || out.len + field->len + value->len > NGX_HTTP_LUNARY_SESSION_MAX)
        {
            continue;
        }

        rc = lunary_buf_append(&ctx->mem, &out, out.len > 1 ? ",\"" : "\"",
                               out.len > 1 ? 2 : 1)
          || lunary_json_escape(&ctx->mem, &out,
                                lunary_str(field->str, field->len))
          || lunary_buf_lit(&ctx->mem, &out, "\":");

        if (rc) {
            break;
        }

        json.data = (u_char *) value->str;
        json.len = value->len;

        if (json.len && json.data[0] == '{'
            && ngx_http_lunary_json_object(&json) == NGX_OK)
        {
            rc = lunary_buf_append(&ctx->mem, &out, json.data, json.len);
            continue;
        }

        rc = lunary_buf_lit(&ctx->mem, &out, "\"")
          || lunary_json_escape(&ctx->mem, &out,
                                lunary_str(value->str, value->len))
          || lunary_buf_lit(&ctx->mem, &out, "\"");
    }

    if (rc == 0 && lunary_buf_lit(&ctx->mem, &out, "}") == LUNARY_OK) {

        json.data = out.data;
        json.len = out.len;

        ngx_http_lunary_session_json(r, ctx, &json);

    } else {
        ctx->lookup.failed = 1;
    }

    lunary_buf_free(&ctx->mem, &out);
}
