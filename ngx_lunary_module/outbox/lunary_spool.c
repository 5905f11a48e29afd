/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The ring of a spool: appending, walking, acknowledging.  The file it lies
 * in is the business of lunary_spool_file.c, reading one after a crash of
 * lunary_spool_recover.c.
 *
 * Records lie one behind the other in pieces, which have numbers in the order
 * of their sequences, and a place of their own wherever there was room.  Most
 * of the time there are two: as soon as there is room at the beginning of the
 * file a new piece begins there, so that a spool that is not behind is a ring
 * of some 5 MB, in memory that is warm.  One that is behind takes all of the
 * file.
 *
 * Room is what neither unacknowledged records take, nor (at the beginning, and
 * while there is another choice) the last `window` bytes of acknowledged ones.
 * The place of acknowledged records is taken in their order: `first` moves,
 * and what is behind it is whole.
 */

#include "lunary_crc32c.h"
#include "lunary_spool.h"
#include "lunary_spool_format.h"


#define LUNARY_SPOOL_WARM   2048               /* bytes; most records       */
#define LUNARY_SPOOL_AHEAD  4096               /* cleared beside            */

/* so many pieces before it matters what they are spent on, and so many kept
 * for the one place that is sure to grow */
#define LUNARY_SPOOL_FEW    8
#define LUNARY_SPOOL_SPARE  3


static void lunary_spool_look(lunary_spool_t *sp);
static int lunary_spool_move(lunary_spool_t *sp, size_t need);
static int lunary_spool_worth(lunary_spool_t *sp, size_t off, size_t end);
static size_t lunary_spool_until(lunary_spool_t *sp, size_t off);
static size_t lunary_spool_used(lunary_spool_t *sp, uint64_t n, size_t *start);
static int lunary_spool_begin(lunary_spool_t *sp, size_t off);
static void lunary_spool_clear(lunary_spool_t *sp, size_t need);
static void lunary_spool_normalise(lunary_spool_t *sp,
    lunary_spool_pos_t *pos);
static void lunary_spool_warm(lunary_spool_t *sp);
static size_t lunary_spool_record_len(lunary_spool_t *sp,
    const lunary_spool_pos_t *pos);


#define lunary_spool_look_later(sp)                                           \
    ((sp)->look = (sp)->tail + (sp)->window / 64)
#define lunary_spool_at(sp, n)  (&(sp)->pieces[(n) % LUNARY_SPOOL_PIECES])

/* of the record seq, which is there, if it is among those; else NULL */
#define lunary_spool_recent(sp, seq)                                          \
    (((sp)->recent != NULL && (sp)->next_seq - (seq) <= LUNARY_SPOOL_RECENT)  \
     ? &(sp)->recent[(seq) % LUNARY_SPOOL_RECENT] : NULL)


unsigned char *
lunary_spool_reserve(lunary_spool_t *sp, size_t n,
    lunary_spool_status_e *status)
{
    size_t  need;

    if (n > sp->max_record || sp->index != NULL) {
        *status = LUNARY_SPOOL_TOO_LARGE;
        return NULL;
    }

    need = LUNARY_SPOOL_PREFIX + n;

    if (sp->tail >= sp->look) {
        lunary_spool_look(sp);
    }

    if (sp->tail + need > sp->limit && !lunary_spool_move(sp, need)) {
        *status = LUNARY_SPOOL_FULL;
        return NULL;
    }

    if (sp->tail + need > sp->clear) {
        lunary_spool_clear(sp, need);
    }

    *status = LUNARY_SPOOL_OK;

    return sp->base + sp->tail + LUNARY_SPOOL_PREFIX;
}


/* now and then: is there room enough at the beginning of the file? */

static void
lunary_spool_look(lunary_spool_t *sp)
{
    size_t  keep;

    lunary_spool_normalise(sp, &sp->head);

    keep = sp->window + sp->window / 8;

    /* what waits will be acknowledged, and is not what was kept */

    if (sp->head.seq != sp->next_seq) {
        keep += sp->bytes;
    }

    if (lunary_spool_until(sp, LUNARY_SPOOL_DATA) - LUNARY_SPOOL_DATA >= keep
        && sp->tail - LUNARY_SPOOL_DATA >= keep)
    {
        (void) lunary_spool_begin(sp, LUNARY_SPOOL_DATA);
    }

    lunary_spool_look_later(sp);
}


/*
 * The current piece has no room: perhaps it has by now, else the first place
 * that is worth it, else the largest.  0: there is none.
 */

