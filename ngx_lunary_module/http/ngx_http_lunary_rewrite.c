/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What the upstream gets: the client's bytes, but for the identity members of
 * the body that the called provider does not define, the identity headers,
 * the session's cookie or header, and an Accept-Encoding that the module can
 * read the answer of.
 *
 * Invariants
 *   - the body is spliced, never parsed and written anew: bytes that stay are
 *     the client's own, from its buffers or its temporary file.  That is mapped
 *     into memory: before the next upstream nginx rewinds what is in a file to
 *     the file's beginning;
 *   - what is undone is what was done here, and nothing that others did since;
 *   - with nothing to take out the body and the headers are not touched;
 *   - old header elements stay as they are: typed pointers into them, such as
 *     headers_in.accept_encoding that nginx's gzip asks, remain true.
 */

#include "ngx_http_lunary_module.h"

#include <sys/mman.h>


/* a temporary file, mapped */

typedef struct {
    u_char        *addr;
    size_t         size;
} ngx_http_lunary_map_t;


static ngx_int_t ngx_http_lunary_edits(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf,
    lunary_edit_t *edits);
static ngx_int_t ngx_http_lunary_splice(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, lunary_edit_t *edits, size_t n);
static void ngx_http_lunary_length(ngx_http_request_t *r, off_t length);
static ngx_int_t ngx_http_lunary_slice(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_buf_t *b, off_t from, off_t to,
    ngx_chain_t ***last);
static ngx_int_t ngx_http_lunary_map(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_buf_t *b);
static void ngx_http_lunary_unmap(void *data);
static ngx_int_t ngx_http_lunary_put(ngx_http_request_t *r,
    lunary_str_t *text, ngx_chain_t ***last);


/* when a line that may repeat was last written */

static time_t  ngx_http_lunary_rewrite_said;


/* each member that is marked, and what is put in beside */

#define NGX_HTTP_LUNARY_EDITS  (2 * LUNARY_REQUEST_MARKS + 2)


void
ngx_http_lunary_rewrite_undo(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx)
{
    ngx_http_lunary_body_id_t  now;

    ctx->rewritten = 0;
    ctx->headers_rewritten = 0;
    ctx->usage = NULL;

    ngx_http_lunary_restore_headers(r, ctx);

    if (ctx->body == NULL) {
        return;
    }

    /* unless somebody has replaced the body since */

    ngx_http_lunary_body_id(r, &now);

    if (ngx_http_lunary_same_body(&now, &ctx->spliced)) {

        r->request_body->bufs = ctx->body;

        ngx_http_lunary_length(r, ctx->body_length);

        if (r->headers_in.content_length) {
            r->headers_in.content_length->value = ctx->body_header;
        }
    }

    ctx->body = NULL;
}


void
ngx_http_lunary_body_id(ngx_http_request_t *r, ngx_http_lunary_body_id_t *id)
{
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    ngx_memzero(id, sizeof(ngx_http_lunary_body_id_t));

    if (r->request_body == NULL || r->request_body->bufs == NULL) {
        return;
    }

    id->bufs = r->request_body->bufs;
    b = id->bufs->buf;

    if (ngx_buf_in_memory(b)) {
        id->first = b->pos;
    }

    for (cl = id->bufs; cl; cl = cl->next) {
        id->size += ngx_buf_size(cl->buf);
    }
}


ngx_uint_t
ngx_http_lunary_same_body(ngx_http_lunary_body_id_t *a,
    ngx_http_lunary_body_id_t *b)
{
    return a->bufs == b->bufs && a->first == b->first && a->size == b->size;
}


/* of the body that is sent; $content_length may have been asked for before */

static void
ngx_http_lunary_length(ngx_http_request_t *r, off_t length)
{
    ngx_http_variable_value_t    *v;
    ngx_http_lunary_main_conf_t  *mcf;

    r->headers_in.content_length_n = length;

    mcf = ngx_http_get_module_main_conf(r, ngx_http_lunary_module);

    v = &r->variables[mcf->content_length];

    v->valid = 0;
    v->not_found = 0;
}


