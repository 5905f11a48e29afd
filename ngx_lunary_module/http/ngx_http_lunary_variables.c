/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The variables.  None is cached: what they tell grows while the request
 * lives.  Outcome and tokens are final from their first use in the log phase.
 * None holds a control character, so that each may stand in a header.
 */

#include "ngx_http_lunary_module.h"


typedef enum {
    NGX_HTTP_LUNARY_V_APP = 0,
    NGX_HTTP_LUNARY_V_USER,
    NGX_HTTP_LUNARY_V_SOURCE,
    NGX_HTTP_LUNARY_V_VERIFIED,
    NGX_HTTP_LUNARY_V_PROPS,
    NGX_HTTP_LUNARY_V_SESSION_ID,
    NGX_HTTP_LUNARY_V_RUN_ID,
    NGX_HTTP_LUNARY_V_THREAD,
    NGX_HTTP_LUNARY_V_PARENT,
    NGX_HTTP_LUNARY_V_MODEL,
    NGX_HTTP_LUNARY_V_PROVIDER,
    NGX_HTTP_LUNARY_V_API,
    NGX_HTTP_LUNARY_V_STREAM,
    NGX_HTTP_LUNARY_V_DECISION,
    NGX_HTTP_LUNARY_V_OUTCOME,
    NGX_HTTP_LUNARY_V_TTFT,
    NGX_HTTP_LUNARY_V_INPUT_TOKENS,
    NGX_HTTP_LUNARY_V_OUTPUT_TOKENS,
    NGX_HTTP_LUNARY_V_TOTAL_TOKENS
} ngx_http_lunary_variable_e;


static ngx_int_t ngx_http_lunary_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_lunary_variable_value(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, uintptr_t data, ngx_str_t *value);
static ngx_int_t ngx_http_lunary_variable_clean(ngx_http_request_t *r,
    ngx_str_t *value);
static ngx_int_t ngx_http_lunary_variable_number(ngx_http_request_t *r,
    int64_t n, ngx_str_t *value);
static ngx_uint_t ngx_http_lunary_logging(ngx_http_request_t *r);


#define ngx_http_lunary_var(name, what)                                       \
    { ngx_string(name), NULL, ngx_http_lunary_variable, what,                 \
      NGX_HTTP_VAR_NOCACHEABLE, 0 }

static ngx_http_variable_t  ngx_http_lunary_vars[] = {
    ngx_http_lunary_var("lunary_app", NGX_HTTP_LUNARY_V_APP),
    ngx_http_lunary_var("lunary_user_id", NGX_HTTP_LUNARY_V_USER),
    ngx_http_lunary_var("lunary_user_source", NGX_HTTP_LUNARY_V_SOURCE),
    ngx_http_lunary_var("lunary_user_verified", NGX_HTTP_LUNARY_V_VERIFIED),
    ngx_http_lunary_var("lunary_user_props", NGX_HTTP_LUNARY_V_PROPS),
    ngx_http_lunary_var("lunary_session_id", NGX_HTTP_LUNARY_V_SESSION_ID),
    ngx_http_lunary_var("lunary_run_id", NGX_HTTP_LUNARY_V_RUN_ID),
    ngx_http_lunary_var("lunary_thread_id", NGX_HTTP_LUNARY_V_THREAD),
    ngx_http_lunary_var("lunary_parent_run_id", NGX_HTTP_LUNARY_V_PARENT),
    ngx_http_lunary_var("lunary_model", NGX_HTTP_LUNARY_V_MODEL),
    ngx_http_lunary_var("lunary_provider", NGX_HTTP_LUNARY_V_PROVIDER),
    ngx_http_lunary_var("lunary_api", NGX_HTTP_LUNARY_V_API),
    ngx_http_lunary_var("lunary_stream", NGX_HTTP_LUNARY_V_STREAM),
    ngx_http_lunary_var("lunary_decision", NGX_HTTP_LUNARY_V_DECISION),
    ngx_http_lunary_var("lunary_outcome", NGX_HTTP_LUNARY_V_OUTCOME),
    ngx_http_lunary_var("lunary_ttft", NGX_HTTP_LUNARY_V_TTFT),
    ngx_http_lunary_var("lunary_input_tokens",
                        NGX_HTTP_LUNARY_V_INPUT_TOKENS),
    ngx_http_lunary_var("lunary_output_tokens",
                        NGX_HTTP_LUNARY_V_OUTPUT_TOKENS),
    ngx_http_lunary_var("lunary_total_tokens",
                        NGX_HTTP_LUNARY_V_TOTAL_TOKENS),

    ngx_http_null_variable
};