static int
lunary_spool_move(lunary_spool_t *sp, size_t need)
{
    size_t    off, end, best, room, start;
    uint64_t  n;

    lunary_spool_normalise(sp, &sp->head);

    sp->limit = lunary_spool_until(sp, sp->tail);

    if (sp->tail + need <= sp->limit) {
        return 1;
    }

    best = 0;
    room = 0;
    off = LUNARY_SPOOL_DATA;

    for ( ;; ) {
        end = lunary_spool_until(sp, off);

        if (end - off > room && lunary_spool_worth(sp, off, end)) {
            best = off;
            room = end - off;

            if (room >= need && room >= sp->window / 4) {
                break;
            }
        }

        if (end == sp->size) {
            break;
        }

        /* behind what is there */

        for (n = sp->head.piece; n <= sp->piece; n++) {
            off = lunary_spool_used(sp, n, &start);

            if (start == end && off > start) {
                break;
            }
        }
    }

    return room >= need && lunary_spool_begin(sp, best);
}


/*
 * There are so many pieces only: not one for every crumb between records.  The
 * place in front of `head` grows with each acknowledgement.
 */

static int
lunary_spool_worth(lunary_spool_t *sp, size_t off, size_t end)
{
    uint64_t  n;

    if (end == sp->head.off) {
        return 1;
    }

    n = sp->piece + 1 - sp->head.piece;

    return n < LUNARY_SPOOL_FEW
           || (n < LUNARY_SPOOL_PIECES - LUNARY_SPOOL_SPARE
               && end - off >= sp->window / 16);
}


/* from off, which is free: the beginning of the next record that is not
 * acknowledged, or the end of the file */

static size_t
lunary_spool_until(lunary_spool_t *sp, size_t off)
{
    size_t    start, end, until;
    uint64_t  n;

    until = sp->size;

    for (n = sp->head.piece; n <= sp->piece; n++) {
        end = lunary_spool_used(sp, n, &start);

        if (end > start && start >= off && start < until) {
            until = start;
        }
    }

    return until;
}


/* what the records of a piece that are not acknowledged take: to where; and,
 * in *start, from where */

static size_t
lunary_spool_used(lunary_spool_t *sp, uint64_t n, size_t *start)
{
    lunary_spool_piece_t  *piece;

    piece = lunary_spool_at(sp, n);

    *start = (n == sp->head.piece) ? sp->head.off : piece->start;

    return (n == sp->piece) ? sp->tail : piece->end;
}


/* a new piece; 0: there are too many */

static int
lunary_spool_begin(lunary_spool_t *sp, size_t off)
{
    uint64_t               oldest;
    lunary_spool_piece_t  *piece;

    if (sp->piece + 2 - sp->head.piece > LUNARY_SPOOL_PIECES) {
        return 0;
    }

    oldest = sp->piece + 2 - LUNARY_SPOOL_PIECES;

    if (sp->piece + 2 > LUNARY_SPOOL_PIECES && sp->first.piece < oldest) {

        sp->first.piece = oldest;
        sp->first.off = lunary_spool_at(sp, oldest)->start;
        sp->first.seq = lunary_spool_at(sp, oldest)->seq;

        lunary_spool_hint(sp->base, LUNARY_SPOOL_HINT_FLOOR, sp->first.seq);
    }

    lunary_spool_at(sp, sp->piece)->end = sp->tail;

    sp->piece++;

    piece = lunary_spool_at(sp, sp->piece);
    piece->start = off;
    piece->end = 0;
    piece->seq = sp->next_seq;

    sp->tail = off;
    sp->clear = off;

    lunary_spool_look_later(sp);

    lunary_spool_normalise(sp, &sp->first);
    lunary_spool_normalise(sp, &sp->head);
    lunary_spool_normalise(sp, &sp->send);

    sp->limit = lunary_spool_until(sp, off);

    return 1;
}


/* what is acknowledged and lies ahead loses its place, a little more of it
 * than is needed now */

static void
lunary_spool_clear(lunary_spool_t *sp, size_t need)
{
    size_t                 ahead, end, from, to;
    uint64_t               n, last;

    ahead = sp->window / 16;

    if (ahead > LUNARY_SPOOL_AHEAD) {
        ahead = LUNARY_SPOOL_AHEAD;
    }

    end = sp->tail + need + ahead;

    if (end > sp->limit) {
        end = sp->limit;
    }

    lunary_spool_normalise(sp, &sp->first);
    lunary_spool_normalise(sp, &sp->head);

    /* the last piece with such records: all before it go, too */

    last = 0;

    for (n = sp->first.piece; n <= sp->head.piece; n++) {

        from = (n == sp->first.piece) ? sp->first.off
                                      : lunary_spool_at(sp, n)->start;
        to = (n == sp->head.piece) ? sp->head.off
                                   : lunary_spool_at(sp, n)->end;

        if (from < to && from < end && to > sp->tail) {
            last = n;
        }
    }

    if (sp->first.piece < last) {
        sp->first.piece = last;
        sp->first.off = lunary_spool_at(sp, last)->start;
        sp->first.seq = lunary_spool_at(sp, last)->seq;
    }

    while (sp->first.piece == last
           && sp->first.off < end
           && sp->first.seq < sp->head.seq)
    {
        lunary_spool_next(sp, &sp->first);
    }

    sp->clear = end;

    if (last) {
        lunary_spool_hint(sp->base, LUNARY_SPOOL_HINT_FLOOR, sp->first.seq);
    }
}


