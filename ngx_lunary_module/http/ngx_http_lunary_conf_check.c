/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The last step of merging a location: what it needs of others is found, and
 * what does not go together is refused, as early as nginx -t.
 */

#include "ngx_http_lunary_module.h"


static ngx_int_t ngx_http_lunary_conf_lookups(
    ngx_http_lunary_main_conf_t *mcf, ngx_lunary_redis_conf_t *redis);
static void *ngx_http_lunary_conf_field(ngx_conf_t *cf, const char *module,
    const char *directive);


/*
 * The place of another module's merged setting in this location, by the
 * offset in its public table of directives; NULL where it is not built in.
 */

static void *
ngx_http_lunary_conf_field(ngx_conf_t *cf, const char *module,
    const char *directive)
{
    char                *lcf;
    ngx_uint_t           i;
    ngx_module_t       **modules;
    ngx_command_t       *cmd;
    ngx_http_conf_ctx_t *ctx;

    modules = cf->cycle->modules;
    ctx = cf->ctx;

    for (i = 0; modules[i]; i++) {

        if (modules[i]->type != NGX_HTTP_MODULE
            || modules[i]->commands == NULL
            || ngx_strcmp(modules[i]->name, module) != 0)
        {
            continue;
        }

        lcf = ctx->loc_conf[modules[i]->ctx_index];
        if (lcf == NULL) {
            return NULL;
        }

        for (cmd = modules[i]->commands; cmd->name.len; cmd++) {
            if (ngx_strcmp(cmd->name.data, directive) == 0) {
                return lcf + cmd->offset;
            }
        }
    }

    return NULL;
}


/* workers connect to the target for look-ups */

static ngx_int_t
ngx_http_lunary_conf_lookups(ngx_http_lunary_main_conf_t *mcf,
    ngx_lunary_redis_conf_t *redis)
{
    ngx_uint_t                 i;
    ngx_lunary_redis_conf_t  **p;

    p = mcf->lookups.elts;

    for (i = 0; i < mcf->lookups.nelts; i++) {
        if (p[i] == redis) {
            return NGX_OK;
        }
    }

    p = ngx_array_push(&mcf->lookups);
    if (p == NULL) {
        return NGX_ERROR;
    }

    *p = redis;

    return NGX_OK;
}


/* 1 where some source may tell a verified user */

static ngx_uint_t
ngx_http_lunary_conf_proves(ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_uint_t                 i;
    ngx_http_lunary_source_t  *src;

    if (lcf->sources == NULL) {
        return lcf->session.key || lcf->trusted || lcf->trusted_unix;
    }

    src = lcf->sources->elts;

    for (i = 0; i < lcf->sources->nelts; i++) {

        if ((src[i].kind == NGX_HTTP_LUNARY_SRC_SESSION && lcf->session.key)
            || (src[i].kind == NGX_HTTP_LUNARY_SRC_HEADER
                && (lcf->trusted || lcf->trusted_unix))
            || (src[i].kind == NGX_HTTP_LUNARY_SRC_VALUE && src[i].verified))
        {
            return 1;
        }
    }

    return 0;
}


