/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The log phase: the only certain end of a request.  Settles how the call
 * ended, fills the run and hands it to the outbox.
 *
 * Invariants
 *   - one run a main request, for every POST and every other call that a
 *     dialect knows or that was refused;
 *   - what is not known is not in the run.
 */

#include "ngx_http_lunary_module.h"
#include "inspect/lunary_json.h"

#include <zlib.h>


static int ngx_http_lunary_redact(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, lunary_run_t *run, lunary_buf_t *scratch);
static void ngx_http_lunary_fill(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, lunary_run_t *run);
static void ngx_http_lunary_fill_identity(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, lunary_run_t *run);
static void ngx_http_lunary_fill_upstream(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, lunary_run_t *run);
static void ngx_http_lunary_fill_trace(ngx_http_request_t *r,
    lunary_run_t *run);
static void ngx_http_lunary_set_text(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, lunary_run_t *run, lunary_field_e f,
    ngx_str_t *text);
static void ngx_http_lunary_count(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);
static uint32_t ngx_http_lunary_shard(lunary_run_t *run);


ngx_int_t
ngx_http_lunary_log_handler(ngx_http_request_t *r)
{
    u_char                 *p;
    ngx_int_t               rc;
    lunary_run_t           *run;
    lunary_buf_t            scratch;
    ngx_http_lunary_ctx_t  *ctx;

    if (r != r->main) {
        return NGX_OK;
    }

    rc = ngx_http_lunary_log_ctx(r, &ctx);

    if (rc == NGX_DECLINED) {
        return NGX_OK;
    }

    if (rc != NGX_OK) {
        ngx_lunary_outbox_lost(NGX_LUNARY_RECORD_RUN,
                               NGX_LUNARY_C_RUNS_ERROR);
        return NGX_OK;
    }

    if (ctx->logged) {
        return NGX_OK;
    }

    ctx->logged = 1;

    if (ctx->policy.budget.len) {
        ngx_http_lunary_finalize(r, ctx);
        ngx_http_lunary_policy_settle(r, ctx);
    }

    if (!ctx->post
        && !ctx->call->recognised
        && ctx->verdict != NGX_HTTP_LUNARY_REJECTED)
    {
        return NGX_OK;
    }

    ngx_http_lunary_finalize(r, ctx);

    run = ctx->run;

    ngx_http_lunary_count(r, ctx);

    if (run == NULL) {
        ngx_lunary_outbox_lost(NGX_LUNARY_RECORD_RUN,
                               NGX_LUNARY_C_RUNS_OK + ctx->ended);
        return NGX_OK;
    }

    ngx_http_lunary_fill(r, ctx, run);

    /* the one point that everything passes before it leaves */

    ngx_memzero(&scratch, sizeof(lunary_buf_t));

    if (ngx_http_lunary_redact(r, ctx, run, &scratch) == LUNARY_OK) {
        p = ngx_lunary_outbox_reserve(NGX_LUNARY_RECORD_RUN,
                                      NGX_LUNARY_C_RUNS_OK + ctx->ended,
                                      lunary_run_count(run),
                                      lunary_run_room(run),
                                      ngx_http_lunary_shard(run));
        if (p) {
            ngx_lunary_outbox_commit(lunary_run_encode(run, p));
        }

    } else {
        ngx_lunary_outbox_lost(NGX_LUNARY_RECORD_RUN,
                               NGX_LUNARY_C_RUNS_OK + ctx->ended);
    }

    lunary_buf_free(&ctx->mem, &scratch);

    return NGX_OK;
}


ngx_int_t
ngx_http_lunary_log_ctx(ngx_http_request_t *r, ngx_http_lunary_ctx_t **ctx)
{
    ngx_http_lunary_loc_conf_t  *lcf;

    *ctx = ngx_http_lunary_get_ctx(r);

    if (*ctx == NULL) {

        /* ended before any phase of ours: 413 by Content-Length, a rewrite */

        lcf = ngx_http_get_module_loc_conf(r, ngx_http_lunary_module);

        if (lcf == NULL || !ngx_http_lunary_enabled(r, lcf)) {
            return NGX_DECLINED;
        }

        *ctx = ngx_http_lunary_make_ctx(r, lcf);

        if (*ctx == NULL) {
            return NGX_ERROR;
        }
    }

    if (!(*ctx)->judged && !(*ctx)->late) {
        ngx_http_lunary_identify_late(r, *ctx);
    }

    return NGX_OK;
}


