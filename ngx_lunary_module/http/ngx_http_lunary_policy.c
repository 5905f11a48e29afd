/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Policies that operators write, and budgets: one round trip a call, in which
 * a script judges and reserves; one more behind the answer, which settles.
 *
 *     PREFIXpolicy:<app>:<id>            hash: blocked budget_tokens
 *                                        budget_usd budget_period
 *     PREFIXbudget:<app>:<id>:<period>   hash: reserved spent cost_base
 *     PREFIXbudget:...:held              sorted set: the reservations of
 *                                        calls under way, by when they expire
 *
 * A call is let in while reserved + spent is below the budget, and reserves
 * what it may take: so calls at the same time exceed it by what one of them
 * reserves.  Where the answer does not tell its usage, the reservation is
 * what was spent.  A reservation that nobody settles expires.
 *
 * Invariants
 *   - one reservation a call, settled once, in the period it was made in;
 *   - only "no policy" and "blocked" are ever cached;
 *   - a policy that cannot be read as a number is a budget of 0;
 *   - a policy that cannot be asked for is not a policy that says no: who
 *     judges (enforce) is told.
 */

#include "ngx_http_lunary_module.h"
#include "inspect/lunary_json.h"

#include <ngx_sha1.h>


#define NGX_HTTP_LUNARY_OUTPUT         1024
#define NGX_HTTP_LUNARY_RESERVE_MAX    100000000
#define NGX_HTTP_LUNARY_USED_MAX       1000000000000
#define NGX_HTTP_LUNARY_HELD_MS        900000
#define NGX_HTTP_LUNARY_SETTLE_RETRY   1000
#define NGX_HTTP_LUNARY_SETTLE_QUEUE   4096


/* what the script answers */

typedef enum {
    NGX_HTTP_LUNARY_P_NONE = 0,
    NGX_HTTP_LUNARY_P_BLOCKED,
    NGX_HTTP_LUNARY_P_RESERVED,
    NGX_HTTP_LUNARY_P_SPENT,
    NGX_HTTP_LUNARY_P_BUSY
} ngx_http_lunary_policy_e;


typedef struct {
    ngx_str_t                  day;            /* "2026-01-31"               */
    ngx_str_t                  month;          /* "2026-01"                  */
    time_t                     day_start;
    time_t                     day_end;
    time_t                     month_start;
    time_t                     month_end;
    u_char                     text[sizeof("2026-01-31") - 1];
} ngx_http_lunary_period_t;


/* a request that waits for its policy */

typedef struct {
    ngx_http_request_t        *request;        /* NULL: it does not          */
    ngx_lunary_redis_t        *redis;
    ngx_http_lunary_cache_conf_t
                              *cache;
    ngx_str_t                  keys[6];
    u_char                     digest[NGX_HTTP_LUNARY_DIGEST];
    ngx_http_lunary_period_t   period;
    int64_t                    want;           /* tokens, as was asked       */
    u_char                     run_id[36];
} ngx_http_lunary_asker_t;


/* what was used, on its way to Redis; outlives the request */

typedef struct {
    ngx_queue_t                queue;
    ngx_msec_t                 until;          /* the reservation is gone    */
    ngx_str_t                  argv[9];
    unsigned                   sent:1;
} ngx_http_lunary_settle_t;


static ngx_int_t ngx_http_lunary_policy_keys(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_asker_t *asker);
static ngx_int_t ngx_http_lunary_policy_send(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_asker_t *asker);
static void ngx_http_lunary_policy_reply(void *data, redisReply *reply);
static void ngx_http_lunary_policy_judge(ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_asker_t *asker, redisReply *reply);
static void ngx_http_lunary_policy_forget(void *data);
static int64_t ngx_http_lunary_policy_want(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);
static int64_t ngx_http_lunary_policy_number(lunary_str_t text,
    const lunary_str_t *paths);
static int64_t ngx_http_lunary_policy_value(lunary_str_t value);
static lunary_str_t ngx_http_lunary_policy_holder(lunary_str_t path,
    lunary_str_t *name);
static ngx_uint_t ngx_http_lunary_policy_name(lunary_str_t key,
    lunary_str_t name);
static void ngx_http_lunary_period(ngx_http_lunary_period_t *period);
static ngx_str_t *ngx_http_lunary_policy_sha(void);
static int64_t ngx_http_lunary_policy_used(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);
static void ngx_http_lunary_settle(ngx_http_lunary_policy_t *policy,
    u_char *run_id, int64_t used, ngx_lunary_redis_t *redis);
