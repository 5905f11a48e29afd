/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Directives, defaults, inheritance; where the module hooks into nginx;
 * what a worker sets up and takes down; the request's context.
 */

#include "ngx_http_lunary_module.h"
#include "inspect/lunary_slab.h"

#include <sys/random.h>


#define NGX_HTTP_LUNARY_CAPTURE_MAX   (256 * 1024)
#define NGX_HTTP_LUNARY_RANDOM_POOL   4000


/* a worker's connection for look-ups */

typedef struct {
    ngx_lunary_redis_conf_t   *conf;
    ngx_lunary_redis_t        *redis;
} ngx_http_lunary_lookup_t;


static void *ngx_http_lunary_create_main_conf(ngx_conf_t *cf);
static char *ngx_http_lunary_init_main_conf(ngx_conf_t *cf, void *conf);
static void *ngx_http_lunary_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_lunary_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static void ngx_http_lunary_merge_choice(ngx_http_lunary_choice_t *conf,
    ngx_http_lunary_choice_t *prev, ngx_uint_t def);
static ngx_int_t ngx_http_lunary_preconfiguration(ngx_conf_t *cf);
static ngx_int_t ngx_http_lunary_postconfiguration(ngx_conf_t *cf);
static ngx_int_t ngx_http_lunary_init_process(ngx_cycle_t *cycle);
static void ngx_http_lunary_exit_process(ngx_cycle_t *cycle);
static ngx_str_t ngx_http_lunary_method(ngx_http_request_t *r);
static void ngx_http_lunary_ctx_cleanup(void *data);
static void *ngx_http_lunary_mem(void *ctx, void *p, size_t old, size_t size);


ngx_conf_enum_t  ngx_http_lunary_enable_words[] = {
    { ngx_string("off"), 0 },
    { ngx_string("on"), 1 },
    { ngx_string("0"), 0 },
    { ngx_string("1"), 1 },
    { ngx_null_string, 0 }
};


ngx_conf_enum_t  ngx_http_lunary_require_words[] = {
    { ngx_string("off"), NGX_HTTP_LUNARY_REQUIRE_OFF },
    { ngx_string("on"), NGX_HTTP_LUNARY_REQUIRE_ON },
    { ngx_string("verified"), NGX_HTTP_LUNARY_REQUIRE_VERIFIED },
    { ngx_string("0"), NGX_HTTP_LUNARY_REQUIRE_OFF },
    { ngx_string("1"), NGX_HTTP_LUNARY_REQUIRE_ON },
    { ngx_null_string, 0 }
};


ngx_conf_enum_t  ngx_http_lunary_capture_words[] = {
    { ngx_string("full"), LUNARY_CAPTURE_FULL },
    { ngx_string("input"), LUNARY_CAPTURE_INPUT },
    { ngx_string("output"), LUNARY_CAPTURE_OUTPUT },
    { ngx_string("none"), 0 },
    { ngx_null_string, 0 }
};


static ngx_conf_enum_t  ngx_http_lunary_conflict_words[] = {
    { ngx_string("ignore"), 0 },
    { ngx_string("reject"), 1 },
    { ngx_null_string, 0 }
};


static ngx_conf_enum_t  ngx_http_lunary_phase_words[] = {
    { ngx_string("preaccess"), NGX_HTTP_LUNARY_PREACCESS },
    { ngx_string("precontent"), NGX_HTTP_LUNARY_PRECONTENT },
    { ngx_null_string, 0 }
};


#define NGX_HTTP_LUNARY_ANY  NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF             \
                             |NGX_HTTP_LOC_CONF