void
ngx_http_lunary_finalize(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx)
{
    if (ctx->finalized) {
        return;
    }

    ctx->finalized = 1;

    if (!ctx->judged) {
        ctx->call->conf.capture &= ngx_http_lunary_capture(r, ctx->conf, 1);
    }

    if (!ctx->last_seen) {
        lunary_call_response_end(ctx->call, 0);
    }

    ctx->run = ngx_palloc(r->pool, sizeof(lunary_run_t));

    if (ctx->run) {
        lunary_run_init(ctx->run);
        lunary_call_finish(ctx->call, ctx->run);
    }

    ctx->ended = ngx_http_lunary_outcome(r, ctx);
    ctx->outcome = ngx_http_lunary_outcomes[ctx->ended];
}


/*
 * What may not be kept goes; and where a spool is too small for the rest, its
 * contents: who called, and what it took, is worth more than nothing
 */

static int
ngx_http_lunary_redact(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    lunary_run_t *run, lunary_buf_t *scratch)
{
    int            rc;
    size_t         room, input, output, largest;
    unsigned       capture;

    static time_t  said;

    capture = ctx->call->conf.capture;

    room = lunary_run_room(run);
    largest = ngx_lunary_outbox_largest();

    if (room <= largest || largest == 0) {
        return lunary_run_redact(run, capture, &ctx->mem, scratch);
    }

    input = capture & LUNARY_CAPTURE_INPUT
            ? run->value[LUNARY_F_INPUT].len : 0;
    output = capture & LUNARY_CAPTURE_OUTPUT
             ? run->value[LUNARY_F_OUTPUT].len : 0;

    room -= run->value[LUNARY_F_INPUT].len - input
            + run->value[LUNARY_F_OUTPUT].len - output;

    if (room <= largest) {
        return lunary_run_redact(run, capture, &ctx->mem, scratch);
    }

    rc = lunary_run_redact(run, 0, &ctx->mem, scratch);

    if (input && output) {
        lunary_run_set_lit(run, LUNARY_F_TRUNCATED, "input,output");

    } else if (input) {
        lunary_run_set_lit(run, LUNARY_F_TRUNCATED, "input");

    } else if (output) {
        lunary_run_set_lit(run, LUNARY_F_TRUNCATED, "output");
    }

    if (ngx_http_lunary_seldom(&said)) {
        ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                      "lunary: a run of %uz bytes is logged without its "
                      "contents, at most %uz fit: see lunary_capture_max and "
                      "the size= of lunary_spool", room, largest);
    }

    return rc;
}


static void
ngx_http_lunary_count(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx)
{
    ngx_str_t  api;

    ngx_lunary_stats_inc(ctx->identity.user.len || ctx->identity.counter
                         ? ctx->identity.counter
                         : NGX_LUNARY_C_IDENTITY_NONE);

    api = ngx_http_lunary_str(ctx->call->dialect->name);

    ngx_lunary_stats_duration(&api, ngx_http_lunary_duration(r, ctx));

    if (ctx->has_first) {
        ngx_lunary_stats_ttft(&api, ctx->ttft);
    }

    if (ctx->ended == NGX_HTTP_LUNARY_OK
        && ctx->call->dialect->type.len
        && ctx->call->input_tokens == LUNARY_UNKNOWN
        && ctx->call->output_tokens == LUNARY_UNKNOWN)
    {
        ngx_lunary_stats_usage_missing(&api);
    }
}