static void ngx_http_lunary_settle_send(ngx_http_lunary_settle_t *s);
static void ngx_http_lunary_settle_reply(void *data, redisReply *reply);
static void ngx_http_lunary_settle_later(ngx_http_lunary_settle_t *s);
static void ngx_http_lunary_settle_timer(ngx_event_t *ev);


/*
 * KEYS  policy, ledger, the day's budget and its held, the month's
 * ARGV  now (ms), run, wanted tokens (0: nothing is spent by this call), how
 *       long to hold (ms); of the day start (ms) and end (s); of the month
 */

static ngx_str_t  ngx_http_lunary_policy_script = ngx_string(
    "local p = redis.call('HMGET', KEYS[1], 'blocked', 'budget_tokens', "
                         "'budget_usd', 'budget_period') "
    "local off = {['']=1, ['0']=1, ['false']=1, ['no']=1, ['off']=1} "
    "if p[1] and not off[string.lower(p[1])] then return {1} end "
    "if not p[2] and not p[3] then return {0} end "
    "local want = tonumber(ARGV[3]) "
    /* a number that is none ("nan") compares with nothing */
    "local num = function(t, bad) "
        "local n = tonumber(t) "
        "if n and n == n then return n end "
        "return bad "
    "end "
    "local m = 1 "
    "if p[4] == 'day' then m = 0 end "
    "local b, h = KEYS[3 + 2 * m], KEYS[4 + 2 * m] "
    "local start, stop = ARGV[5 + 2 * m], ARGV[6 + 2 * m] "
    "if want == 0 then return {2, m, 0} end "

    "local old = redis.call('ZRANGEBYSCORE', h, '-inf', ARGV[1]) "
    "for _, e in ipairs(old) do "
        "redis.call('ZREM', h, e) "
        "redis.call('HINCRBY', b, 'reserved', "
                   "'-' .. string.match(e, '%d+$')) "
    "end "

    "local v = redis.call('HMGET', b, 'spent', 'reserved', 'cost_base') "
    "local spent, held = tonumber(v[1] or 0), tonumber(v[2] or 0) "

    "if p[3] then "
        "local u = redis.call('HMGET', KEYS[2], 'cost_usd', 'first_seen') "
        "local cost = num(u[1] or 0, math.huge) "
        "local base = num(v[3] or '') "
        "if not base then "
            /* what an older user has spent before does not count */
            "base = '0' "
            "if u[2] and num(u[2], 0) < tonumber(start) then "
                "base = u[1] or '0' "
            "end "
            "redis.call('HSET', b, 'cost_base', base) "
            "redis.call('EXPIREAT', b, stop + 86400) "
            "base = num(base, 0) "
        "end "
        "if cost - base >= num(p[3], 0) then return {3, m} end "
    "end "

    "if not p[2] then return {2, m, 0} end "

    "local limit = num(p[2], 0) "
    "if spent >= limit then return {3, m} end "
    "if spent + held >= limit then return {4, m} end "

    "redis.call('HINCRBY', b, 'reserved', want) "
    "redis.call('EXPIREAT', b, stop + 86400) "
    "redis.call('ZADD', h, ARGV[1] + ARGV[4], ARGV[2] .. '|' .. want) "
    "redis.call('EXPIREAT', h, stop + 86400) "
    "return {2, m, want}"
);


/* KEYS  budget, held; ARGV  member, reserved, used, 1: may be there already */

static ngx_str_t  ngx_http_lunary_settle_script = ngx_string(
    "local held = redis.call('ZREM', KEYS[2], ARGV[1]) "
    "if held == 1 then "
        "redis.call('HINCRBY', KEYS[1], 'reserved', '-' .. ARGV[2]) "
    "elseif ARGV[4] == '1' then return 0 end "
    "if ARGV[3] ~= '0' and redis.call('EXISTS', KEYS[1]) == 1 then "
        "redis.call('HINCRBY', KEYS[1], 'spent', ARGV[3]) "
    "end "
    "return 1"
);


/* where requests say how much may be answered, and how often */

static const lunary_str_t  ngx_http_lunary_output_paths[] = {
    lunary_string("max_tokens"),
    lunary_string("max_completion_tokens"),
    lunary_string("max_output_tokens"),
    lunary_string("max_new_tokens"),
    lunary_string("max_tokens_to_sample"),
    lunary_string("max_gen_len"),
    lunary_string("maxTokens"),
    lunary_string("generationConfig.maxOutputTokens"),
    lunary_string("generation_config.max_output_tokens"),
    lunary_string("inferenceConfig.maxTokens"),
    lunary_string("textGenerationConfig.maxTokenCount"),
    lunary_string("parameters.max_new_tokens"),
    lunary_string("options.num_predict"),
    lunary_null_str
};

