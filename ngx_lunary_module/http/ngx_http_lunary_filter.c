/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The second module: response filters.  They look at what passes and change
 * nothing (but by lunary_stream_usage): the client gets the upstream's bytes
 * when they arrive.
 *
 * Invariants
 *   - the next filter is always called, with the very chain that came;
 *   - no pointer into a buf is kept;
 *   - a response that becomes no run is not looked at: files of it go on as
 *     files;
 *   - only the main request's response is read: what a subrequest adds
 *     (SSI, addition) is not the API's answer.
 */

#include "ngx_http_lunary_module.h"


static ngx_int_t ngx_http_lunary_header_filter(ngx_http_request_t *r);
static ngx_http_lunary_ctx_t *ngx_http_lunary_early(ngx_http_request_t *r);
static void ngx_http_lunary_finalize_upstream(ngx_http_request_t *r,
    ngx_int_t rc);
static ngx_int_t ngx_http_lunary_run_header(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);
static ngx_int_t ngx_http_lunary_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in);
static ngx_int_t ngx_http_lunary_head_apart(ngx_http_request_t *r);
static void ngx_http_lunary_read_response(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_chain_t *in);
static lunary_str_t ngx_http_lunary_response_header(void *ctx,
    const char *name, size_t len);
static ngx_int_t ngx_http_lunary_filter_init(ngx_conf_t *cf);


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;
static ngx_http_output_body_filter_pt    ngx_http_next_body_filter;


