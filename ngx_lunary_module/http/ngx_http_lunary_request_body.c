/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The request's body: read before the call is judged, and scanned by a request
 * body filter as it arrives, or later where another module has read it.
 *
 * Behind grpc_pass it is not waited for, and not read, but for known APIs:
 * messages go both ways at the same time, and they are not JSON.
 *
 * Invariants
 *   - r->main->count is given back exactly once for the one time the body is
 *     read;
 *   - what is lent (lunary_call_lend()) is nobody's to write until the request
 *     is freed;
 *   - of a body that is read the scanner sees every byte exactly once, in
 *     order;
 *   - others are served between the parts of a large body.
 */

#include "ngx_http_lunary_module.h"


#define NGX_HTTP_LUNARY_SCAN_STEP  (64 * 1024)

/* bytes of a body that are read without a look at what others want */
#define NGX_HTTP_LUNARY_TURN       (256 * 1024)


static ngx_buf_t *ngx_http_lunary_one_piece(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);
static void ngx_http_lunary_room_behind(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);
static ngx_uint_t ngx_http_lunary_stays(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf);
static void ngx_http_lunary_body_handler(ngx_http_request_t *r);
static ngx_uint_t ngx_http_lunary_turns(ngx_http_request_t *r);
static void ngx_http_lunary_portion(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);
static ngx_uint_t ngx_http_lunary_yield(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);


ngx_http_request_body_filter_pt  ngx_http_lunary_next_request_body;


ngx_int_t
ngx_http_lunary_read_body(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_int_t   rc;
    ngx_buf_t  *head;

    if (r->request_body) {

        /* another module has read it */

        ctx->read_done = 1;
        return ngx_http_lunary_scan_body(r, ctx);
    }

    /* of a known API it is JSON, whatever is spoken to the upstream */

    if (lcf->grpc && lcf->inject.members == 0 && !ctx->call->recognised) {
        ctx->unread = 1;
        ctx->read_done = 1;
        ctx->body_ended = 1;

        lunary_call_request_end(ctx->call);

        return NGX_OK;
    }

    if (r->headers_in.content_length_n <= 0 && !r->headers_in.chunked
#if (NGX_HTTP_V2)
        && r->stream == NULL
#endif
#if (NGX_HTTP_V3)
        && r->http_version != NGX_HTTP_VERSION_30
#endif
       )
    {
        ctx->read_done = 1;
        ctx->body_ended = 1;

        lunary_call_request_end(ctx->call);

        return NGX_OK;
    }

    ctx->reading = 1;

    head = ngx_http_lunary_one_piece(r, ctx, lcf);

    rc = ngx_http_read_client_request_body(r, ngx_http_lunary_body_handler);

    if (head) {
        head->pos = head->last - (r->header_in->last - r->header_in->pos);
        r->header_in = head;

    } else if (rc == NGX_AGAIN) {
        ngx_http_lunary_room_behind(r, ctx, lcf);
    }

    ctx->reading = 0;

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    if (ctx->read_done) {

        /* all of it was at hand: no need to come back */

        r->main->count--;
        r->write_event_handler = ngx_http_core_run_phases;

        return NGX_OK;
    }

    ngx_http_finalize_request(r, NGX_DONE);

    return NGX_DONE;
}


/*
 * A body that lies in one piece, and stays there, needs not be copied to be
 * read.  What has room behind the head does so.  Where more is to come nginx
 * would leave there what came with the head, and put the rest into a buffer of
 * its size: here it gets one for both, which it is shown in the head's place.
 * With a body whose length is known it looks at that only before
 * ngx_http_read_client_request_body() returns.
 *
 * Returns the head's buffer, to be put back, or NULL: it was left there.
 */