static const lunary_str_t  ngx_http_lunary_choices_paths[] = {
    lunary_string("n"),
    lunary_string("best_of"),
    lunary_string("num_generations"),
    lunary_string("generationConfig.candidateCount"),
    lunary_null_str
};


/* settlements that Redis did not take, tried again from a timer */

static ngx_queue_t          ngx_http_lunary_unsettled;
static ngx_uint_t           ngx_http_lunary_nunsettled;
static ngx_event_t          ngx_http_lunary_settle_event;
static ngx_connection_t     ngx_http_lunary_settle_dummy;
static ngx_lunary_redis_t  *ngx_http_lunary_settle_redis;


/* when a line that may repeat was last written */

static time_t  ngx_http_lunary_policy_said;


ngx_int_t
ngx_http_lunary_policy_lookup(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_str_t                     user, props, kind, *parts[3];
    ngx_http_cleanup_t           *cln;
    ngx_lunary_redis_t           *redis;
    ngx_http_lunary_asker_t      *asker;
    ngx_http_lunary_policy_t     *policy;
    ngx_http_lunary_identity_t   *id;
    ngx_http_lunary_main_conf_t  *mcf;

    policy = &ctx->policy;
    id = &ctx->identity;

    if (policy->state == NGX_HTTP_LUNARY_LOOKUP_WAIT) {
        return ngx_http_lunary_suspend(r);
    }

    if (!lcf->policy || id->user.len == 0
        || !ngx_http_lunary_would_pass(r, ctx, lcf))
    {
        return NGX_OK;
    }

    if (policy->state != NGX_HTTP_LUNARY_LOOKUP_NONE) {

        /* an internal redirect: whom did the first location ask for? */

        if (policy->user.len == id->user.len
            && ngx_memcmp(policy->user.data, id->user.data, id->user.len) == 0
            && policy->app.len == ctx->app.len
            && ngx_memcmp(policy->app.data, ctx->app.data, ctx->app.len) == 0)
        {
            return NGX_OK;
        }

        if (policy->budget.len && policy->reserved) {
            mcf = ngx_http_get_module_main_conf(r, ngx_http_lunary_module);

            ngx_http_lunary_settle(policy, ctx->run_id, 0,
                             ngx_http_lunary_lookup_redis(mcf->outbox.redis));
        }
    }

    ngx_memzero(policy, sizeof(ngx_http_lunary_policy_t));

    policy->state = NGX_HTTP_LUNARY_LOOKUP_FAILED;
    policy->user = id->user;
    policy->app = ctx->app;

    mcf = ngx_http_get_module_main_conf(r, ngx_http_lunary_module);

    redis = ngx_http_lunary_lookup_redis(mcf->outbox.redis);

    if (redis == NULL) {
        return NGX_OK;
    }

    cln = ngx_http_cleanup_add(r, sizeof(ngx_http_lunary_asker_t));
    if (cln == NULL) {
        return NGX_OK;
    }

    asker = cln->data;
    ngx_memzero(asker, sizeof(ngx_http_lunary_asker_t));

    asker->redis = redis;

    if (lcf->cache.zone) {
        asker->cache = &lcf->cache;

        ngx_str_set(&kind, "policy");

        parts[0] = &kind;
        parts[1] = &ctx->app;
        parts[2] = &id->user;

        if (ngx_http_lunary_cache_digest(parts, 3, asker->digest) != NGX_OK) {
            return NGX_OK;
        }

        switch (ngx_http_lunary_cache_get(asker->cache, asker->digest, r->pool,
                                          &user, &props))
        {

        case NGX_OK:
            policy->blocked = 1;
            /* fall through */

        case NGX_DONE:
            policy->state = NGX_HTTP_LUNARY_LOOKUP_HIT;
            return NGX_OK;

        default:
            break;
        }
    }

    asker->want = ngx_http_lunary_policy_want(r, ctx);
    ngx_memcpy(asker->run_id, ctx->run_id, sizeof(asker->run_id));

    if (ngx_http_lunary_policy_keys(r, ctx, asker) != NGX_OK
        || ngx_http_lunary_policy_send(r, ctx, asker) != NGX_OK)
    {
        return NGX_OK;
    }

    asker->request = r;
    cln->handler = ngx_http_lunary_policy_forget;

    policy->state = NGX_HTTP_LUNARY_LOOKUP_WAIT;

    return ngx_http_lunary_suspend(r);
}


