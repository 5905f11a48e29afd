/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * lunary_ingest: parsed, its file of keys read.
 */

#include "ngx_http_lunary_ingest.h"


#define NGX_HTTP_LUNARY_KEY_FILE  (64 * 1024)


static ngx_int_t ngx_http_lunary_ingest_keys(ngx_conf_t *cf,
    ngx_http_lunary_ingest_conf_t *ic, ngx_str_t *file);


char *
ngx_http_lunary_conf_ingest(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_lunary_loc_conf_t *lcf = conf;

    ngx_str_t                      *value, *origin, file;
    ngx_uint_t                      i;
    ngx_http_core_loc_conf_t       *clcf;
    ngx_http_lunary_main_conf_t    *mcf;
    ngx_http_lunary_ingest_conf_t  *ic;

    if (lcf->ingest) {
        return "is duplicate";
    }

    ic = ngx_pcalloc(cf->pool, sizeof(ngx_http_lunary_ingest_conf_t));
    if (ic == NULL) {
        return NGX_CONF_ERROR;
    }

    if (ngx_array_init(&ic->keys, cf->pool, 4, sizeof(ngx_http_lunary_key_t))
        != NGX_OK
        || ngx_array_init(&ic->origins, cf->pool, 4, sizeof(ngx_str_t))
           != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    ngx_str_null(&file);

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "key_file=", 9) == 0
            && value[i].len > 9)
        {
            file.data = value[i].data + 9;
            file.len = value[i].len - 9;
            continue;
        }

        if (ngx_strncmp(value[i].data, "origin=", 7) == 0 && value[i].len > 7)
        {
            origin = ngx_array_push(&ic->origins);
            if (origin == NULL) {
                return NGX_CONF_ERROR;
            }

            origin->data = value[i].data + 7;
            origin->len = value[i].len - 7;
            continue;
        }

        if (ngx_strcmp(value[i].data, "llm=drop") == 0) {
            ic->drop_llm = 1;
            continue;
        }

        if (ngx_strcmp(value[i].data, "llm=keep") == 0) {
            continue;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\" in \"lunary_ingest\": "
                           "known are key_file=, origin=, llm=keep, llm=drop",
                           &value[i]);
        return NGX_CONF_ERROR;
    }

    if (file.len == 0) {
        return "needs key_file=PATH with lines \"KEY [APP]\"";
    }

    if (ngx_http_lunary_ingest_keys(cf, ic, &file) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    lcf->ingest = ic;

    mcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_lunary_module);
    mcf->used = 1;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_lunary_ingest_handler;

    return NGX_CONF_OK;
}


/* lines `KEY [APP]`; empty ones and those behind a # are passed over */

static ngx_int_t
ngx_http_lunary_ingest_keys(ngx_conf_t *cf, ngx_http_lunary_ingest_conf_t *ic,
    ngx_str_t *file)
{
    u_char                 *p, *last, *start, *end, *buf;
    ssize_t                 n;
    ngx_fd_t                fd;
    ngx_http_lunary_key_t  *key;

    if (ngx_conf_full_name(cf->cycle, file, 1) != NGX_OK) {
        return NGX_ERROR;
    }

    fd = ngx_open_file(file->data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "cannot open key_file \"%V\"", file);
        return NGX_ERROR;
    }

    /* the keys stay where they are read to */

    buf = ngx_pnalloc(cf->pool, NGX_HTTP_LUNARY_KEY_FILE);
    n = buf ? ngx_read_fd(fd, buf, NGX_HTTP_LUNARY_KEY_FILE) : -1;

    if (ngx_close_file(fd) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_ALERT, cf, ngx_errno,
                           ngx_close_file_n " \"%V\" failed", file);
    }

    if (n < 0 || n == NGX_HTTP_LUNARY_KEY_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, n < 0 ? ngx_errno : 0,
                           "key_file \"%V\" is too large or cannot be read",
                           file);
        return NGX_ERROR;
    }

    p = buf;
    last = buf + n;

    while (p < last) {

        while (p < last && (*p == ' ' || *p == '\t')) {
            p++;
        }

        start = p;

        while (p < last && *p != ' ' && *p != '\t' && *p != CR && *p != LF) {
            p++;
        }

        end = p;

        if (end > start && *start != '#') {

            key = ngx_array_push(&ic->keys);
            if (key == NULL) {
                return NGX_ERROR;
            }

            key->key.data = start;
            key->key.len = end - start;

            while (p < last && (*p == ' ' || *p == '\t')) {
                p++;
            }

            start = p;

            while (p < last && *p != ' ' && *p != '\t' && *p != CR
                   && *p != LF)
            {
                p++;
            }

            key->app.data = start;
            key->app.len = p - start;

            if (key->app.len == 0) {
                ngx_str_set(&key->app, "default");
            }
        }

        while (p < last && *p != LF) {
            p++;
        }

        p++;
    }

    if (ic->keys.nelts == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "key_file \"%V\" holds no key: write lines "
                           "\"KEY [APP]\"", file);
        return NGX_ERROR;
    }

    return NGX_OK;
}
