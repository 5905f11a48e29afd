/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * lunary_accept: how other gateways spell identity, so that their clients
 * work unchanged.  One system is one line in the table below.
 *
 * Invariants
 *   - what is read here is a claim, from trusted peers too: those guard the
 *     header they set, not other gateways'; and it is asked for after the
 *     names of lunary_header;
 *   - what is read here does not reach the upstream.
 */

#include "ngx_http_lunary_module.h"
#include "ngx_http_lunary_json.h"
#include "inspect/lunary_json.h"


#define NGX_HTTP_LUNARY_ACCEPT_METADATA_MAX  (16 * 1024)


typedef struct {
    ngx_str_t    name;
    ngx_uint_t   mask;
    char        *headers[NGX_HTTP_LUNARY_H_MAX];   /* NULL, or "A B"         */
} ngx_http_lunary_system_t;


static ngx_int_t ngx_http_lunary_accept_push(ngx_conf_t *cf,
    ngx_array_t *names, const char *list);


static ngx_http_lunary_system_t  ngx_http_lunary_systems[] = {

    { ngx_string("litellm"), NGX_HTTP_LUNARY_ACCEPT_LITELLM,
      { "x-litellm-customer-id x-litellm-end-user-id", NULL,
        "x-litellm-session-id", NULL, "x-litellm-tags" } },

    { ngx_string("helicone"), NGX_HTTP_LUNARY_ACCEPT_HELICONE,
      { "Helicone-User-Id", "Helicone-Property-*",
        "Helicone-Session-Id", NULL, NULL } },

    /* beside this a header of JSON, read below */

    { ngx_string("portkey"), NGX_HTTP_LUNARY_ACCEPT_PORTKEY,
      { NULL, NULL, NULL, NULL, NULL } },

    { ngx_null_string, 0, { NULL, NULL, NULL, NULL, NULL } }
};


static const char  *ngx_http_lunary_default_headers[] = {
    "X-Lunary-User-Id",
    "X-Lunary-User-Props",
    "X-Lunary-Thread-Id",
    "X-Lunary-Parent-Run-Id",
    "X-Lunary-Tags"
};


char *
ngx_http_lunary_conf_accept(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_lunary_loc_conf_t *lcf = conf;

    ngx_str_t                 *value;
    ngx_uint_t                 i;
    ngx_http_lunary_system_t  *sys;

    if (lcf->accept != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    lcf->accept = 0;

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (cf->args->nelts == 2 && ngx_strcmp(value[1].data, "none") == 0) {
            return NGX_CONF_OK;
        }

        for (sys = ngx_http_lunary_systems; sys->name.len; sys++) {
            if (sys->name.len == value[i].len
                && ngx_strncmp(sys->name.data, value[i].data, value[i].len)
                   == 0)
            {
                break;
            }
        }

        if (sys->name.len == 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "unknown system \"%V\" in \"lunary_accept\": "
                               "write none, or some of litellm, helicone, "
                               "portkey", &value[i]);
            return NGX_CONF_ERROR;
        }

        if (lcf->accept & sys->mask) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "duplicate \"%V\" in \"lunary_accept\"",
                               &value[i]);
            return NGX_CONF_ERROR;
        }

        lcf->accept |= sys->mask;
    }

    return NGX_CONF_OK;
}


