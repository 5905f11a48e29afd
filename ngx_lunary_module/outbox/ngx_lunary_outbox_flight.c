/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What a flight carries: records from one source's `send` position on, a
 * batch a shard, as links that point into the ring.
 *
 * Invariants
 *   - a flight has at most one batch a shard, of records in their order;
 *   - it holds nothing that Redis is known to have, nothing that was set
 *     aside, and nothing that has to be durable first and is not; and not the
 *     suspect, where it is to be found out whether others are taken;
 *   - of its links those of records come behind LINKS, those of the commands
 *     around them before.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "ngx_lunary_outbox_internal.h"


/* links of commands: two a shard, the first four are a batch's by MULTI */
#define NGX_LUNARY_OUTBOX_LINKS  (2 * NGX_LUNARY_OUTBOX_MAX_SHARDS)


/*
 * Takes the next records into batches.  Returns how many; sets verify where
 * one is for a shard whose watermark is not known.
 */

ngx_uint_t
ngx_lunary_outbox_collect(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src)
{
    size_t                       bytes, most;
    u_char                      *xadd, *last;
    unsigned                     fields;
    ngx_uint_t                   n, max, shard, passed;
    lunary_spool_t              *sp;
    lunary_spool_pos_t           pos;
    lunary_spool_record_t        rec;
    ngx_lunary_outbox_batch_t   *b;
    ngx_lunary_outbox_flight_t  *f;

    f = ob->flight;
    sp = &src->spool;

    ngx_lunary_outbox_empty(f);

    f->multi = ngx_lunary_outbox_multi_ready(ob, src)
               && ngx_lunary_outbox_prefix(ob,
                              ngx_lunary_outbox_multi_size(&src->shards[0]))
                  == NGX_OK;

    most = f->multi ? ngx_lunary_outbox_multi_bytes(ob)
                    : NGX_LUNARY_OUTBOX_MAX_BYTES;

    xadd = f->prefix;
    last = f->prefix;
    fields = 0;

    ngx_memzero(src->batch_of, sp->shards * sizeof(uint16_t));

    max = ob->max_count;

    if (ob->conf->maxlen && ob->conf->maxlen < max) {
        max = ob->conf->maxlen;
    }

    if (src->trying) {

        /* the one that is refused is not to be alone */

        src->trying = 0;
        max = ngx_max(max, NGX_LUNARY_OUTBOX_TRY);
    }

    n = 0;
    passed = 0;
    bytes = 0;
    pos = sp->send;

    while (n < max && lunary_spool_read(sp, &pos, &rec)) {

        if (rec.seq > src->durable) {
            break;
        }

        shard = rec.hash % sp->shards;

        if (!src->shards[shard].known) {
            src->verify = 1;
            return 1;
        }

        if (rec.refused && rec.seq > src->shards[shard].applied) {

            /* set aside, by a worker before this one or before Redis went
             * back; those in front of it go first */

            if (n) {
                break;
            }

            src->shards[shard].applied = rec.seq;
            src->shards[shard].skipped = rec.seq;
        }

        if (rec.seq <= src->shards[shard].applied) {
            lunary_spool_next(sp, &pos);

            if (n == 0 && !passed) {
                sp->send = pos;
            }

            continue;
        }

        if (src->shards[shard].passing
            && rec.seq == src->shards[shard].suspect)
        {
            if (n) {
                break;
            }

            passed = 1;
            lunary_spool_next(sp, &pos);
            continue;
        }

        if (n && bytes + rec.len > most) {
            break;
        }

        if (src->batch_of[shard] == 0) {
            b = ngx_lunary_outbox_batch(f, shard);
            b->first_seq = rec.seq;
            b->kind = rec.kind;
            src->batch_of[shard] = (uint16_t) f->nbatches;
        }

        b = &f->batches[src->batch_of[shard] - 1];

        b->last_seq = rec.seq;
        b->count++;
        b->args += 1 + 2 * rec.fields;
        b->bytes += rec.len;

        if (f->multi) {

            if (rec.fields != fields) {
                fields = rec.fields;
                xadd = last;
                last = ngx_lunary_outbox_multi_xadd(xadd, &src->shards[shard],
                                                    fields);
            }

            ngx_lunary_outbox_append(f, b, xadd, last - xadd);
            ngx_lunary_outbox_append(f, b,
                                     (u_char *) rec.data
                                     + LUNARY_SPOOL_PREFIX,
                                     rec.len - LUNARY_SPOOL_PREFIX);
        } else {
            ngx_lunary_outbox_append(f, b, (u_char *) rec.data, rec.len);
        }

        n++;
        bytes += rec.len;

        lunary_spool_next(sp, &pos);
    }

    if (n == 0 && passed) {

        /* there is none behind it, then that one again */

        for (shard = 0; shard < sp->shards; shard++) {
            src->shards[shard].passing = 0;
        }

        return ngx_lunary_outbox_collect(ob, src);
    }

    f->count = n;
    f->bytes = bytes;
    f->end = pos;
    f->prefix_last = last;

    if (n == 0) {
        ngx_lunary_outbox_settle(ob, src);

        /* the record behind one that was set aside is not there yet: the
         * watermark is moved over it by itself */

        for (shard = 0; shard < sp->shards; shard++) {
            if (src->shards[shard].skipped > src->shards[shard].moved
                && src->shards[shard].known)
            {
                b = ngx_lunary_outbox_batch(f, shard);
                b->last_seq = src->shards[shard].skipped;
                n++;
            }
        }
    }

    return n;
}


