/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What Redis has, told by its watermarks, against what the spool remembers.
 *
 *     as remembered    nothing to do
 *     newer            a batch was applied whose reply was lost: it is sent
 *     older, missing   Redis lost what it had (failover, restore, eviction):
 *                      the records above it that are still in the ring are
 *                      sent again, counted, and the log says so
 *
 * What is no watermark (somebody wrote to its key) counts as missing.
 *
 * With wait= what is newer is not safe yet: WAIT is asked before any of it is
 * acknowledged.
 */

#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_lunary_outbox_internal.h"
#include "stats/ngx_lunary_stats.h"


static ngx_uint_t ngx_lunary_outbox_is_wrong(
    ngx_lunary_outbox_shard_t *shard, ngx_lunary_outbox_batch_t *b);
static uint64_t ngx_lunary_outbox_watermark_seq(u_char *p, size_t len);
static ngx_uint_t ngx_lunary_outbox_is_older(ngx_lunary_outbox_source_t *src,
    ngx_lunary_outbox_batch_t *b, uint64_t seq);
static void ngx_lunary_outbox_policy_reply(void *data, redisReply *reply);
static ngx_int_t ngx_lunary_outbox_info(redisReply *reply, const char *name,
    ngx_str_t *value);


/* takes the watermark of a reply as the shard's */

void
ngx_lunary_outbox_progress(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_lunary_outbox_batch_t *b)
{
    uint64_t                    seq;
    ngx_lunary_outbox_shard_t  *shard;

    shard = &src->shards[b->shard];

    if (b->watermark_len == 0) {
        shard->known = 0;
        src->verify = 1;
        return;
    }

    if (ngx_lunary_outbox_is_wrong(shard, b)) {
        return;
    }

    ngx_memcpy(shard->watermark, b->watermark, b->watermark_len);
    shard->watermark_len = b->watermark_len;
    shard->known = 1;
    shard->opened = 1;

    seq = ngx_lunary_outbox_watermark_seq(b->watermark, b->watermark_len);

    shard->moved = seq;

    if (seq > shard->applied) {
        shard->applied = seq;
        ngx_lunary_outbox_cleared(ob, src, b->shard);
    }

    shard->mend = 0;
}


/*
 * A watermark that was asked for, or that a batch ran against: Redis may
 * have less than it once had.
 */

void
ngx_lunary_outbox_watermark(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_lunary_outbox_batch_t *b)
{
    uint64_t                    seq, n, acked;
    lunary_spool_pos_t          pos;
    lunary_spool_record_t       rec;
    ngx_lunary_outbox_shard_t  *shard;

    shard = &src->shards[b->shard];

    if (b->watermark_len == 0) {

        /* stale, and none there: opened again, then looked at */

        shard->known = 0;
        src->verify = 1;
        return;
    }

    if (ngx_lunary_outbox_is_wrong(shard, b)) {
        shard->known = 1;
        return;
    }

    if (b->created && b->replaced) {
        ngx_log_error(NGX_LOG_WARN, ob->log, 0,
                      "lunary: redis %V had something in \"%V\" that is no "
                      "watermark of a worker: it is overwritten, and what the "
                      "spool still has is sent again; let nobody write to "
                      "that key", &ob->conf->redis->url, &shard->key);
    }

    seq = ngx_lunary_outbox_watermark_seq(b->watermark, b->watermark_len);

    if (ngx_lunary_outbox_is_older(src, b, seq)) {

        acked = src->spool.head.seq;

        (void) lunary_spool_rewind(&src->spool, seq);

        /* those of other shards are passed over */

        n = 0;
        pos = src->spool.head;

        while (pos.seq < acked && lunary_spool_read(&src->spool, &pos, &rec)) {
            n += (rec.hash % src->spool.shards == b->shard);
            lunary_spool_next(&src->spool, &pos);
        }

        ngx_lunary_stats_add(NGX_LUNARY_C_RUNS_RESENT, n);

        ngx_log_error(NGX_LOG_WARN, ob->log, 0,
                      "lunary: redis %V %s: %uL records are sent again "
                      "to \"%V\", from sequence %uL on; consumers know them "
                      "by their run_id", &ob->conf->redis->url,
                      b->created ? "has lost the watermark"
                                 : "went back to an older state",
                      n, &shard->stream, src->spool.head.seq);

        if (src->spool.shards == 1 && src->spool.head.seq > seq + 1) {
            ngx_log_error(NGX_LOG_ERR, ob->log, 0,
                          "lunary: %uL records before them are no longer in "
                          "the spool", src->spool.head.seq - seq - 1);
        }
    }

    if (ob->conf->redis->wait && seq >= src->spool.head.seq) {

        /* applied, but who waited for the replicas? */

        src->unwaited = 1;
    }

    src->spool.send = src->spool.head;

    if (seq < shard->applied) {
        shard->applied = seq;
    }

    ngx_lunary_outbox_progress(ob, src, b);
    ngx_lunary_outbox_others(ob);
}