ngx_int_t
ngx_http_lunary_rewrite_body(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_int_t      n;
    lunary_edit_t  edits[NGX_HTTP_LUNARY_EDITS + 1];

    if (r->request_body == NULL || r->request_body->bufs == NULL
        || lunary_call_body(ctx->call) == NULL)
    {
        return NGX_OK;
    }

    n = ngx_http_lunary_edits(r, ctx, lcf, edits);

    if (n >= 0 && lcf->stream_usage) {
        n = ngx_http_lunary_usage_ask(r, ctx, edits, n);
    }

    if (n <= 0) {
        return (n == 0) ? NGX_OK : NGX_ERROR;
    }

    return ngx_http_lunary_splice(r, ctx, edits, (size_t) n);
}


/*
 * What goes and what comes in of the caller's identity, sorted, at most
 * NGX_HTTP_LUNARY_EDITS; the number of edits, or NGX_ERROR
 */

static ngx_int_t
ngx_http_lunary_edits(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf, lunary_edit_t *edits)
{
    uint32_t           strip;
    ngx_int_t          rc;
    lunary_request_t  *rq;

    rq = lunary_call_body(ctx->call);
    strip = lcf->strip ? ctx->call->dialect->strip : 0;

    if (strip && (lcf->accept & NGX_HTTP_LUNARY_ACCEPT_LITELLM)) {
        strip |= lunary_member_bit(LUNARY_M_LITELLM);
    }

    if (lcf->inject.members && ngx_http_lunary_inject_members(ctx, lcf)) {

        rc = ngx_http_lunary_inject_edits(r, ctx, lcf, strip, edits,
                                          NGX_HTTP_LUNARY_EDITS);

        /* what cannot be rewritten was refused, unless in a dry run */

        return (rc < 0 && lcf->dry_run) ? 0 : rc;
    }

    if (strip == 0) {
        return 0;
    }

    if (lunary_request_flooded(rq)) {
        if (ngx_http_lunary_seldom(&ngx_http_lunary_rewrite_said)) {
            ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                          "lunary: the body names its identity members more "
                          "than %d times, it is passed on as it is",
                          LUNARY_REQUEST_MARKS);
        }
        return 0;
    }

    return (ngx_int_t) lunary_request_strip(rq, strip, edits,
                                            NGX_HTTP_LUNARY_EDITS);
}


static ngx_int_t
ngx_http_lunary_splice(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    lunary_edit_t *edits, size_t n)
{
    off_t              pos, size, from, to, length;
    size_t             i;
    u_char            *p;
    ngx_buf_t         *b;
    ngx_chain_t       *cl, *out, **last;
    ngx_table_elt_t   *h;

    out = NULL;
    last = &out;
    pos = 0;
    length = 0;
    i = 0;

    for (cl = r->request_body->bufs; cl; cl = cl->next) {

        b = cl->buf;
        size = ngx_buf_size(b);

        from = pos;

        while (from < pos + size) {

            /* what stays up to the next edit */

            to = (i < n) ? ngx_min((off_t) edits[i].start, pos + size)
                         : pos + size;

            if (to > from) {
                if (ngx_http_lunary_slice(r, ctx, b, from - pos, to - pos,
                                          &last)
                    != NGX_OK)
                {
                    return NGX_ERROR;
                }

                length += to - from;
                from = to;
                continue;
            }

            /* at or inside an edit, which may go on in the next buf */

            if (edits[i].text.len) {

                if (ngx_http_lunary_put(r, &edits[i].text, &last) != NGX_OK) {
                    return NGX_ERROR;
                }

                length += (off_t) edits[i].text.len;
                edits[i].text.len = 0;
            }

            from = ngx_min((off_t) edits[i].end, pos + size);

            if (from == (off_t) edits[i].end) {
                i++;
            }
        }

        pos += size;
    }

    ctx->body = r->request_body->bufs;
    ctx->body_length = r->headers_in.content_length_n;

    r->request_body->bufs = out;

    ngx_http_lunary_body_id(r, &ctx->spliced);
    ngx_http_lunary_length(r, length);

    h = r->headers_in.content_length;

    if (h) {
        ctx->body_header = h->value;

        p = ngx_pnalloc(r->pool, NGX_OFF_T_LEN);
        if (p == NULL) {
            return NGX_ERROR;
        }

        h->value.data = p;
        h->value.len = ngx_sprintf(p, "%O", length) - p;
    }

    return NGX_OK;
}