void
ngx_lunary_outbox_empty(ngx_lunary_outbox_flight_t *f)
{
    f->nbatches = 0;
    f->nlinks = NGX_LUNARY_OUTBOX_LINKS;
    f->count = 0;
    f->bytes = 0;

    /* what was collected for a flight that could not start, perhaps from
     * another spool, does not fly with this one */

    f->end.seq = 0;
}


ngx_lunary_outbox_batch_t *
ngx_lunary_outbox_batch(ngx_lunary_outbox_flight_t *f, ngx_uint_t shard)
{
    ngx_lunary_outbox_batch_t  *b;

    b = &f->batches[f->nbatches++];

    ngx_memzero(b, offsetof(ngx_lunary_outbox_batch_t, watermark));

    b->shard = shard;
    b->last = &b->out;

    return b;
}


/* neighbours in the ring leave as one piece */

void
ngx_lunary_outbox_append(ngx_lunary_outbox_flight_t *f,
    ngx_lunary_outbox_batch_t *b, u_char *p, size_t len)
{
    ngx_buf_t    *buf;
    ngx_chain_t  *cl;

    if (b->tail && b->tail->buf->last == p) {
        b->tail->buf->last = p + len;
        return;
    }

    cl = &f->links[f->nlinks];
    buf = &f->bufs[f->nlinks];
    f->nlinks++;

    ngx_memzero(buf, sizeof(ngx_buf_t));

    buf->memory = 1;
    buf->pos = p;
    buf->last = p + len;

    cl->buf = buf;
    cl->next = NULL;

    *b->last = cl;
    b->last = &cl->next;
    b->tail = cl;
}


ngx_int_t
ngx_lunary_outbox_prefix(ngx_lunary_outbox_t *ob, size_t size)
{
    ngx_lunary_outbox_flight_t  *f;

    f = ob->flight;

    if (size <= f->prefix_size) {
        return NGX_OK;
    }

    if (f->prefix) {
        ngx_free(f->prefix);
    }

    f->prefix_size = 0;
    f->prefix = ngx_alloc(size, ob->log);

    if (f->prefix == NULL) {
        return NGX_ERROR;
    }

    f->prefix_size = size;

    return NGX_OK;
}


/* the stream's entries at most, 0: no limit */

ngx_uint_t
ngx_lunary_outbox_limit(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_shard_t *shard)
{
    ngx_uint_t  limit;

    limit = ob->conf->maxlen;

    if (shard->limit && (limit == 0 || shard->limit < limit)) {
        limit = shard->limit;
    }

    return limit;
}


/* whether the stream's memory has to be looked at */

ngx_uint_t
ngx_lunary_outbox_sample_due(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_shard_t *shard)
{
    return ob->conf->maxbytes
           && (shard->sampled == 0
               || ngx_current_msec - shard->sampled >= 1000
               || shard->since >= ob->conf->maxbytes / 64);
}