uint64_t
lunary_spool_commit(lunary_spool_t *sp, size_t n, unsigned kind,
    unsigned fields, uint32_t hash, uint32_t now)
{
    uint32_t                crc;
    unsigned char          *dst;
    lunary_spool_recent_t  *r;

    dst = sp->base + sp->tail;

    memcpy(dst, LUNARY_SPOOL_R_START, LUNARY_SPOOL_R_START_LEN);

    /* words of eight, as they are read again at once */

    lunary_spool_put(dst + LUNARY_SPOOL_R_EPOCH, 8, sp->epoch);
    lunary_spool_put(dst + LUNARY_SPOOL_R_SEQ, 8, sp->next_seq);
    lunary_spool_put(dst + LUNARY_SPOOL_R_LEN, 8, n | (uint64_t) hash << 32);
    lunary_spool_put(dst + LUNARY_SPOOL_R_FIELDS, 8,
                     (fields & 0xffff) | (uint64_t) (kind & 0xff) << 16
                     | (uint64_t) now << 32);
    memcpy(dst + LUNARY_SPOOL_R_END, "\r\n", 2);

    crc = lunary_crc32c(0, dst + LUNARY_SPOOL_R_EPOCH,
                        LUNARY_SPOOL_R_END - LUNARY_SPOOL_R_EPOCH);
    crc = lunary_crc32c(crc, dst + LUNARY_SPOOL_PREFIX, n);

    /* this one decides: it is the last, also where the compiler sees all */

    __atomic_signal_fence(__ATOMIC_SEQ_CST);

    lunary_spool_put(dst + LUNARY_SPOOL_R_CRC, 4, crc);

    if (sp->recent) {
        r = &sp->recent[sp->next_seq % LUNARY_SPOOL_RECENT];
        r->len = (uint32_t) n;
        r->hash = hash;
        r->time = now;
        r->fields = (uint16_t) fields;
        r->kind = (uint8_t) kind;
        r->refused = 0;
    }

    sp->tail += LUNARY_SPOOL_PREFIX + n;
    sp->bytes += LUNARY_SPOOL_PREFIX + n;
    sp->unacked[kind]++;

    lunary_spool_warm(sp);

    return sp->next_seq++;
}


/* the lines that the next record goes to are fetched while others work */

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
}


/* where a piece ended the next one goes on */

static void
lunary_spool_normalise(lunary_spool_t *sp, lunary_spool_pos_t *pos)
{
    while (pos->piece < sp->piece
           && pos->off == lunary_spool_at(sp, pos->piece)->end)
    {
        pos->piece++;
        pos->off = lunary_spool_at(sp, pos->piece)->start;
    }
}


static size_t
lunary_spool_record_len(lunary_spool_t *sp, const lunary_spool_pos_t *pos)
{
    const lunary_spool_recent_t  *r;

    r = lunary_spool_recent(sp, pos->seq);

    return LUNARY_SPOOL_PREFIX
           + (r ? r->len
                : lunary_spool_get(sp->base + pos->off + LUNARY_SPOOL_R_LEN,
                                   4));
}


int
lunary_spool_read(lunary_spool_t *sp, lunary_spool_pos_t *pos,
    lunary_spool_record_t *rec)
{
    size_t                        off;
    unsigned char                *p;
    const lunary_spool_recent_t  *r;

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

    r = lunary_spool_recent(sp, pos->seq);

    if (r) {
        rec->len = LUNARY_SPOOL_PREFIX + r->len;
        rec->hash = r->hash;
        rec->time = r->time;
        rec->fields = r->fields;
        rec->kind = r->kind;
        rec->refused = r->refused;

        return 1;
    }

    rec->len = LUNARY_SPOOL_PREFIX
               + lunary_spool_get(p + LUNARY_SPOOL_R_LEN, 4);
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

    pos->off += lunary_spool_record_len(sp, pos);
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
    unsigned char          *p;
    lunary_spool_recent_t  *r;

    p = sp->base + (rec->data - sp->base);

    p[LUNARY_SPOOL_R_STATE] = LUNARY_SPOOL_R_REFUSED;
    rec->refused = 1;

    r = lunary_spool_recent(sp, rec->seq);

    if (r) {
        r->refused = 1;
    }
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

    /* what was free may be in use again */

    sp->limit = sp->tail;

    return n;
}


uint64_t
lunary_spool_acked(lunary_spool_t *sp)
{
    return lunary_spool_get(sp->base + LUNARY_SPOOL_HINT_ACKED, 8);
}
