/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The ring of a spool: appending, walking, acknowledging.  The file it lies
 * in is the business of lunary_spool_file.c, reading one after a crash of
 * lunary_spool_recover.c.
 *
 * Records lie one behind the other from LUNARY_SPOOL_DATA to `tail`.  Where
 * one does not fit before the end, or everything is acknowledged and the
 * window used up, a new lap begins at LUNARY_SPOOL_DATA; `end` remembers where
 * the lap before it ended.  Two laps exist at most: before a third one begins
 * all that is left of the first is given up, and that must be acknowledged.
 */

#include "lunary_crc32c.h"
#include "lunary_spool.h"
#include "lunary_spool_format.h"


#define LUNARY_SPOOL_WARM  2048                /* bytes; most records       */


static void lunary_spool_normalise(lunary_spool_t *sp,
    lunary_spool_pos_t *pos);
static void lunary_spool_wrap(lunary_spool_t *sp);
static void lunary_spool_warm(lunary_spool_t *sp);
static size_t lunary_spool_record_len(lunary_spool_t *sp, size_t off);


unsigned char *
lunary_spool_reserve(lunary_spool_t *sp, size_t n,
    lunary_spool_status_e *status)
{
    size_t  need, room;

    if (n > sp->max_record || sp->index != NULL) {
        *status = LUNARY_SPOOL_TOO_LARGE;
        return NULL;
    }

    need = LUNARY_SPOOL_PREFIX + n;

    if (sp->head.seq == sp->next_seq
        && sp->tail - LUNARY_SPOOL_DATA >= sp->window)
    {
        lunary_spool_wrap(sp);
    }

    if (need > sp->size - sp->tail) {

        lunary_spool_normalise(sp, &sp->head);

        room = (sp->head.seq == sp->next_seq) ? sp->size : sp->head.off;
        room -= LUNARY_SPOOL_DATA;

        if (sp->head.lap != sp->lap || need > room) {
            *status = LUNARY_SPOOL_FULL;
            return NULL;
        }

        lunary_spool_wrap(sp);
    }

    lunary_spool_normalise(sp, &sp->head);

    if (sp->head.lap != sp->lap && need > sp->head.off - sp->tail) {
        *status = LUNARY_SPOOL_FULL;
        return NULL;
    }

    /* records of the lap before that lose their bytes now */

    lunary_spool_normalise(sp, &sp->first);

    while (sp->first.lap != sp->lap && sp->first.off < sp->tail + need) {
        lunary_spool_next(sp, &sp->first);
    }

    *status = LUNARY_SPOOL_OK;

    return sp->base + sp->tail + LUNARY_SPOOL_PREFIX;
}


uint64_t
lunary_spool_commit(lunary_spool_t *sp, size_t n, unsigned kind,
    unsigned fields, uint32_t hash, uint32_t now)
{
    uint32_t        crc;
    unsigned char  *dst, head[LUNARY_SPOOL_PREFIX];

    dst = sp->base + sp->tail;

    memcpy(head, LUNARY_SPOOL_R_START, LUNARY_SPOOL_R_START_LEN);
    lunary_spool_put(head + LUNARY_SPOOL_R_EPOCH, 8, sp->epoch);
    lunary_spool_put(head + LUNARY_SPOOL_R_SEQ, 8, sp->next_seq);
    lunary_spool_put(head + LUNARY_SPOOL_R_LEN, 4, n);
    lunary_spool_put(head + LUNARY_SPOOL_R_HASH, 4, hash);
    lunary_spool_put(head + LUNARY_SPOOL_R_FIELDS, 2, fields);
    head[LUNARY_SPOOL_R_KIND] = (unsigned char) kind;
    head[LUNARY_SPOOL_R_KIND + 1] = 0;
    lunary_spool_put(head + LUNARY_SPOOL_R_TIME, 4, now);
    memcpy(head + LUNARY_SPOOL_R_END, "\r\n", 2);

    crc = lunary_crc32c(0, head + LUNARY_SPOOL_R_EPOCH,
                        LUNARY_SPOOL_R_END - LUNARY_SPOOL_R_EPOCH);
    crc = lunary_crc32c(crc, dst + LUNARY_SPOOL_PREFIX, n);
    lunary_spool_put(head + LUNARY_SPOOL_R_CRC, 4, crc);

    memcpy(dst, head, LUNARY_SPOOL_PREFIX);

    sp->tail += LUNARY_SPOOL_PREFIX + n;
    sp->bytes += LUNARY_SPOOL_PREFIX + n;
    sp->unacked[kind]++;

    lunary_spool_warm(sp);

    return sp->next_seq++;
}


/*
 * A ring is larger than a cache: the lines that the next record is written to
 * are fetched while others work, and the head of the one that goes for it
 */

static void
lunary_spool_warm(lunary_spool_t *sp)
{
    size_t          n;
    unsigned char  *p;

    p = sp->base + sp->tail;
    n = sp->size - sp->tail;

    if (n > LUNARY_SPOOL_WARM) {
        n = LUNARY_SPOOL_WARM;
    }

    for ( ;; ) {
        __builtin_prefetch(p, 1);

        if (n <= 64) {
            break;
        }

        p += 64;
        n -= 64;
    }

    if (sp->first.lap != sp->lap && sp->first.off < sp->size) {
        __builtin_prefetch(sp->base + sp->first.off + LUNARY_SPOOL_R_LEN);
    }
}


