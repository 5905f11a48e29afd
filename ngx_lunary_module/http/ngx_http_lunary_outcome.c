/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * How a call ended, seen from the log phase: status, outcome, last upstream,
 * duration.  nginx keeps no such thing; it is told from what it left behind.
 *
 * Invariants
 *   - the dialect's terminal event decides `ok`, not the socket: clients close
 *     right behind it; but it must have left nginx for the client.
 */

#include "ngx_http_lunary_module.h"


static ngx_uint_t ngx_http_lunary_shut_down(ngx_http_request_t *r);
static ngx_uint_t ngx_http_lunary_complete(ngx_http_lunary_ctx_t *ctx,
    ngx_uint_t status);
static ngx_uint_t ngx_http_lunary_cached(ngx_http_request_t *r);


/* by ngx_http_lunary_outcome_e */

ngx_str_t  ngx_http_lunary_outcomes[] = {
    ngx_string("ok"),
    ngx_string("error"),
    ngx_string("rejected"),
    ngx_string("aborted"),
    ngx_string("truncated"),
    ngx_string("timeout")
};


ngx_uint_t
ngx_http_lunary_status_code(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx)
{
    if (r->post_action && ctx->answered) {
        return ctx->status;
    }

    if (r->err_status) {
        return r->err_status;
    }

    if (r->headers_out.status) {
        return r->headers_out.status;
    }

    return 0;
}


ngx_http_lunary_outcome_e
ngx_http_lunary_outcome(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx)
{
    ngx_uint_t                  status;
    ngx_connection_t           *c;
    ngx_http_upstream_state_t  *state;

    c = r->connection;
    status = ngx_http_lunary_status_code(r, ctx);
    state = ngx_http_lunary_last_state(r, ctx, NULL);

    if (ctx->verdict == NGX_HTTP_LUNARY_REJECTED) {
        return NGX_HTTP_LUNARY_REFUSED;
    }

    if (ngx_http_lunary_shut_down(r)) {
        return NGX_HTTP_LUNARY_TRUNCATED;
    }

    if (status == NGX_HTTP_REQUEST_TIME_OUT
        || status == NGX_HTTP_GATEWAY_TIME_OUT)
    {
        return NGX_HTTP_LUNARY_TIMEOUT;
    }

    if (status == NGX_HTTP_CLIENT_CLOSED_REQUEST) {
        return NGX_HTTP_LUNARY_ABORTED;
    }

    if (state == NULL && !ngx_http_lunary_cached(r)) {

        /* nginx answered by itself */

        switch (status) {

        case NGX_HTTP_BAD_REQUEST:

            if (c->error) {

                /* the client left inside its body */

                return NGX_HTTP_LUNARY_ABORTED;
            }

            return NGX_HTTP_LUNARY_REFUSED;

        case NGX_HTTP_UNAUTHORIZED:
        case NGX_HTTP_FORBIDDEN:
        case NGX_HTTP_REQUEST_ENTITY_TOO_LARGE:
        case NGX_HTTP_TOO_MANY_REQUESTS:
        case NGX_HTTP_CLOSE:
        case NGX_HTTP_SERVICE_UNAVAILABLE:
            return NGX_HTTP_LUNARY_REFUSED;

        default:
            break;
        }
    }

    if (status >= 400 || ctx->call->errored) {
        return NGX_HTTP_LUNARY_ERROR;
    }

    if (status == 0) {

        /* no head was sent, and nobody said why */

        return c->timedout ? NGX_HTTP_LUNARY_TIMEOUT : NGX_HTTP_LUNARY_ABORTED;
    }

    if (state && state->status >= 400 && !ngx_http_lunary_cached(r)) {

        /* an error_page of nginx hid the upstream's failure */

        return (state->status == NGX_HTTP_GATEWAY_TIME_OUT)
               ? NGX_HTTP_LUNARY_TIMEOUT : NGX_HTTP_LUNARY_ERROR;
    }

    if (!ctx->delivered) {

        /*
         * the client did not get all of what was there to send; read->eof
         * says nothing: after a lingering close it is there for clients too
         * that left because the answer broke off
         */

        if (c->timedout) {
            return NGX_HTTP_LUNARY_TIMEOUT;
        }

        if (c->error) {
            return NGX_HTTP_LUNARY_ABORTED;
        }

#if (NGX_HTTP_V3)

        /* a QUIC connection that has gone says so to its streams */

        if (r->http_version == NGX_HTTP_VERSION_30 && c->close
            && !ngx_exiting)
        {
            return NGX_HTTP_LUNARY_ABORTED;
        }
#endif
    }

    if (ctx->call->terminal) {
        return NGX_HTTP_LUNARY_OK;
    }

    if (!ctx->last_seen) {
        return ctx->silent ? NGX_HTTP_LUNARY_TIMEOUT
                           : NGX_HTTP_LUNARY_TRUNCATED;
    }

    return ngx_http_lunary_complete(ctx, status) ? NGX_HTTP_LUNARY_OK
                                                 : NGX_HTTP_LUNARY_TRUNCATED;
}


