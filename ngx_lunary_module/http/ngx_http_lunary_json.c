/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * yajl as the judge of small texts.  Its parser has no limit of depth: the
 * callbacks keep it.
 */

#include "ngx_http_lunary_json.h"
#include "inspect/lunary_json.h"
#include "inspect/lunary_request.h"

#include <yajl/yajl_parse.h>


static int ngx_http_lunary_json_open(void *ctx);
static int ngx_http_lunary_json_close(void *ctx);


static yajl_callbacks  ngx_http_lunary_json_callbacks = {
    NULL,                                  /* null */
    NULL,                                  /* boolean */
    NULL,                                  /* integer */
    NULL,                                  /* double */
    NULL,                                  /* number */
    NULL,                                  /* string */
    ngx_http_lunary_json_open,             /* start map */
    NULL,                                  /* map key */
    ngx_http_lunary_json_close,            /* end map */
    ngx_http_lunary_json_open,             /* start array */
    ngx_http_lunary_json_close             /* end array */
};


ngx_int_t
ngx_http_lunary_json_object(ngx_str_t *text)
{
    u_char       *p, *last;
    ngx_int_t     rc;
    ngx_uint_t    depth;
    yajl_handle   handle;

    p = text->data;
    last = p + text->len;

    while (p < last
           && (*p == ' ' || *p == '\t' || *p == CR || *p == LF))
    {
        p++;
    }

    while (last > p
           && (last[-1] == ' ' || last[-1] == '\t' || last[-1] == CR
               || last[-1] == LF))
    {
        last--;
    }

    if (last - p < 2 || *p != '{' || last[-1] != '}') {
        return NGX_DECLINED;
    }

    depth = 0;

    handle = yajl_alloc(&ngx_http_lunary_json_callbacks, NULL, &depth);
    if (handle == NULL) {
        return NGX_ERROR;
    }

    rc = NGX_DECLINED;

    if (yajl_parse(handle, p, last - p) == yajl_status_ok
        && yajl_complete_parse(handle) == yajl_status_ok
        && depth == 0)
    {
        text->data = p;
        text->len = last - p;

        rc = NGX_OK;
    }

    yajl_free(handle);

    return rc;
}


static int
ngx_http_lunary_json_open(void *ctx)
{
    ngx_uint_t *depth = ctx;

    return ++*depth <= NGX_HTTP_LUNARY_JSON_DEPTH;
}


static int
ngx_http_lunary_json_close(void *ctx)
{
    ngx_uint_t *depth = ctx;

    --*depth;

    return 1;
}


ngx_int_t
ngx_http_lunary_json_user(ngx_pool_t *pool, lunary_mem_t *mem,
    lunary_str_t value, ngx_uint_t integers, ngx_str_t *user)
{
    int64_t        n;
    ngx_int_t      rc;
    lunary_buf_t   out;

    ngx_str_null(user);
    ngx_memzero(&out, sizeof(lunary_buf_t));
    rc = NGX_DECLINED;

    if (lunary_json_is_string(value)) {

        if (value.len > 6 * 256 + 2
            || lunary_json_unescape(mem, &out,
                                    lunary_json_inside(value))
               != LUNARY_OK)
        {
            goto done;
        }

    } else if (integers && lunary_json_type(value) == LUNARY_JSON_NUMBER
               && lunary_json_int(value, &n))
    {
        if (lunary_buf_append_int(mem, &out, n) != LUNARY_OK) {
            goto done;
        }
    }

    if (!lunary_user_id_valid(lunary_buf_str(&out))) {
        goto done;
    }

    user->data = ngx_pnalloc(pool, out.len);
    if (user->data == NULL) {
        rc = NGX_ERROR;
        goto done;
    }

    ngx_memcpy(user->data, out.data, out.len);
    user->len = out.len;

    rc = NGX_OK;

done:

    lunary_buf_free(mem, &out);

    return rc;
}