/* 1 where it is the one that is known to be wrong, and still to be mended */

static ngx_uint_t
ngx_lunary_outbox_is_wrong(ngx_lunary_outbox_shard_t *shard,
    ngx_lunary_outbox_batch_t *b)
{
    return shard->mend
           && b->watermark_len == shard->watermark_len
           && ngx_memcmp(b->watermark, shard->watermark,
                         b->watermark_len) == 0;
}


/* "0-<random>" of a watermark that was never moved is 0; of one that a batch
 * by MULTI has begun, "~length~watermark", the one that it names */

static uint64_t
ngx_lunary_outbox_watermark_seq(u_char *p, size_t len)
{
    uint64_t  seq;

    if (len && *p == '~') {

        do {
            p++;
            len--;
        } while (len && *p != '~');

        if (len) {
            p++;
            len--;
        }
    }

    for (seq = 0; len && *p >= '0' && *p <= '9'; p++, len--) {

        if (seq > (uint64_t) 1 << 60) {
            return 0;
        }

        seq = seq * 10 + (*p - '0');
    }

    return seq;
}


/* 1 where a record of the shard was acknowledged, is still in the ring, and
 * is above what Redis has */

static ngx_uint_t
ngx_lunary_outbox_is_older(ngx_lunary_outbox_source_t *src,
    ngx_lunary_outbox_batch_t *b, uint64_t seq)
{
    lunary_spool_t         *sp;
    lunary_spool_pos_t      pos;
    lunary_spool_record_t   rec;

    sp = &src->spool;

    if (seq + 1 >= sp->head.seq) {
        return 0;
    }

    if (sp->shards == 1) {
        return 1;
    }

    if (src->shards[b->shard].applied
        && seq >= src->shards[b->shard].applied)
    {
        return 0;
    }

    pos = sp->first;

    while (pos.seq < sp->head.seq && lunary_spool_read(sp, &pos, &rec)) {

        if (rec.seq > seq && rec.hash % sp->shards == b->shard) {
            return 1;
        }

        lunary_spool_next(sp, &pos);
    }

    return 0;
}


/* a Redis that evicts throws runs away: said once a worker */

void
ngx_lunary_outbox_policy(ngx_lunary_outbox_t *ob)
{
    ngx_str_t  argv[2];

    if (ob->policy_warned
        || (ob->policy_asked && ngx_time() - ob->policy_asked < 60))
    {
        return;
    }

    ob->policy_asked = ngx_time();

    ngx_str_set(&argv[0], "INFO");
    ngx_str_set(&argv[1], "memory");

    (void) ngx_lunary_redis_argv(ob->redis, 2, argv,
                                 ngx_lunary_outbox_policy_reply, ob);
}


static void
ngx_lunary_outbox_policy_reply(void *data, redisReply *reply)
{
    ngx_lunary_outbox_t *ob = data;

    ngx_str_t  policy, max;

    if (reply == NULL || reply->type != REDIS_REPLY_STRING
        || ngx_lunary_outbox_info(reply, "maxmemory_policy:", &policy)
           != NGX_OK
        || ngx_lunary_outbox_info(reply, "maxmemory:", &max) != NGX_OK)
    {
        return;
    }

    if ((policy.len == sizeof("noeviction") - 1
         && ngx_strncmp(policy.data, "noeviction", policy.len) == 0)
        || (max.len == 1 && max.data[0] == '0'))
    {
        return;
    }

    ob->policy_warned = 1;

    ngx_log_error(NGX_LOG_WARN, ob->log, 0,
                  "lunary: redis %V has \"maxmemory-policy %V\": when its "
                  "memory is full it may evict runs and watermarks; set it "
                  "to noeviction", &ob->conf->redis->url, &policy);
}


static ngx_int_t
ngx_lunary_outbox_info(redisReply *reply, const char *name, ngx_str_t *value)
{
    u_char  *p, *last;

    p = (u_char *) ngx_strstr(reply->str, name);

    if (p == NULL || (p != (u_char *) reply->str && p[-1] != LF)) {
        return NGX_DECLINED;
    }

    last = (u_char *) reply->str + reply->len;
    p += ngx_strlen(name);

    value->data = p;

    while (p < last && *p >= ' ') {
        p++;
    }

    value->len = p - value->data;

    return NGX_OK;
}