static ngx_http_module_t  ngx_http_lunary_filter_module_ctx = {
    NULL,                                  /* preconfiguration */
    ngx_http_lunary_filter_init,           /* postconfiguration */

    NULL,                                  /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_http_lunary_filter_module = {
    NGX_MODULE_V1,
    &ngx_http_lunary_filter_module_ctx,    /* module context */
    NULL,                                  /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    NULL,                                  /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_int_t
ngx_http_lunary_header_filter(ngx_http_request_t *r)
{
    lunary_str_t            type, encoding;
    ngx_http_lunary_ctx_t  *ctx;

    if (r != r->main || r->post_action) {
        return ngx_http_next_header_filter(r);
    }

    ctx = ngx_http_lunary_get_ctx(r);

    if (ctx == NULL) {

        /* answered before any phase of ours, by `return` in a rewrite */

        ctx = ngx_http_lunary_early(r);
        if (ctx == NULL) {
            return ngx_http_next_header_filter(r);
        }
    }

    if (ctx->conf->run_header
        && (ctx->post || ctx->call->recognised
            || ctx->verdict == NGX_HTTP_LUNARY_REJECTED)
        && ngx_http_lunary_run_header(r, ctx) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ctx->answered) {

        /*
         * a filter behind this one refused the answer, nginx sends an error
         * page instead: that is not the API's answer
         */

        ctx->inspect = 0;
        ctx->last_seen = 0;
        ctx->usage = NULL;
        ctx->response_bytes = 0;

        return ngx_http_next_header_filter(r);
    }

    ctx->answered = 1;
    ctx->last = ngx_current_msec;
    ctx->status = r->err_status ? r->err_status : r->headers_out.status;
    ctx->states = r->upstream_states ? r->upstream_states->nelts : 0;

    if (!ctx->post && !ctx->call->recognised) {
        return ngx_http_next_header_filter(r);
    }

    ctx->measure = 1;

    /* an upstream that is done with has no cleanup: X-Accel-Redirect */

    if (r->upstream && r->upstream->upgrade && r->upstream->cleanup
        && ngx_http_lunary_head_apart(r) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (r->upstream
        && r->upstream->finalize_request
        && r->upstream->finalize_request != ngx_http_lunary_finalize_upstream)
    {
        ctx->finalize = r->upstream->finalize_request;
        r->upstream->finalize_request = ngx_http_lunary_finalize_upstream;
    }

    if (ctx->verdict == NGX_HTTP_LUNARY_REJECTED) {
        return ngx_http_next_header_filter(r);
    }

    type = lunary_ngx_str(r->headers_out.content_type);

    if (r->headers_out.content_encoding) {
        encoding = lunary_ngx_str(r->headers_out.content_encoding->value);

    } else {
        encoding = lunary_str(NULL, 0);
    }

    lunary_call_answer(ctx->call, (unsigned) r->headers_out.status, type,
                       encoding, ngx_http_lunary_response_header, r);

    if (r->header_only
        || r->method == NGX_HTTP_HEAD
        || r->headers_out.status == NGX_HTTP_NO_CONTENT
        || r->headers_out.status == NGX_HTTP_NOT_MODIFIED
        || r->headers_out.status == NGX_HTTP_SWITCHING_PROTOCOLS)
    {
        lunary_call_response_end(ctx->call, 1);
        ctx->last_seen = 1;

        return ngx_http_next_header_filter(r);
    }

    ctx->inspect = 1;
    r->filter_need_in_memory = 1;

    ngx_http_lunary_usage_header(r, ctx);

    return ngx_http_next_header_filter(r);
}


static ngx_http_lunary_ctx_t *
ngx_http_lunary_early(ngx_http_request_t *r)
{
    ngx_http_lunary_loc_conf_t  *lcf;

    if (!ngx_http_lunary_posted(r)) {
        return NULL;
    }

    lcf = ngx_http_get_module_loc_conf(r, ngx_http_lunary_module);

    if (!ngx_http_lunary_enabled(r, lcf)) {
        return NULL;
    }

    return ngx_http_lunary_make_ctx(r, lcf);
}


/*
 * nginx tells nobody behind the head why an upstream's answer broke off, but
 * here, while the connection is still there
 */

static void
ngx_http_lunary_finalize_upstream(ngx_http_request_t *r, ngx_int_t rc)
{
    ngx_connection_t       *c;
    ngx_http_lunary_ctx_t  *ctx;

    ctx = ngx_http_lunary_get_ctx(r);

    if (ctx == NULL || ctx->finalize == NULL) {
        return;
    }

    c = r->upstream->peer.connection;

    if (c && (c->read->timedout || c->write->timedout)) {
        ctx->silent = 1;
    }

    ctx->finalize(r, rc);
}


static ngx_int_t
ngx_http_lunary_run_header(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx)
{
    ngx_str_t                id;
    ngx_table_elt_t         *h;
    ngx_http_lunary_walk_t   w;

    ngx_http_lunary_walk(&w, &r->headers_out.headers);

    while ((h = ngx_http_lunary_walk_next(&w)) != NULL) {
        if (h->value.data == ctx->run_id) {
            return NGX_OK;
        }
    }

    id.len = sizeof(ctx->run_id);
    id.data = ctx->run_id;

    return ngx_http_lunary_add_header(r, "X-Lunary-Run-Id", &id) ? NGX_OK
                                                                 : NGX_ERROR;
}


static ngx_int_t
ngx_http_lunary_body_filter(ngx_http_request_t *r, ngx_chain_t *in)
{
    ngx_int_t               rc;
    ngx_http_lunary_ctx_t  *ctx;

    if (r != r->main || r->post_action) {
        return ngx_http_next_body_filter(r, in);
    }

    ctx = ngx_http_get_module_ctx(r, ngx_http_lunary_module);

    if (ctx == NULL || !ctx->measure) {
        return ngx_http_next_body_filter(r, in);
    }

    if (!ctx->last_seen) {
        ngx_http_lunary_read_response(r, ctx, in);
    }

    if (ctx->usage) {
        rc = ngx_http_lunary_usage_body(r, ctx, in, ngx_http_next_body_filter);

    } else {
        rc = ngx_http_next_body_filter(r, in);
    }

    /* all that came is with the kernel: is that all there is? */

    if (!ctx->delivered
        && (ctx->last_seen || ctx->call->terminal)
        && (rc == NGX_OK || rc == NGX_AGAIN)
        && r->out == NULL && !r->buffered && !r->connection->buffered
        && !r->connection->error)
    {
        ctx->delivered = 1;
    }

    return rc;
}


/*
 * What the client sent behind the head of a connection that becomes another
 * one goes to the upstream from the head's buffer, and nginx reads on into it,
 * from its start: over the URI and the headers, of which the run is yet to be
 * made.  So what is left to be sent gets a buffer of its own, which goes with
 * the request: no other may be read from it, as from the head's, whatever a
 * filter behind this one makes of the answer.
 */

static ngx_int_t
ngx_http_lunary_head_apart(ngx_http_request_t *r)
{
    ngx_buf_t  *b, *head;

    head = r->header_in;

    if (head == NULL || head->last == head->pos) {
        return NGX_OK;
    }

    /* as large as nginx's, so that as much is read at once */

    b = ngx_create_temp_buf(r->pool, head->last - head->start);

    if (b == NULL) {
        return NGX_ERROR;
    }

    b->pos += head->pos - head->start;
    b->last = ngx_cpymem(b->pos, head->pos, head->last - head->pos);

    r->header_in = b;
    r->keepalive = 0;

    return NGX_OK;
}


static void
ngx_http_lunary_read_response(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_chain_t *in)
{
    size_t        len;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    for (cl = in; cl; cl = cl->next) {
        b = cl->buf;

        if (ngx_buf_in_memory(b)) {
            len = b->last - b->pos;

            if (len) {
                ctx->response_bytes += len;
                ctx->last = ngx_current_msec;

                if (ctx->inspect) {
                    lunary_call_response(ctx->call, b->pos, len);
                }

                if (ctx->call->content && !ctx->has_first) {
                    ctx->has_first = 1;
                    ctx->ttft = ngx_http_lunary_elapsed(r);
                }
            }

        } else if (b->in_file) {

            /* only where a module behind copy put a file in by itself */

            ctx->response_bytes += b->file_last - b->file_pos;
        }

        if (b->last_buf) {
            ctx->last_seen = 1;

            if (ctx->inspect) {
                lunary_call_response_end(ctx->call, 1);
            }

            break;
        }
    }
}


/* a header of the upstream's answer, by its name in lower case */

static lunary_str_t
ngx_http_lunary_response_header(void *ctx, const char *name, size_t len)
{
    ngx_http_request_t *r = ctx;

    ngx_table_elt_t         *h;
    ngx_http_lunary_walk_t   w;

    ngx_http_lunary_walk(&w, &r->headers_out.headers);

    while ((h = ngx_http_lunary_walk_next(&w)) != NULL) {
        if (h->hash != 0 && ngx_http_lunary_header_is(h, name, len)) {
            return lunary_ngx_str(h->value);
        }
    }

    return lunary_str(NULL, 0);
}


static ngx_int_t
ngx_http_lunary_filter_init(ngx_conf_t *cf)
{
    ngx_http_lunary_main_conf_t  *mcf;

    mcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_lunary_module);

    if (!mcf->used) {
        return NGX_OK;
    }

    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_lunary_header_filter;

    ngx_http_next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = ngx_http_lunary_body_filter;

    return NGX_OK;
}