static ngx_int_t
ngx_http_lunary_policy_keys(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_asker_t *asker)
{
    size_t             size;
    u_char            *p;
    ngx_str_t          prefix, *app, *user, *period;
    ngx_uint_t         i;
    static const char *kinds[] = {
        "policy", "user", "budget", "budget", "budget", "budget"
    };

    ngx_http_lunary_period(&asker->period);

    prefix = ngx_http_lunary_prefix(r);
    app = &ctx->app;
    user = &ctx->identity.user;

    size = prefix.len + sizeof("policy::::held") - 1 + app->len + user->len
           + sizeof(asker->period.text);

    for (i = 0; i < 6; i++) {

        p = ngx_pnalloc(r->pool, size);
        if (p == NULL) {
            return NGX_ERROR;
        }

        asker->keys[i].data = p;

        p = ngx_sprintf(p, "%V%s:%V:%V", &prefix, kinds[i], app, user);

        if (i >= 2) {
            period = i < 4 ? &asker->period.day : &asker->period.month;
            p = ngx_sprintf(p, ":%V%s", period, i % 2 ? ":held" : "");
        }

        asker->keys[i].len = p - asker->keys[i].data;
    }

    return NGX_OK;
}


/* by its digest, and whole where Redis does not know that */

static ngx_int_t
ngx_http_lunary_policy_send(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_asker_t *asker)
{
    u_char      *p;
    ngx_str_t    argv[17];
    ngx_uint_t   i;
    ngx_time_t  *tp;

    if (ctx->policy.retried) {
        ngx_str_set(&argv[0], "EVAL");
        argv[1] = ngx_http_lunary_policy_script;

    } else {
        ngx_str_set(&argv[0], "EVALSHA");
        argv[1] = *ngx_http_lunary_policy_sha();
    }

    ngx_str_set(&argv[2], "6");

    for (i = 0; i < 6; i++) {
        argv[3 + i] = asker->keys[i];
    }

    p = ngx_pnalloc(r->pool, 7 * NGX_INT64_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    tp = ngx_timeofday();

#define ngx_http_lunary_policy_arg(i, n)                                      \
    argv[i].data = p;                                                         \
    p = ngx_sprintf(p, "%L", (int64_t) (n));                                  \
    argv[i].len = p - argv[i].data

    ngx_http_lunary_policy_arg(9, (int64_t) tp->sec * 1000 + tp->msec);

    argv[10].data = ctx->run_id;
    argv[10].len = sizeof(ctx->run_id);

    ngx_http_lunary_policy_arg(11, asker->want);
    ngx_str_set(&argv[12], ngx_value(NGX_HTTP_LUNARY_HELD_MS));
    ngx_http_lunary_policy_arg(13, (int64_t) asker->period.day_start * 1000);
    ngx_http_lunary_policy_arg(14, asker->period.day_end);
    ngx_http_lunary_policy_arg(15, (int64_t) asker->period.month_start * 1000);
    ngx_http_lunary_policy_arg(16, asker->period.month_end);

#undef ngx_http_lunary_policy_arg

    return ngx_lunary_redis_argv(asker->redis, 17, argv,
                                 ngx_http_lunary_policy_reply, asker);
}


static ngx_str_t *
ngx_http_lunary_policy_sha(void)
{
    ngx_sha1_t         sha1;
    static u_char      hex[40], md[20];
    static ngx_str_t   text;

    if (text.len == 0) {
        ngx_sha1_init(&sha1);
        ngx_sha1_update(&sha1, ngx_http_lunary_policy_script.data,
                        ngx_http_lunary_policy_script.len);
        ngx_sha1_final(md, &sha1);

        ngx_hex_dump(hex, md, sizeof(md));

        text.data = hex;
        text.len = sizeof(hex);
    }

    return &text;
}


static void
ngx_http_lunary_policy_forget(void *data)
{
    ngx_http_lunary_asker_t *asker = data;

    ngx_http_lunary_policy_t  policy;

    if (asker->request == NULL) {
        return;
    }

    asker->request = NULL;
    ngx_lunary_redis_forget(asker->redis, asker);

    if (asker->want == 0 || !ngx_lunary_redis_up(asker->redis)) {
        return;
    }

    /* what is reserved in a moment goes back right behind: replies would tell
     * in which period, settling what is not held changes nothing */

    ngx_memzero(&policy, sizeof(ngx_http_lunary_policy_t));

    policy.reserved = asker->want;

    policy.budget = asker->keys[2];
    ngx_http_lunary_settle(&policy, asker->run_id, 0, asker->redis);

    policy.budget = asker->keys[4];
    ngx_http_lunary_settle(&policy, asker->run_id, 0, asker->redis);
}


static void
ngx_http_lunary_policy_reply(void *data, redisReply *reply)
{
    ngx_http_lunary_asker_t *asker = data;

    ngx_http_request_t        *r;
    ngx_http_lunary_ctx_t     *ctx;
    ngx_http_lunary_policy_t  *policy;

    r = asker->request;

    ctx = ngx_http_lunary_get_ctx(r);
    policy = &ctx->policy;

    if (reply && reply->type == REDIS_REPLY_ERROR && !policy->retried
        && reply->len >= 8 && ngx_strncmp(reply->str, "NOSCRIPT", 8) == 0)
    {
        policy->retried = 1;

        if (ngx_http_lunary_policy_send(r, ctx, asker) == NGX_OK) {
            return;
        }
    }

    asker->request = NULL;

    policy->state = NGX_HTTP_LUNARY_LOOKUP_FAILED;

    if (reply && reply->type == REDIS_REPLY_ERROR) {
        ngx_http_lunary_redis_refused(r->connection->log,
                                      &ngx_http_lunary_policy_said, reply,
                                      "to judge a policy");

    } else if (reply) {
        ngx_http_lunary_policy_judge(ctx, asker, reply);
    }

    ngx_http_lunary_resume(r);
}


static void
ngx_http_lunary_policy_judge(ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_asker_t *asker, redisReply *reply)
{
    time_t                     end;
    ngx_str_t                  value, none;
    ngx_uint_t                 i, month;
    ngx_http_lunary_policy_t  *policy;

    policy = &ctx->policy;

    if (reply->type != REDIS_REPLY_ARRAY || reply->elements == 0) {
        return;
    }

    for (i = 0; i < reply->elements; i++) {
        if (reply->element[i]->type != REDIS_REPLY_INTEGER) {
            return;
        }
    }

    month = reply->elements > 1 && reply->element[1]->integer;

    end = month ? asker->period.month_end : asker->period.day_end;

    policy->state = NGX_HTTP_LUNARY_LOOKUP_HIT;

    ngx_str_null(&none);

    switch (reply->element[0]->integer) {

    case NGX_HTTP_LUNARY_P_NONE:

        if (asker->cache) {
            ngx_http_lunary_cache_put(asker->cache, asker->digest, &none,
                                      &none, asker->cache->negative);
        }

        break;

    case NGX_HTTP_LUNARY_P_BLOCKED:
        policy->blocked = 1;

        if (asker->cache) {
            ngx_str_set(&value, "1");

            ngx_http_lunary_cache_put(asker->cache, asker->digest, &value,
                                      &none, asker->cache->negative);
        }

        break;

    case NGX_HTTP_LUNARY_P_RESERVED:

        if (reply->elements > 2 && reply->element[2]->integer > 0) {
            policy->budget = asker->keys[month ? 4 : 2];
            policy->reserved = reply->element[2]->integer;
        }

        break;

    case NGX_HTTP_LUNARY_P_SPENT:
        policy->spent = 1;
        policy->retry_after = ngx_max(end - ngx_time(), 1);
        break;

    case NGX_HTTP_LUNARY_P_BUSY:
        policy->spent = 1;
        policy->retry_after = 1;
        break;

    default:
        policy->state = NGX_HTTP_LUNARY_LOOKUP_FAILED;
        break;
    }
}


/* tokens that the call may take: four bytes of its body each, and what it
 * asks for; 0 where it can take none */

static int64_t
ngx_http_lunary_policy_want(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx)
{
    int64_t        want, out, n;
    lunary_str_t   text;

    if (r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD|NGX_HTTP_OPTIONS)
        && ctx->request_bytes == 0 && r->headers_in.upgrade == NULL)
    {
        return 0;
    }

    want = 0;
    out = LUNARY_UNKNOWN;
    n = 1;

    if (ctx->call->request_state == LUNARY_BODY_JSON) {

        want = (int64_t) (ngx_max((uint64_t) ctx->request_bytes,
                                  lunary_call_body_size(ctx->call)) + 3) / 4;

        text = lunary_call_body_text(ctx->call);

        out = ngx_http_lunary_policy_number(text,
                                            ngx_http_lunary_output_paths);
        n = ngx_http_lunary_policy_number(text,
                                          ngx_http_lunary_choices_paths);
        n = ngx_max(n, 1);
    }

    if (out < 0) {
        out = lunary_eq(ctx->call->dialect->type, "embed")
              ? 0 : NGX_HTTP_LUNARY_OUTPUT;
    }

    out = ngx_min(out, NGX_HTTP_LUNARY_RESERVE_MAX);
    n = ngx_min(n, NGX_HTTP_LUNARY_RESERVE_MAX);
    want = ngx_min(want + out * n, NGX_HTTP_LUNARY_RESERVE_MAX);

    return ngx_max(want, 1);
}


