/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The phase handlers: the first has the body read (..._request_body.c) and the
 * caller identified and judged, and lets the body be rewritten; the second lets
 * the headers be, which others want to see before.
 *
 *     read body → session look-up → identify → enforce → rewrite body
 *     → (limits, access) → rewrite headers → go on
 *
 * "Go on" is at the end of this round of the event loop: requests that were
 * read in one round are sent to their upstreams one right after the other.
 * To send is to wake who reads, and peers on the same machine that are still
 * busy with the one before need not be woken again; it is 1 us of a request's
 * 16 where all cores are busy, and nothing where only one is served.
 *
 * Invariants
 *   - every step runs once a location; what needs no second time after an
 *     internal redirect (reading, rewriting) is remembered in the context.
 */

#include "ngx_http_lunary_module.h"


static ngx_int_t ngx_http_lunary_handler(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf);
static ngx_int_t ngx_http_lunary_prepare(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);
static ngx_int_t ngx_http_lunary_failed(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);
static ngx_int_t ngx_http_lunary_subrequest(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf);
static ngx_uint_t ngx_http_lunary_redirected(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);
static ngx_int_t ngx_http_lunary_reopen(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);
static ngx_uint_t ngx_http_lunary_aside(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);
static ngx_int_t ngx_http_lunary_send_on(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);
static void ngx_http_lunary_onward_handler(ngx_event_t *ev);


ngx_int_t
ngx_http_lunary_preaccess_handler(ngx_http_request_t *r)
{
    ngx_http_lunary_ctx_t       *ctx;
    ngx_http_lunary_loc_conf_t  *lcf;

    lcf = ngx_http_get_module_loc_conf(r, ngx_http_lunary_module);

    if (lcf->phase == NGX_HTTP_LUNARY_PREACCESS) {
        return ngx_http_lunary_handler(r, lcf);
    }

    /* behind a redirect from a location where this was the phase */

    ctx = (r == r->main) ? ngx_http_lunary_get_ctx(r) : NULL;

    if (ctx && ctx->conf != lcf && ctx->rewritten) {
        ngx_http_lunary_rewrite_undo(r, ctx);
    }

    return NGX_DECLINED;
}


ngx_int_t
ngx_http_lunary_precontent_handler(ngx_http_request_t *r)
{
    ngx_http_lunary_ctx_t       *ctx;
    ngx_http_lunary_loc_conf_t  *lcf;

    lcf = ngx_http_get_module_loc_conf(r, ngx_http_lunary_module);

    if (lcf->phase == NGX_HTTP_LUNARY_PRECONTENT) {
        return ngx_http_lunary_handler(r, lcf);
    }

    if (r != r->main || r->post_action) {
        return NGX_DECLINED;
    }

    /* what was judged there goes on from here, whatever $variables say now */

    ctx = ngx_http_lunary_get_ctx(r);

    if (ctx == NULL || ctx->conf != lcf || !ctx->rewritten) {
        return NGX_DECLINED;
    }

    return ngx_http_lunary_send_on(r, ctx, lcf);
}


