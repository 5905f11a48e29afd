/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * lunary_user parent: a call that names a parent run or a thread inherits its
 * user and props, as identify() and openThread() do in Lunary's SDKs.
 *
 *     PREFIXrun:<id>, PREFIXthread:<id>    hash: app user props, with a TTL
 *
 * They are written when a call of a known user passes, before it is
 * forwarded: calls nested in it begin before it ends.
 *
 * Invariants
 *   - what is inherited is a claim, whoever the parent's user was;
 *   - only within the same app;
 *   - the first owner stays for as long as the key lives, however often it is
 *     named again;
 *   - nothing is asked or written where no lunary_user lists `parent`.
 */

#include "ngx_http_lunary_module.h"
#include "ngx_http_lunary_json.h"


#define NGX_HTTP_LUNARY_CASCADE_TTL    "86400000"
#define NGX_HTTP_LUNARY_CASCADE_PROPS  (64 * 1024)


/* a request that waits */

typedef struct {
    ngx_http_request_t        *request;        /* NULL: it does not          */
    ngx_lunary_redis_t        *redis;
} ngx_http_lunary_heir_t;


static ngx_int_t ngx_http_lunary_cascade_ask(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_heir_t *heir,
    const char *kind, ngx_str_t *id);
static ngx_int_t ngx_http_lunary_cascade_key(ngx_http_request_t *r,
    const char *kind, ngx_str_t *id, ngx_str_t *key);
static void ngx_http_lunary_cascade_reply(void *data, redisReply *reply);
static void ngx_http_lunary_cascade_read(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, redisReply *reply);
static void ngx_http_lunary_cascade_forget(void *data);
static void ngx_http_lunary_cascade_saved(void *data, redisReply *reply);


/* ARGV: app, user, props, ttl */

static ngx_str_t  ngx_http_lunary_cascade_script = ngx_string(
    "for _, k in ipairs(KEYS) do "
        "local o = redis.call('HMGET', k, 'app', 'user') "
        "if not o[2] or (o[1] == ARGV[1] and o[2] == ARGV[2]) then "
            "redis.call('HSET', k, 'app', ARGV[1], 'user', ARGV[2]) "
            "if ARGV[3] ~= '' then "
                "redis.call('HSET', k, 'props', ARGV[3]) "
            "end "
            "redis.call('PEXPIRE', k, ARGV[4]) "
        "end "
    "end "
    "return 1"
);


/* when a line that may repeat was last written */

static time_t  ngx_http_lunary_cascade_said;


ngx_int_t
ngx_http_lunary_cascade_lookup(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_str_t                    *parent, *thread;
    ngx_http_cleanup_t           *cln;
    ngx_lunary_redis_t           *redis;
    ngx_http_lunary_heir_t       *heir;
    ngx_http_lunary_cascade_t    *cascade;
    ngx_http_lunary_main_conf_t  *mcf;

    cascade = &ctx->cascade;

    if (cascade->state == NGX_HTTP_LUNARY_LOOKUP_WAIT) {
        return ngx_http_lunary_suspend(r);
    }

    if (cascade->state != NGX_HTTP_LUNARY_LOOKUP_NONE
        || lcf->sources == NULL
        || !ngx_http_lunary_has_source(lcf, NGX_HTTP_LUNARY_SRC_PARENT))
    {
        return NGX_OK;
    }

    ngx_memzero(cascade, sizeof(ngx_http_lunary_cascade_t));

    cascade->state = NGX_HTTP_LUNARY_LOOKUP_FAILED;

    if (ngx_http_lunary_call_names(r, ctx, lcf) != NGX_OK) {
        return NGX_OK;
    }

    cascade->app = ctx->app;

    parent = &ctx->identity.parent;
    thread = &ctx->identity.thread;

    if (parent->len == 0 && thread->len == 0) {
        cascade->state = NGX_HTTP_LUNARY_LOOKUP_MISS;
        return NGX_OK;
    }

    mcf = ngx_http_get_module_main_conf(r, ngx_http_lunary_module);

    redis = ngx_http_lunary_lookup_redis(mcf->outbox.redis);
    if (redis == NULL) {
        return NGX_OK;
    }

    cln = ngx_http_cleanup_add(r, sizeof(ngx_http_lunary_heir_t));
    if (cln == NULL) {
        return NGX_OK;
    }

    heir = cln->data;
    heir->request = r;
    heir->redis = redis;

    /* the nearest first: Lunary's SDKs name a thread as a parent, too */

    if ((parent->len
         && (ngx_http_lunary_cascade_ask(r, ctx, heir, "run:", parent)
             != NGX_OK
             || ngx_http_lunary_cascade_ask(r, ctx, heir, "thread:", parent)
                != NGX_OK))
        || (thread->len
            && ngx_http_lunary_cascade_ask(r, ctx, heir, "thread:", thread)
               != NGX_OK))
    {
        cascade->failed = 1;
    }

    if (cascade->pending == 0) {
        heir->request = NULL;
        return NGX_OK;
    }

    cln->handler = ngx_http_lunary_cascade_forget;

    cascade->state = NGX_HTTP_LUNARY_LOOKUP_WAIT;

    return ngx_http_lunary_suspend(r);
}