static void
ngx_http_lunary_fill(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    lunary_run_t *run)
{
    int64_t      started;
    ngx_str_t    value, error;
    ngx_msec_t   elapsed;
    ngx_uint_t   status;

    lunary_run_set_lit(run, LUNARY_F_KIND, "run");
    lunary_run_set_lit(run, LUNARY_F_V, "1");
    lunary_run_set_lit(run, LUNARY_F_ORIGIN, "proxy");
    lunary_run_set(run, LUNARY_F_RUN_ID,
                   lunary_str(ctx->run_id, sizeof(ctx->run_id)));

    ngx_http_lunary_fill_identity(r, ctx, run);

    if (ngx_http_lunary_provider(r, ctx, &value) == NGX_OK && value.len) {
        ngx_http_lunary_set_text(r, ctx, run, LUNARY_F_PROVIDER, &value);
    }

    if (ctx->request_bytes || ctx->body_ended) {
        lunary_run_set_int(run, LUNARY_F_REQUEST_BYTES, ctx->request_bytes);

    } else if (r->headers_in.content_length_n > 0) {
        lunary_run_set_int(run, LUNARY_F_REQUEST_BYTES,
                           r->headers_in.content_length_n);
    }

    if (ctx->inspect || ctx->answered) {
        lunary_run_set_int(run, LUNARY_F_RESPONSE_BYTES, ctx->response_bytes);
    }

    status = ngx_http_lunary_status_code(r, ctx);

    if (status) {
        lunary_run_set_int(run, LUNARY_F_STATUS, status);
    }

    ngx_http_lunary_fill_upstream(r, ctx, run);

    lunary_run_set(run, LUNARY_F_OUTCOME, lunary_ngx_str(ctx->outcome));

    if (ctx->policy.estimated) {
        lunary_run_set_lit(run, LUNARY_F_USAGE_ESTIMATED, "1");
    }

    if (ctx->would_reject.len) {
        lunary_run_set(run, LUNARY_F_WOULD_REJECT,
                       lunary_ngx_str(ctx->would_reject));
    }

    if (ctx->verdict == NGX_HTTP_LUNARY_REJECTED
        && ngx_http_lunary_refusal_error(ctx, r->pool, &error) == NGX_OK)
    {
        lunary_run_set(run, LUNARY_F_ERROR, lunary_ngx_str(error));
    }

    started = (int64_t) r->start_sec * 1000 + (int64_t) r->start_msec;
    elapsed = ngx_http_lunary_duration(r, ctx);

    lunary_run_set_int(run, LUNARY_F_STARTED_AT, started);
    lunary_run_set_int(run, LUNARY_F_ENDED_AT, started + (int64_t) elapsed);
    lunary_run_set_int(run, LUNARY_F_DURATION_MS, (int64_t) elapsed);

    if (ctx->has_first) {
        lunary_run_set_int(run, LUNARY_F_TTFT_MS,
                           (int64_t) ngx_min(ctx->ttft, elapsed));
    }

    ngx_http_lunary_set_text(r, ctx, run, LUNARY_F_METHOD, &ctx->method);
    ngx_http_lunary_set_text(r, ctx, run, LUNARY_F_URI, &ctx->uri);

    if (r->headers_in.server.len) {
        ngx_http_lunary_set_text(r, ctx, run, LUNARY_F_HOST,
                                 &r->headers_in.server);
    }

    ngx_http_lunary_fill_trace(r, run);

    if (ngx_cycle->hostname.len) {
        lunary_run_set(run, LUNARY_F_NODE,
                       lunary_ngx_str(ngx_cycle->hostname));
    }
}


static void
ngx_http_lunary_fill_identity(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, lunary_run_t *run)
{
    ngx_http_lunary_identity_t  *id;

    id = &ctx->identity;

    if (ctx->app.len) {
        ngx_http_lunary_set_text(r, ctx, run, LUNARY_F_APP, &ctx->app);

    } else {
        lunary_run_set_lit(run, LUNARY_F_APP, "default");
    }

    if (id->user.len) {
        lunary_run_set(run, LUNARY_F_USER_ID, lunary_ngx_str(id->user));
        lunary_run_set(run, LUNARY_F_USER_SOURCE, lunary_ngx_str(id->source));

        if (id->verified) {
            lunary_run_set_lit(run, LUNARY_F_USER_VERIFIED, "1");

        } else {
            lunary_run_set_lit(run, LUNARY_F_USER_VERIFIED, "0");
        }

        lunary_run_set(run, LUNARY_F_USER_PROPS, lunary_ngx_str(id->props));
    }

    lunary_run_set(run, LUNARY_F_CLAIMED_USER_ID, lunary_ngx_str(id->claimed));
    lunary_run_set(run, LUNARY_F_THREAD_ID, lunary_ngx_str(id->thread));
    lunary_run_set(run, LUNARY_F_PARENT_RUN_ID, lunary_ngx_str(id->parent));
    lunary_run_set(run, LUNARY_F_TAGS, lunary_ngx_str(id->tags));
}


