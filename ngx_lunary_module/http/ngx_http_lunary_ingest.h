/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What the files of lunary_ingest share.
 *
 *     ngx_http_lunary_ingest.c        the request, its key, its answer
 *     ngx_http_lunary_ingest_event.c  one event becomes one record
 *     ngx_http_lunary_ingest_conf.c   the directive
 */

#ifndef NGX_HTTP_LUNARY_INGEST_H
#define NGX_HTTP_LUNARY_INGEST_H

#include "ngx_http_lunary_module.h"


typedef struct {
    ngx_str_t    key;
    ngx_str_t    app;
} ngx_http_lunary_key_t;


struct ngx_http_lunary_ingest_conf_s {
    ngx_array_t   keys;                        /* ngx_http_lunary_key_t      */
    ngx_array_t   origins;                     /* ngx_str_t                  */
    ngx_uint_t    drop_llm;
};


/* the content handler */
ngx_int_t ngx_http_lunary_ingest_handler(ngx_http_request_t *r);

/*
 * NGX_OK: it is in the outbox, or left out by llm=drop; NGX_DECLINED: it is no
 * event; NGX_BUSY: there is no room.  *id is the event's runId as JSON text.
 */
ngx_int_t ngx_http_lunary_ingest_event(ngx_http_request_t *r,
    lunary_mem_t *mem, ngx_str_t *app, ngx_uint_t drop, lunary_str_t event,
    lunary_str_t *id, const char **error);


#endif /* NGX_HTTP_LUNARY_INGEST_H */
