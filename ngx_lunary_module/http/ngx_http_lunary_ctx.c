/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The context of a request: found again or made, once a main request; and the
 * small things that are a call's own: its ids, its clock, its memory.
 *
 * Invariants
 *   - the context hangs on a pool cleanup: internal redirects and error pages
 *     zero nginx's own pointers to it;
 *   - its memory is the worker's slab, given back when the pool goes.
 */

#include "ngx_http_lunary_module.h"
#include "inspect/lunary_slab.h"

#include <sys/random.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif


#define NGX_HTTP_LUNARY_RANDOM_POOL  4000

#define NGX_HTTP_LUNARY_HEAP         (4 * 1024 * 1024)


static ngx_str_t ngx_http_lunary_method(ngx_http_request_t *r);
static void ngx_http_lunary_ctx_cleanup(void *data);
static void *ngx_http_lunary_mem(void *ctx, void *p, size_t old, size_t size);


/* this worker's */

static lunary_slab_t  ngx_http_lunary_slab;
static u_char         ngx_http_lunary_pool[NGX_HTTP_LUNARY_RANDOM_POOL];
static size_t         ngx_http_lunary_pool_left;


/* when a line that may repeat was last written */

static time_t  ngx_http_lunary_mem_said;


void
ngx_http_lunary_ctx_start(void)
{
    ngx_http_lunary_pool_left = 0;

#if defined(__GLIBC__)

    /*
     * A prompt's buffers are as large as what glibc leaves free at the end of
     * its heap: the worker would give them back after each call, and each of
     * their pages would be a fault in the next one.
     */

    (void) mallopt(M_MMAP_THRESHOLD, NGX_HTTP_LUNARY_HEAP);
    (void) mallopt(M_TRIM_THRESHOLD, NGX_HTTP_LUNARY_HEAP);
#endif
}


void
ngx_http_lunary_ctx_stop(void)
{
    lunary_slab_clear(&ngx_http_lunary_slab);
}


static ngx_str_t
ngx_http_lunary_method(ngx_http_request_t *r)
{
    u_char     *p;
    ngx_str_t   method;

    method = r->method_name;

    if (r->internal && r->request_line.len) {

        p = ngx_strlchr(r->request_line.data,
                        r->request_line.data + r->request_line.len, ' ');

        if (p && p != r->request_line.data) {
            method.data = r->request_line.data;
            method.len = p - r->request_line.data;
        }
    }

    return method;
}


ngx_uint_t
ngx_http_lunary_posted(ngx_http_request_t *r)
{
    ngx_str_t  method;

    if (r->method & NGX_HTTP_POST) {
        return 1;
    }

    method = ngx_http_lunary_method(r);

    return method.len == sizeof("POST") - 1
           && ngx_strncmp(method.data, "POST", sizeof("POST") - 1) == 0;
}


ngx_http_lunary_ctx_t *
ngx_http_lunary_get_ctx(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t     *cln;
    ngx_http_lunary_ctx_t  *ctx;

    r = r->main;

    ctx = ngx_http_get_module_ctx(r, ngx_http_lunary_module);

    if (ctx != NULL || !(r->internal || r->filter_finalize)) {
        return ctx;
    }

    /* an internal redirect or an error page zeroed the module contexts */

    for (cln = r->pool->cleanup; cln; cln = cln->next) {
        if (cln->handler == ngx_http_lunary_ctx_cleanup) {
            ctx = cln->data;
            ngx_http_set_ctx(r, ctx, ngx_http_lunary_module);
            return ctx;
        }
    }

    return NULL;
}


ngx_http_lunary_ctx_t *
ngx_http_lunary_make_ctx(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf)
{
    u_char                 *p, random[10];
    ngx_pool_cleanup_t     *cln;
    ngx_http_lunary_ctx_t  *ctx;

    r = r->main;

    ctx = ngx_http_lunary_get_ctx(r);
    if (ctx) {
        return ctx;
    }

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_lunary_ctx_t));
    if (cln == NULL) {
        return NULL;
    }

    ctx = cln->data;
    ngx_memzero(ctx, sizeof(ngx_http_lunary_ctx_t));

    ctx->request = r;
    ctx->conf = lcf;
    ctx->last = ngx_current_msec;
    ctx->mem.fn = ngx_http_lunary_mem;
    ctx->mem.ctx = r->connection->log;

    ctx->post = ngx_http_lunary_posted(r);
    ctx->method = ngx_http_lunary_method(r);
    ctx->uri = r->uri;

    if (r->error_page && r->unparsed_uri.len) {

        /* an error was quicker than the phases, this is its page's */

        ctx->uri = r->unparsed_uri;
        p = ngx_strlchr(ctx->uri.data, ctx->uri.data + ctx->uri.len, '?');

        if (p) {
            ctx->uri.len = p - ctx->uri.data;
        }
    }

    if (ngx_http_lunary_open_call(r, ctx) != NGX_OK) {
        return NULL;
    }

    cln->handler = ngx_http_lunary_ctx_cleanup;

    ngx_http_lunary_random(random);
    lunary_uuid7(ctx->run_id,
                 (uint64_t) r->start_sec * 1000 + (uint64_t) r->start_msec,
                 random);

    ngx_http_set_ctx(r, ctx, ngx_http_lunary_module);

    return ctx;
}


