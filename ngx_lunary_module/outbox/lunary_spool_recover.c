/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Reading a spool after a crash: every record that is whole, in the order of
 * the sequences, wherever in the file it lies.  Nothing else in the file is
 * believed; docs/reliability.md says why that is enough.  A file that has
 * another name than its head says may be a copy, and is not read.
 *
 * The image may hold anything: each offset and length is checked before use,
 * and the time is linear in its size (a checksum that fails is computed over
 * at most LUNARY_SPOOL_MAX_RECORD bytes, and only where magic and epoch fit).
 */

#include <stdlib.h>

#include "lunary_crc32c.h"
#include "lunary_spool.h"
#include "lunary_spool_format.h"


static lunary_spool_status_e lunary_spool_read_head(lunary_spool_t *sp,
    unsigned char *head, char *name);
static size_t lunary_spool_check_record(lunary_spool_t *sp, size_t off,
    lunary_spool_entry_t *entry);
static int lunary_spool_add(lunary_spool_t *sp, size_t *cap,
    lunary_spool_entry_t *entry);
static int lunary_spool_compare(const void *one, const void *two);
static void lunary_spool_count(lunary_spool_t *sp);


lunary_spool_status_e
lunary_spool_recover(lunary_spool_t *sp, unsigned char *image, size_t size,
    const char *target)
{
    size_t                  off, len, cap, i, n;
    char                    id[LUNARY_SPOOL_NAME_LEN + 1];
    uint64_t                floor;
    unsigned char          *p;
    lunary_spool_entry_t    entry;
    lunary_spool_status_e   rc;

    if (size < LUNARY_SPOOL_DATA) {
        return LUNARY_SPOOL_DAMAGED;
    }

    sp->base = image;
    sp->size = size;
    sp->next_seq = 1;

    rc = lunary_spool_read_head(sp, image, id);

    if (rc == LUNARY_SPOOL_DAMAGED) {
        rc = lunary_spool_read_head(sp, image + LUNARY_SPOOL_HEAD_COPY, id);
    }

    if (rc != LUNARY_SPOOL_OK) {
        return rc;
    }

    if (target && strcmp(target, sp->target) != 0) {
        return LUNARY_SPOOL_TARGET;
    }

    if (sp->name[0] && strcmp(id, sp->name) != 0) {
        memcpy(sp->name, id, sizeof(id));
        return LUNARY_SPOOL_RENAMED;
    }

    floor = lunary_spool_get(image + LUNARY_SPOOL_HINT_FLOOR, 8);

    if (floor > lunary_spool_acked(sp) + 1) {
        floor = 0;
    }

    sp->retired = (lunary_spool_get(image + LUNARY_SPOOL_HINT_RETIRED, 8)
                   == 1);

    cap = 64;
    sp->index = malloc(cap * sizeof(lunary_spool_entry_t));

    if (sp->index == NULL) {
        return LUNARY_SPOOL_NOMEM;
    }

    off = LUNARY_SPOOL_DATA;

    while (off + LUNARY_SPOOL_PREFIX <= size) {

        p = memchr(image + off, '$', size - off);

        if (p == NULL) {
            break;
        }

        off = p - image;
        len = lunary_spool_check_record(sp, off, &entry);

        if (len == 0) {
            off++;
            continue;
        }

        off += len;

        if (entry.seq >= floor && !lunary_spool_add(sp, &cap, &entry)) {
            free(sp->index);
            sp->index = NULL;
            return LUNARY_SPOOL_NOMEM;
        }
    }

    /* a record of an older lap may be found twice only if it was copied by
     * hand; one of them is enough */

    qsort(sp->index, sp->nindex, sizeof(lunary_spool_entry_t),
          lunary_spool_compare);

    for (i = 0, n = 0; i < sp->nindex; i++) {
        if (n == 0 || sp->index[i].seq != sp->index[n - 1].seq) {
            sp->index[n++] = sp->index[i];
        }
    }

    sp->nindex = n;

    lunary_spool_count(sp);

    return LUNARY_SPOOL_OK;
}


/* name: what the file was called, LUNARY_SPOOL_NAME_LEN and a zero */

static lunary_spool_status_e
lunary_spool_read_head(lunary_spool_t *sp, unsigned char *head, char *name)
{
    int            i;
    size_t         len;
    uint32_t       crc;
    unsigned char  copy[LUNARY_SPOOL_HEAD_LEN];

    memcpy(copy, head, LUNARY_SPOOL_HEAD_LEN);

    if (memcmp(copy, LUNARY_SPOOL_MAGIC, 8) != 0) {
        return LUNARY_SPOOL_DAMAGED;
    }

    crc = (uint32_t) lunary_spool_get(copy + LUNARY_SPOOL_H_CRC, 4);
    memset(copy + LUNARY_SPOOL_H_CRC, 0, 4);

    /* what a newer format's checksum covers is not known: version first */

    if (lunary_spool_get(copy + LUNARY_SPOOL_H_VERSION, 4)
        > LUNARY_SPOOL_VERSION)
    {
        return LUNARY_SPOOL_NEWER;
    }

    len = lunary_spool_get(copy + LUNARY_SPOOL_H_TARGET_LEN, 2);

    if (crc != lunary_crc32c(0, copy, LUNARY_SPOOL_HEAD_LEN)
        || lunary_spool_get(copy + LUNARY_SPOOL_H_VERSION, 4)
           != LUNARY_SPOOL_VERSION
        || len > LUNARY_SPOOL_TARGET_MAX)
    {
        return LUNARY_SPOOL_DAMAGED;
    }

    sp->epoch = lunary_spool_get(copy + LUNARY_SPOOL_H_EPOCH, 8);
    sp->generation = lunary_spool_get(copy + LUNARY_SPOOL_H_GENERATION, 8);
    sp->shards = (unsigned) lunary_spool_get(copy + LUNARY_SPOOL_H_SHARDS, 4);
    sp->truncated = (lunary_spool_get(copy + LUNARY_SPOOL_H_SIZE, 8)
                     > sp->size);

    for (i = 0; i < 16; i++) {
        name[2 * i] = "0123456789abcdef"[copy[LUNARY_SPOOL_H_ID + i] >> 4];
        name[2 * i + 1] = "0123456789abcdef"[copy[LUNARY_SPOOL_H_ID + i] & 15];
    }

    memcpy(name + 32, LUNARY_SPOOL_SUFFIX, sizeof(LUNARY_SPOOL_SUFFIX));

    memcpy(sp->target, copy + LUNARY_SPOOL_H_TARGET, len);
    sp->target[len] = '\0';

    return (sp->shards == 0) ? LUNARY_SPOOL_DAMAGED : LUNARY_SPOOL_OK;
}


