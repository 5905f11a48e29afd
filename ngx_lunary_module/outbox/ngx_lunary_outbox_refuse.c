/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * An error for which nobody but a record may be to blame: is it that record,
 * or does Redis refuse every one?  A record can be told from a bad Redis only
 * when another one goes in, and so one is never set aside before that.
 *
 * What is refused twice alike is a suspect.  Then
 *     Redis names it       the script is called in `try` mode: it passes over
 *                          what is refused where one behind goes in, all in
 *                          one step, so that Redis was the same for both;
 *     it names none        (something between, or an error of the script) the
 *                          batch is halved down to one record, and then the
 *                          one behind it is sent alone, once;
 *     none is behind it    it waits for one, of whichever spool.
 *
 * Invariants
 *   - a record is set aside only after another one has gone into the same
 *     stream when, or after, it was refused;
 *   - a suspect is never acknowledged, and the others wait behind it, but for
 *     the few that are tried.
 */

#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_lunary_outbox_internal.h"
#include "stats/ngx_lunary_stats.h"


#define NGX_LUNARY_OUTBOX_REFUSED_FILES  100   /* kept in the directory       */


static ngx_uint_t ngx_lunary_outbox_find(ngx_lunary_outbox_source_t *src,
    ngx_uint_t n, uint64_t seq, lunary_spool_record_t *rec);
static ngx_msec_t ngx_lunary_outbox_refused_wait(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_batch_t *b, ngx_uint_t alone);
static void ngx_lunary_outbox_set_aside(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, lunary_spool_record_t *rec,
    ngx_str_t *text);


/* of the stream that the shard's records go into */

static uint64_t *
ngx_lunary_outbox_stream(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_uint_t n)
{
    return &ob->took[src->spool.shards == 1 ? 0 : n + 1];
}


ngx_msec_t
ngx_lunary_outbox_refused(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_lunary_outbox_batch_t *b)
{
    uint64_t                    at, took;
    ngx_str_t                   text;
    ngx_uint_t                  hash, known, few;
    ngx_msec_t                  pause;
    lunary_spool_record_t       rec, behind;
    ngx_lunary_outbox_shard_t  *shard;

    shard = &src->shards[b->shard];
    hash = ngx_hash_key(b->text, b->text_len);
    at = shard->passing ? shard->suspect : shard->applied;

    if (!shard->alike || shard->error_hash != hash || shard->error_seq != at) {

        shard->trying = shard->trying && shard->error_seq == at;
        src->trying = shard->trying;
        shard->alike = 1;
        shard->error_hash = hash;
        shard->error_seq = at;

        return NGX_LUNARY_OUTBOX_RETRY_MIN;
    }

    shard->alike = 0;
    known = (b->blame == NGX_LUNARY_OUTBOX_BLAME_RECORD);

    if (!known && b->count > 1) {
        shard->trying = 0;
        ob->max_count = ngx_max(b->count / 2, 1);
        return NGX_LUNARY_OUTBOX_RETRY_MIN;
    }

    ob->refusal_len = b->text_len;
    ngx_memcpy(ob->refusal, b->text, b->text_len);

    if (shard->passing || shard->trying) {

        /* nor is any behind it taken; few, and one more may be */

        few = shard->trying && b->count < NGX_LUNARY_OUTBOX_TRY;

        shard->passing = 0;
        shard->trying = 0;

        pause = ngx_lunary_outbox_refused_wait(ob, b, 0);
        ob->lonely = few;

        return pause;
    }

    if (!ngx_lunary_outbox_find(src, b->shard, at, &rec)) {
        return NGX_LUNARY_OUTBOX_RETRY_MIN;
    }

    took = *ngx_lunary_outbox_stream(ob, src, b->shard);

    if (shard->suspect == rec.seq && shard->took != took) {

        /* and another spool's record has gone in */

        text.data = b->text;
        text.len = b->text_len;

        ngx_lunary_outbox_set_aside(ob, src, &rec, &text);

        shard->applied = rec.seq;
        shard->skipped = rec.seq;
        shard->suspect = 0;

        return 1;
    }

    if (shard->suspect != rec.seq) {
        shard->suspect = rec.seq;
        shard->took = took;
    }

    if (!ngx_lunary_outbox_find(src, b->shard, rec.seq, &behind)
        || behind.seq > src->durable)
    {
        return ngx_lunary_outbox_refused_wait(ob, b, 1);
    }

    shard->trying = known;
    src->trying = known;
    shard->passing = !known;

    return 1;
}


/* the shard's first record above seq that was not set aside */

static ngx_uint_t
ngx_lunary_outbox_find(ngx_lunary_outbox_source_t *src, ngx_uint_t n,
    uint64_t seq, lunary_spool_record_t *rec)
{
    lunary_spool_t      *sp;
    lunary_spool_pos_t   pos;

    sp = &src->spool;
    pos = sp->send;

    while (lunary_spool_read(sp, &pos, rec)) {

        if (rec->seq > seq && !rec->refused && rec->hash % sp->shards == n) {
            return 1;
        }

        lunary_spool_next(sp, &pos);
    }

    return 0;
}