unsigned
ngx_http_lunary_capture(ngx_http_request_t *r, ngx_http_lunary_loc_conf_t *lcf,
    ngx_uint_t known)
{
    if (lcf->capture.cv && !known) {
        return LUNARY_CAPTURE_INPUT|LUNARY_CAPTURE_OUTPUT;
    }

    return (unsigned) ngx_http_lunary_choice(r, &lcf->capture,
                                             ngx_http_lunary_capture_words, 0);
}


ngx_int_t
ngx_http_lunary_open_call(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx)
{
    lunary_str_t             type, encoding;
    lunary_call_t           *call;
    ngx_table_elt_t         *h;
    lunary_call_conf_t       conf;
    ngx_http_lunary_walk_t   w;

    ngx_memzero(&conf, sizeof(lunary_call_conf_t));

    conf.capture_max = ctx->conf->capture_max;
    conf.capture = ngx_http_lunary_capture(r, ctx->conf, 0);
    conf.forced = ctx->conf->api;

    call = lunary_call_create(&ctx->mem, &conf);
    if (call == NULL) {
        return NGX_ERROR;
    }

    if (ctx->call) {
        lunary_call_destroy(ctx->call);
    }

    ctx->call = call;

    h = r->headers_in.content_type;
    type = h ? lunary_ngx_str(h->value) : lunary_str(NULL, 0);

    /* of several the first is not what the upstream may make of all: that is
     * an encoding that cannot be read */

    encoding = lunary_str(NULL, 0);

    ngx_http_lunary_walk(&w, &r->headers_in.headers);

    while ((h = ngx_http_lunary_walk_next(&w)) != NULL) {
        if (ngx_http_lunary_header_is(h, "Content-Encoding",
                                      sizeof("Content-Encoding") - 1))
        {
            encoding = encoding.len ? lunary_str("several", 7)
                                    : lunary_ngx_str(h->value);
        }
    }

    lunary_call_start(ctx->call, lunary_ngx_str(ctx->method),
                      lunary_ngx_str(r->uri), type, encoding);

    return NGX_OK;
}


static void
ngx_http_lunary_ctx_cleanup(void *data)
{
    ngx_http_lunary_ctx_t  *ctx = data;

    if (ctx->onward.posted) {
        ngx_delete_posted_event(&ctx->onward);
    }

    lunary_call_destroy(ctx->call);
}


static void *
ngx_http_lunary_mem(void *ctx, void *p, size_t old, size_t size)
{
    void  *q;

    q = lunary_slab_realloc(&ngx_http_lunary_slab, p, old, size);

    if (q == NULL && size != 0) {
        if (ngx_http_lunary_seldom(&ngx_http_lunary_mem_said)) {
            ngx_log_error(NGX_LOG_WARN, (ngx_log_t *) ctx, ngx_errno,
                          "lunary: no memory to read this call, "
                          "it will be logged without what was not read");
        }
    }

    return q;
}


ngx_msec_t
ngx_http_lunary_elapsed(ngx_http_request_t *r)
{
    ngx_time_t      *tp;
    ngx_msec_int_t   ms;

    tp = ngx_timeofday();

    /* the wall clock may have been set back meanwhile */

    ms = (ngx_msec_int_t) ((tp->sec - r->start_sec) * 1000
                           + ((ngx_msec_int_t) tp->msec
                              - (ngx_msec_int_t) r->start_msec));

    return (ngx_msec_t) ngx_max(ms, 0);
}


void
ngx_http_lunary_random(u_char out[10])
{
    size_t   i;
    ssize_t  n;

    if (ngx_http_lunary_pool_left < 10) {

        n = getrandom(ngx_http_lunary_pool, NGX_HTTP_LUNARY_RANDOM_POOL,
                      GRND_NONBLOCK);

        if (n >= 10) {
            ngx_http_lunary_pool_left = (size_t) n;

        } else {
            for (i = 0; i < 10; i++) {
                out[i] = (u_char) ngx_random();
            }

            return;
        }
    }

    ngx_http_lunary_pool_left -= 10;

    ngx_memcpy(out, ngx_http_lunary_pool + ngx_http_lunary_pool_left, 10);
}


/*
 * What nginx would take OpenSSL's generator for, from the same source, where
 * nobody has asked for it yet; who asks later gets this one.
 */

ngx_int_t
ngx_http_lunary_request_id(ngx_http_request_t *r, ngx_str_t *id)
{
    u_char                        bytes[20], *p;
    ngx_http_variable_value_t    *v;
    ngx_http_lunary_main_conf_t  *mcf;

    mcf = ngx_http_get_module_main_conf(r, ngx_http_lunary_module);

    v = &r->variables[mcf->request_id];

    if (!v->valid) {

        p = ngx_pnalloc(r->pool, 32);
        if (p == NULL) {
            return NGX_ERROR;
        }

        ngx_http_lunary_random(bytes);
        ngx_http_lunary_random(bytes + 10);

        lunary_run_hex(p, bytes);

        v->data = p;
        v->len = 32;
        v->valid = 1;
        v->no_cacheable = 0;
        v->not_found = 0;
    }

    id->data = v->data;
    id->len = v->len;

    return NGX_OK;
}