/* a buf over [from, to) of another's bytes, in memory or in its file */

static ngx_int_t
ngx_http_lunary_slice(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_buf_t *b, off_t from, off_t to, ngx_chain_t ***last)
{
    ngx_buf_t    *s;
    ngx_chain_t  *cl;

    s = ngx_alloc_buf(r->pool);
    if (s == NULL) {
        return NGX_ERROR;
    }

    *s = *b;

    s->shadow = NULL;
    s->last_buf = 0;
    s->last_in_chain = 0;

    if (ngx_buf_in_memory(b)) {
        s->start = b->pos + from;
        s->pos = s->start;
        s->last = b->pos + to;
        s->end = s->last;
        s->in_file = 0;

    } else {

        if (ngx_http_lunary_map(r, ctx, b) != NGX_OK) {
            return NGX_ERROR;
        }

        s->mmap = 1;
        s->start = ctx->map + b->file_pos + from;
        s->pos = s->start;
        s->last = ctx->map + b->file_pos + to;
        s->end = s->last;
        s->file = NULL;
        s->in_file = 0;
        s->temp_file = 0;
    }

    cl = ngx_alloc_chain_link(r->pool);
    if (cl == NULL) {
        return NGX_ERROR;
    }

    cl->buf = s;
    cl->next = NULL;

    **last = cl;
    *last = &cl->next;

    return NGX_OK;
}


/* the file that a buf is in: for as long as the request lives */

static ngx_int_t
ngx_http_lunary_map(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_buf_t *b)
{
    u_char                 *addr;
    ngx_pool_cleanup_t     *cln;
    ngx_http_lunary_map_t  *map;

    if (ctx->map && ctx->map_fd == b->file->fd
        && (off_t) ctx->map_size >= b->file_last)
    {
        return NGX_OK;
    }

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_lunary_map_t));
    if (cln == NULL) {
        return NGX_ERROR;
    }

    addr = mmap(NULL, (size_t) b->file_last, PROT_READ, MAP_SHARED,
                b->file->fd, 0);

    if (addr == MAP_FAILED) {
        ngx_log_error(NGX_LOG_CRIT, r->connection->log, ngx_errno,
                      "lunary: mmap(\"%V\") failed: a body in a temporary "
                      "file cannot be changed", &b->file->name);
        return NGX_ERROR;
    }

    map = cln->data;
    map->addr = addr;
    map->size = (size_t) b->file_last;

    cln->handler = ngx_http_lunary_unmap;

    ctx->map = addr;
    ctx->map_size = map->size;
    ctx->map_fd = b->file->fd;

    return NGX_OK;
}


static void
ngx_http_lunary_unmap(void *data)
{
    ngx_http_lunary_map_t *map = data;

    (void) munmap(map->addr, map->size);
}


/* a buf of new bytes */

static ngx_int_t
ngx_http_lunary_put(ngx_http_request_t *r, lunary_str_t *text,
    ngx_chain_t ***last)
{
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    b = ngx_calloc_buf(r->pool);
    cl = ngx_alloc_chain_link(r->pool);

    if (b == NULL || cl == NULL) {
        return NGX_ERROR;
    }

    b->start = (u_char *) text->data;
    b->pos = b->start;
    b->last = b->start + text->len;
    b->end = b->last;
    b->memory = 1;

    cl->buf = b;
    cl->next = NULL;

    **last = cl;
    *last = &cl->next;

    return NGX_OK;
}
