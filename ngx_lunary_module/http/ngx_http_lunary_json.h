/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Judging small JSON texts that come from elsewhere than a body: a props
 * header, a session.  yajl is the judge, inspect/ reads what passed.
 */

#ifndef NGX_HTTP_LUNARY_JSON_H
#define NGX_HTTP_LUNARY_JSON_H

#include <ngx_config.h>
#include <ngx_core.h>

#include "inspect/lunary_base.h"


#define NGX_HTTP_LUNARY_JSON_DEPTH  64


/*
 * NGX_OK where the text is one JSON object (RFC 8259, UTF-8) nested at most
 * NGX_HTTP_LUNARY_JSON_DEPTH deep, with white space around it or not; then
 * *text loses that white space.  NGX_DECLINED otherwise, NGX_ERROR where
 * memory is out.
 */
ngx_int_t ngx_http_lunary_json_object(ngx_str_t *text);

/*
 * The user id that a JSON value is: a string, and where `integers` is 1 an
 * integer as its decimal text; copied to the pool.  NGX_DECLINED and empty
 * where it is none, NGX_ERROR where memory is out.
 */
ngx_int_t ngx_http_lunary_json_user(ngx_pool_t *pool, lunary_mem_t *mem,
    lunary_str_t value, ngx_uint_t integers, ngx_str_t *user);


#endif /* NGX_HTTP_LUNARY_JSON_H */
