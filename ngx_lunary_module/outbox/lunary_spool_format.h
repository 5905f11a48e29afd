/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The offsets of docs/reliability.md, for the files of the spool only.
 */

#ifndef LUNARY_SPOOL_FORMAT_H
#define LUNARY_SPOOL_FORMAT_H

#include <stdint.h>
#include <string.h>

#include "lunary_spool.h"


#define LUNARY_SPOOL_HEAD_LEN        512
#define LUNARY_SPOOL_HEAD_COPY       4096
#define LUNARY_SPOOL_MAGIC           "LUNSPOOL"

#define LUNARY_SPOOL_H_VERSION       8
#define LUNARY_SPOOL_H_CRC           12
#define LUNARY_SPOOL_H_SIZE          16
#define LUNARY_SPOOL_H_EPOCH         24
#define LUNARY_SPOOL_H_ID            32
#define LUNARY_SPOOL_H_GENERATION    48
#define LUNARY_SPOOL_H_SHARDS        56
#define LUNARY_SPOOL_H_TARGET_LEN    60
#define LUNARY_SPOOL_H_TARGET        62

#define LUNARY_SPOOL_HINT_FLOOR      512
#define LUNARY_SPOOL_HINT_ACKED      520
#define LUNARY_SPOOL_HINT_RETIRED    528
#define LUNARY_SPOOL_HINT_COUNTED    536
#define LUNARY_SPOOL_HINT_RECOVERED  544

/* a record: "$40\r\n", these, "\r\n" */

#define LUNARY_SPOOL_R_START         "$40\r\nLREC"
#define LUNARY_SPOOL_R_START_LEN     9
#define LUNARY_SPOOL_R_MAGIC         5
#define LUNARY_SPOOL_R_STATE         8         /* the last of the magic      */
#define LUNARY_SPOOL_R_REFUSED       'X'       /* is then this               */
#define LUNARY_SPOOL_R_CRC           9
#define LUNARY_SPOOL_R_EPOCH         13
#define LUNARY_SPOOL_R_SEQ           21
#define LUNARY_SPOOL_R_LEN           29
#define LUNARY_SPOOL_R_HASH          33
#define LUNARY_SPOOL_R_FIELDS        37
#define LUNARY_SPOOL_R_KIND          39
#define LUNARY_SPOOL_R_TIME          41
#define LUNARY_SPOOL_R_END           45


/* n bytes, the lowest first: one move where that is the machine's order */

static inline uint64_t
lunary_spool_get(const unsigned char *p, unsigned n)
{
    uint64_t  v;

    v = 0;

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(&v, p, n);
#else
    while (n--) {
        v = v << 8 | p[n];
    }
#endif

    return v;
}


static inline void
lunary_spool_put(unsigned char *p, unsigned n, uint64_t v)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(p, &v, n);
#else
    while (n--) {
        *p++ = (unsigned char) v;
        v >>= 8;
    }
#endif
}


/* a hint lies at a multiple of eight: one store, never half of one */

static inline void
lunary_spool_hint(unsigned char *base, unsigned off, uint64_t v)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    v = __builtin_bswap64(v);
#endif

    __atomic_store_n((uint64_t *) (void *) (base + off), v, __ATOMIC_RELAXED);
}


#endif /* LUNARY_SPOOL_FORMAT_H */