static ngx_int_t
ngx_http_lunary_handler(ngx_http_request_t *r, ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_int_t               rc;
    ngx_http_lunary_ctx_t  *ctx;

    if (!ngx_http_lunary_enabled(r, lcf) || r->post_action) {

        /* behind a redirect: what the client sent is sent from here */

        ctx = (r == r->main) ? ngx_http_lunary_get_ctx(r) : NULL;

        if (ctx && ctx->rewritten) {
            ngx_http_lunary_rewrite_undo(r, ctx);
        }

        return NGX_DECLINED;
    }

    if (r != r->main) {
        return ngx_http_lunary_subrequest(r, lcf);
    }

    ctx = ngx_http_lunary_make_ctx(r, lcf);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ctx->conf != lcf || ngx_http_lunary_redirected(r, ctx)) {

        /*
         * an internal redirect: this location judges anew, what the client
         * sent, by its own lights
         */

        ngx_http_lunary_rewrite_undo(r, ctx);

        ngx_memzero(&ctx->headers, sizeof(ngx_http_lunary_headers_t));

        ctx->conf = lcf;
        ctx->judged = 0;

        if (ctx->unread) {
            rc = ngx_http_lunary_body_again(r, ctx);

            if (rc != NGX_OK) {
                return rc;
            }
        }

        if (ngx_http_lunary_reopen(r, ctx) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        /* what another location's sources said proves nothing here */

        ngx_memzero(&ctx->lookup, sizeof(ngx_http_lunary_lookup_state_t));
        ngx_memzero(&ctx->cascade, sizeof(ngx_http_lunary_cascade_t));

        ngx_str_null(&ctx->would_reject);
    }

    if (ctx->judged) {

        if (!ctx->rewritten) {
            return NGX_DECLINED;
        }

        if (lcf->phase == NGX_HTTP_LUNARY_PRECONTENT) {
            return ngx_http_lunary_send_on(r, ctx, lcf);
        }

        if (!ctx->headers_rewritten) {
            return NGX_DECLINED;
        }

        /* once more through the same location, whose auth_request asks anew */

        ngx_http_lunary_restore_headers(r, ctx);

        ctx->headers_rewritten = 0;

        return ngx_http_lunary_prepare(r, ctx, lcf);
    }

    if (!ctx->headers.read) {
        ngx_http_lunary_read_headers(r, ctx, lcf);
    }

    ctx->aside = ngx_http_lunary_aside(r, ctx, lcf);

    if (!ctx->read_done && !ctx->aside) {
        rc = ngx_http_lunary_read_body(r, ctx, lcf);

        if (rc != NGX_OK) {
            return rc;
        }
    }

    /* both are asked at once; the phases go on when both have answered */

    rc = ngx_http_lunary_session_lookup(r, ctx, lcf);

    if (ngx_http_lunary_cascade_lookup(r, ctx, lcf) == NGX_AGAIN
        || rc == NGX_AGAIN)
    {
        return NGX_AGAIN;
    }

    if (ngx_http_lunary_identify(r, ctx, lcf) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->call->conf.capture &= ngx_http_lunary_capture(r, lcf, 1);

    if (ngx_http_lunary_policy_lookup(r, ctx, lcf) == NGX_AGAIN) {
        return NGX_AGAIN;
    }

    ctx->judged = 1;
    ctx->judged_uri = r->uri;
    ctx->judged_method = r->method_name;

    rc = ngx_http_lunary_enforce(r, ctx, lcf);

    if (rc != NGX_DECLINED) {
        return rc;
    }

    ngx_http_lunary_cascade_save(r, ctx, lcf);

    if (!ctx->rewritten) {
        ctx->rewritten = 1;

        if (ngx_http_lunary_rewrite_body(r, ctx, lcf) != NGX_OK) {
            return ngx_http_lunary_failed(r, ctx);
        }
    }

    return (lcf->phase == NGX_HTTP_LUNARY_PREACCESS)
           ? ngx_http_lunary_prepare(r, ctx, lcf)
           : ngx_http_lunary_send_on(r, ctx, lcf);
}


/* who may see the client's headers before they are rewritten sees the user in
 * place of what the client wrote there */

static ngx_int_t
ngx_http_lunary_prepare(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf)
{
    if (ngx_http_lunary_rewrite_mark(r, ctx, lcf) != NGX_OK
        || (lcf->inject.headers
            && ngx_http_lunary_rewrite_headers(r, ctx, lcf,
                                               NGX_HTTP_LUNARY_PUT_IN)
               != NGX_OK))
    {
        return ngx_http_lunary_failed(r, ctx);
    }

    return NGX_DECLINED;
}


/* no memory: whatever answers for this one is judged anew */

static ngx_int_t
ngx_http_lunary_failed(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx)
{
    ngx_http_lunary_rewrite_undo(r, ctx);

    ctx->judged = 0;

    return NGX_HTTP_INTERNAL_SERVER_ERROR;
}


static ngx_int_t
ngx_http_lunary_subrequest(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_int_t               rc;
    ngx_http_lunary_ctx_t  *ctx;

    rc = ngx_http_lunary_enforce_subrequest(r, lcf);

    if (rc != NGX_DECLINED) {
        return rc;
    }

    ctx = ngx_http_lunary_get_ctx(r);

    if (ctx && ctx->rewritten) {

        if (ctx->headers_rewritten) {
            return NGX_DECLINED;
        }

        lcf = ctx->conf;

    } else {
        ctx = NULL;
    }

    return (ngx_http_lunary_rewrite_subrequest(r, ctx, lcf) == NGX_OK)
           ? NGX_DECLINED : NGX_HTTP_INTERNAL_SERVER_ERROR;
}


/*
 * The last step before the content phase: the headers become what the upstream
 * gets.  Limits and auth_request, which come before, see the client's, but for
 * the user that was put in.
 *
 * Going on later is once a request, of those that are calls.
 */

static ngx_int_t
ngx_http_lunary_send_on(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_uint_t  what;

    if (!ctx->headers_rewritten) {
        ctx->headers_rewritten = 1;

        what = NGX_HTTP_LUNARY_TAKE_OUT;

        if (lcf->phase == NGX_HTTP_LUNARY_PRECONTENT) {
            what |= NGX_HTTP_LUNARY_PUT_IN;
        }

        if (ngx_http_lunary_rewrite_headers(r, ctx, lcf, what) != NGX_OK) {
            return ngx_http_lunary_failed(r, ctx);
        }
    }

    if (ctx->sent_on || ctx->aside) {
        return NGX_DECLINED;
    }

    ctx->sent_on = 1;

    ctx->onward.handler = ngx_http_lunary_onward_handler;
    ctx->onward.data = r;
    ctx->onward.log = r->connection->log;

    r->write_event_handler = ngx_http_request_empty_handler;

    ngx_post_event(&ctx->onward, &ngx_posted_events);

    return NGX_AGAIN;
}


static void
ngx_http_lunary_onward_handler(ngx_event_t *ev)
{
    ngx_http_lunary_resume(ev->data);
}


/* 1 where it was judged as something else: lunary_public goes by the URI */

static ngx_uint_t
ngx_http_lunary_redirected(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx)
{
    return ctx->judged
           && (ctx->judged_uri.len != r->uri.len
               || ngx_memcmp(ctx->judged_uri.data, r->uri.data, r->uri.len)
                  != 0
               || ctx->judged_method.len != r->method_name.len
               || ngx_memcmp(ctx->judged_method.data, r->method_name.data,
                             r->method_name.len)
                  != 0);
}


/*
 * What was read is read again where another module has replaced the body
 * since, or where this location keeps something else of it.
 */

static ngx_int_t
ngx_http_lunary_reopen(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx)
{
    unsigned                     capture;
    lunary_call_conf_t          *conf;
    ngx_http_lunary_body_id_t    now;
    ngx_http_lunary_loc_conf_t  *lcf;

    lcf = ctx->conf;
    conf = &ctx->call->conf;

    capture = ngx_http_lunary_capture(r, lcf, 0);

    if (conf->capture != capture || conf->capture_max != lcf->capture_max
        || conf->forced != lcf->api)
    {
        if (ctx->read_done && r->request_body && !ctx->unread) {
            ctx->scanned.size = -1;
            return ngx_http_lunary_scan_body(r, ctx);
        }

        if (ngx_http_lunary_open_call(r, ctx) != NGX_OK) {
            return NGX_ERROR;
        }

        if (ctx->read_done) {
            lunary_call_request_end(ctx->call);
        }

        return NGX_OK;
    }

    if (!ctx->read_done || r->request_body == NULL || ctx->unread) {
        return NGX_OK;
    }

    ngx_http_lunary_body_id(r, &now);

    return ngx_http_lunary_same_body(&now, &ctx->scanned)
           ? NGX_OK : ngx_http_lunary_scan_body(r, ctx);
}


/*
 * A request that becomes no run (see the log phase) and whose verdict needs
 * nothing of its body: that stays where it is, for a content handler that
 * wants it in its own way (dav in a file, proxy_request_buffering off)
 */

static ngx_uint_t
ngx_http_lunary_aside(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf)
{
    return !ctx->post
           && !ctx->call->recognised
           && ngx_http_lunary_choice(r, &lcf->require,
                                     ngx_http_lunary_require_words,
                                     NGX_HTTP_LUNARY_REQUIRE_VERIFIED)
              == NGX_HTTP_LUNARY_REQUIRE_OFF;
}


ngx_int_t
ngx_http_lunary_suspend(ngx_http_request_t *r)
{
    ngx_event_t  *rev;

    r->read_event_handler = ngx_http_test_reading;
    r->write_event_handler = ngx_http_request_empty_handler;

    rev = r->connection->read;

    /* that the client has left was told together with its last bytes */

    if (rev->pending_eof && rev->ready) {
        ngx_post_event(rev, &ngx_posted_events);
    }

    return NGX_AGAIN;
}


void
ngx_http_lunary_resume(ngx_http_request_t *r)
{
    ngx_connection_t  *c;

    if (!ngx_http_lunary_serving) {

        /* the process is about to exit: a call that went on now would be
         * paid for and never logged */

        return;
    }

    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_core_run_phases;

    ngx_http_core_run_phases(r);
    ngx_http_run_posted_requests(c);
}
