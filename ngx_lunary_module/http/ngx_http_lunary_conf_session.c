/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * lunary_session and lunary_session_id: parsed.  Their files of secrets too, as
 * for any directive that names a file of lines.
 */

#include "ngx_http_lunary_module.h"


#define NGX_HTTP_LUNARY_SECRET_FILE  4096


static ngx_conf_enum_t  ngx_http_lunary_formats[] = {
    { ngx_string("auto"), NGX_HTTP_LUNARY_FORMAT_AUTO },
    { ngx_string("hash"), NGX_HTTP_LUNARY_FORMAT_HASH },
    { ngx_string("json"), NGX_HTTP_LUNARY_FORMAT_JSON },
    { ngx_string("string"), NGX_HTTP_LUNARY_FORMAT_STRING },
    { ngx_null_string, 0 }
};


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


ngx_array_t *
ngx_http_lunary_read_lines(ngx_conf_t *cf, ngx_str_t *file, const char *what)
{
    u_char       *p, *last, *start, *end;
    ssize_t       n;
    ngx_fd_t      fd;
    ngx_str_t    *secret;
    ngx_array_t  *secrets;
    u_char        buf[NGX_HTTP_LUNARY_SECRET_FILE];

    if (ngx_conf_full_name(cf->cycle, file, 1) != NGX_OK) {
        return NULL;
    }

    fd = ngx_open_file(file->data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "cannot open %s \"%V\"", what, file);
        return NULL;
    }

    n = ngx_read_fd(fd, buf, sizeof(buf));

    if (ngx_close_file(fd) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_ALERT, cf, ngx_errno,
                           ngx_close_file_n " \"%V\" failed", file);
    }

    if (n <= 0 || n == (ssize_t) sizeof(buf)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, n < 0 ? ngx_errno : 0,
                           "%s \"%V\" is empty, too large or cannot be read: "
                           "write one secret a line", what, file);
        ngx_explicit_memzero(buf, sizeof(buf));
        return NULL;
    }

    secrets = ngx_array_create(cf->pool, 2, sizeof(ngx_str_t));
    if (secrets == NULL) {
        return NULL;
    }

    p = buf;
    last = buf + n;

    while (p < last) {

        start = p;

        while (p < last && *p != LF) {
            p++;
        }

        end = p++;

        if (end > start && end[-1] == CR) {
            end--;
        }

        if (end == start) {
            continue;
        }

        secret = ngx_array_push(secrets);
        if (secret == NULL) {
            return NULL;
        }

        secret->len = end - start;
        secret->data = ngx_pnalloc(cf->pool, secret->len);
        if (secret->data == NULL) {
            return NULL;
        }

        ngx_memcpy(secret->data, start, secret->len);
    }

    ngx_explicit_memzero(buf, sizeof(buf));

    if (secrets->nelts == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "%s \"%V\" holds no secret: write one a line",
                           what, file);
        return NULL;
    }

    return secrets;
}