ngx_int_t
ngx_http_lunary_add_variables(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_http_lunary_vars; v->name.len; v++) {
        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_lunary_variable(ngx_http_request_t *r, ngx_http_variable_value_t *v,
    uintptr_t data)
{
    ngx_int_t                    rc;
    ngx_str_t                    value;
    ngx_http_lunary_ctx_t       *ctx;
    ngx_http_lunary_loc_conf_t  *lcf;

    ngx_str_null(&value);

    v->not_found = 1;

    if (data == NGX_HTTP_LUNARY_V_SESSION_ID) {

        /* needed before there is a context: it is part of the key */

        lcf = ngx_http_get_module_loc_conf(r, ngx_http_lunary_module);
        rc = ngx_http_lunary_session_id(r, lcf, &value);

    } else {
        ctx = ngx_http_lunary_get_ctx(r);

        if (r == r->main && ngx_http_lunary_logging(r)
            && ngx_http_lunary_log_ctx(r, &ctx) == NGX_ERROR)
        {
            return NGX_ERROR;
        }

        if (ctx == NULL) {
            return NGX_OK;
        }

        rc = ngx_http_lunary_variable_value(r, ctx, data, &value);
    }

    if (rc == NGX_ERROR) {
        return NGX_ERROR;
    }

    if (value.len == 0) {
        return NGX_OK;
    }

    if (ngx_http_lunary_variable_clean(r, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    v->data = value.data;
    v->len = value.len;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


/*
 * A model or a thread may hold line ends that JSON has escaped, and variables
 * go into headers: none has a control character, they become question marks.
 */

static ngx_int_t
ngx_http_lunary_variable_clean(ngx_http_request_t *r, ngx_str_t *value)
{
    u_char  *p;
    size_t   i;

    for (i = 0; i < value->len; i++) {
        if (value->data[i] < 0x20 || value->data[i] == 0x7f) {
            break;
        }
    }

    if (i == value->len) {
        return NGX_OK;
    }

    p = ngx_pstrdup(r->pool, value);
    if (p == NULL) {
        return NGX_ERROR;
    }

    for ( /* void */ ; i < value->len; i++) {
        if (p[i] < 0x20 || p[i] == 0x7f) {
            p[i] = '?';
        }
    }

    value->data = p;

    return NGX_OK;
}


static ngx_int_t
ngx_http_lunary_variable_value(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, uintptr_t data, ngx_str_t *value)
{
    int64_t                      n;
    ngx_msec_t                   ms;
    ngx_http_lunary_identity_t  *id;

    id = &ctx->identity;

    switch (data) {

    case NGX_HTTP_LUNARY_V_APP:
        *value = ctx->app;
        return NGX_OK;

    case NGX_HTTP_LUNARY_V_USER:
        *value = id->user;
        return NGX_OK;

    case NGX_HTTP_LUNARY_V_SOURCE:
        *value = id->source;
        return NGX_OK;

    case NGX_HTTP_LUNARY_V_VERIFIED:

        if (id->user.len) {
            if (id->verified) {
                ngx_str_set(value, "1");

            } else {
                ngx_str_set(value, "0");
            }
        }

        return NGX_OK;

    case NGX_HTTP_LUNARY_V_PROPS:
        *value = id->props;
        return NGX_OK;

    case NGX_HTTP_LUNARY_V_RUN_ID:
        value->data = ctx->run_id;
        value->len = sizeof(ctx->run_id);
        return NGX_OK;

    case NGX_HTTP_LUNARY_V_THREAD:
        *value = id->thread;
        return NGX_OK;

    case NGX_HTTP_LUNARY_V_PARENT:
        *value = id->parent;
        return NGX_OK;

    case NGX_HTTP_LUNARY_V_MODEL:
        *value = ngx_http_lunary_str(ctx->call->model);
        return NGX_OK;

    case NGX_HTTP_LUNARY_V_PROVIDER:
        return ngx_http_lunary_provider(r, ctx, value);

    case NGX_HTTP_LUNARY_V_API:
        *value = ngx_http_lunary_str(ctx->call->dialect->name);
        return NGX_OK;

    case NGX_HTTP_LUNARY_V_STREAM:

        if (ctx->call->stream == 1
            || (ctx->call->stream == -1
                && ctx->call->response_state == LUNARY_BODY_STREAM))
        {
            ngx_str_set(value, "1");

        } else if (ctx->call->stream == 0
                   || ctx->call->dialect != &lunary_dialect_unknown)
        {
            ngx_str_set(value, "0");
        }

        return NGX_OK;

    case NGX_HTTP_LUNARY_V_DECISION:

        switch (ctx->verdict) {

        case NGX_HTTP_LUNARY_PASSED:
            ngx_str_set(value, "PASSED");
            break;

        case NGX_HTTP_LUNARY_REJECTED:
            ngx_str_set(value, "REJECTED");
            break;

        case NGX_HTTP_LUNARY_REJECTED_DRY_RUN:
            ngx_str_set(value, "REJECTED_DRY_RUN");
            break;

        default:
            break;
        }

        return NGX_OK;

    case NGX_HTTP_LUNARY_V_TTFT:

        if (!ctx->has_first) {
            return NGX_OK;
        }

        ms = ctx->ttft;

        if (ngx_http_lunary_logging(r)) {
            ms = ngx_min(ms, ngx_http_lunary_duration(r->main, ctx));
        }

        value->data = ngx_pnalloc(r->pool, NGX_TIME_T_LEN + 4);
        if (value->data == NULL) {
            return NGX_ERROR;
        }

        value->len = ngx_sprintf(value->data, "%T.%03M",
                                 (time_t) (ms / 1000), ms % 1000)
                     - value->data;
        return NGX_OK;

    case NGX_HTTP_LUNARY_V_OUTCOME:

        if (ngx_http_lunary_logging(r)) {
            ngx_http_lunary_finalize(r->main, ctx);
            *value = ctx->outcome;
        }

        return NGX_OK;

    default:
        break;
    }

    if (ngx_http_lunary_logging(r)) {
        ngx_http_lunary_finalize(r->main, ctx);
    }

    switch (data) {

    case NGX_HTTP_LUNARY_V_INPUT_TOKENS:
        n = ctx->call->input_tokens;
        break;

    case NGX_HTTP_LUNARY_V_OUTPUT_TOKENS:
        n = ctx->call->output_tokens;
        break;

    default: /* NGX_HTTP_LUNARY_V_TOTAL_TOKENS */
        n = ctx->call->tokens.total;

        if (n == LUNARY_UNKNOWN
            && ctx->call->input_tokens != LUNARY_UNKNOWN
            && ctx->call->output_tokens != LUNARY_UNKNOWN)
        {
            n = ctx->call->input_tokens > INT64_MAX
                                          - ctx->call->output_tokens
                ? INT64_MAX
                : ctx->call->input_tokens + ctx->call->output_tokens;
        }

        break;
    }

    if (n == LUNARY_UNKNOWN) {
        return NGX_OK;
    }

    return ngx_http_lunary_variable_number(r, n, value);
}


static ngx_int_t
ngx_http_lunary_variable_number(ngx_http_request_t *r, int64_t n,
    ngx_str_t *value)
{
    value->data = ngx_pnalloc(r->pool, NGX_INT64_LEN);
    if (value->data == NULL) {
        return NGX_ERROR;
    }

    value->len = ngx_sprintf(value->data, "%L", n) - value->data;

    return NGX_OK;
}


/* nginx says so itself: in ngx_http_free_request() */

static ngx_uint_t
ngx_http_lunary_logging(ngx_http_request_t *r)
{
    return r->connection->log->action
           && ngx_strcmp(r->connection->log->action, "logging request") == 0;
}
