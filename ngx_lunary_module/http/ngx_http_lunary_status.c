/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * lunary_status: the counters as a page, in JSON or in Prometheus' text
 * format; the argument or the client's Accept picks.
 */

#include "ngx_http_lunary_module.h"


#define NGX_HTTP_LUNARY_STATUS_JSON        1
#define NGX_HTTP_LUNARY_STATUS_PROMETHEUS  2


static ngx_int_t ngx_http_lunary_status_handler(ngx_http_request_t *r);
static ngx_uint_t ngx_http_lunary_status_format(ngx_http_request_t *r,
    ngx_uint_t format);


static ngx_str_t  ngx_http_lunary_prometheus_type =
    ngx_string("text/plain; version=0.0.4; charset=utf-8");


char *
ngx_http_lunary_conf_status(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_lunary_loc_conf_t *lcf = conf;

    ngx_str_t                    *value;
    ngx_http_core_loc_conf_t     *clcf;
    ngx_http_lunary_main_conf_t  *mcf;

    if (lcf->status) {
        return "is duplicate";
    }

    value = cf->args->elts;

    lcf->status = NGX_HTTP_LUNARY_STATUS_JSON;

    if (cf->args->nelts == 2) {

        if (ngx_strcmp(value[1].data, "prometheus") == 0) {
            lcf->status = NGX_HTTP_LUNARY_STATUS_PROMETHEUS;

        } else if (ngx_strcmp(value[1].data, "json") != 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid \"%V\" in \"lunary_status\": write "
                               "json or prometheus", &value[1]);
            return NGX_CONF_ERROR;
        }
    }

    mcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_lunary_module);
    mcf->status = 1;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_lunary_status_handler;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_lunary_status_handler(ngx_http_request_t *r)
{
    ngx_int_t                    rc;
    ngx_uint_t                   format;
    ngx_http_lunary_loc_conf_t  *lcf;

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return NGX_HTTP_NOT_ALLOWED;
    }

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    lcf = ngx_http_get_module_loc_conf(r, ngx_http_lunary_module);

    format = ngx_http_lunary_status_format(r, lcf->status);

    if (format == NGX_HTTP_LUNARY_STATUS_PROMETHEUS) {
        return ngx_http_lunary_send(r, NGX_HTTP_OK,
                                    &ngx_http_lunary_prometheus_type,
                                    ngx_lunary_stats_prometheus(r->pool));
    }

    return ngx_http_lunary_send(r, NGX_HTTP_OK, &ngx_http_lunary_json_type,
                                ngx_lunary_stats_json(r->pool));
}


/* Accept has its say where it names one of the two alone */

static ngx_uint_t
ngx_http_lunary_status_format(ngx_http_request_t *r, ngx_uint_t format)
{
    ngx_uint_t        json, text;
    ngx_table_elt_t  *h;

    h = ngx_http_lunary_header_in(r, "Accept");

    if (h == NULL) {
        return format;
    }

    json = ngx_strstr(h->value.data, "application/json") != NULL;
    text = ngx_strstr(h->value.data, "text/plain") != NULL
           || ngx_strstr(h->value.data, "openmetrics") != NULL;

    if (json && !text) {
        return NGX_HTTP_LUNARY_STATUS_JSON;
    }

    if (text && !json) {
        return NGX_HTTP_LUNARY_STATUS_PROMETHEUS;
    }

    return format;
}