ngx_int_t
ngx_http_lunary_accept_names(ngx_conf_t *cf, ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_str_t                 *name, *from;
    ngx_uint_t                 i, kind;
    ngx_array_t               *names;
    ngx_http_lunary_system_t  *sys;

    for (kind = 0; kind < NGX_HTTP_LUNARY_H_MAX; kind++) {

        names = ngx_array_create(cf->pool, 4, sizeof(ngx_str_t));
        if (names == NULL) {
            return NGX_ERROR;
        }

        if (lcf->headers[kind]) {
            from = lcf->headers[kind]->elts;

            for (i = 0; i < lcf->headers[kind]->nelts; i++) {
                name = ngx_array_push(names);
                if (name == NULL) {
                    return NGX_ERROR;
                }

                *name = from[i];
            }

        } else if (ngx_http_lunary_accept_push(cf, names,
                                         ngx_http_lunary_default_headers[kind])
                   != NGX_OK)
        {
            return NGX_ERROR;
        }

        if (kind == NGX_HTTP_LUNARY_H_USER) {
            lcf->own_names = names->nelts;
        }

        for (sys = ngx_http_lunary_systems; sys->name.len; sys++) {
            if ((lcf->accept & sys->mask) && sys->headers[kind]
                && ngx_http_lunary_accept_push(cf, names, sys->headers[kind])
                   != NGX_OK)
            {
                return NGX_ERROR;
            }
        }

        lcf->names[kind] = names;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_lunary_accept_push(ngx_conf_t *cf, ngx_array_t *names,
    const char *list)
{
    u_char     *p, *start;
    ngx_str_t  *name;

    p = (u_char *) list;

    while (*p) {

        start = p;

        while (*p && *p != ' ') {
            p++;
        }

        name = ngx_array_push(names);
        if (name == NULL) {
            return NGX_ERROR;
        }

        name->data = start;
        name->len = p - start;

        if (*p) {
            p++;
        }
    }

    return NGX_OK;
}


ngx_uint_t
ngx_http_lunary_accept_header(ngx_http_lunary_loc_conf_t *lcf, ngx_str_t *name)
{
    static ngx_str_t  portkey = ngx_string("x-portkey-metadata");

    return (lcf->accept & NGX_HTTP_LUNARY_ACCEPT_PORTKEY)
           && ngx_http_lunary_same_name(name, &portkey);
}


/* x-portkey-metadata: {"_user": "...", "NAME": "..."} */

ngx_int_t
ngx_http_lunary_accept_metadata(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_str_t *text)
{
    int                  rc;
    ngx_int_t            result;
    ngx_str_t            json, user, props;
    lunary_buf_t         out;
    lunary_str_t         key, value;
    lunary_json_iter_t   it;

    json = *text;

    if (json.len > NGX_HTTP_LUNARY_ACCEPT_METADATA_MAX
        || ngx_http_lunary_json_object(&json) != NGX_OK)
    {
        return NGX_DECLINED;
    }

    ngx_memzero(&out, sizeof(lunary_buf_t));
    ngx_str_null(&user);
    ngx_str_null(&props);

    value = lunary_json_get(lunary_ngx_str(json), "_user");

    if (ngx_http_lunary_json_user(r->pool, &ctx->mem, value, 0, &user)
        == NGX_ERROR)
    {
        return NGX_ERROR;
    }

    if (user.len == 0) {
        return NGX_DECLINED;
    }

    rc = 0;

    lunary_json_iter(&it, lunary_ngx_str(json));

    while (rc == 0 && lunary_json_member(&it, &key, &value)) {

        if (key.len == 0 || key.data[0] == '_') {
            continue;
        }

        rc = lunary_buf_append(&ctx->mem, &out, out.len ? ",\"" : "{\"", 2)
          || lunary_buf_append(&ctx->mem, &out, key.data, key.len)
          || lunary_buf_lit(&ctx->mem, &out, "\":")
          || lunary_buf_append(&ctx->mem, &out, value.data, value.len);
    }

    result = rc ? NGX_ERROR : NGX_OK;

    if (rc == 0 && out.len) {
        result = NGX_ERROR;

        if (lunary_buf_lit(&ctx->mem, &out, "}") == LUNARY_OK) {

            props.data = ngx_pnalloc(r->pool, out.len);

            if (props.data) {
                ngx_memcpy(props.data, out.data, out.len);
                props.len = out.len;
                result = NGX_OK;
            }
        }
    }

    lunary_buf_free(&ctx->mem, &out);

    if (result == NGX_OK) {
        ctx->headers.user = user;
        ctx->headers.accepted = 1;

        if (ctx->headers.props.len == 0) {
            ctx->headers.props = props;
        }
    }

    return result;
}


/* LiteLLM: litellm_metadata.user */

ngx_int_t
ngx_http_lunary_accept_body(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf, ngx_str_t *user)
{
    lunary_str_t       value;
    lunary_request_t  *rq;

    if (!(lcf->accept & NGX_HTTP_LUNARY_ACCEPT_LITELLM)) {
        return NGX_OK;
    }

    rq = lunary_call_body(ctx->call);
    if (rq == NULL) {
        return NGX_OK;
    }

    value = lunary_json_get(lunary_request_text(rq), "litellm_metadata");
    value = lunary_json_get(value, "user");

    return ngx_http_lunary_json_user(r->pool, &ctx->mem, value, 0, user)
           == NGX_ERROR
           ? NGX_ERROR : NGX_OK;
}