static ngx_buf_t *
ngx_http_lunary_one_piece(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf)
{
    off_t                      size;
    size_t                     there, most;
    ngx_buf_t                 *b, *head;
    ngx_http_core_loc_conf_t  *clcf;

    size = r->headers_in.content_length_n;

    if (size <= 0 || !ngx_http_lunary_turns(r)) {
        return NULL;
    }

    head = r->header_in;
    there = head->last - head->pos;

    if (there == 0 || !ngx_http_lunary_stays(r, lcf)) {
        return NULL;
    }

    if (size <= head->end - head->pos) {
        lunary_call_lend(ctx->call, head->pos, head->end - head->pos);
        return NULL;
    }

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    most = clcf->client_body_buffer_size;
    most += most >> 2;

    if (size - (off_t) there >= (off_t) most) {
        return NULL;
    }

    b = ngx_create_temp_buf(r->pool, (size_t) size + LUNARY_CALL_BEHIND);

    if (b == NULL) {
        return NULL;
    }

    lunary_call_lend(ctx->call, b->start, b->end - b->start);

    b->last = ngx_cpymem(b->pos, head->pos, there);
    b->end = b->start + size;

    r->header_in = b;

    return head;
}


/*
 * Where nothing came with the head, and in HTTP/2, nginx has made a buffer for
 * the body and waits.  If all of it has room there, a buffer with room for
 * LUNARY_CALL_BEHIND bytes more takes its place.
 */

static void
ngx_http_lunary_room_behind(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf)
{
    size_t      size;
    u_char     *p;
    ngx_buf_t  *b;

    b = r->request_body ? r->request_body->buf : NULL;

    if (b == NULL
        || ctx->body_started
        || b->pos != b->start || b->last != b->start
        || b->end - b->start < r->headers_in.content_length_n
        || r->headers_in.content_length_n <= 0
        || !ngx_http_lunary_stays(r, lcf))
    {
        return;
    }

    size = b->end - b->start;

    p = ngx_palloc(r->pool, size + LUNARY_CALL_BEHIND);

    if (p == NULL) {
        return;
    }

    (void) ngx_pfree(r->pool, b->start);

    lunary_call_lend(ctx->call, p, size + LUNARY_CALL_BEHIND);

    b->start = p;
    b->pos = p;
    b->last = p;
    b->end = p + size;
}


/*
 * 1 where a body that has room in nginx's buffer is left there, and kept.  Not
 * in HTTP/3, whose frames are there, too, and may fill it; not in a file, which
 * is sent by way of that buffer; nor if the connection may become another one
 * (101), which is read into what is left behind the head; nor if another
 * module's filter is behind this one: it may change bytes where they lie.
 */

static ngx_uint_t
ngx_http_lunary_stays(ngx_http_request_t *r, ngx_http_lunary_loc_conf_t *lcf)
{
#if (NGX_HTTP_V3)
    if (r->http_version == NGX_HTTP_VERSION_30) {
        return 0;
    }
#endif

    return r->headers_in.content_length_n <= (off_t) lcf->capture_max
           && ngx_http_lunary_next_request_body
              == ngx_http_request_body_save_filter
           && !r->headers_in.chunked
           && !r->headers_in.upgrade
           && !r->request_body_in_file_only
           && !r->request_body_no_buffering;
}


/*
 * Behind a redirect from where the body was not read.  If nobody has begun to,
 * this location may read it, and if all of it is still there, it is scanned.
 * If some of it is on its way or gone, no content handler could send it on.
 */

ngx_int_t
ngx_http_lunary_body_again(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx)
{
    off_t                      size;
    ngx_http_lunary_body_id_t  now;

    if (r->request_body == NULL) {
        ctx->unread = 0;
        ctx->read_done = 0;
        ctx->body_ended = 0;
        ctx->request_bytes = 0;

        return ngx_http_lunary_open_call(r, ctx) == NGX_OK
               ? NGX_OK : NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_http_lunary_body_id(r, &now);

    /* no length: there is no body, or it is not known (-1) */

    size = r->headers_in.content_length_n;

    if (size < 0 && !r->headers_in.chunked) {
        size = 0;
    }

    if (!r->reading_body && now.size == size) {
        ctx->unread = 0;
        ctx->scanned.size = -1;

        return ngx_http_lunary_scan_body(r, ctx);
    }

    if (ctx->conf->content == NULL) {

        /* a page of an error */

        return NGX_OK;
    }

    ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                  "lunary: the request's body went to the upstream of "
                  "grpc_pass and cannot be sent again");

    return NGX_HTTP_BAD_GATEWAY;
}


