/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Refusals: what enforce judges, and what the caller is told then.
 */

#ifndef NGX_HTTP_LUNARY_REFUSAL_H
#define NGX_HTTP_LUNARY_REFUSAL_H

#include "ngx_http_lunary_module.h"


typedef enum {
    NGX_HTTP_LUNARY_R_NONE = 0,
    NGX_HTTP_LUNARY_R_USER,
    NGX_HTTP_LUNARY_R_VERIFIED,
    NGX_HTTP_LUNARY_R_MISMATCH,
    NGX_HTTP_LUNARY_R_BLOCKED,
    NGX_HTTP_LUNARY_R_BUDGET,
    NGX_HTTP_LUNARY_R_DUPLICATE,
    NGX_HTTP_LUNARY_R_JSON,
    NGX_HTTP_LUNARY_R_ENCODING,
    NGX_HTTP_LUNARY_R_UNAVAILABLE
} ngx_http_lunary_refusal_e;


typedef struct {
    ngx_str_t              code;
    ngx_uint_t             status;
    ngx_lunary_counter_e   counter;
    ngx_str_t              param;          /* JSON                           */
    ngx_str_t              retry_after;    /* empty: none                    */
    ngx_str_t              message;
} ngx_http_lunary_refusal_t;


extern ngx_http_lunary_refusal_t  ngx_http_lunary_refusals[];


/* sends it, in the shape of the call's API; what a phase handler returns */
ngx_int_t ngx_http_lunary_refuse(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_refusal_t *ref);


#endif /* NGX_HTTP_LUNARY_REFUSAL_H */
