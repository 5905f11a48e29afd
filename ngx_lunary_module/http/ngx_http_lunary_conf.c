/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The directives that need parsing.  Every message says what is wrong and
 * what to write instead.
 */

#include "ngx_http_lunary_module.h"


static ngx_str_t  ngx_http_lunary_header_kinds[] = {
    ngx_string("user"),
    ngx_string("props"),
    ngx_string("thread"),
    ngx_string("parent"),
    ngx_string("tags")
};


char *
ngx_http_lunary_conf_redis(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_lunary_main_conf_t *mcf = conf;

    ngx_lunary_redis_conf_t  *rc, **p;

    rc = ngx_pcalloc(cf->pool, sizeof(ngx_lunary_redis_conf_t));
    if (rc == NULL) {
        return NGX_CONF_ERROR;
    }

    if (ngx_lunary_redis_parse(cf, rc) != NGX_CONF_OK) {
        return NGX_CONF_ERROR;
    }

    if (ngx_http_lunary_conf_target(mcf, &rc->name)) {

        if (rc->name.len == 0) {
            return "is duplicate: give the second one a name "
                   "(\"lunary_redis NAME URL\")";
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "duplicate lunary_redis name \"%V\"", &rc->name);
        return NGX_CONF_ERROR;
    }

    p = ngx_array_push(&mcf->redis);
    if (p == NULL) {
        return NGX_CONF_ERROR;
    }

    *p = rc;

    return NGX_CONF_OK;
}


ngx_lunary_redis_conf_t *
ngx_http_lunary_conf_target(ngx_http_lunary_main_conf_t *mcf, ngx_str_t *name)
{
    ngx_uint_t                 i;
    ngx_lunary_redis_conf_t  **p;

    p = mcf->redis.elts;

    for (i = 0; i < mcf->redis.nelts; i++) {
        if (p[i]->name.len == name->len
            && ngx_strncmp(p[i]->name.data, name->data, name->len) == 0)
        {
            return p[i];
        }
    }

    return NULL;
}


char *
ngx_http_lunary_conf_stream(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_lunary_main_conf_t *mcf = conf;

    if (ngx_http_lunary_conf_duplicate(cf, &mcf->stream_set)) {
        return "is duplicate";
    }

    return ngx_lunary_outbox_parse_stream(cf, &mcf->outbox);
}


char *
ngx_http_lunary_conf_spool(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_lunary_main_conf_t *mcf = conf;

    if (ngx_http_lunary_conf_duplicate(cf, &mcf->spool_set)) {
        return "is duplicate";
    }

    return ngx_lunary_outbox_parse_spool(cf, &mcf->outbox);
}


ngx_uint_t
ngx_http_lunary_conf_duplicate(ngx_conf_t *cf, ngx_flag_t *set)
{
    if (*set) {
        return 1;
    }

    *set = 1;

    return 0;
}


ngx_int_t
ngx_http_lunary_conf_complex(ngx_conf_t *cf, ngx_str_t *value,
    ngx_http_complex_value_t *cv)
{
    ngx_http_compile_complex_value_t  ccv;

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = value;
    ccv.complex_value = cv;

    return ngx_http_compile_complex_value(&ccv);
}


char *
ngx_http_lunary_conf_choice(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char  *p = conf;

    ngx_str_t                 *value;
    ngx_uint_t                 i;
    ngx_conf_enum_t           *words;
    ngx_http_complex_value_t  *cv;
    ngx_http_lunary_choice_t  *choice;

    choice = (ngx_http_lunary_choice_t *) (p + cmd->offset);
    words = cmd->post;
    value = cf->args->elts;

    if (choice->value != NGX_CONF_UNSET_UINT || choice->cv) {
        return "is duplicate";
    }

    if (words == ngx_http_lunary_enable_words) {
        ((ngx_http_lunary_loc_conf_t *) conf)->blanket =
                                        (cf->cmd_type == NGX_HTTP_MAIN_CONF);
    }

    for (i = 0; words[i].name.len != 0; i++) {

        if (words[i].name.len == value[1].len
            && ngx_strncmp(words[i].name.data, value[1].data, value[1].len)
               == 0)
        {
            choice->value = words[i].value;
            return NGX_CONF_OK;
        }
    }

    if (ngx_http_script_variables_count(&value[1]) == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\" in \"%V\": write one of its "
                           "words or a variable that holds one",
                           &value[1], &cmd->name);
        return NGX_CONF_ERROR;
    }

    cv = ngx_palloc(cf->pool, sizeof(ngx_http_complex_value_t));
    if (cv == NULL) {
        return NGX_CONF_ERROR;
    }

    if (ngx_http_lunary_conf_complex(cf, &value[1], cv) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    choice->cv = cv;

    return NGX_CONF_OK;
}


