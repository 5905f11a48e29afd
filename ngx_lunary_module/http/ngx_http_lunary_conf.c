/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The directives that need parsing, and the checks of a merged location.
 * Every message says what is wrong and what to write instead.
 */

#include "ngx_http_lunary_module.h"


static ngx_int_t ngx_http_lunary_conf_complex(ngx_conf_t *cf,
    ngx_str_t *value, ngx_http_complex_value_t *cv);
static size_t ngx_http_lunary_conf_literal(ngx_str_t *value);
static ngx_uint_t ngx_http_lunary_conf_duplicate(ngx_conf_t *cf,
    ngx_flag_t *set);
static ngx_int_t ngx_http_lunary_conf_lookups(
    ngx_http_lunary_main_conf_t *mcf, ngx_lunary_redis_conf_t *redis);
static void *ngx_http_lunary_conf_field(ngx_conf_t *cf, const char *module,
    const char *directive);


static ngx_conf_enum_t  ngx_http_lunary_formats[] = {
    { ngx_string("auto"), NGX_HTTP_LUNARY_FORMAT_AUTO },
    { ngx_string("hash"), NGX_HTTP_LUNARY_FORMAT_HASH },
    { ngx_string("json"), NGX_HTTP_LUNARY_FORMAT_JSON },
    { ngx_string("string"), NGX_HTTP_LUNARY_FORMAT_STRING },
    { ngx_null_string, 0 }
};


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


static ngx_uint_t
ngx_http_lunary_conf_duplicate(ngx_conf_t *cf, ngx_flag_t *set)
{
    if (*set) {
        return 1;
    }

    *set = 1;

    return 0;
}


static ngx_int_t
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

static size_t
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
ngx_http_lunary_conf_session(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_lunary_loc_conf_t *lcf = conf;

    ngx_str_t                       *value, s;
    ngx_uint_t                       i, n;
    ngx_http_lunary_session_conf_t  *sc;

    sc = &lcf->session;

    if (ngx_http_lunary_conf_duplicate(cf, &lcf->session_set)) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (value[1].len == 0) {
        return "has an empty key";
    }

    if (ngx_http_script_variables_count(&value[1]) == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the key \"%V\" of \"lunary_session\" holds no "
                           "variable, so that all callers would share one "
                           "session: write for example sess:$cookie_sid",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    sc->key = ngx_palloc(cf->pool, sizeof(ngx_http_complex_value_t));
    if (sc->key == NULL) {
        return NGX_CONF_ERROR;
    }

    if (ngx_http_lunary_conf_complex(cf, &value[1], sc->key) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    sc->literal = ngx_http_lunary_conf_literal(&value[1]);
    sc->head = (u_char *) ngx_strchr(value[1].data, '$') - value[1].data;

    for (i = 2; i < cf->args->nelts; i++) {

        s = value[i];

        if (ngx_strncmp(s.data, "redis=", 6) == 0) {
            sc->target.data = s.data + 6;
            sc->target.len = s.len - 6;
            continue;
        }

        if (ngx_strncmp(s.data, "format=", 7) == 0) {

            for (n = 0; ngx_http_lunary_formats[n].name.len; n++) {
                if (ngx_strcmp(s.data + 7,
                               ngx_http_lunary_formats[n].name.data)
                    == 0)
                {
                    break;
                }
            }

            if (ngx_http_lunary_formats[n].name.len == 0) {
                ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                   "invalid \"%V\" in \"lunary_session\": "
                                   "write format=auto, hash, json or string",
                                   &s);
                return NGX_CONF_ERROR;
            }

            sc->format = ngx_http_lunary_formats[n].value;
            continue;
        }

        if (ngx_strncmp(s.data, "user=", 5) == 0 && s.len > 5) {
            sc->user.data = s.data + 5;
            sc->user.len = s.len - 5;
            continue;
        }

        if (ngx_strncmp(s.data, "props=", 6) == 0 && s.len > 6) {
            sc->props.data = s.data + 6;
            sc->props.len = s.len - 6;
            continue;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\" in \"lunary_session\": "
                           "known are redis=, format=, user=, props=", &s);
        return NGX_CONF_ERROR;
    }

    if (sc->format == NGX_HTTP_LUNARY_FORMAT_STRING
        && (sc->user.len || sc->props.len))
    {
        return "takes no user= or props= with format=string: "
               "the value itself is the user";
    }

    return NGX_CONF_OK;
}


char *
ngx_http_lunary_conf_session_id(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_lunary_loc_conf_t *lcf = conf;

    ngx_str_t                          *value, file;
    ngx_uint_t                          i;
    ngx_http_lunary_session_id_conf_t  *ic;

    ic = &lcf->session_id;

    if (ngx_http_lunary_conf_duplicate(cf, &lcf->session_id_set)) {
        return "is duplicate";
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "secret_file=", 12) == 0
            && value[i].len > 12 && ic->secrets == NULL)
        {
            file.data = value[i].data + 12;
            file.len = value[i].len - 12;

            ic->secrets = ngx_http_lunary_read_lines(cf, &file,
                                                     "secret_file");
            if (ic->secrets == NULL) {
                return NGX_CONF_ERROR;
            }

            continue;
        }

        if (ic->name.len) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\" in "
                               "\"lunary_session_id\": known is "
                               "secret_file=PATH", &value[i]);
            return NGX_CONF_ERROR;
        }

        if (ngx_strncmp(value[i].data, "cookie=", 7) == 0
            && value[i].len > 7)
        {
            ic->from = NGX_HTTP_LUNARY_ID_COOKIE;
            ic->name.data = value[i].data + 7;
            ic->name.len = value[i].len - 7;

        } else if (ngx_strncmp(value[i].data, "header=", 7) == 0
                   && value[i].len > 7)
        {
            ic->from = NGX_HTTP_LUNARY_ID_HEADER;
            ic->name.data = value[i].data + 7;
            ic->name.len = value[i].len - 7;

        } else if (ngx_strcmp(value[i].data, "bearer") == 0) {
            ic->from = NGX_HTTP_LUNARY_ID_BEARER;
            ngx_str_set(&ic->name, "Authorization");

        } else {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid \"%V\" in \"lunary_session_id\": "
                               "write cookie=NAME, header=NAME or bearer",
                               &value[i]);
            return NGX_CONF_ERROR;
        }
    }

    if (ic->name.len == 0) {
        return "needs cookie=NAME, header=NAME or bearer";
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
                           "remove it, or write \"lunary_strip off\" here",
                           name);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}