static ngx_command_t  ngx_http_lunary_commands[] = {

    { ngx_string("lunary"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_TAKE1,
      ngx_http_lunary_conf_choice,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_lunary_loc_conf_t, enable),
      ngx_http_lunary_enable_words },

    { ngx_string("lunary_redis"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_1MORE,
      ngx_http_lunary_conf_redis,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("lunary_stream"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_1MORE,
      ngx_http_lunary_conf_stream,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("lunary_spool"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_1MORE,
      ngx_http_lunary_conf_spool,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("lunary_app"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_TAKE1,
      ngx_http_set_complex_value_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_lunary_loc_conf_t, app),
      NULL },

    { ngx_string("lunary_user"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_1MORE,
      ngx_http_lunary_conf_user,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("lunary_header"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_2MORE,
      ngx_http_lunary_conf_header,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("lunary_accept"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_1MORE,
      ngx_http_lunary_conf_accept,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("lunary_trusted_from"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_1MORE,
      ngx_http_lunary_conf_trusted,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("lunary_session"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_1MORE,
      ngx_http_lunary_conf_session,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("lunary_session_id"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_TAKE12,
      ngx_http_lunary_conf_session_id,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("lunary_session_cache"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_1MORE,
      ngx_http_lunary_conf_cache,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("lunary_require_user"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_TAKE1,
      ngx_http_lunary_conf_choice,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_lunary_loc_conf_t, require),
      ngx_http_lunary_require_words },

    { ngx_string("lunary_public"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_1MORE,
      ngx_http_lunary_conf_public,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("lunary_policy"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_lunary_loc_conf_t, policy),
      NULL },

    { ngx_string("lunary_dry_run"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_lunary_loc_conf_t, dry_run),
      NULL },

    { ngx_string("lunary_identity_conflict"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_TAKE1,
      ngx_conf_set_enum_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_lunary_loc_conf_t, conflict),
      ngx_http_lunary_conflict_words },

    { ngx_string("lunary_strip"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_lunary_loc_conf_t, strip),
      NULL },

    { ngx_string("lunary_inject_user"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_1MORE,
      ngx_http_lunary_conf_inject,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("lunary_stream_usage"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_lunary_loc_conf_t, stream_usage),
      NULL },

    { ngx_string("lunary_capture"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_TAKE1,
      ngx_http_lunary_conf_choice,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_lunary_loc_conf_t, capture),
      ngx_http_lunary_capture_words },

    { ngx_string("lunary_capture_max"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_TAKE1,
      ngx_conf_set_size_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_lunary_loc_conf_t, capture_max),
      NULL },

    { ngx_string("lunary_props"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_1MORE,
      ngx_http_lunary_conf_props,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("lunary_api"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_TAKE1,
      ngx_http_lunary_conf_api,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("lunary_provider"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_TAKE1,
      ngx_http_set_complex_value_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_lunary_loc_conf_t, provider),
      NULL },

    { ngx_string("lunary_run_header"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_lunary_loc_conf_t, run_header),
      NULL },

    { ngx_string("lunary_phase"),
      NGX_HTTP_LUNARY_ANY|NGX_CONF_TAKE1,
      ngx_conf_set_enum_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_lunary_loc_conf_t, phase),
      ngx_http_lunary_phase_words },

    { ngx_string("lunary_status"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS|NGX_CONF_TAKE1,
      ngx_http_lunary_conf_status,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_lunary_loc_conf_t, status),
      NULL },

    { ngx_string("lunary_ingest"),
      NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_lunary_conf_ingest,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_lunary_module_ctx = {
    ngx_http_lunary_preconfiguration,      /* preconfiguration */
    ngx_http_lunary_postconfiguration,     /* postconfiguration */

    ngx_http_lunary_create_main_conf,      /* create main configuration */
    ngx_http_lunary_init_main_conf,        /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_lunary_create_loc_conf,       /* create location configuration */
    ngx_http_lunary_merge_loc_conf         /* merge location configuration */
};


ngx_module_t  ngx_http_lunary_module = {
    NGX_MODULE_V1,
    &ngx_http_lunary_module_ctx,           /* module context */
    ngx_http_lunary_commands,              /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_http_lunary_init_process,          /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_http_lunary_exit_process,          /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


/* this worker's; a process has one cycle's at a time */

static ngx_http_lunary_lookup_t  *ngx_http_lunary_lookups;
static ngx_uint_t                 ngx_http_lunary_nlookups;
ngx_uint_t                        ngx_http_lunary_serving;

static lunary_slab_t              ngx_http_lunary_slab;
static u_char                     ngx_http_lunary_pool[
                                              NGX_HTTP_LUNARY_RANDOM_POOL];
static size_t                     ngx_http_lunary_pool_left;


/* when a line that may repeat was last written */

static time_t  ngx_http_lunary_module_said;


static void *
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


static char *
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


static void *
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


static char *
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


static ngx_int_t
ngx_http_lunary_preconfiguration(ngx_conf_t *cf)
{
    return ngx_http_lunary_add_variables(cf);
}


static ngx_int_t
ngx_http_lunary_postconfiguration(ngx_conf_t *cf)
{
    ngx_uint_t                     i;
    ngx_str_t                      name;
    ngx_http_handler_pt           *h;
    ngx_lunary_redis_conf_t      **redis;
    ngx_http_core_loc_conf_t      *clcf;
    ngx_http_core_main_conf_t     *cmcf;
    ngx_http_lunary_main_conf_t   *mcf;

    mcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_lunary_module);

    if ((mcf->used || mcf->status)
        && ngx_lunary_stats_zone(cf, &ngx_http_lunary_module) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (!mcf->used) {
        return NGX_OK;
    }

    ngx_str_set(&name, "request_id");

    mcf->request_id = ngx_http_get_variable_index(cf, &name);
    if (mcf->request_id == NGX_ERROR) {
        return NGX_ERROR;
    }

    if (ngx_http_lunary_provider_init(cf) != NGX_OK
        || ngx_lunary_outbox_conf_done(cf, &mcf->outbox) != NGX_CONF_OK)
    {
        return NGX_ERROR;
    }

    /* names are resolved again on reconnect, where http{} has a resolver */

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    redis = mcf->redis.elts;

    for (i = 0; i < mcf->redis.nelts; i++) {
        redis[i]->resolver = clcf->resolver;
        redis[i]->resolver_timeout =
                           (clcf->resolver_timeout == NGX_CONF_UNSET_MSEC)
                           ? 30000 : clcf->resolver_timeout;
    }

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_PREACCESS_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_lunary_preaccess_handler;

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_PRECONTENT_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_lunary_precontent_handler;

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_LOG_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_lunary_log_handler;

    ngx_http_lunary_next_request_body = ngx_http_top_request_body_filter;
    ngx_http_top_request_body_filter = ngx_http_lunary_request_body_filter;

    return NGX_OK;
}


static ngx_int_t
ngx_http_lunary_init_process(ngx_cycle_t *cycle)
{
    ngx_uint_t                    i;
    ngx_lunary_redis_conf_t     **confs;
    ngx_http_lunary_main_conf_t  *mcf;

    ngx_http_lunary_serving = 0;

    /* the cache manager and loader run this too, but serve nobody */

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    if (ngx_get_conf(cycle->conf_ctx, ngx_http_module) == NULL) {
        return NGX_OK;
    }

    mcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_lunary_module);

    if (mcf == NULL || !mcf->used) {
        return NGX_OK;
    }

    ngx_http_lunary_serving = 1;
    ngx_http_lunary_pool_left = 0;

    ngx_lunary_stats_init(cycle);

    if (ngx_lunary_outbox_init(cycle, &mcf->outbox) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_http_lunary_nlookups = 0;

    if (mcf->lookups.nelts == 0) {
        return NGX_OK;
    }

    ngx_http_lunary_lookups = ngx_pcalloc(cycle->pool, mcf->lookups.nelts
                                         * sizeof(ngx_http_lunary_lookup_t));
    if (ngx_http_lunary_lookups == NULL) {
        return NGX_ERROR;
    }

    confs = mcf->lookups.elts;

    for (i = 0; i < mcf->lookups.nelts; i++) {
        ngx_http_lunary_lookups[i].conf = confs[i];
        ngx_http_lunary_lookups[i].redis =
                ngx_lunary_redis_create(cycle, confs[i], "lookup",
                                        confs[i]->timeout, NULL, NULL);

        if (ngx_http_lunary_lookups[i].redis == NULL) {
            return NGX_ERROR;
        }

        ngx_http_lunary_nlookups = i + 1;

        ngx_lunary_redis_connect(ngx_http_lunary_lookups[i].redis);
    }

    return NGX_OK;
}


static void
ngx_http_lunary_exit_process(ngx_cycle_t *cycle)
{
    ngx_uint_t  i;

    if (!ngx_http_lunary_serving) {
        return;
    }

    /* who waits for an answer of Redis is not served any more */

    ngx_http_lunary_serving = 0;

    for (i = 0; i < ngx_http_lunary_nlookups; i++) {
        ngx_lunary_redis_close(ngx_http_lunary_lookups[i].redis);
    }

    ngx_http_lunary_nlookups = 0;

    ngx_http_lunary_policy_exit();
    ngx_lunary_outbox_exit(cycle);
    ngx_lunary_stats_exit(cycle);

    lunary_slab_clear(&ngx_http_lunary_slab);
}


ngx_lunary_redis_t *
ngx_http_lunary_lookup_redis(ngx_lunary_redis_conf_t *conf)
{
    ngx_uint_t  i;

    for (i = 0; i < ngx_http_lunary_nlookups; i++) {
        if (ngx_http_lunary_lookups[i].conf == conf) {
            return ngx_http_lunary_lookups[i].redis;
        }
    }

    return NULL;
}


ngx_str_t
ngx_http_lunary_prefix(ngx_http_request_t *r)
{
    ngx_str_t                     prefix;
    ngx_http_lunary_main_conf_t  *mcf;

    mcf = ngx_http_get_module_main_conf(r, ngx_http_lunary_module);

    prefix = mcf->outbox.stream;

    while (prefix.len && prefix.data[prefix.len - 1] != ':') {
        prefix.len--;
    }

    return prefix;
}


ngx_uint_t
ngx_http_lunary_choice(ngx_http_request_t *r, ngx_http_lunary_choice_t *choice,
    ngx_conf_enum_t *words, ngx_uint_t bad)
{
    ngx_str_t   value;
    ngx_uint_t  i;

    if (choice->cv == NULL) {
        return choice->value;
    }

    if (ngx_http_complex_value(r, choice->cv, &value) != NGX_OK) {
        return bad;
    }

    /* an empty variable is the first word: off, full */

    if (value.len == 0) {
        return words[0].value;
    }

    for (i = 0; words[i].name.len != 0; i++) {
        if (words[i].name.len == value.len
            && ngx_strncmp(words[i].name.data, value.data, value.len) == 0)
        {
            return words[i].value;
        }
    }

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "lunary: no known word in variable: \"%V\"", &value);

    return bad;
}


ngx_uint_t
ngx_http_lunary_enabled(ngx_http_request_t *r, ngx_http_lunary_loc_conf_t *lcf)
{
    /* as nginx's own conditions: what is neither empty nor "0" counts, so
     * that a wrong word does not switch off what keeps people out */

    return ngx_http_lunary_choice(r, &lcf->enable,
                                  ngx_http_lunary_enable_words, 1);
}


static ngx_str_t
ngx_http_lunary_method(ngx_http_request_t *r)
{
    u_char     *p;
    ngx_str_t   method;

    method = r->method_name;

    if (r->internal && r->request_line.len) {

        p = ngx_strlchr(r->request_line.data,
                        r->request_line.data + r->request_line.len, ' ');

        if (p && p != r->request_line.data) {
            method.data = r->request_line.data;
            method.len = p - r->request_line.data;
        }
    }

    return method;
}


ngx_uint_t
ngx_http_lunary_posted(ngx_http_request_t *r)
{
    ngx_str_t  method;

    if (r->method & NGX_HTTP_POST) {
        return 1;
    }

    method = ngx_http_lunary_method(r);

    return method.len == sizeof("POST") - 1
           && ngx_strncmp(method.data, "POST", sizeof("POST") - 1) == 0;
}


ngx_http_lunary_ctx_t *
ngx_http_lunary_get_ctx(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t     *cln;
    ngx_http_lunary_ctx_t  *ctx;

    r = r->main;

    ctx = ngx_http_get_module_ctx(r, ngx_http_lunary_module);

    if (ctx != NULL || !(r->internal || r->filter_finalize)) {
        return ctx;
    }

    /* an internal redirect or an error page zeroed the module contexts */

    for (cln = r->pool->cleanup; cln; cln = cln->next) {
        if (cln->handler == ngx_http_lunary_ctx_cleanup) {
            ctx = cln->data;
            ngx_http_set_ctx(r, ctx, ngx_http_lunary_module);
            return ctx;
        }
    }

    return NULL;
}


ngx_http_lunary_ctx_t *
ngx_http_lunary_make_ctx(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf)
{
    u_char                 *p, random[10];
    ngx_pool_cleanup_t     *cln;
    ngx_http_lunary_ctx_t  *ctx;

    r = r->main;

    ctx = ngx_http_lunary_get_ctx(r);
    if (ctx) {
        return ctx;
    }

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_lunary_ctx_t));
    if (cln == NULL) {
        return NULL;
    }

    ctx = cln->data;
    ngx_memzero(ctx, sizeof(ngx_http_lunary_ctx_t));

    ctx->request = r;
    ctx->conf = lcf;
    ctx->last = ngx_current_msec;
    ctx->mem.fn = ngx_http_lunary_mem;
    ctx->mem.ctx = r->connection->log;

    ctx->post = ngx_http_lunary_posted(r);
    ctx->method = ngx_http_lunary_method(r);
    ctx->uri = r->uri;

    if (r->error_page && r->unparsed_uri.len) {

        /* an error was quicker than the phases, this is its page's */

        ctx->uri = r->unparsed_uri;
        p = ngx_strlchr(ctx->uri.data, ctx->uri.data + ctx->uri.len, '?');

        if (p) {
            ctx->uri.len = p - ctx->uri.data;
        }
    }

    if (ngx_http_lunary_open_call(r, ctx) != NGX_OK) {
        return NULL;
    }

    cln->handler = ngx_http_lunary_ctx_cleanup;

    ngx_http_lunary_random(random);
    lunary_uuid7(ctx->run_id,
                 (uint64_t) r->start_sec * 1000 + (uint64_t) r->start_msec,
                 random);

    ngx_http_set_ctx(r, ctx, ngx_http_lunary_module);

    return ctx;
}


ngx_int_t
ngx_http_lunary_open_call(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx)
{
    lunary_str_t         type, encoding;
    lunary_call_t       *call;
    ngx_table_elt_t     *h;
    lunary_call_conf_t   conf;

    ngx_memzero(&conf, sizeof(lunary_call_conf_t));

    conf.capture_max = ctx->conf->capture_max;
    conf.capture = (unsigned) ngx_http_lunary_choice(r, &ctx->conf->capture,
                                            ngx_http_lunary_capture_words, 0);
    conf.forced = ctx->conf->api;

    call = lunary_call_create(&ctx->mem, &conf);
    if (call == NULL) {
        return NGX_ERROR;
    }

    if (ctx->call) {
        lunary_call_destroy(ctx->call);
    }

    ctx->call = call;

    h = r->headers_in.content_type;
    type = h ? lunary_ngx_str(h->value) : lunary_str(NULL, 0);

    h = ngx_http_lunary_header_in(r, "Content-Encoding");
    encoding = h ? lunary_ngx_str(h->value) : lunary_str(NULL, 0);

    lunary_call_start(ctx->call, lunary_ngx_str(ctx->method),
                      lunary_ngx_str(r->uri), type, encoding);

    return NGX_OK;
}


static void
ngx_http_lunary_ctx_cleanup(void *data)
{
    ngx_http_lunary_ctx_t  *ctx = data;

    lunary_call_destroy(ctx->call);
}


static void *
ngx_http_lunary_mem(void *ctx, void *p, size_t old, size_t size)
{
    void  *q;

    q = lunary_slab_realloc(&ngx_http_lunary_slab, p, old, size);

    if (q == NULL && size != 0) {
        if (ngx_http_lunary_seldom(&ngx_http_lunary_module_said)) {
            ngx_log_error(NGX_LOG_WARN, (ngx_log_t *) ctx, ngx_errno,
                          "lunary: no memory to read this call, "
                          "it will be logged without what was not read");
        }
    }

    return q;
}


ngx_msec_t
ngx_http_lunary_elapsed(ngx_http_request_t *r)
{
    ngx_time_t      *tp;
    ngx_msec_int_t   ms;

    tp = ngx_timeofday();

    /* the wall clock may have been set back meanwhile */

    ms = (ngx_msec_int_t) ((tp->sec - r->start_sec) * 1000
                           + ((ngx_msec_int_t) tp->msec
                              - (ngx_msec_int_t) r->start_msec));

    return (ngx_msec_t) ngx_max(ms, 0);
}


void
ngx_http_lunary_random(u_char out[10])
{
    size_t   i;
    ssize_t  n;

    if (ngx_http_lunary_pool_left < 10) {

        n = getrandom(ngx_http_lunary_pool, NGX_HTTP_LUNARY_RANDOM_POOL,
                      GRND_NONBLOCK);

        if (n >= 10) {
            ngx_http_lunary_pool_left = (size_t) n;

        } else {
            for (i = 0; i < 10; i++) {
                out[i] = (u_char) ngx_random();
            }

            return;
        }
    }

    ngx_http_lunary_pool_left -= 10;

    ngx_memcpy(out, ngx_http_lunary_pool + ngx_http_lunary_pool_left, 10);
}


/*
 * What nginx would take OpenSSL's generator for, from the same source, where
 * nobody has asked for it yet; who asks later gets this one.
 */

ngx_int_t
ngx_http_lunary_request_id(ngx_http_request_t *r, ngx_str_t *id)
{
    u_char                        bytes[20], *p;
    ngx_http_variable_value_t    *v;
    ngx_http_lunary_main_conf_t  *mcf;

    mcf = ngx_http_get_module_main_conf(r, ngx_http_lunary_module);

    v = &r->variables[mcf->request_id];

    if (!v->valid) {

        p = ngx_pnalloc(r->pool, 32);
        if (p == NULL) {
            return NGX_ERROR;
        }

        ngx_http_lunary_random(bytes);
        ngx_http_lunary_random(bytes + 10);

        lunary_run_hex(p, bytes);

        v->data = p;
        v->len = 32;
        v->valid = 1;
        v->no_cacheable = 0;
        v->not_found = 0;
    }

    id->data = v->data;
    id->len = v->len;

    return NGX_OK;
}


ngx_uint_t
ngx_http_lunary_seldom(time_t *said)
{
    if (*said == ngx_time()) {
        return 0;
    }

    *said = ngx_time();

    return 1;
}


void
ngx_http_lunary_redis_refused(ngx_log_t *log, time_t *said, redisReply *reply,
    const char *what)
{
    ngx_str_t  text;

    if (ngx_http_lunary_seldom(said)) {
        ngx_lunary_redis_text(reply, &text);

        ngx_log_error(NGX_LOG_ERR, log, 0, "lunary: Redis refused %s: %V",
                      what, &text);
    }
}