static ngx_int_t
ngx_http_lunary_cascade_ask(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_heir_t *heir, const char *kind, ngx_str_t *id)
{
    ngx_str_t  argv[5];

    ngx_str_set(&argv[0], "HMGET");
    ngx_str_set(&argv[2], "app");
    ngx_str_set(&argv[3], "user");
    ngx_str_set(&argv[4], "props");

    if (ngx_http_lunary_cascade_key(r, kind, id, &argv[1]) != NGX_OK
        || ngx_lunary_redis_argv(heir->redis, 5, argv,
                                 ngx_http_lunary_cascade_reply, heir)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    ctx->cascade.pending++;

    return NGX_OK;
}


static ngx_int_t
ngx_http_lunary_cascade_key(ngx_http_request_t *r, const char *kind,
    ngx_str_t *id, ngx_str_t *key)
{
    size_t     len;
    u_char    *p;
    ngx_str_t  prefix;

    prefix = ngx_http_lunary_prefix(r);
    len = ngx_strlen(kind);

    key->data = ngx_pnalloc(r->pool, prefix.len + len + id->len);
    if (key->data == NULL) {
        return NGX_ERROR;
    }

    p = ngx_cpymem(key->data, prefix.data, prefix.len);
    p = ngx_cpymem(p, kind, len);
    p = ngx_cpymem(p, id->data, id->len);

    key->len = p - key->data;

    return NGX_OK;
}


static void
ngx_http_lunary_cascade_forget(void *data)
{
    ngx_http_lunary_heir_t *heir = data;

    if (heir->request) {
        heir->request = NULL;
        ngx_lunary_redis_forget(heir->redis, heir);
    }
}


static void
ngx_http_lunary_cascade_reply(void *data, redisReply *reply)
{
    ngx_http_lunary_heir_t *heir = data;

    ngx_http_request_t         *r;
    ngx_http_lunary_ctx_t      *ctx;
    ngx_http_lunary_cascade_t  *cascade;

    r = heir->request;

    ctx = ngx_http_lunary_get_ctx(r);
    cascade = &ctx->cascade;

    cascade->pending--;

    if (reply == NULL) {
        cascade->failed = 1;

    } else if (reply->type == REDIS_REPLY_ERROR) {
        cascade->failed = 1;

        ngx_http_lunary_redis_refused(r->connection->log,
                                      &ngx_http_lunary_cascade_said, reply,
                                      "to tell a parent's user");

    } else if (cascade->user.len == 0) {
        ngx_http_lunary_cascade_read(r, ctx, reply);
    }

    if (cascade->pending) {
        return;
    }

    heir->request = NULL;

    cascade->state = cascade->user.len ? NGX_HTTP_LUNARY_LOOKUP_HIT
                     : cascade->failed ? NGX_HTTP_LUNARY_LOOKUP_FAILED
                     : NGX_HTTP_LUNARY_LOOKUP_MISS;

    ngx_http_lunary_resume(r);
}


static void
ngx_http_lunary_cascade_read(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    redisReply *reply)
{
    u_char                     *p;
    ngx_str_t                   json;
    redisReply                 *app, *user, *props;
    ngx_http_lunary_cascade_t  *cascade;

    cascade = &ctx->cascade;

    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 3) {
        return;
    }

    app = reply->element[0];
    user = reply->element[1];
    props = reply->element[2];

    if (app->type != REDIS_REPLY_STRING
        || (size_t) app->len != cascade->app.len
        || ngx_memcmp(app->str, cascade->app.data, app->len) != 0
        || user->type != REDIS_REPLY_STRING
        || !lunary_user_id_valid(lunary_str(user->str, user->len)))
    {
        return;
    }

    p = ngx_pnalloc(r->pool, user->len);

    if (p == NULL) {
        cascade->failed = 1;
        return;
    }

    ngx_memcpy(p, user->str, user->len);

    cascade->user.data = p;
    cascade->user.len = user->len;

    if (props->type != REDIS_REPLY_STRING || props->len == 0
        || props->len > NGX_HTTP_LUNARY_CASCADE_PROPS)
    {
        return;
    }

    json.len = props->len;
    json.data = ngx_pnalloc(r->pool, json.len);

    if (json.data == NULL) {
        return;
    }

    ngx_memcpy(json.data, props->str, json.len);

    if (ngx_http_lunary_json_object(&json) == NGX_OK) {
        cascade->props = json;
    }
}