static void
lunary_spool_wrap(lunary_spool_t *sp)
{
    lunary_spool_normalise(sp, &sp->first);

    if (sp->first.lap != sp->lap) {
        sp->first.seq = sp->lap_seq;
        sp->first.off = LUNARY_SPOOL_DATA;
        sp->first.lap = sp->lap;
    }

    lunary_spool_normalise(sp, &sp->send);

    sp->end = sp->tail;
    sp->tail = LUNARY_SPOOL_DATA;
    sp->lap++;
    sp->lap_seq = sp->next_seq;

    lunary_spool_normalise(sp, &sp->first);
    lunary_spool_normalise(sp, &sp->head);
    lunary_spool_normalise(sp, &sp->send);

    lunary_spool_hint(sp->base, LUNARY_SPOOL_HINT_FLOOR, sp->first.seq);
}


/* the end of the lap before is the beginning of this one */

static void
lunary_spool_normalise(lunary_spool_t *sp, lunary_spool_pos_t *pos)
{
    if (pos->lap != sp->lap && pos->off == sp->end) {
        pos->off = LUNARY_SPOOL_DATA;
        pos->lap = sp->lap;
    }
}


static size_t
lunary_spool_record_len(lunary_spool_t *sp, size_t off)
{
    return LUNARY_SPOOL_PREFIX
           + lunary_spool_get(sp->base + off + LUNARY_SPOOL_R_LEN, 4);
}


int
lunary_spool_read(lunary_spool_t *sp, lunary_spool_pos_t *pos,
    lunary_spool_record_t *rec)
{
    size_t          off;
    unsigned char  *p;

    if (pos->seq >= sp->next_seq) {
        return 0;
    }

    if (sp->index) {
        off = sp->index[pos->off].off;

    } else {
        lunary_spool_normalise(sp, pos);
        off = pos->off;
    }

    p = sp->base + off;

    rec->seq = pos->seq;
    rec->data = p;
    rec->len = lunary_spool_record_len(sp, off);
    rec->hash = (uint32_t) lunary_spool_get(p + LUNARY_SPOOL_R_HASH, 4);
    rec->time = (uint32_t) lunary_spool_get(p + LUNARY_SPOOL_R_TIME, 4);
    rec->fields = (unsigned) lunary_spool_get(p + LUNARY_SPOOL_R_FIELDS, 2);
    rec->kind = p[LUNARY_SPOOL_R_KIND];
    rec->refused = (p[LUNARY_SPOOL_R_STATE] == LUNARY_SPOOL_R_REFUSED);

    return 1;
}


void
lunary_spool_next(lunary_spool_t *sp, lunary_spool_pos_t *pos)
{
    if (pos->seq >= sp->next_seq) {
        return;
    }

    if (sp->index) {
        pos->off++;
        pos->seq = (pos->off < sp->nindex) ? sp->index[pos->off].seq
                                           : sp->next_seq;
        return;
    }

    lunary_spool_normalise(sp, pos);

    pos->off += lunary_spool_record_len(sp, pos->off);
    pos->seq++;

    lunary_spool_normalise(sp, pos);
}


void
lunary_spool_ack(lunary_spool_t *sp, uint64_t seq, lunary_spool_done_t *done)
{
    lunary_spool_record_t  rec;

    memset(done, 0, sizeof(lunary_spool_done_t));

    while (sp->head.seq <= seq && lunary_spool_read(sp, &sp->head, &rec)) {
        sp->bytes -= rec.len;
        sp->unacked[rec.kind]--;

        if (rec.seq <= sp->counted) {
            sp->again[rec.kind]--;

        } else if (rec.refused) {
            done->refused[rec.kind]++;

        } else {
            done->sent[rec.kind]++;
        }

        lunary_spool_next(sp, &sp->head);
    }

    if (sp->send.seq < sp->head.seq) {
        sp->send = sp->head;
    }
}


void
lunary_spool_counted(lunary_spool_t *sp)
{
    uint64_t  seq;

    seq = sp->head.seq - 1;

    /* what is counted stays so, also where the head goes back */

    if (seq > sp->counted) {
        sp->counted = seq;
        lunary_spool_hint(sp->base, LUNARY_SPOOL_HINT_COUNTED, seq);
    }

    lunary_spool_hint(sp->base, LUNARY_SPOOL_HINT_ACKED, seq);
}


void
lunary_spool_recovered(lunary_spool_t *sp, uint64_t generation)
{
    sp->recovered = generation;
    lunary_spool_hint(sp->base, LUNARY_SPOOL_HINT_RECOVERED, generation);
}


void
lunary_spool_refuse(lunary_spool_t *sp, lunary_spool_record_t *rec)
{
    unsigned char  *p;

    p = sp->base + (rec->data - sp->base);

    p[LUNARY_SPOOL_R_STATE] = LUNARY_SPOOL_R_REFUSED;
    rec->refused = 1;
}


uint64_t
lunary_spool_rewind(lunary_spool_t *sp, uint64_t seq)
{
    uint64_t               n;
    lunary_spool_pos_t     pos, from;
    lunary_spool_record_t  rec;

    pos = sp->first;

    while (pos.seq <= seq && pos.seq < sp->head.seq) {
        lunary_spool_next(sp, &pos);
    }

    from = pos;

    for (n = 0; pos.seq < sp->head.seq; n++) {
        if (!lunary_spool_read(sp, &pos, &rec)) {
            break;
        }

        sp->bytes += rec.len;
        sp->unacked[rec.kind]++;
        sp->again[rec.kind]++;

        lunary_spool_next(sp, &pos);
    }

    sp->head = from;
    sp->send = from;

    return n;
}


uint64_t
lunary_spool_acked(lunary_spool_t *sp)
{
    return lunary_spool_get(sp->base + LUNARY_SPOOL_HINT_ACKED, 8);
}