char *
ngx_http_lunary_conf_check(ngx_conf_t *cf, ngx_http_lunary_main_conf_t *mcf,
    ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_str_t                  *body;
    ngx_flag_t                 *pass;
    ngx_uint_t                  i, n;
    const char                 *name;
    ngx_http_lunary_source_t   *src;

    if (ngx_http_lunary_accept_names(cf, lcf) != NGX_OK
        || ngx_http_lunary_rewrite_names(cf, lcf) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (lcf->session.key && lcf->session.redis == NULL) {

        lcf->session.redis = ngx_http_lunary_conf_target(mcf,
                                                      &lcf->session.target);
        if (lcf->session.redis == NULL) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"lunary_session\" names redis=%V, which no "
                               "\"lunary_redis %V URL\" defines",
                               &lcf->session.target, &lcf->session.target);
            return NGX_CONF_ERROR;
        }

        if (ngx_http_lunary_conf_lookups(mcf, lcf->session.redis) != NGX_OK) {
            return NGX_CONF_ERROR;
        }
    }

    if (lcf->enable.cv == NULL && lcf->enable.value == 0) {
        return NGX_CONF_OK;
    }

    mcf->used = 1;

    if (lcf->capture_max < 1024) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"lunary_capture_max\" must be at least 1k; "
                           "to keep contents out write "
                           "\"lunary_capture none\"");
        return NGX_CONF_ERROR;
    }

    if (!mcf->notice && (lcf->capture.cv || lcf->capture.value)) {
        mcf->notice = 1;

        ngx_conf_log_error(NGX_LOG_NOTICE, cf, 0,
                           "lunary: contents of LLM calls are captured "
                           "(lunary_capture), who reads the stream reads "
                           "them");
    }

    if (lcf->policy
        && (lcf->require.cv
            || lcf->require.value != NGX_HTTP_LUNARY_REQUIRE_OFF)
        && ngx_http_lunary_conf_lookups(mcf, mcf->outbox.redis) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (lcf->session.key && lcf->session_id.from == 0
        && ngx_strnstr(lcf->session.key->value.data, "lunary_session_id",
                       lcf->session.key->value.len))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"lunary_session\" reads $lunary_session_id, "
                           "which is empty here without "
                           "\"lunary_session_id cookie=NAME\" or another");
        return NGX_CONF_ERROR;
    }

    if (lcf->require.cv == NULL
        && lcf->require.value == NGX_HTTP_LUNARY_REQUIRE_VERIFIED
        && !ngx_http_lunary_conf_proves(lcf))
    {
        ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                           "\"lunary_require_user verified\" refuses every "
                           "call here: nothing proves a user, such as "
                           "\"lunary_session\", \"lunary_user "
                           "verified:$VARIABLE\" or \"lunary_trusted_from\"");
    }

    if (lcf->sources
        && ngx_http_lunary_has_source(lcf, NGX_HTTP_LUNARY_SRC_PARENT))
    {
        mcf->cascade = 1;

        if (ngx_http_lunary_conf_lookups(mcf, mcf->outbox.redis) != NGX_OK) {
            return NGX_CONF_ERROR;
        }
    }

    src = lcf->sources ? lcf->sources->elts : NULL;

    for (i = 0; src && i < lcf->sources->nelts; i++) {

        if (src[i].kind == NGX_HTTP_LUNARY_SRC_SESSION
            && lcf->session.key == NULL)
        {
            /* beside other sources it says what the default says */

            n = lcf->sources->nelts;

            ngx_conf_log_error(n > 1 ? NGX_LOG_WARN : NGX_LOG_EMERG, cf, 0,
                               "\"lunary_user session\" needs "
                               "\"lunary_session KEY\"");
            if (n == 1) {
                return NGX_CONF_ERROR;
            }
        }

        if (src[i].kind == NGX_HTTP_LUNARY_SRC_VALUE && src[i].verified
            && lcf->phase != NGX_HTTP_LUNARY_PRECONTENT
            && ngx_strcasestrn(src[i].name.data, "remote_user",
                               sizeof("remote_user") - 2))
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"verified:%V\" is proven only after "
                               "auth_basic: it needs "
                               "\"lunary_phase precontent\"", &src[i].name);
            return NGX_CONF_ERROR;
        }
    }

    if (!lcf->strip && !lcf->stream_usage && !lcf->inject.members) {
        return NGX_CONF_OK;
    }

    body = ngx_http_lunary_conf_field(cf, "ngx_http_proxy_module",
                                      "proxy_set_body");
    pass = ngx_http_lunary_conf_field(cf, "ngx_http_proxy_module",
                                      "proxy_pass_request_body");

    if ((body && body->data) || (pass && !*pass)) {
        name = body && body->data ? "proxy_set_body"
                                  : "proxy_pass_request_body off";

        if (lcf->blanket && !lcf->inject.members) {

            /*
             * `lunary on` for all of http{} takes in such locations too as
             * auth_request asks: no client's body leaves by them
             */

            ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                               "\"%s\" sends a body that lunary does not "
                               "rewrite", name);
            return NGX_CONF_OK;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%s\" sends a body that lunary cannot rewrite: "
                           "remove it, or write \"%s off\" here",
                           name, lcf->inject.members ? "lunary_inject_user"
                                 : lcf->strip ? "lunary_strip"
                                 : "lunary_stream_usage");
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}