void
ngx_http_lunary_cascade_save(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_str_t                    run;
    ngx_http_lunary_identity_t  *id;

    id = &ctx->identity;

    if (id->user.len == 0) {
        return;
    }

    run.data = ctx->run_id;
    run.len = sizeof(ctx->run_id);

    ngx_http_lunary_cascade_known(r, &ctx->app, &id->user, &id->props, &run,
                                  &id->thread);
}


void
ngx_http_lunary_cascade_known(ngx_http_request_t *r, ngx_str_t *app,
    ngx_str_t *user, ngx_str_t *props, ngx_str_t *run, ngx_str_t *thread)
{
    ngx_str_t                     argv[9];
    ngx_uint_t                    n, keys;
    ngx_lunary_redis_t           *redis;
    ngx_http_lunary_main_conf_t  *mcf;

    mcf = ngx_http_get_module_main_conf(r, ngx_http_lunary_module);

    if (!mcf->cascade) {
        return;
    }

    redis = ngx_http_lunary_lookup_redis(mcf->outbox.redis);
    if (redis == NULL) {
        return;
    }

    n = 3;

    if (run->len) {
        if (ngx_http_lunary_cascade_key(r, "run:", run, &argv[n++])
            != NGX_OK)
        {
            return;
        }
    }

    if (thread->len) {
        if (ngx_http_lunary_cascade_key(r, "thread:", thread, &argv[n++])
            != NGX_OK)
        {
            return;
        }
    }

    keys = n - 3;

    if (keys == 0) {
        return;
    }

    ngx_str_set(&argv[0], "EVAL");
    argv[1] = ngx_http_lunary_cascade_script;

    if (keys == 1) {
        ngx_str_set(&argv[2], "1");

    } else {
        ngx_str_set(&argv[2], "2");
    }

    argv[n++] = *app;
    argv[n++] = *user;
    argv[n] = *props;

    if (argv[n].len > NGX_HTTP_LUNARY_CASCADE_PROPS) {
        ngx_str_null(&argv[n]);
    }

    n++;

    ngx_str_set(&argv[n], NGX_HTTP_LUNARY_CASCADE_TTL);
    n++;

    /* where Redis is away nobody inherits: the call goes on */

    (void) ngx_lunary_redis_argv(redis, n, argv,
                                 ngx_http_lunary_cascade_saved, NULL);
}


static void
ngx_http_lunary_cascade_saved(void *data, redisReply *reply)
{
    static time_t  said;

    if (reply && reply->type == REDIS_REPLY_ERROR) {
        ngx_http_lunary_redis_refused(ngx_cycle->log, &said, reply,
                                      "to keep a run's user");
    }
}