static void
ngx_http_lunary_fill_upstream(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, lunary_run_t *run)
{
    ngx_uint_t                  attempts;
    ngx_http_upstream_state_t  *last;

    last = ngx_http_lunary_last_state(r, ctx, &attempts);

    if (last == NULL) {
        return;
    }

    lunary_run_set(run, LUNARY_F_UPSTREAM_ADDR, lunary_ngx_str(*last->peer));
    lunary_run_set_int(run, LUNARY_F_ATTEMPTS, attempts);

    if (last->status) {
        lunary_run_set_int(run, LUNARY_F_UPSTREAM_STATUS, last->status);
    }
}


/* $request_id, and W3C traceparent: 00-<32 hex>-<16 hex>-<2 hex> */

static void
ngx_http_lunary_fill_trace(ngx_http_request_t *r, lunary_run_t *run)
{
    u_char           *p;
    ngx_str_t         id;
    ngx_uint_t        i, hex, zero;
    ngx_table_elt_t  *h;

    if (ngx_http_lunary_request_id(r, &id) == NGX_OK) {
        lunary_run_set(run, LUNARY_F_REQUEST_ID, lunary_ngx_str(id));
    }

    h = ngx_http_lunary_header_in(r, "traceparent");

    if (h == NULL || h->value.len < 55) {
        return;
    }

    p = h->value.data;

    if (p[2] != '-' || p[35] != '-' || p[52] != '-'
        || ngx_strncmp(p, "ff", 2) == 0)
    {
        return;
    }

    hex = 1;
    zero = 1;

    for (i = 3; i < 52; i++) {

        if (i == 35) {
            continue;
        }

        hex &= (p[i] >= '0' && p[i] <= '9') || (p[i] >= 'a' && p[i] <= 'f');
        zero &= i > 35 || p[i] == '0';
    }

    if (!hex || zero) {
        return;
    }

    lunary_run_set(run, LUNARY_F_TRACE_ID, lunary_str(p + 3, 32));
    lunary_run_set(run, LUNARY_F_PARENT_SPAN_ID, lunary_str(p + 36, 16));
}


/* 1 where no byte is above 0x7f: nearly always, and quickly told */

static ngx_inline ngx_uint_t
ngx_http_lunary_ascii(ngx_str_t *text)
{
    u_char    *p, *last;
    uint32_t   x, y;
    uint64_t   w, all;

    p = text->data;
    last = p + text->len;
    all = 0;

    if (text->len >= 8) {

        for ( /* void */ ; last - p > 8; p += 8) {
            ngx_memcpy(&w, p, 8);
            all |= w;
        }

        ngx_memcpy(&w, last - 8, 8);
        all |= w;

    } else if (text->len >= 4) {
        ngx_memcpy(&x, p, 4);
        ngx_memcpy(&y, last - 4, 4);
        all = x | y;

    } else {
        while (p < last) {
            all |= *p++;
        }
    }

    return (all & 0x8080808080808080ull) == 0;
}


/* text that a client chose: what is not UTF-8 in it is replaced */

static void
ngx_http_lunary_set_text(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    lunary_run_t *run, lunary_field_e f, ngx_str_t *text)
{
    u_char  *p, *dst;
    size_t   i;

    if (ngx_http_lunary_ascii(text)
        || lunary_utf8_valid(lunary_ngx_str(*text)))
    {
        lunary_run_set(run, f, lunary_ngx_str(*text));
        return;
    }

    /* such text is rare and names nothing: its bytes above 0x7f go */

    p = ngx_pnalloc(r->pool, text->len);
    if (p == NULL) {
        return;
    }

    dst = p;

    for (i = 0; i < text->len; i++) {
        *dst++ = text->data[i] < 0x80 ? text->data[i] : '?';
    }

    lunary_run_set(run, f, lunary_str(p, text->len));
}


/* CRC-32 of thread, else parent run, else run id */

static uint32_t
ngx_http_lunary_shard(lunary_run_t *run)
{
    lunary_str_t    s;
    lunary_field_e  f;

    if (!ngx_lunary_outbox_sharded()) {
        return 0;
    }

    f = lunary_run_has(run, LUNARY_F_THREAD_ID) ? LUNARY_F_THREAD_ID
        : lunary_run_has(run, LUNARY_F_PARENT_RUN_ID) ? LUNARY_F_PARENT_RUN_ID
        : LUNARY_F_RUN_ID;

    s = run->value[f];

    return (uint32_t) crc32(0, s.data, (uInt) s.len);
}