/* worker_shutdown_timeout is over: nginx itself cuts what is under way */

static ngx_uint_t
ngx_http_lunary_shut_down(ngx_http_request_t *r)
{
    ngx_connection_t  *c;

    c = r->connection;

#if (NGX_HTTP_V2)
    if (r->stream) {
        c = r->stream->connection->connection;
    }
#endif

    return ngx_exiting && c->close && c->error;
}


/* nginx took the answer for complete: is it, as its API goes? */

static ngx_uint_t
ngx_http_lunary_complete(ngx_http_lunary_ctx_t *ctx, ngx_uint_t status)
{
    if (status == NGX_HTTP_PARTIAL_CONTENT) {

        /* the client asked for a part of it */

        return 1;
    }

    switch (ctx->call->response_state) {

    case LUNARY_BODY_PARTIAL:
        return 0;

    case LUNARY_BODY_STREAM:
        return ctx->call->dialect == &lunary_dialect_unknown
               || (ctx->run && !ctx->call->torn
                   && lunary_run_has(ctx->run, LUNARY_F_FINISH_REASON));

    default:
        return 1;
    }
}


/* 1 where the answer came out of nginx's cache, fresh or stale */

static ngx_uint_t
ngx_http_lunary_cached(ngx_http_request_t *r)
{
#if (NGX_HTTP_CACHE)

    if (r->upstream) {

        switch (r->upstream->cache_status) {

        case NGX_HTTP_CACHE_STALE:
        case NGX_HTTP_CACHE_UPDATING:
        case NGX_HTTP_CACHE_REVALIDATED:
        case NGX_HTTP_CACHE_HIT:
            return 1;

        default:
            break;
        }
    }

#endif

    return 0;
}


/*
 * The last upstream that was tried, or NULL; their number.  An internal
 * redirect leaves an empty state between two; what a post_action asks does not
 * count.
 */

ngx_http_upstream_state_t *
ngx_http_lunary_last_state(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_uint_t *attempts)
{
    ngx_uint_t                  i, n, max;
    ngx_http_upstream_state_t  *state, *last;

    n = 0;
    last = NULL;

    if (r->upstream_states) {
        state = r->upstream_states->elts;
        max = r->post_action ? ctx->states : r->upstream_states->nelts;

        for (i = 0; i < max; i++) {
            if (state[i].peer) {
                n++;
                last = &state[i];
            }
        }
    }

    if (attempts) {
        *attempts = n;
    }

    return last;
}


/*
 * ms from the request's first byte to its end: now, but for a connection that
 * nginx kept open behind the answer for what the client may still send
 * (lingering_close); that began within the second that lingering_time tells
 */

ngx_msec_t
ngx_http_lunary_duration(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx)
{
    ngx_msec_t                 elapsed, last, since;
    ngx_msec_int_t             began;
    ngx_http_core_loc_conf_t  *clcf;

    elapsed = ngx_http_lunary_elapsed(r);

    if (r->lingering_time == 0 || !ctx->answered) {
        return elapsed;
    }

    since = ngx_current_msec - ctx->last;
    last = (elapsed > since) ? elapsed - since : 0;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    began = ((ngx_msec_int_t) r->lingering_time
             - (ngx_msec_int_t) (clcf->lingering_time / 1000)
             - (ngx_msec_int_t) r->start_sec) * 1000
            - (ngx_msec_int_t) r->start_msec;

    if (began > (ngx_msec_int_t) last) {
        last = (ngx_msec_t) began;
    }

    return ngx_min(last, elapsed);
}