char *
ngx_http_lunary_conf_user(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_lunary_loc_conf_t *lcf = conf;

    ngx_str_t                 *value, text;
    ngx_uint_t                 i, j;
    ngx_http_lunary_source_t  *src, *other;

    if (lcf->sources != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    lcf->sources = ngx_array_create(cf->pool, cf->args->nelts,
                                    sizeof(ngx_http_lunary_source_t));
    if (lcf->sources == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 1; i < cf->args->nelts; i++) {

        src = ngx_array_push(lcf->sources);
        if (src == NULL) {
            return NGX_CONF_ERROR;
        }

        ngx_memzero(src, sizeof(ngx_http_lunary_source_t));

        src->name = value[i];

        if (ngx_strcmp(value[i].data, "session") == 0) {
            src->kind = NGX_HTTP_LUNARY_SRC_SESSION;

        } else if (ngx_strcmp(value[i].data, "body") == 0) {
            src->kind = NGX_HTTP_LUNARY_SRC_BODY;

        } else if (ngx_strcmp(value[i].data, "header") == 0) {
            src->kind = NGX_HTTP_LUNARY_SRC_HEADER;

        } else if (ngx_strcmp(value[i].data, "parent") == 0) {
            src->kind = NGX_HTTP_LUNARY_SRC_PARENT;

        } else {
            src->kind = NGX_HTTP_LUNARY_SRC_VALUE;
            text = value[i];

            if (ngx_strncmp(text.data, "verified:", 9) == 0) {
                text.data += 9;
                text.len -= 9;

                src->name = text;
                src->verified = 1;

                if (ngx_http_lunary_conf_verified(cf, &text) != NGX_CONF_OK) {
                    return NGX_CONF_ERROR;
                }
            }

            if (ngx_http_script_variables_count(&text) == 0) {
                ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                   "unknown source \"%V\" in \"lunary_user\": "
                                   "write session, body, header, parent, "
                                   "$variable or verified:$variable",
                                   &value[i]);
                return NGX_CONF_ERROR;
            }

            if (ngx_http_lunary_conf_complex(cf, &text, &src->value)
                != NGX_OK)
            {
                return NGX_CONF_ERROR;
            }
        }

        other = lcf->sources->elts;

        for (j = 0; j + 1 < lcf->sources->nelts; j++) {
            if (other[j].kind == src->kind
                && other[j].name.len == src->name.len
                && ngx_strncmp(other[j].name.data, src->name.data,
                               src->name.len)
                   == 0)
            {
                ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                   "duplicate source \"%V\" in "
                                   "\"lunary_user\"", &value[i]);
                return NGX_CONF_ERROR;
            }
        }
    }

    return NGX_CONF_OK;
}


/* how many bytes of a value with variables are text of its own */

size_t
ngx_http_lunary_conf_literal(ngx_str_t *value)
{
    size_t   n;
    u_char  *p, *last;

    n = 0;
    p = value->data;
    last = p + value->len;

    while (p < last) {

        if (*p != '$') {
            n++;
            p++;
            continue;
        }

        p++;

        if (p < last && *p == '{') {

            while (p < last && *p != '}') {
                p++;
            }

            p++;
            continue;
        }

        while (p < last
               && ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z')
                   || (*p >= '0' && *p <= '9') || *p == '_'))
        {
            p++;
        }
    }

    return n;
}


char *
ngx_http_lunary_conf_header(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_lunary_loc_conf_t *lcf = conf;

    u_char       ch;
    size_t       n;
    ngx_str_t   *value, *name;
    ngx_uint_t   i, kind;

    value = cf->args->elts;

    for (kind = 0; kind < NGX_HTTP_LUNARY_H_MAX; kind++) {
        if (value[1].len == ngx_http_lunary_header_kinds[kind].len
            && ngx_strncmp(value[1].data,
                           ngx_http_lunary_header_kinds[kind].data,
                           value[1].len)
               == 0)
        {
            break;
        }
    }

    if (kind == NGX_HTTP_LUNARY_H_MAX) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown \"%V\" in \"lunary_header\": write user, "
                           "props, thread, parent or tags", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (lcf->headers[kind]) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"lunary_header %V\" is duplicate: give all its "
                           "names at once", &value[1]);
        return NGX_CONF_ERROR;
    }

    lcf->headers[kind] = ngx_array_create(cf->pool, cf->args->nelts - 2,
                                          sizeof(ngx_str_t));
    if (lcf->headers[kind] == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 2; i < cf->args->nelts; i++) {

        for (n = 0; n < value[i].len; n++) {
            ch = value[i].data[n];

            if (ch == '*' && n == value[i].len - 1 && n > 0
                && kind == NGX_HTTP_LUNARY_H_PROPS)
            {
                continue;
            }

            if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z')
                  || (ch >= '0' && ch <= '9') || ch == '-' || ch == '_'))
            {
                ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                   "invalid header name \"%V\" in "
                                   "\"lunary_header\"%s", &value[i],
                                   ch == '*' ? " (only props takes Prefix-*)"
                                             : "");
                return NGX_CONF_ERROR;
            }
        }

        if (value[i].len == 0) {
            return "has an empty header name";
        }

        name = ngx_array_push(lcf->headers[kind]);
        if (name == NULL) {
            return NGX_CONF_ERROR;
        }

        *name = value[i];
    }

    return NGX_CONF_OK;
}


