/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Configurations made, with their defaults, and merged.  What the directives
 * mean is read in ngx_http_lunary_conf.c, what does not go together is said in
 * ngx_http_lunary_conf_check.c.
 */

#include "ngx_http_lunary_module.h"


#define NGX_HTTP_LUNARY_CAPTURE_MAX  (256 * 1024)


static void ngx_http_lunary_merge_choice(ngx_http_lunary_choice_t *conf,
    ngx_http_lunary_choice_t *prev, ngx_uint_t def);


void *
ngx_http_lunary_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_lunary_main_conf_t  *mcf;

    mcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_lunary_main_conf_t));
    if (mcf == NULL) {
        return NULL;
    }

    if (ngx_array_init(&mcf->redis, cf->pool, 2,
                       sizeof(ngx_lunary_redis_conf_t *))
        != NGX_OK
        || ngx_array_init(&mcf->lookups, cf->pool, 2,
                          sizeof(ngx_lunary_redis_conf_t *))
           != NGX_OK)
    {
        return NULL;
    }

    ngx_lunary_outbox_conf_init(&mcf->outbox);

    return mcf;
}


char *
ngx_http_lunary_init_main_conf(ngx_conf_t *cf, void *conf)
{
    ngx_http_lunary_main_conf_t  *mcf = conf;

    ngx_str_t    unnamed, args[2];
    ngx_conf_t   fake;
    ngx_array_t  array;

    ngx_str_null(&unnamed);

    if (ngx_http_lunary_conf_target(mcf, &unnamed) == NULL) {

        /* as if `lunary_redis redis://127.0.0.1:6379/0` were written */

        ngx_str_set(&args[0], "lunary_redis");
        ngx_str_set(&args[1], "redis://127.0.0.1:6379/0");

        ngx_memzero(&array, sizeof(ngx_array_t));
        array.elts = args;
        array.nelts = 2;

        fake = *cf;
        fake.args = &array;

        if (ngx_http_lunary_conf_redis(&fake, NULL, mcf) != NGX_CONF_OK) {
            return NGX_CONF_ERROR;
        }
    }

    mcf->outbox.redis = ngx_http_lunary_conf_target(mcf, &unnamed);

    return NGX_CONF_OK;
}


void *
ngx_http_lunary_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_lunary_loc_conf_t  *lcf;

    lcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_lunary_loc_conf_t));
    if (lcf == NULL) {
        return NULL;
    }

    /* set by ngx_pcalloc(): blanket, arrays, complex values, strings, *_set */

    lcf->enable.value = NGX_CONF_UNSET_UINT;
    lcf->require.value = NGX_CONF_UNSET_UINT;
    lcf->capture.value = NGX_CONF_UNSET_UINT;
    lcf->sources = NGX_CONF_UNSET_PTR;
    lcf->trusted = NGX_CONF_UNSET_PTR;
    lcf->trusted_unix = NGX_CONF_UNSET;
    lcf->public = NGX_CONF_UNSET_PTR;
    lcf->accept = NGX_CONF_UNSET_UINT;
    lcf->policy = NGX_CONF_UNSET;
    lcf->dry_run = NGX_CONF_UNSET;
    lcf->conflict = NGX_CONF_UNSET_UINT;
    lcf->strip = NGX_CONF_UNSET;
    lcf->stream_usage = NGX_CONF_UNSET;
    lcf->capture_max = NGX_CONF_UNSET_SIZE;
    lcf->run_header = NGX_CONF_UNSET;
    lcf->phase = NGX_CONF_UNSET_UINT;

    return lcf;
}


/*
 * Is what answers here grpc_pass, with a name that is known?  What clients say
 * of their bodies does not do: any could say so.  Each of nginx's upstream
 * modules has its ngx_http_upstream_conf_t first, and has merged it by now; a
 * block without a name (`if`, limit_except) inherits it, also where another
 * module answers in it.  In doubt it is not: such a body is read.
 */

static ngx_uint_t
ngx_http_lunary_is_grpc(ngx_conf_t *cf, ngx_http_core_loc_conf_t *clcf,
    ngx_http_lunary_loc_conf_t *prev)
{
    ngx_uint_t                  i, k, grpc;
    ngx_module_t               *m;
    ngx_http_conf_ctx_t        *ctx;
    ngx_http_upstream_conf_t   *ucf;

    static const char *const  others[] = {
        "ngx_http_proxy_module", "ngx_http_fastcgi_module",
        "ngx_http_uwsgi_module", "ngx_http_scgi_module",
        "ngx_http_memcached_module"
    };

    if (clcf->noname) {

        if (!prev->grpc
            || (clcf->handler != NULL && clcf->handler != prev->content))
        {
            return 0;
        }

    } else if (clcf->handler == NULL) {
        return 0;
    }

    ctx = cf->ctx;
    grpc = 0;

    for (i = 0; cf->cycle->modules[i]; i++) {

        m = cf->cycle->modules[i];

        if (m->type != NGX_HTTP_MODULE || ctx->loc_conf[m->ctx_index] == NULL) {
            continue;
        }

        ucf = ctx->loc_conf[m->ctx_index];

        if (ngx_strcmp(m->name, "ngx_http_grpc_module") == 0) {
            grpc = (ucf->upstream != NULL);
            continue;
        }

        for (k = 0; k < sizeof(others) / sizeof(others[0]); k++) {
            if (ngx_strcmp(m->name, others[k]) == 0 && ucf->upstream != NULL) {
                return 0;
            }
        }
    }

    return grpc;
}