static void
ngx_http_lunary_body_handler(ngx_http_request_t *r)
{
    ngx_http_lunary_ctx_t  *ctx;

    ctx = ngx_http_lunary_get_ctx(r);

    r->preserve_body = 1;

    ctx->read_done = 1;

    ngx_http_lunary_body_id(r, &ctx->scanned);

    if (!ctx->body_ended) {
        ctx->body_ended = 1;
        lunary_call_request_end(ctx->call);
    }

    if (ctx->reading) {
        return;
    }

    r->write_event_handler = ngx_http_core_run_phases;
    ngx_http_core_run_phases(r);
}


ngx_int_t
ngx_http_lunary_request_body_filter(ngx_http_request_t *r, ngx_chain_t *in)
{
    ngx_int_t                    rc;
    ngx_buf_t                   *b;
    ngx_chain_t                 *cl;
    ngx_http_lunary_ctx_t       *ctx;
    ngx_http_lunary_loc_conf_t  *lcf;

    if (in == NULL) {

        /* perhaps a filter before this one has taken what came */

        ctx = ngx_http_get_module_ctx(r, ngx_http_lunary_module);

        if (ctx && ctx->portion) {
            ngx_http_lunary_portion(r, ctx);
        }

        return ngx_http_lunary_next_request_body(r, in);
    }

    ctx = ngx_http_lunary_get_ctx(r);

    if (ctx == NULL) {

        /* read by a module that runs before us: scan it all the same */

        lcf = ngx_http_get_module_loc_conf(r, ngx_http_lunary_module);

        if (lcf->enable.cv || !lcf->enable.value || r != r->main) {
            return ngx_http_lunary_next_request_body(r, in);
        }

        ctx = ngx_http_lunary_make_ctx(r, lcf);

        if (ctx == NULL) {
            return ngx_http_lunary_next_request_body(r, in);
        }
    }

    if (ctx->unread) {

        for (cl = in; cl; cl = cl->next) {
            if (ngx_buf_in_memory(cl->buf)) {
                ctx->request_bytes += cl->buf->last - cl->buf->pos;
            }
        }
    }

    if (ctx->body_ended || ctx->aside) {
        return ngx_http_lunary_next_request_body(r, in);
    }

    for (cl = in; cl; cl = cl->next) {
        b = cl->buf;

        if (ngx_buf_in_memory(b) && b->last > b->pos) {

            if (!ctx->body_started) {
                ctx->first = b->pos;
            }

            ctx->body_started = 1;
            ctx->request_bytes += b->last - b->pos;

            lunary_call_request(ctx->call, b->pos, b->last - b->pos);
        }

        if (b->last_buf) {
            ctx->body_ended = 1;
            lunary_call_request_end(ctx->call);
        }
    }

    ngx_http_lunary_portion(r, ctx);

    rc = ngx_http_lunary_next_request_body(r, in);

    if (rc == NGX_OK && ngx_http_lunary_yield(r, ctx)) {
        return NGX_AGAIN;
    }

    return rc;
}


/* HTTP/2 and HTTP/3 share a connection, have buffers of their own, and take an
 * NGX_AGAIN of a filter for a failure */

static ngx_uint_t
ngx_http_lunary_turns(ngx_http_request_t *r)
{
#if (NGX_HTTP_V2)
    if (r->stream) {
        return 0;
    }
#endif

#if (NGX_HTTP_V3)
    if (r->http_version == NGX_HTTP_VERSION_30) {
        return 0;
    }
#endif

    return 1;
}


/*
 * nginx reads as much at once as there is room in its buffer, and of a buffer
 * of megabytes that is what the socket has.  So the buffer ends a part behind
 * what it holds, until that is its end.
 *
 * Called before those who write a full buffer into a file.
 */

