/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A module for tests only: a request body filter that takes what comes for
 * itself, as those do that look into a body before they let it pass: it hands
 * on all of it, in buffers of its own, when the end has come, and says that it
 * does so (filter_need_buffering).  And a header filter, see below.
 *
 * Loaded before the module under test it is called behind it.
 *
 * Arguments of the request:
 *   pass=N    the first N pieces (a digit) go on as they are
 *   quiet=1   it does not say that it keeps anything
 *   mute=1    it calls the next filter when it has something for it, only
 *   write=1   each "x" becomes a quote, where it lies, and nothing is kept
 *   refuse=1  a 101 is refused: 403, and nothing was sent yet
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


typedef struct {
    ngx_chain_t   *taken;
    ngx_chain_t  **last;
    ngx_int_t      pass;
    ngx_uint_t     mute;
    ngx_uint_t     write;
} ngx_http_body_filter_test_ctx_t;


static void ngx_http_body_filter_test_write(ngx_chain_t *in);
static ngx_int_t ngx_http_body_filter_test_init(ngx_conf_t *cf);


static ngx_http_request_body_filter_pt   ngx_http_next_request_body_filter;
static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;


static ngx_http_module_t  ngx_http_body_filter_test_module_ctx = {
    NULL,                                  /* preconfiguration */
    ngx_http_body_filter_test_init,        /* postconfiguration */
    NULL,                                  /* create main configuration */
    NULL,                                  /* init main configuration */
    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */
    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_http_body_filter_test_module = {
    NGX_MODULE_V1,
    &ngx_http_body_filter_test_module_ctx, /* module context */
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


ngx_module_t *ngx_modules[] = {
    &ngx_http_body_filter_test_module,
    NULL
};

char *ngx_module_names[] = {
    "ngx_http_body_filter_test_module",
    NULL
};

char *ngx_module_order[] = {
    "ngx_http_body_filter_test_module",
    "ngx_http_copy_filter_module",
    NULL
};


static ngx_int_t
ngx_http_body_filter_test(ngx_http_request_t *r, ngx_chain_t *in)
{
    size_t                            n;
    ngx_buf_t                        *b;
    ngx_str_t                         value;
    ngx_uint_t                        last;
    ngx_chain_t                      *cl;
    ngx_http_body_filter_test_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_body_filter_test_module);

    if (ctx == NULL) {
        ctx = ngx_pcalloc(r->pool, sizeof(ngx_http_body_filter_test_ctx_t));
        if (ctx == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        ctx->last = &ctx->taken;
        ngx_http_set_ctx(r, ctx, ngx_http_body_filter_test_module);

        if (ngx_http_arg(r, (u_char *) "pass", 4, &value) == NGX_OK) {
            ctx->pass = ngx_atoi(value.data, value.len);
        }

        if (ngx_http_arg(r, (u_char *) "mute", 4, &value) == NGX_OK) {
            ctx->mute = 1;
        }

        if (ngx_http_arg(r, (u_char *) "write", 5, &value) == NGX_OK) {
            ctx->write = 1;

        } else if (ngx_http_arg(r, (u_char *) "quiet", 5, &value) != NGX_OK) {
            r->request_body->filter_need_buffering = 1;
        }
    }

    if (ctx->write) {
        ngx_http_body_filter_test_write(in);
        return ngx_http_next_request_body_filter(r, in);
    }

    if (in && ctx->pass > 0) {
        ctx->pass--;
        return ngx_http_next_request_body_filter(r, in);
    }

    last = 0;

    for ( /* void */ ; in; in = in->next) {
        n = in->buf->last - in->buf->pos;
        last |= in->buf->last_buf;

        b = n ? ngx_create_temp_buf(r->pool, n) : ngx_calloc_buf(r->pool);
        cl = ngx_alloc_chain_link(r->pool);

        if (b == NULL || cl == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        if (n) {
            b->last = ngx_cpymem(b->pos, in->buf->pos, n);
        }

        b->last_buf = in->buf->last_buf;

        in->buf->pos = in->buf->last;

        cl->buf = b;
        cl->next = NULL;

        *ctx->last = cl;
        ctx->last = &cl->next;
    }

    if (!last) {
        return ctx->mute ? NGX_OK
                         : ngx_http_next_request_body_filter(r, NULL);
    }

    in = ctx->taken;

    ctx->taken = NULL;
    ctx->last = &ctx->taken;

    return ngx_http_next_request_body_filter(r, in);
}


static void
ngx_http_body_filter_test_write(ngx_chain_t *in)
{
    u_char  *p;

    for ( /* void */ ; in; in = in->next) {
        for (p = in->buf->pos; p < in->buf->last; p++) {
            if (*p == 'x') {
                *p = '"';
            }
        }
    }
}


static ngx_int_t
ngx_http_body_filter_test_header(ngx_http_request_t *r)
{
    ngx_str_t  value;

    if (r->headers_out.status == NGX_HTTP_SWITCHING_PROTOCOLS
        && ngx_http_arg(r, (u_char *) "refuse", 6, &value) == NGX_OK)
    {
        return NGX_HTTP_FORBIDDEN;
    }

    return ngx_http_next_header_filter(r);
}


static ngx_int_t
ngx_http_body_filter_test_init(ngx_conf_t *cf)
{
    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_body_filter_test_header;

    ngx_http_next_request_body_filter = ngx_http_top_request_body_filter;
    ngx_http_top_request_body_filter = ngx_http_body_filter_test;

    return NGX_OK;
}
