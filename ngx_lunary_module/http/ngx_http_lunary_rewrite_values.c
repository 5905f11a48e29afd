/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What two headers are for the upstream: Cookie without the session's, and
 * Accept-Encoding with what the module can read.
 *
 * Invariants
 *   - the caller's bytes stay as they are; a new value is the pool's;
 *   - linear in the value's length, which nginx bounds.
 */

#include "ngx_http_lunary_module.h"


ngx_int_t
ngx_http_lunary_without_cookie(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value)
{
    u_char      *dst, *out;
    ngx_str_t    rest, whole, one, text;
    ngx_uint_t   found;

    /* each separator may grow by a space */

    out = ngx_pnalloc(r->pool, 2 * value->len + 1);
    if (out == NULL) {
        return NGX_ERROR;
    }

    dst = out;
    found = 0;
    rest = *value;

    while (ngx_http_lunary_next_cookie(&rest, &whole, &one, &text)) {

        if (one.len == name->len
            && ngx_memcmp(one.data, name->data, name->len) == 0)
        {
            found = 1;
            continue;
        }

        if (dst != out) {
            *dst++ = ';';
            *dst++ = ' ';
        }

        dst = ngx_cpymem(dst, whole.data, whole.len);
    }

    if (!found) {
        return NGX_DECLINED;
    }

    if (dst == out) {
        return NGX_OK;
    }

    value->data = out;
    value->len = dst - out;

    return NGX_DONE;
}


ngx_int_t
ngx_http_lunary_readable_codings(ngx_http_request_t *r, ngx_str_t *value)
{
    u_char           *p, *last, *start, *end, *token, *dst, *out;
    size_t            len;
    ngx_str_t        *name;
    ngx_uint_t        found, dropped;
    static ngx_str_t  readable[] = {
        ngx_string("gzip"),
        ngx_string("x-gzip"),
        ngx_string("deflate"),
        ngx_string("identity"),
#ifdef LUNARY_HAVE_BROTLI
        ngx_string("br"),
#endif
#ifdef LUNARY_HAVE_ZSTD
        ngx_string("zstd"),
#endif
        ngx_null_string
    };
    static u_char     last_good[64];
    static size_t     nlast;

    /* most clients send what the last one did */

    if (value->len == nlast && ngx_memcmp(value->data, last_good, nlast) == 0)
    {
        return NGX_DECLINED;
    }

    out = ngx_pnalloc(r->pool, 2 * value->len + sizeof("identity") - 1);
    if (out == NULL) {
        return NGX_ERROR;
    }

    dst = out;
    dropped = 0;
    p = value->data;
    last = p + value->len;

    while (p < last) {

        while (p < last && (*p == ' ' || *p == '\t' || *p == ',')) {
            p++;
        }

        start = p;

        while (p < last && *p != ',') {
            p++;
        }

        end = p;

        for (token = start;
             token < end && *token != ';' && *token != ' ' && *token != '\t';
             token++)
        {
            /* void */
        }

        len = token - start;

        if (len == 0) {
            continue;
        }

        found = 0;

        for (name = readable; name->len; name++) {
            if (len == name->len
                && ngx_strncasecmp(start, name->data, len) == 0)
            {
                found = 1;
                break;
            }
        }

        if (!found) {
            dropped = 1;
            continue;
        }

        if (dst != out) {
            *dst++ = ',';
            *dst++ = ' ';
        }

        dst = ngx_cpymem(dst, start, end - start);
    }

    if (!dropped) {

        if (value->len <= sizeof(last_good)) {
            ngx_memcpy(last_good, value->data, value->len);
            nlast = value->len;
        }

        return NGX_DECLINED;
    }

    if (dst == out) {
        dst = ngx_cpymem(dst, "identity", sizeof("identity") - 1);
    }

    value->data = out;
    value->len = dst - out;

    return NGX_DONE;
}