static ngx_msec_t
ngx_lunary_outbox_refused_wait(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_batch_t *b, ngx_uint_t alone)
{
    ngx_str_t  text;

    ob->lonely = alone;

    ngx_lunary_stats_inc(NGX_LUNARY_C_REDIS_ERR_REPLY);

    if (!ob->in_error) {
        ob->in_error = 1;

        text.data = b->text;
        text.len = b->text_len;

        if (alone) {
            ngx_log_error(NGX_LOG_ERR, ob->log, 0,
                          "lunary: redis %V refuses a run: \"%V\"; it waits "
                          "in the spool for another one, which will show "
                          "whether that is about the run or about redis",
                          &ob->conf->redis->url, &text);
        } else {
            ngx_log_error(NGX_LOG_ERR, ob->log, 0,
                          "lunary: redis %V refuses every run: \"%V\"; they "
                          "wait in the spool, tried again every 10 seconds",
                          &ob->conf->redis->url, &text);
        }
    }

    return NGX_LUNARY_OUTBOX_FATAL_DELAY;
}


void
ngx_lunary_outbox_refused_reply(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_batch_t *b, redisReply *reply)
{
    uint64_t                     seq;
    ngx_str_t                    text;
    ngx_uint_t                   i;
    redisReply                  *bad, *error;
    lunary_spool_t              *sp;
    lunary_spool_pos_t           pos;
    lunary_spool_record_t        rec;
    ngx_lunary_outbox_shard_t   *shard;
    ngx_lunary_outbox_source_t  *src;

    src = ob->flight->source;
    shard = &src->shards[b->shard];

    if (!shard->trying
        || ob->flight->op != NGX_LUNARY_OUTBOX_ADD
        || reply == NULL
        || reply->type != REDIS_REPLY_ARRAY
        || reply->elements < 7
        || reply->element[5]->type != REDIS_REPLY_ARRAY
        || reply->element[6]->type != REDIS_REPLY_STRING)
    {
        return;
    }

    bad = reply->element[5];
    error = reply->element[6];

    ob->refusal_len = ngx_lunary_outbox_copy(ob->refusal, sizeof(ob->refusal),
                                             error);
    text.data = ob->refusal;
    text.len = ob->refusal_len;

    sp = &src->spool;
    pos = sp->send;
    i = 0;

    /* in the order of their sequences, as they were sent */

    while (i < bad->elements
           && bad->element[i]->type == REDIS_REPLY_STRING
           && lunary_spool_read(sp, &pos, &rec)
           && rec.seq < b->last_seq)
    {
        seq = strtoull(bad->element[i]->str, NULL, 10);

        if (seq <= rec.seq) {

            if (seq == rec.seq && !rec.refused && rec.seq > shard->applied
                && rec.hash % sp->shards == b->shard)
            {
                ngx_lunary_outbox_set_aside(ob, src, &rec, &text);
            }

            i++;
            continue;
        }

        lunary_spool_next(sp, &pos);
    }
}


void
ngx_lunary_outbox_cleared(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_uint_t n)
{
    ngx_str_t                   text;
    lunary_spool_record_t       rec;
    ngx_lunary_outbox_shard_t  *shard;

    shard = &src->shards[n];

    if (shard->suspect == 0 || shard->applied < shard->suspect) {
        return;
    }

    if (shard->passing
        && shard->applied > shard->suspect
        && ngx_lunary_outbox_find(src, n, shard->suspect - 1, &rec)
        && rec.seq == shard->suspect)
    {
        /* it was not in the batch that went in */

        text.data = ob->refusal;
        text.len = ob->refusal_len;

        ngx_lunary_outbox_set_aside(ob, src, &rec, &text);
    }

    shard->suspect = 0;
    shard->trying = 0;
    shard->passing = 0;
}


void
ngx_lunary_outbox_took(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_uint_t n)
{
    (*ngx_lunary_outbox_stream(ob, src, n))++;
}


void
ngx_lunary_outbox_company(ngx_lunary_outbox_t *ob)
{
    if (!ob->lonely) {
        return;
    }

    ob->lonely = 0;

    if (ob->pause.timer_set) {
        ngx_del_timer(&ob->pause);
    }
}


/* a record leaves the queue, for a file */

static void
ngx_lunary_outbox_set_aside(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, lunary_spool_record_t *rec,
    ngx_str_t *text)
{
    int              fd;
    char             name[64];
    lunary_spool_t  *sp;

    sp = &src->spool;
    name[0] = '\0';

    if (ob->thread && ob->kept < NGX_LUNARY_OUTBOX_REFUSED_FILES) {

        *ngx_sprintf((u_char *) name, "%*s.%uL.refused", (size_t) 32,
                     sp->name, rec->seq) = '\0';

        fd = openat(ob->thread->dirfd, name,
                    O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC, 0600);

        if (fd == -1 || write(fd, rec->data, rec->len) != (ssize_t) rec->len) {
            if (fd != -1) {
                (void) unlinkat(ob->thread->dirfd, name, 0);
            }

            name[0] = '\0';

        } else {
            ob->kept++;
        }

        if (fd != -1) {
            (void) close(fd);
        }
    }

    lunary_spool_refuse(sp, rec);

    ngx_log_error(NGX_LOG_ERR, ob->log, 0,
                  "lunary: redis %V refused a record of %uz bytes: \"%V\"; "
                  "it is set aside%s%s", &ob->conf->redis->url, rec->len, text,
                  name[0] ? " in the spool's directory as " : "", name);
}
