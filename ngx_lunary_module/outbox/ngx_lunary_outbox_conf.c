/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The directives `lunary_stream` and `lunary_spool`.
 */

#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_lunary_outbox_internal.h"


#define NGX_LUNARY_OUTBOX_STREAM_MAX  120


static ngx_str_t *ngx_lunary_outbox_value(ngx_str_t *arg, const char *name,
    ngx_str_t *value);
static ngx_int_t ngx_lunary_outbox_number(ngx_str_t *arg, ngx_uint_t max,
    ngx_uint_t *n);
static char *ngx_lunary_outbox_invalid(ngx_conf_t *cf, ngx_str_t *arg);


/*
 * Tells whose counters know a record: random, chosen by the master once, so
 * that it is the same for all its workers and across reloads, as they are.
 */
uint64_t  ngx_lunary_outbox_generation;


void
ngx_lunary_outbox_conf_init(ngx_lunary_outbox_conf_t *conf)
{
    ngx_memzero(conf, sizeof(ngx_lunary_outbox_conf_t));

    ngx_str_set(&conf->stream, "lunary:runs");
    conf->maxlen = 100000;
    conf->maxbytes = (size_t) 1024 * 1024 * 1024;
    conf->shards = 1;
    conf->flush = 2;
    conf->flush_busy = 10;

    ngx_str_set(&conf->path, NGX_HTTP_PROXY_TEMP_PATH);
    conf->size = 64 * 1024 * 1024;
    conf->sync = NGX_LUNARY_SYNC_OFF;
}


char *
ngx_lunary_outbox_parse_stream(ngx_conf_t *cf, ngx_lunary_outbox_conf_t *conf)
{
    off_t        size;
    ngx_int_t    ms;
    ngx_str_t   *arg, value;
    ngx_uint_t   i;

    arg = cf->args->elts;

    if (arg[1].len == 0 || arg[1].len > NGX_LUNARY_OUTBOX_STREAM_MAX) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the stream's name must have 1 to %d characters",
                           NGX_LUNARY_OUTBOX_STREAM_MAX);
        return NGX_CONF_ERROR;
    }

    conf->stream = arg[1];

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_lunary_outbox_value(&arg[i], "maxlen=", &value)) {
            if (ngx_lunary_outbox_number(&value, NGX_MAX_INT32_VALUE,
                                         &conf->maxlen)
                != NGX_OK)
            {
                return ngx_lunary_outbox_invalid(cf, &arg[i]);
            }

        } else if (ngx_lunary_outbox_value(&arg[i], "maxbytes=", &value)) {
            size = ngx_parse_offset(&value);

            if (size == NGX_ERROR || (size && size < 65536)) {
                return ngx_lunary_outbox_invalid(cf, &arg[i]);
            }

            conf->maxbytes = (size_t) size;

        } else if (ngx_lunary_outbox_value(&arg[i], "shards=", &value)) {
            if (ngx_lunary_outbox_number(&value,
                                         NGX_LUNARY_OUTBOX_MAX_SHARDS,
                                         &conf->shards)
                != NGX_OK
                || conf->shards == 0)
            {
                return ngx_lunary_outbox_invalid(cf, &arg[i]);
            }

        } else if (ngx_lunary_outbox_value(&arg[i], "flush=", &value)) {
            ms = ngx_parse_time(&value, 0);

            if (ms == NGX_ERROR || ms > 60000) {
                return ngx_lunary_outbox_invalid(cf, &arg[i]);
            }

            conf->flush = (ngx_msec_t) ms;
            conf->flush_busy = conf->flush;

        } else {
            return ngx_lunary_outbox_invalid(cf, &arg[i]);
        }
    }

    return NGX_CONF_OK;
}


