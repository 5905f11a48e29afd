/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A source: a spool with the names of its keys in Redis, a set a shard.
 *
 * An adopted spool keeps the number of shards it was written for, so that
 * its watermarks are found whatever the configuration says now.
 */

#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_lunary_outbox_internal.h"


ngx_lunary_outbox_source_t *
ngx_lunary_outbox_source(ngx_log_t *log)
{
    ngx_lunary_outbox_source_t  *src;

    src = ngx_calloc(sizeof(ngx_lunary_outbox_source_t), log);
    if (src == NULL) {
        return NULL;
    }

    src->spool.fd = -1;

    return src;
}


/*
 * One shard: "lunary:runs" and "lunary:outbox:<id>".  More: "lunary:runs:{3}"
 * and "lunary:outbox:{3}:<id>", so that a cluster holds both in one place.
 */

ngx_int_t
ngx_lunary_outbox_source_keys(ngx_log_t *log, ngx_lunary_outbox_conf_t *conf,
    ngx_lunary_outbox_source_t *src)
{
    size_t                      prefix, len;
    u_char                     *p, tag[NGX_INT_T_LEN + 3];
    ngx_uint_t                  i, n;
    ngx_lunary_outbox_shard_t  *shard;

    n = src->spool.shards;

    if (n == 0 || n > NGX_LUNARY_OUTBOX_MAX_SHARDS) {
        ngx_log_error(NGX_LOG_ERR, log, 0,
                      "lunary: the spool \"%V/%s\" has %ui shards",
                      &conf->path, src->spool.name, n);
        return NGX_ERROR;
    }

    /* the prefix is the stream's name up to and with its last ":" */

    for (prefix = conf->stream.len;
         prefix && conf->stream.data[prefix - 1] != ':';
         prefix--)
    {
        /* void */
    }

    len = 2 * conf->stream.len + sizeof(":{65535}outbox:{65535}:") + 32;

    src->shards = ngx_calloc(n * (sizeof(ngx_lunary_outbox_shard_t)
                                  + sizeof(uint16_t) + len), log);
    if (src->shards == NULL) {
        return NGX_ERROR;
    }

    src->batch_of = (uint16_t *) &src->shards[n];
    p = (u_char *) &src->batch_of[n];

    for (i = 0; i < n; i++) {
        shard = &src->shards[i];
        tag[0] = '\0';

        if (n > 1) {
            *ngx_sprintf(tag, "{%ui}", i) = '\0';
        }

        shard->stream.data = p;
        p = ngx_sprintf(p, "%V%s%s", &conf->stream, n > 1 ? ":" : "", tag);
        shard->stream.len = p - shard->stream.data;

        shard->key.data = p;
        p = ngx_cpymem(p, conf->stream.data, prefix);
        p = ngx_sprintf(p, "outbox:%s%s%*s", tag, n > 1 ? ":" : "",
                        (size_t) 32, src->spool.name);
        shard->key.len = p - shard->key.data;
    }

    return NGX_OK;
}


void
ngx_lunary_outbox_free_source(ngx_lunary_outbox_source_t *src)
{
    lunary_spool_close(&src->spool);

    if (src->shards) {
        ngx_free(src->shards);
    }

    ngx_free(src);
}


/* names where the records go: another target's spool is left alone */

void
ngx_lunary_outbox_target(ngx_lunary_outbox_conf_t *conf, char *dst)
{
    u_char                   *p, *last;
    ngx_lunary_redis_conf_t  *redis;

    redis = conf->redis;

    p = (u_char *) dst;
    last = p + LUNARY_SPOOL_TARGET_MAX;

    if (redis->path.len) {
        p = ngx_slprintf(p, last, "%V/%i %V", &redis->path, redis->db,
                         &conf->stream);

    } else {
        p = ngx_slprintf(p, last, "%V:%d/%i %V", &redis->host,
                         (int) redis->port, redis->db, &conf->stream);
    }

    *p = '\0';
}
