/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Props, JSON objects: of two sources merged, and filtered by lunary_props.
 *
 * Invariant: bytes of members are kept as they came, never written anew.
 */

#include "ngx_http_lunary_module.h"
#include "inspect/lunary_json.h"


#define NGX_HTTP_LUNARY_MERGE_BYTES  (1024 * 1024)


/*
 * *props becomes the members of both objects; those of *props win: they stand
 * behind, so that they also win for a reader who keeps the last of two names
 * that are spelled apart.
 */

ngx_int_t
ngx_http_lunary_merge_props(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_str_t *props, ngx_str_t *lower)
{
    int                 rc;
    size_t              left;
    ngx_int_t           result;
    lunary_buf_t        out;
    lunary_str_t        high, key, value;
    lunary_json_iter_t  it;

    high = lunary_ngx_str(*props);

    if (high.len == 0) {
        *props = *lower;
        return NGX_OK;
    }

    ngx_memzero(&out, sizeof(lunary_buf_t));

    rc = lunary_buf_lit(&ctx->mem, &out, "{");

    lunary_json_iter(&it, lunary_ngx_str(*lower));

    /* each is looked up in the other object: thousands of them, which nobody
     * has but to keep us busy, are not all taken */

    left = NGX_HTTP_LUNARY_MERGE_BYTES / high.len;

    while (rc == 0 && left-- && lunary_json_member(&it, &key, &value)) {

        if (lunary_json_get_n(high, (const char *) key.data, key.len).len) {
            continue;
        }

        rc = lunary_buf_append(&ctx->mem, &out, out.len > 1 ? ",\"" : "\"",
                               out.len > 1 ? 2 : 1)
          || lunary_buf_append(&ctx->mem, &out, key.data, key.len)
          || lunary_buf_lit(&ctx->mem, &out, "\":")
          || lunary_buf_append(&ctx->mem, &out, value.data, value.len);
    }

    lunary_json_iter(&it, high);

    while (rc == 0 && lunary_json_member(&it, &key, &value)) {

        rc = lunary_buf_append(&ctx->mem, &out, out.len > 1 ? ",\"" : "\"",
                               out.len > 1 ? 2 : 1)
          || lunary_buf_append(&ctx->mem, &out, key.data, key.len)
          || lunary_buf_lit(&ctx->mem, &out, "\":")
          || lunary_buf_append(&ctx->mem, &out, value.data, value.len);
    }

    if (rc == 0) {
        rc = lunary_buf_lit(&ctx->mem, &out, "}");
    }

    result = NGX_ERROR;

    if (rc == 0) {
        result = ngx_http_lunary_pool_copy(r->pool, lunary_buf_str(&out),
                                           props);
    }

    lunary_buf_free(&ctx->mem, &out);

    return result;
}


/* keeps the members that lunary_props names */

ngx_int_t
ngx_http_lunary_filter_props(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_array_t *names, ngx_str_t *props)
{
    int            rc;
    ngx_int_t      result;
    ngx_str_t     *name;
    ngx_uint_t     i;
    lunary_buf_t   out;
    lunary_str_t   value;

    ngx_memzero(&out, sizeof(lunary_buf_t));

    name = names->elts;
    rc = 0;

    for (i = 0; rc == 0 && i < names->nelts; i++) {

        value = lunary_json_get_n(lunary_ngx_str(*props),
                                  (const char *) name[i].data, name[i].len);
        if (value.len == 0) {
            continue;
        }

        rc = lunary_buf_append(&ctx->mem, &out, out.len ? ",\"" : "{\"", 2)
          || lunary_json_escape(&ctx->mem, &out, lunary_ngx_str(name[i]))
          || lunary_buf_lit(&ctx->mem, &out, "\":")
          || lunary_buf_append(&ctx->mem, &out, value.data, value.len);
    }

    ngx_str_null(props);

    result = rc ? NGX_ERROR : NGX_OK;

    if (rc == 0 && out.len) {

        result = NGX_ERROR;

        if (lunary_buf_lit(&ctx->mem, &out, "}") == LUNARY_OK) {
            result = ngx_http_lunary_pool_copy(r->pool, lunary_buf_str(&out),
                                               props);
        }
    }

    lunary_buf_free(&ctx->mem, &out);

    return result;
}


ngx_int_t
ngx_http_lunary_pool_copy(ngx_pool_t *pool, lunary_str_t from, ngx_str_t *to)
{
    to->data = ngx_pnalloc(pool, from.len);
    if (to->data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(to->data, from.data, from.len);
    to->len = from.len;

    return NGX_OK;
}