static void
ngx_http_lunary_portion(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx)
{
    ngx_buf_t  *b;

    b = r->request_body->buf;

    if (b == NULL || !ngx_http_lunary_turns(r)) {
        return;
    }

    /* a filter that takes pieces need not tell us of them: the buffer would
     * stay full here, and nginx wait for one of its pieces to come back */

    if (r->request_body->filter_need_buffering) {
        return;
    }

    if (ctx->portion != b) {
        ctx->portion = b;
        ctx->portion_end = b->end;
    }

    b->end = ctx->portion_end;

    if (!ctx->body_ended && b->end - b->last > NGX_HTTP_LUNARY_TURN) {
        b->end = b->last + NGX_HTTP_LUNARY_TURN;
    }
}


/*
 * nginx reads a body in one go for as long as the socket has some of it, and
 * what is read is scanned: of a large one so much that others would wait for
 * milliseconds.  After a part of it the rest is left to the next round of the
 * event loop, as if the socket had no more.
 *
 * 1 where it is.
 */

static ngx_uint_t
ngx_http_lunary_yield(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx)
{
    ngx_event_t               *rev;
    ngx_http_core_loc_conf_t  *clcf;

    rev = r->connection->read;

    if (!rev->ready) {

        /* nginx itself leaves it here */

        ctx->turn = ctx->request_bytes;
        return 0;
    }

    if (ctx->request_bytes - ctx->turn < NGX_HTTP_LUNARY_TURN
        || ctx->body_ended
        || r->request_body->buf == NULL
        || r->request_body_no_buffering
        || !ngx_http_lunary_turns(r))
    {
        return 0;
    }

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "lunary: body is read on in the next round, %O bytes so far",
                   ctx->request_bytes);

    ctx->turn = ctx->request_bytes;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    ngx_add_timer(rev, clcf->client_body_timeout);
    ngx_post_event(rev, &ngx_posted_next_events);

    return 1;
}


/*
 * A body that was read, and perhaps replaced, by another module before the
 * filter could see it.  Bodies in memory are scanned at once, temporary files
 * in steps from the page cache.
 */

ngx_int_t
ngx_http_lunary_scan_body(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx)
{
    off_t                       off;
    size_t                      n;
    u_char                     *p;
    ssize_t                     got;
    ngx_buf_t                  *b;
    ngx_chain_t                *cl;
    ngx_http_lunary_body_id_t   now;

    ngx_http_lunary_body_id(r, &now);

    if (ctx->body_ended && ctx->scanned.size == 0
        && now.size == ctx->request_bytes
        && (now.first == NULL || now.first == ctx->first))
    {
        /* it is what our filter has seen */

        ctx->scanned = now;
        return NGX_OK;
    }

    ctx->scanned = now;

    if (ctx->body_ended || ctx->body_started) {

        /* what was scanned is not what will be sent: forget it */

        ngx_log_debug2(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                       "lunary: body of %O bytes is read again, it has %O",
                       ctx->request_bytes, now.size);

        if (ngx_http_lunary_open_call(r, ctx) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        ctx->request_bytes = 0;
    }

    ctx->body_started = 1;

    p = NULL;

    for (cl = r->request_body->bufs; cl; cl = cl->next) {
        b = cl->buf;

        if (ngx_buf_in_memory(b)) {
            ctx->request_bytes += b->last - b->pos;
            lunary_call_request(ctx->call, b->pos, b->last - b->pos);
            continue;
        }

        if (!b->in_file) {
            continue;
        }

        if (p == NULL) {
            p = ngx_palloc(r->pool, NGX_HTTP_LUNARY_SCAN_STEP);
            if (p == NULL) {
                return NGX_HTTP_INTERNAL_SERVER_ERROR;
            }
        }

        for (off = b->file_pos; off < b->file_last; off += got) {

            n = (size_t) ngx_min((off_t) NGX_HTTP_LUNARY_SCAN_STEP,
                                 b->file_last - off);

            got = ngx_read_file(b->file, p, n, off);
            if (got <= 0) {
                return NGX_HTTP_INTERNAL_SERVER_ERROR;
            }

            ctx->request_bytes += got;
            lunary_call_request(ctx->call, p, (size_t) got);
        }
    }

    ctx->body_ended = 1;
    lunary_call_request_end(ctx->call);

    return NGX_OK;
}
