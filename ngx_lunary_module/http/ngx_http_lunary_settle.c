/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Budgets, behind the answer: what was reserved becomes what was used, in the
 * period it was reserved in.
 *
 * Invariants
 *   - a reservation is settled once: a settlement that Redis did not take waits
 *     in a queue, until the reservation has expired by itself;
 *   - without usage in the answer what was reserved is what was used.
 */

#include "ngx_http_lunary_module.h"


#define NGX_HTTP_LUNARY_USED_MAX      1000000000000
#define NGX_HTTP_LUNARY_SETTLE_RETRY  1000
#define NGX_HTTP_LUNARY_SETTLE_QUEUE  4096


/* what was used, on its way to Redis; outlives the request */

typedef struct {
    ngx_queue_t                queue;
    ngx_msec_t                 until;          /* the reservation is gone    */
    ngx_str_t                  argv[9];
    unsigned                   sent:1;
} ngx_http_lunary_settle_t;


static int64_t ngx_http_lunary_policy_used(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);
static void ngx_http_lunary_settle_send(ngx_http_lunary_settle_t *s);
static void ngx_http_lunary_settle_reply(void *data, redisReply *reply);
static void ngx_http_lunary_settle_later(ngx_http_lunary_settle_t *s);
static void ngx_http_lunary_settle_timer(ngx_event_t *ev);


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


/* settlements that Redis did not take, tried again from a timer */

static ngx_queue_t          ngx_http_lunary_unsettled;
static ngx_uint_t           ngx_http_lunary_nunsettled;
static ngx_event_t          ngx_http_lunary_settle_event;
static ngx_connection_t     ngx_http_lunary_settle_dummy;
static ngx_lunary_redis_t  *ngx_http_lunary_settle_redis;


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


void
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
    ngx_uint_t    max;
    ngx_event_t  *ev;

    /* what only gives back leaves room for what was used */

    max = NGX_HTTP_LUNARY_SETTLE_QUEUE;

    if (s->argv[7].len == 1 && s->argv[7].data[0] == '0') {
        max /= 2;
    }

    if (ngx_http_lunary_nunsettled >= max
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