/* the length of the record at off, or 0 where there is none */

static size_t
lunary_spool_check_record(lunary_spool_t *sp, size_t off,
    lunary_spool_entry_t *entry)
{
    size_t          len;
    uint32_t        crc;
    unsigned char  *p;

    p = sp->base + off;

    if (sp->size - off < LUNARY_SPOOL_PREFIX
        || memcmp(p, LUNARY_SPOOL_R_START, LUNARY_SPOOL_R_STATE) != 0
        || (p[LUNARY_SPOOL_R_STATE] != LUNARY_SPOOL_R_START[8]
            && p[LUNARY_SPOOL_R_STATE] != LUNARY_SPOOL_R_REFUSED)
        || lunary_spool_get(p + LUNARY_SPOOL_R_EPOCH, 8) != sp->epoch
        || memcmp(p + LUNARY_SPOOL_R_END, "\r\n", 2) != 0)
    {
        return 0;
    }

    len = lunary_spool_get(p + LUNARY_SPOOL_R_LEN, 4);

    if (len > LUNARY_SPOOL_MAX_RECORD
        || len > sp->size - off - LUNARY_SPOOL_PREFIX
        || p[LUNARY_SPOOL_R_KIND] >= LUNARY_SPOOL_KINDS)
    {
        return 0;
    }

    crc = lunary_crc32c(0, p + LUNARY_SPOOL_R_EPOCH,
                        LUNARY_SPOOL_R_END - LUNARY_SPOOL_R_EPOCH);
    crc = lunary_crc32c(crc, p + LUNARY_SPOOL_PREFIX, len);

    if (crc != lunary_spool_get(p + LUNARY_SPOOL_R_CRC, 4)) {
        return 0;
    }

    entry->seq = lunary_spool_get(p + LUNARY_SPOOL_R_SEQ, 8);
    entry->off = off;

    return entry->seq ? LUNARY_SPOOL_PREFIX + len : 0;
}


static int
lunary_spool_add(lunary_spool_t *sp, size_t *cap, lunary_spool_entry_t *entry)
{
    lunary_spool_entry_t  *p;

    if (sp->nindex == *cap) {
        p = realloc(sp->index, 2 * *cap * sizeof(lunary_spool_entry_t));

        if (p == NULL) {
            return 0;
        }

        sp->index = p;
        *cap *= 2;
    }

    sp->index[sp->nindex++] = *entry;

    return 1;
}


static int
lunary_spool_compare(const void *one, const void *two)
{
    const lunary_spool_entry_t  *a = one;
    const lunary_spool_entry_t  *b = two;

    return (a->seq > b->seq) - (a->seq < b->seq);
}


/* sets the positions, and what is not acknowledged as far as the file knows */

static void
lunary_spool_count(lunary_spool_t *sp)
{
    size_t                  i;
    uint64_t                acked, expected;
    lunary_spool_pos_t      pos;
    lunary_spool_record_t   rec;

    acked = lunary_spool_acked(sp);

    sp->counted = lunary_spool_get(sp->base + LUNARY_SPOOL_HINT_COUNTED, 8);
    sp->recovered = lunary_spool_get(sp->base + LUNARY_SPOOL_HINT_RECOVERED,
                                     8);

    if (sp->counted < acked) {
        sp->counted = acked;
    }

    if (sp->nindex) {
        sp->next_seq = sp->index[sp->nindex - 1].seq + 1;
    }

    if (acked >= sp->next_seq) {
        sp->next_seq = acked + 1;
    }

    sp->first.off = 0;
    sp->first.seq = sp->nindex ? sp->index[0].seq : sp->next_seq;
    sp->first.piece = 0;

    sp->head = sp->first;

    for (i = 0; i < sp->nindex && sp->index[i].seq <= acked; i++) {
        lunary_spool_next(sp, &sp->head);
    }

    if (sp->retired) {
        sp->head.seq = sp->next_seq;
        sp->head.off = sp->nindex;
    }

    sp->send = sp->head;

    expected = acked + 1;
    pos = sp->head;

    while (lunary_spool_read(sp, &pos, &rec)) {
        sp->bytes += rec.len;
        sp->unacked[rec.kind]++;
        sp->again[rec.kind] += (rec.seq <= sp->counted);
        sp->missing += rec.seq - expected;

        expected = rec.seq + 1;
        lunary_spool_next(sp, &pos);
    }
}