char *
ngx_lunary_outbox_parse_spool(ngx_conf_t *cf, ngx_lunary_outbox_conf_t *conf)
{
    off_t       size;
    ngx_str_t  *arg, value;
    ngx_uint_t  i;

    arg = cf->args->elts;

    if (arg[1].len == 3 && ngx_strncmp(arg[1].data, "off", 3) == 0) {
        ngx_str_null(&conf->path);

    } else if (arg[1].len == 0) {
        return "has an empty path: write a directory, or off";

    } else {
        conf->path = arg[1];
        conf->path_set = 1;

        while (conf->path.len > 1
               && conf->path.data[conf->path.len - 1] == '/')
        {
            conf->path.len--;
        }
    }

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_lunary_outbox_value(&arg[i], "size=", &value)) {
            size = ngx_parse_offset(&value);

            if (size == NGX_ERROR
                || size < LUNARY_SPOOL_MIN_SIZE
                || size > (off_t) LUNARY_SPOOL_MAX_SIZE)
            {
                ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                   "invalid \"%V\", a spool has at least "
                                   "256k", &arg[i]);
                return NGX_CONF_ERROR;
            }

            conf->size = (size_t) size;

        } else if (ngx_lunary_outbox_value(&arg[i], "sync=", &value)) {

            if (ngx_strcmp(value.data, "off") == 0) {
                conf->sync = NGX_LUNARY_SYNC_OFF;

            } else if (ngx_strcmp(value.data, "1s") == 0) {
                conf->sync = NGX_LUNARY_SYNC_1S;

            } else if (ngx_strcmp(value.data, "always") == 0) {
                conf->sync = NGX_LUNARY_SYNC_ALWAYS;

            } else {
                return ngx_lunary_outbox_invalid(cf, &arg[i]);
            }

        } else {
            return ngx_lunary_outbox_invalid(cf, &arg[i]);
        }
    }

    if (conf->path.len == 0 && conf->sync != NGX_LUNARY_SYNC_OFF) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"lunary_spool off\" has nothing to sync");
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


/*
 * The directory is made by nginx, as those for temporary files are: 0700, and
 * of the workers' user.
 */

char *
ngx_lunary_outbox_conf_done(ngx_conf_t *cf, ngx_lunary_outbox_conf_t *conf)
{
    u_char           *p;
    size_t            len;
    ngx_path_t       *path;

    while (ngx_lunary_outbox_generation == 0) {
        ngx_lunary_outbox_generation = (uint64_t) ngx_random() << 40
                                       ^ (uint64_t) ngx_random() << 20
                                       ^ (uint64_t) ngx_time() << 24
                                       ^ (uint64_t) ngx_pid;
    }

    if (conf->path.len == 0) {
        return NGX_CONF_OK;
    }

    path = ngx_pcalloc(cf->pool, sizeof(ngx_path_t));
    if (path == NULL) {
        return NGX_CONF_ERROR;
    }

    if (conf->path_set) {
        path->name = conf->path;

    } else {

        /* beside nginx's own: /var/lib/nginx/proxy, /var/lib/nginx/lunary */

        for (len = conf->path.len;
             len && conf->path.data[len - 1] != '/';
             len--)
        {
            /* void */
        }

        p = ngx_pnalloc(cf->pool, len + sizeof("lunary"));
        if (p == NULL) {
            return NGX_CONF_ERROR;
        }

        path->name.data = p;
        p = ngx_cpymem(p, conf->path.data, len);
        p = ngx_cpymem(p, "lunary", sizeof("lunary"));
        path->name.len = p - path->name.data - 1;
    }

    /* not terminated where "/" was cut off */

    p = ngx_pnalloc(cf->pool, path->name.len + 1);
    if (p == NULL) {
        return NGX_CONF_ERROR;
    }

    (void) ngx_cpystrn(p, path->name.data, path->name.len + 1);
    path->name.data = p;

    if (ngx_conf_full_name(cf->cycle, &path->name, 0) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    path->conf_file = cf->conf_file->file.name.data;
    path->line = cf->conf_file->line;

    conf->path = path->name;
    conf->path_set = 1;

    return (ngx_add_path(cf, &path) == NGX_OK) ? NGX_CONF_OK : NGX_CONF_ERROR;
}


static ngx_str_t *
ngx_lunary_outbox_value(ngx_str_t *arg, const char *name, ngx_str_t *value)
{
    size_t  len;

    len = ngx_strlen(name);

    if (arg->len <= len || ngx_strncmp(arg->data, name, len) != 0) {
        return NULL;
    }

    value->data = arg->data + len;
    value->len = arg->len - len;

    return value;
}


static ngx_int_t
ngx_lunary_outbox_number(ngx_str_t *arg, ngx_uint_t max, ngx_uint_t *n)
{
    ngx_int_t  value;

    value = ngx_atoi(arg->data, arg->len);

    if (value == NGX_ERROR || (ngx_uint_t) value > max) {
        return NGX_ERROR;
    }

    *n = (ngx_uint_t) value;

    return NGX_OK;
}


static char *
ngx_lunary_outbox_invalid(ngx_conf_t *cf, ngx_str_t *arg)
{
    ngx_str_t  *name;

    name = cf->args->elts;

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid parameter \"%V\" of \"%V\"", arg, &name[0]);

    return NGX_CONF_ERROR;
}