char *
ngx_http_lunary_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_lunary_loc_conf_t *prev = parent;
    ngx_http_lunary_loc_conf_t *conf = child;

    ngx_uint_t                    i;
    ngx_http_core_loc_conf_t     *clcf;
    ngx_http_lunary_main_conf_t  *mcf;

    if (conf->enable.value == NGX_CONF_UNSET_UINT && conf->enable.cv == NULL) {
        conf->blanket = prev->blanket;
    }

    ngx_http_lunary_merge_choice(&conf->enable, &prev->enable, 0);
    ngx_http_lunary_merge_choice(&conf->require, &prev->require,
                                 NGX_HTTP_LUNARY_REQUIRE_OFF);
    ngx_http_lunary_merge_choice(&conf->capture, &prev->capture,
                                 LUNARY_CAPTURE_FULL);

    if (conf->app == NULL) {
        conf->app = prev->app;
    }

    if (conf->provider == NULL) {
        conf->provider = prev->provider;
    }

    for (i = 0; i < NGX_HTTP_LUNARY_H_MAX; i++) {
        if (conf->headers[i] == NULL) {
            conf->headers[i] = prev->headers[i];
        }
    }

    ngx_conf_merge_ptr_value(conf->sources, prev->sources, NULL);
    ngx_conf_merge_ptr_value(conf->trusted, prev->trusted, NULL);
    ngx_conf_merge_value(conf->trusted_unix, prev->trusted_unix, 0);
    ngx_conf_merge_ptr_value(conf->public, prev->public, NULL);
    ngx_conf_merge_uint_value(conf->accept, prev->accept, 0);
    ngx_conf_merge_value(conf->policy, prev->policy, 1);
    ngx_conf_merge_value(conf->dry_run, prev->dry_run, 0);
    ngx_conf_merge_uint_value(conf->conflict, prev->conflict, 0);
    ngx_conf_merge_value(conf->strip, prev->strip, 1);
    ngx_conf_merge_value(conf->stream_usage, prev->stream_usage, 0);
    ngx_conf_merge_size_value(conf->capture_max, prev->capture_max,
                              NGX_HTTP_LUNARY_CAPTURE_MAX);
    ngx_conf_merge_value(conf->run_header, prev->run_header, 0);
    ngx_conf_merge_uint_value(conf->phase, prev->phase,
                              NGX_HTTP_LUNARY_PREACCESS);

    if (!conf->session_set) {
        conf->session = prev->session;
        conf->session_set = prev->session_set;
    }

    if (!conf->session_id_set) {
        conf->session_id = prev->session_id;
        conf->session_id_set = prev->session_id_set;
    }

    if (!conf->cache_set) {
        conf->cache = prev->cache;
        conf->cache_set = prev->cache_set;
    }

    if (!conf->inject_set) {
        conf->inject = prev->inject;
        conf->inject_set = prev->inject_set;
    }

    if (!conf->props_set) {
        conf->props = prev->props;
        conf->props_set = prev->props_set;
    }

    if (!conf->api_set) {
        conf->api = prev->api;
        conf->api_set = prev->api_set;
    }

    /* `if` and limit_except: the content handler is the location's */

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    conf->grpc = ngx_http_lunary_is_grpc(cf, clcf, prev);
    conf->content = (clcf->noname && clcf->handler == NULL) ? prev->content
                                                            : clcf->handler;

    if (conf->ingest == NULL && clcf->noname) {
        conf->ingest = prev->ingest;
    }

    if (conf->ingest) {

        /* what SDKs report is no call itself */

        conf->enable.value = 0;
        conf->enable.cv = NULL;
    }

    mcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_lunary_module);

    return ngx_http_lunary_conf_check(cf, mcf, conf);
}


static void
ngx_http_lunary_merge_choice(ngx_http_lunary_choice_t *conf,
    ngx_http_lunary_choice_t *prev, ngx_uint_t def)
{
    if (conf->value == NGX_CONF_UNSET_UINT && conf->cv == NULL) {
        *conf = *prev;
    }

    if (conf->value == NGX_CONF_UNSET_UINT && conf->cv == NULL) {
        conf->value = def;
    }
}
