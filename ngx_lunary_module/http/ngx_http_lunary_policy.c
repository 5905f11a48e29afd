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


static ngx_int_t ngx_http_lunary_policy_keys(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_asker_t *asker);
static ngx_int_t ngx_http_lunary_policy_send(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_asker_t *asker);
static void ngx_http_lunary_policy_reply(void *data, redisReply *reply);
static void ngx_http_lunary_policy_judge(ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_asker_t *asker, redisReply *reply);
static void ngx_http_lunary_policy_forget(void *data);
static void ngx_http_lunary_policy_release(ngx_http_lunary_asker_t *asker);
static void ngx_http_lunary_period(ngx_http_lunary_period_t *period);
static ngx_str_t *ngx_http_lunary_policy_sha(void);


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

    if (asker->request == NULL) {
        return;
    }

    asker->request = NULL;
    ngx_lunary_redis_forget(asker->redis, asker);

    if (ngx_lunary_redis_up(asker->redis)) {
        ngx_http_lunary_policy_release(asker);
    }
}


/*
 * What was asked for may be reserved in a moment, and nobody would hear of it:
 * it goes back right behind, and again until Redis has said so.  The reply
 * would tell in which period; to settle what is not held changes nothing.
 */

static void
ngx_http_lunary_policy_release(ngx_http_lunary_asker_t *asker)
{
    ngx_http_lunary_policy_t  policy;

    if (asker->want == 0) {
        return;
    }

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

    } else {

        /* too late for us, but Redis may yet read it */

        ngx_http_lunary_policy_release(asker);
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