/*
 * The largest of the numbers under the paths.  Upstreams differ in which of
 * two members they take, in whether case matters (not to Go), and in what is
 * a number (a string of digits, to some): each of them counts.
 */

static int64_t
ngx_http_lunary_policy_number(lunary_str_t text, const lunary_str_t *paths)
{
    int64_t               n, most;
    lunary_str_t          key, value, inner, holder, name;
    const lunary_str_t   *path;
    lunary_json_iter_t    it, in;

    most = LUNARY_UNKNOWN;

    lunary_json_iter(&it, text);

    while (lunary_json_member(&it, &key, &value)) {

        for (path = paths; path->len; path++) {

            holder = ngx_http_lunary_policy_holder(*path, &name);

            if (holder.len == 0) {

                if (ngx_http_lunary_policy_name(key, name)) {
                    n = ngx_http_lunary_policy_value(value);
                    most = ngx_max(most, n);
                }

                continue;
            }

            if (!ngx_http_lunary_policy_name(key, holder)) {
                continue;
            }

            lunary_json_iter(&in, value);

            while (lunary_json_member(&in, &key, &inner)) {

                if (ngx_http_lunary_policy_name(key, name)) {
                    n = ngx_http_lunary_policy_value(inner);
                    most = ngx_max(most, n);
                }
            }

            break;
        }
    }

    return most;
}


