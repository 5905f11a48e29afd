/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Directives, defaults, inheritance; where the module hooks into nginx;
 * what a worker sets up and takes down; the request's context.
 */

#include "ngx_http_lunary_module.h"


/* a worker's connection for look-ups */

typedef struct {
    ngx_lunary_redis_conf_t   *conf;
    ngx_lunary_redis_t        *redis;
} ngx_http_lunary_lookup_t;


static ngx_int_t ngx_http_lunary_preconfiguration(ngx_conf_t *cf);
static ngx_int_t ngx_http_lunary_postconfiguration(ngx_conf_t *cf);
static ngx_int_t ngx_http_lunary_init_process(ngx_cycle_t *cycle);
static void ngx_http_lunary_exit_process(ngx_cycle_t *cycle);


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
static time_t                     ngx_http_lunary_choice_said;


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

    ngx_str_set(&name, "content_length");

    mcf->content_length = ngx_http_get_variable_index(cf, &name);
    if (mcf->content_length == NGX_ERROR) {
        return NGX_ERROR;
    }

    if (ngx_http_lunary_header_vars(cf, mcf) != NGX_OK
        || ngx_http_lunary_provider_init(cf) != NGX_OK
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
    ngx_http_lunary_ctx_start();

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

    ngx_http_lunary_ctx_stop();
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
    ngx_conf_enum_t *words, ngx_uint_t strict)
{
    ngx_str_t   value;
    ngx_uint_t  i;

    if (choice->cv == NULL) {
        return choice->value;
    }

    if (ngx_http_complex_value(r, choice->cv, &value) != NGX_OK) {
        return strict;
    }

    for (i = 0; words[i].name.len != 0; i++) {
        if (words[i].name.len == value.len
            && ngx_strncmp(words[i].name.data, value.data, value.len) == 0)
        {
            return words[i].value;
        }
    }

    /* the text may be a client's: it is not in the log */

    if (ngx_http_lunary_seldom(&ngx_http_lunary_choice_said)) {
        ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                      "lunary: \"%V\" holds no word that its directive "
                      "knows, the strictest one is taken",
                      &choice->cv->value);
    }

    return strict;
}


ngx_uint_t
ngx_http_lunary_enabled(ngx_http_request_t *r, ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_str_t  value;

    if (lcf->enable.cv == NULL) {
        return lcf->enable.value;
    }

    /* as nginx's own conditions: what is neither empty nor "0" counts, so
     * that a wrong word does not switch off what keeps people out */

    if (ngx_http_complex_value(r, lcf->enable.cv, &value) != NGX_OK) {
        return 1;
    }

    return value.len != 0
           && !(value.len == 1 && value.data[0] == '0')
           && !(value.len == 3 && ngx_strncmp(value.data, "off", 3) == 0);
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
