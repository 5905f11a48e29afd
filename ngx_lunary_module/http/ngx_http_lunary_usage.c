/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * lunary_stream_usage: what inspect/lunary_usage_filter.h decides, done to
 * nginx's bufs: the edit that asks for usage, and the response's chain without
 * the chunk that the client had not asked for.
 *
 * Invariants
 *   - a response is touched only where the request was;
 *   - bytes that pass are slices of the upstream's own bufs; only what was
 *     held back, at most LUNARY_USAGE_HELD, is copied;
 *   - a buf counts as sent (its pos moves) when its last slice is: upstream
 *     and client stay coupled, a slow client slows the upstream down.
 */

#include "ngx_http_lunary_module.h"
#include "inspect/lunary_usage_filter.h"


#define NGX_HTTP_LUNARY_COPY  4096


struct ngx_http_lunary_usage_s {
    lunary_usage_filter_t    filter;
    ngx_http_request_t      *request;
    ngx_buf_t               *from;         /* is being read                  */
    ngx_buf_t               *piece;        /* the last one made of it        */
    ngx_chain_t             *out;
    ngx_chain_t            **last;
    ngx_chain_t             *busy;
    ngx_chain_t             *slices;       /* free ones                      */
    ngx_chain_t             *copies;
    unsigned                 begun:1;      /* something went on              */
    unsigned                 failed:1;
};


static void ngx_http_lunary_usage_pass(void *data, const unsigned char *p,
    size_t n);
static ngx_chain_t *ngx_http_lunary_usage_slice(ngx_http_lunary_usage_t *u,
    const unsigned char *p, size_t n);
static ngx_chain_t *ngx_http_lunary_usage_copy(ngx_http_lunary_usage_t *u,
    const unsigned char *p, size_t n);
static ngx_int_t ngx_http_lunary_usage_special(ngx_http_lunary_usage_t *u,
    ngx_buf_t *b);
static void ngx_http_lunary_usage_sent(ngx_http_lunary_usage_t *u);
static void ngx_http_lunary_usage_cleanup(void *data);


ngx_int_t
ngx_http_lunary_usage_ask(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    lunary_edit_t *edits, ngx_int_t n)
{
    ngx_int_t            i;
    lunary_edit_t        edit;
    ngx_pool_cleanup_t  *cln;

    if (lunary_usage_edit(ctx->call, &edit) != LUNARY_USAGE_ADDED) {
        return n;
    }

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_lunary_usage_t));
    if (cln == NULL) {
        return NGX_ERROR;
    }

    ctx->usage = cln->data;
    ngx_memzero(ctx->usage, sizeof(ngx_http_lunary_usage_t));

    ctx->usage->request = r;

    lunary_usage_filter_init(&ctx->usage->filter, &ctx->mem,
                             ngx_http_lunary_usage_pass, ctx->usage);

    cln->handler = ngx_http_lunary_usage_cleanup;

    for (i = n; i > 0 && edits[i - 1].start >= edit.start; i--) {
        edits[i] = edits[i - 1];
    }

    edits[i] = edit;

    return n + 1;
}


void
ngx_http_lunary_usage_header(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx)
{
    ngx_str_t  *type;

    if (ctx->usage == NULL) {
        return;
    }

    type = &r->headers_out.content_type;

    if (type->len < sizeof("text/event-stream") - 1
        || ngx_strncasecmp(type->data, (u_char *) "text/event-stream",
                           sizeof("text/event-stream") - 1)
           != 0)
    {
        ctx->usage = NULL;
        return;
    }

    if (r->headers_out.content_encoding
        && r->headers_out.content_encoding->value.len)
    {
        ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                      "lunary: the upstream compressed a stream it was asked "
                      "not to, its usage chunk stays in it");
        ctx->usage = NULL;
        return;
    }

    ngx_http_clear_content_length(r);
    ngx_http_clear_accept_ranges(r);
    ngx_http_weak_etag(r);
}