/* "a.b": the member a in which b stands; "b": none */

static lunary_str_t
ngx_http_lunary_policy_holder(lunary_str_t path, lunary_str_t *name)
{
    const unsigned char  *dot;

    dot = memchr(path.data, '.', path.len);

    if (dot == NULL) {
        *name = path;
        return lunary_str(NULL, 0);
    }

    *name = lunary_str(dot + 1, path.data + path.len - dot - 1);

    return lunary_str(path.data, dot - path.data);
}


/* a name with an escape in it is compared by what it stands for */

static ngx_uint_t
ngx_http_lunary_policy_name(lunary_str_t key, lunary_str_t name)
{
    u_char   c, text[64];
    size_t   i, n;

    if (key.len == name.len) {
        return ngx_strncasecmp((u_char *) key.data, (u_char *) name.data,
                               name.len)
               == 0;
    }

    if (key.len < name.len || key.len > 6 * name.len
        || name.len > sizeof(text))
    {
        return 0;
    }

    for (i = 0, n = 0; i < key.len && n < name.len; n++) {

        c = key.data[i++];

        if (c == '\\') {

            if (key.len - i < 5 || key.data[i] != 'u'
                || key.data[i + 1] != '0' || key.data[i + 2] != '0')
            {
                return 0;
            }

            c = (u_char) ngx_hextoi((u_char *) key.data + i + 3, 2);
            i += 5;
        }

        text[n] = c;
    }

    return i == key.len && n == name.len
           && ngx_strncasecmp(text, (u_char *) name.data, n) == 0;
}


static int64_t
ngx_http_lunary_policy_value(lunary_str_t value)
{
    char      text[64];
    double    d;
    int64_t   n;

    if (lunary_json_is_string(value)) {
        value = lunary_json_inside(value);

        while (value.len && *value.data == ' ') {
            value.data++;
            value.len--;
        }

        while (value.len && value.data[value.len - 1] == ' ') {
            value.len--;
        }

        return lunary_json_int(value, &n) ? n : LUNARY_UNKNOWN;
    }

    if (lunary_json_type(value) != LUNARY_JSON_NUMBER) {
        return LUNARY_UNKNOWN;
    }

    if (lunary_json_int(value, &n)) {
        return n;
    }

    /* with a fraction, or too large */

    if (value.len >= sizeof(text)) {
        return NGX_HTTP_LUNARY_RESERVE_MAX;
    }

    ngx_memcpy(text, value.data, value.len);
    text[value.len] = '\0';

    d = strtod(text, NULL);

    return d >= NGX_HTTP_LUNARY_RESERVE_MAX ? NGX_HTTP_LUNARY_RESERVE_MAX
           : d > 0 ? (int64_t) d + 1 : LUNARY_UNKNOWN;
}


/* the day and the month that it is, in UTC */