char *
ngx_http_lunary_conf_trusted(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_lunary_loc_conf_t *lcf = conf;

    ngx_int_t    rc;
    ngx_str_t   *value;
    ngx_uint_t   i;
    ngx_cidr_t  *cidr;

    if (lcf->trusted == NGX_CONF_UNSET_PTR) {
        lcf->trusted = ngx_array_create(cf->pool, 2, sizeof(ngx_cidr_t));
        if (lcf->trusted == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strcmp(value[i].data, "unix") == 0
            || ngx_strcmp(value[i].data, "unix:") == 0)
        {
            lcf->trusted_unix = 1;
            continue;
        }

        cidr = ngx_array_push(lcf->trusted);
        if (cidr == NULL) {
            return NGX_CONF_ERROR;
        }

        rc = ngx_ptocidr(&value[i], cidr);

        if (rc == NGX_ERROR) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid address \"%V\" in "
                               "\"lunary_trusted_from\": write an address, "
                               "a CIDR or unix", &value[i]);
            return NGX_CONF_ERROR;
        }

        if (rc == NGX_DONE) {
            ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                               "low address bits of %V are meaningless",
                               &value[i]);
        }
    }

    return NGX_CONF_OK;
}


char *
ngx_http_lunary_conf_public(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_lunary_loc_conf_t *lcf = conf;

    ngx_str_t                 *value, method;
    ngx_uint_t                 i;
    ngx_http_lunary_public_t  *pub;

    value = cf->args->elts;

    ngx_str_null(&method);
    i = 1;

    if (value[1].len && value[1].data[0] >= 'A' && value[1].data[0] <= 'Z') {
        method = value[1];
        i = 2;
    }

    if (i == cf->args->nelts) {
        return "has no path: write lunary_public [METHOD] PATH...";
    }

    if (lcf->public == NGX_CONF_UNSET_PTR) {
        lcf->public = ngx_array_create(cf->pool, 4,
                                       sizeof(ngx_http_lunary_public_t));
        if (lcf->public == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    for ( /* void */ ; i < cf->args->nelts; i++) {

        if (value[i].len == 0 || value[i].data[0] != '/') {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid path \"%V\" in \"lunary_public\": "
                               "it must begin with a slash", &value[i]);
            return NGX_CONF_ERROR;
        }

        pub = ngx_array_push(lcf->public);
        if (pub == NULL) {
            return NGX_CONF_ERROR;
        }

        pub->method = method;
        pub->path = value[i];
        pub->prefix = 0;

        if (pub->path.data[pub->path.len - 1] == '*') {
            pub->path.len--;
            pub->prefix = 1;
        }
    }

    return NGX_CONF_OK;
}


char *
ngx_http_lunary_conf_props(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_lunary_loc_conf_t *lcf = conf;

    ngx_str_t   *value, *name;
    ngx_uint_t   i;

    if (ngx_http_lunary_conf_duplicate(cf, &lcf->props_set)) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (cf->args->nelts == 2 && ngx_strcmp(value[1].data, "all") == 0) {
        return NGX_CONF_OK;
    }

    lcf->props = ngx_array_create(cf->pool, cf->args->nelts - 1,
                                  sizeof(ngx_str_t));
    if (lcf->props == NULL) {
        return NGX_CONF_ERROR;
    }

    if (cf->args->nelts == 2 && ngx_strcmp(value[1].data, "none") == 0) {
        return NGX_CONF_OK;
    }

    for (i = 1; i < cf->args->nelts; i++) {
        if (ngx_strcmp(value[i].data, "all") == 0
            || ngx_strcmp(value[i].data, "none") == 0)
        {
            return "takes all, none, or names";
        }

        name = ngx_array_push(lcf->props);
        if (name == NULL) {
            return NGX_CONF_ERROR;
        }

        *name = value[i];
    }

    return NGX_CONF_OK;
}


char *
ngx_http_lunary_conf_api(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_lunary_loc_conf_t *lcf = conf;

    ngx_str_t  *value;

    if (ngx_http_lunary_conf_duplicate(cf, &lcf->api_set)) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "auto") == 0) {
        return NGX_CONF_OK;
    }

    lcf->api = lunary_dialect_by_name(lunary_ngx_str(value[1]));

    if (lcf->api == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown API \"%V\" in \"lunary_api\": write auto "
                           "or a name of docs/apis.md, such as openai.chat",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}