ngx_int_t
ngx_http_lunary_usage_body(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_chain_t *in, ngx_http_output_body_filter_pt next)
{
    size_t                    n;
    ngx_int_t                 rc;
    ngx_buf_t                *b;
    ngx_chain_t              *cl;
    ngx_http_lunary_usage_t  *u;

    u = ctx->usage;

    u->out = NULL;
    u->last = &u->out;

    for (cl = in; cl; cl = cl->next) {

        b = cl->buf;
        n = ngx_buf_in_memory(b) ? (size_t) (b->last - b->pos) : 0;

        u->from = b;
        u->piece = NULL;

        if (n) {
            (void) lunary_usage_filter_feed(&u->filter, b->pos, n);
        }

        /* the end, also where the upstream broke off: a flush of nothing */

        if (b->last_buf || (n == 0 && b->flush)) {
            lunary_usage_filter_end(&u->filter);
        }

        if (u->failed) {
            return NGX_ERROR;
        }

        if (u->piece) {
            u->piece->flush = b->flush;
            u->piece->last_buf = b->last_buf;
            u->piece->last_in_chain = b->last_in_chain;
            u->piece->recycled = b->recycled;
            u->piece->shadow = b;
            continue;
        }

        /* nothing of it goes on: neither may it be waited for */

        b->pos = b->last;

        if ((n == 0 || b->last_buf || !u->begun)
            && ngx_http_lunary_usage_special(u, b) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    rc = next(r, u->out);

    for (cl = u->busy; cl && cl->next; cl = cl->next) { /* void */ }

    if (cl) {
        cl->next = u->out;

    } else {
        u->busy = u->out;
    }

    u->out = NULL;

    ngx_http_lunary_usage_sent(u);

    return rc;
}


static void
ngx_http_lunary_usage_pass(void *data, const unsigned char *p, size_t n)
{
    ngx_http_lunary_usage_t *u = data;

    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    if (n == 0 || u->failed) {
        return;
    }

    b = u->from;

    if (ngx_buf_in_memory(b) && p >= b->pos && p < b->last) {
        cl = ngx_http_lunary_usage_slice(u, p, n);

    } else {
        cl = ngx_http_lunary_usage_copy(u, p, n);
    }

    if (cl == NULL) {
        u->failed = 1;
        return;
    }

    cl->next = NULL;

    *u->last = cl;
    u->last = &cl->next;

    u->piece = cl->buf;
    u->begun = 1;
}


static ngx_chain_t *
ngx_http_lunary_usage_slice(ngx_http_lunary_usage_t *u,
    const unsigned char *p, size_t n)
{
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    cl = u->slices;

    if (cl) {
        u->slices = cl->next;
        b = cl->buf;
        ngx_memzero(b, sizeof(ngx_buf_t));

    } else {
        cl = ngx_alloc_chain_link(u->request->pool);
        b = ngx_calloc_buf(u->request->pool);

        if (cl == NULL || b == NULL) {
            return NULL;
        }

        cl->buf = b;
    }

    b->tag = (ngx_buf_tag_t) &ngx_http_lunary_filter_module;
    b->memory = 1;
    b->pos = (u_char *) p;
    b->last = b->pos + n;

    return cl;
}


static ngx_chain_t *
ngx_http_lunary_usage_copy(ngx_http_lunary_usage_t *u,
    const unsigned char *p, size_t n)
{
    u_char        *start, *end;
    ngx_buf_t     *b;
    ngx_chain_t   *cl, **ll;

    for (ll = &u->copies; *ll; ll = &(*ll)->next) {
        b = (*ll)->buf;

        if ((size_t) (b->end - b->start) >= n) {
            break;
        }
    }

    cl = *ll;

    if (cl) {
        *ll = cl->next;
        b = cl->buf;

        start = b->start;
        end = b->end;
        ngx_memzero(b, sizeof(ngx_buf_t));

    } else {
        cl = ngx_alloc_chain_link(u->request->pool);
        b = ngx_calloc_buf(u->request->pool);
        start = ngx_palloc(u->request->pool,
                           ngx_max(n, NGX_HTTP_LUNARY_COPY));

        if (cl == NULL || b == NULL || start == NULL) {
            return NULL;
        }

        cl->buf = b;
        end = start + ngx_max(n, NGX_HTTP_LUNARY_COPY);
    }

    b->tag = (ngx_buf_tag_t) &ngx_http_lunary_filter_module;
    b->temporary = 1;
    b->start = start;
    b->end = end;
    b->pos = start;
    b->last = ngx_cpymem(start, p, n);

    return cl;
}


/* what the buf says beside its bytes */

static ngx_int_t
ngx_http_lunary_usage_special(ngx_http_lunary_usage_t *u, ngx_buf_t *from)
{
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    if (!from->last_buf && !from->flush && !from->sync) {
        return NGX_OK;
    }

    cl = ngx_alloc_chain_link(u->request->pool);
    b = ngx_calloc_buf(u->request->pool);

    if (cl == NULL || b == NULL) {
        return NGX_ERROR;
    }

    b->last_buf = from->last_buf;
    b->last_in_chain = from->last_in_chain;
    b->flush = from->flush;
    b->sync = from->sync;

    cl->buf = b;
    cl->next = NULL;

    *u->last = cl;
    u->last = &cl->next;

    u->begun = 1;

    return NGX_OK;
}


/* what the client has may be used again, here and where it came from */

static void
ngx_http_lunary_usage_sent(ngx_http_lunary_usage_t *u)
{
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    while (u->busy) {

        cl = u->busy;
        b = cl->buf;

        if (ngx_buf_size(b) != 0) {
            break;
        }

        if (b->shadow) {
            b->shadow->pos = b->shadow->last;
        }

        u->busy = cl->next;

        /* one that holds no bytes may still be in somebody's chain */

        if (b->start) {
            cl->next = u->copies;
            u->copies = cl;

        } else if (b->memory) {
            cl->next = u->slices;
            u->slices = cl;
        }
    }
}


static void
ngx_http_lunary_usage_cleanup(void *data)
{
    ngx_http_lunary_usage_t  *u = data;

    lunary_usage_filter_free(&u->filter);
}