static void
ngx_http_lunary_period(ngx_http_lunary_period_t *period)
{
    time_t     now;
    ngx_tm_t   tm;

    now = ngx_time();

    ngx_gmtime(now, &tm);

    (void) ngx_sprintf(period->text, "%4d-%02d-%02d",
                       tm.ngx_tm_year, tm.ngx_tm_mon, tm.ngx_tm_mday);

    period->day.data = period->text;
    period->day.len = sizeof("2026-01-31") - 1;

    period->month.data = period->text;
    period->month.len = sizeof("2026-01") - 1;

    period->day_start = now - now % 86400;
    period->day_end = period->day_start + 86400;

    period->month_start = period->day_start
                          - (time_t) (tm.ngx_tm_mday - 1) * 86400;

    /* a day of the next month, and back to its first */

    period->month_end = period->month_start + 32 * 86400;

    ngx_gmtime(period->month_end, &tm);

    period->month_end -= (time_t) (tm.ngx_tm_mday - 1) * 86400;
}


void
ngx_http_lunary_policy_settle(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx)
{
    ngx_http_lunary_policy_t     *policy;
    ngx_http_lunary_main_conf_t  *mcf;

    policy = &ctx->policy;

    if (policy->state != NGX_HTTP_LUNARY_LOOKUP_HIT
        || policy->budget.len == 0)
    {
        return;
    }

    mcf = ngx_http_get_module_main_conf(r, ngx_http_lunary_module);

    ngx_http_lunary_settle(policy, ctx->run_id,
                           ngx_http_lunary_policy_used(r, ctx),
                           ngx_http_lunary_lookup_redis(mcf->outbox.redis));

    ngx_str_null(&policy->budget);
}


/* sets `estimated` where the answer does not tell */

static int64_t
ngx_http_lunary_policy_used(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx)
{
    int64_t                     known;
    ngx_uint_t                  status, whole;
    lunary_call_t              *call;
    ngx_http_upstream_state_t  *state;

    call = ctx->call;

    if (r->upstream_states == NULL || r->upstream_states->nelts == 0) {
        return 0;
    }

    known = 0;
    whole = 0;

    if (call->input_tokens != LUNARY_UNKNOWN
        && call->output_tokens != LUNARY_UNKNOWN)
    {
        known = ngx_min(call->input_tokens, NGX_HTTP_LUNARY_USED_MAX)
                + ngx_min(call->output_tokens, NGX_HTTP_LUNARY_USED_MAX);
        whole = 1;

    } else if (call->tokens.total != LUNARY_UNKNOWN) {
        known = call->tokens.total;
        whole = 1;

    } else if (call->input_tokens != LUNARY_UNKNOWN) {
        known = call->input_tokens;
    }

    known = ngx_min(ngx_max(known, 0), NGX_HTTP_LUNARY_USED_MAX);

    /* what an answer says before its end is what it took so far */

    if (whole && (call->terminal || ngx_strncmp(ctx->outcome.data, "ok",
                                                ctx->outcome.len)
                                    == 0))
    {
        return known;
    }

    status = r->headers_out.status ? r->headers_out.status : r->err_status;

    /* refused by the upstream, not by nginx on its answer (412, 416) */

    state = ngx_http_lunary_last_state(r, ctx, NULL);

    if (!whole && !call->content && status >= NGX_HTTP_BAD_REQUEST
        && (state == NULL || state->status >= NGX_HTTP_BAD_REQUEST)
        && status != NGX_HTTP_CLIENT_CLOSED_REQUEST
        && status != NGX_HTTP_GATEWAY_TIME_OUT)
    {
        return 0;
    }

    ctx->policy.estimated = 1;

    return ngx_max(known, ctx->policy.reserved);
}


static void
ngx_http_lunary_settle(ngx_http_lunary_policy_t *policy, u_char *run_id,
    int64_t used, ngx_lunary_redis_t *redis)
{
    u_char                    *p;
    size_t                     size;
    ngx_http_lunary_settle_t  *s;

    if (redis == NULL) {
        return;
    }

    ngx_http_lunary_settle_redis = redis;

    size = sizeof(ngx_http_lunary_settle_t)
           + 2 * policy->budget.len + sizeof(":held") - 1
           + 36 + 1 + 3 * NGX_INT64_LEN;

    s = ngx_alloc(size, ngx_cycle->log);
    if (s == NULL) {
        return;
    }

    ngx_memzero(s, sizeof(ngx_http_lunary_settle_t));

    s->until = ngx_current_msec + NGX_HTTP_LUNARY_HELD_MS;

    p = (u_char *) s + sizeof(ngx_http_lunary_settle_t);

    ngx_str_set(&s->argv[0], "EVAL");
    s->argv[1] = ngx_http_lunary_settle_script;
    ngx_str_set(&s->argv[2], "2");

    s->argv[3].data = p;
    p = ngx_cpymem(p, policy->budget.data, policy->budget.len);
    s->argv[3].len = p - s->argv[3].data;

    s->argv[4].data = p;
    p = ngx_sprintf(p, "%V:held", &policy->budget);
    s->argv[4].len = p - s->argv[4].data;

    s->argv[5].data = p;
    p = ngx_sprintf(p, "%*s|%L", (size_t) 36, run_id, policy->reserved);
    s->argv[5].len = p - s->argv[5].data;

    s->argv[6].data = p;
    p = ngx_sprintf(p, "%L", policy->reserved);
    s->argv[6].len = p - s->argv[6].data;

    s->argv[7].data = p;
    p = ngx_sprintf(p, "%L", used);
    s->argv[7].len = p - s->argv[7].data;

    ngx_http_lunary_settle_send(s);
}


static void
ngx_http_lunary_settle_send(ngx_http_lunary_settle_t *s)
{
    /* sent before, it may have been applied without us knowing */

    if (s->sent) {
        ngx_str_set(&s->argv[8], "1");

    } else {
        ngx_str_set(&s->argv[8], "0");
    }

    if (ngx_lunary_redis_argv(ngx_http_lunary_settle_redis, 9, s->argv,
                              ngx_http_lunary_settle_reply, s)
        == NGX_OK)
    {
        s->sent = 1;
        return;
    }

    ngx_http_lunary_settle_later(s);
}


static void
ngx_http_lunary_settle_reply(void *data, redisReply *reply)
{
    ngx_http_lunary_settle_t *s = data;

    static time_t  said;

    if (reply && reply->type != REDIS_REPLY_ERROR) {
        ngx_free(s);
        return;
    }

    if (reply) {
        ngx_http_lunary_redis_refused(ngx_cycle->log, &said, reply,
                                      "to settle a budget");
    }

    ngx_http_lunary_settle_later(s);
}


static void
ngx_http_lunary_settle_later(ngx_http_lunary_settle_t *s)
{
    ngx_event_t  *ev;

    if (ngx_http_lunary_nunsettled >= NGX_HTTP_LUNARY_SETTLE_QUEUE
        || (ngx_msec_int_t) (s->until - ngx_current_msec) <= 0
        || ngx_exiting || ngx_terminate)
    {
        ngx_free(s);
        return;
    }

    if (ngx_http_lunary_unsettled.next == NULL) {
        ngx_queue_init(&ngx_http_lunary_unsettled);
    }

    ngx_queue_insert_tail(&ngx_http_lunary_unsettled, &s->queue);
    ngx_http_lunary_nunsettled++;

    ev = &ngx_http_lunary_settle_event;

    if (!ev->timer_set) {
        ngx_http_lunary_settle_dummy.fd = (ngx_socket_t) -1;

        ev->handler = ngx_http_lunary_settle_timer;
        ev->data = &ngx_http_lunary_settle_dummy;
        ev->log = ngx_cycle->log;
        ev->cancelable = 1;

        ngx_add_timer(ev, NGX_HTTP_LUNARY_SETTLE_RETRY);
    }
}


static void
ngx_http_lunary_settle_timer(ngx_event_t *ev)
{
    ngx_uint_t                 n;
    ngx_queue_t               *q;
    ngx_http_lunary_settle_t  *s;

    for (n = ngx_http_lunary_nunsettled; n; n--) {

        q = ngx_queue_head(&ngx_http_lunary_unsettled);
        ngx_queue_remove(q);
        ngx_http_lunary_nunsettled--;

        s = ngx_queue_data(q, ngx_http_lunary_settle_t, queue);

        ngx_http_lunary_settle_send(s);
    }
}


/* what could not be settled until now expires in Redis */

void
ngx_http_lunary_policy_exit(void)
{
    ngx_queue_t               *q;
    ngx_http_lunary_settle_t  *s;

    for ( /* void */ ; ngx_http_lunary_nunsettled;
         ngx_http_lunary_nunsettled--)
    {
        q = ngx_queue_head(&ngx_http_lunary_unsettled);
        ngx_queue_remove(q);

        s = ngx_queue_data(q, ngx_http_lunary_settle_t, queue);
        ngx_free(s);
    }

    if (ngx_http_lunary_settle_event.timer_set) {
        ngx_del_timer(&ngx_http_lunary_settle_event);
    }
}
