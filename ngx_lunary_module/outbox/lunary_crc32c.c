/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * CRC-32C: eight tables and eight bytes a step, or SSE4.2's instruction.
 */

#include <string.h>

#include "lunary_crc32c.h"


#define LUNARY_CRC32C_POLY  0x82f63b78u

#if defined(__x86_64__) && defined(__GNUC__)
#define LUNARY_CRC32C_SSE42  1
#include <nmmintrin.h>
#endif


typedef uint32_t (*lunary_crc32c_pt)(uint32_t crc, const unsigned char *p,
    size_t n);

static uint32_t lunary_crc32c_table(uint32_t crc, const unsigned char *p,
    size_t n);

static uint32_t          lunary_crc32c_tables[8][256];
static lunary_crc32c_pt  lunary_crc32c_fn;


#if (LUNARY_CRC32C_SSE42)

__attribute__((target("sse4.2")))
static uint32_t
lunary_crc32c_sse42(uint32_t crc, const unsigned char *p, size_t n)
{
    uint64_t  c, w;

    c = crc;

    for ( /* void */ ; n >= 8; n -= 8, p += 8) {
        memcpy(&w, p, 8);
        c = _mm_crc32_u64(c, w);
    }

    crc = (uint32_t) c;

    while (n--) {
        crc = _mm_crc32_u8(crc, *p++);
    }

    return crc;
}

#endif


void
lunary_crc32c_init(int portable)
{
    int       i, k;
    uint32_t  c;

    for (i = 0; i < 256; i++) {
        c = (uint32_t) i;

        for (k = 0; k < 8; k++) {
            c = (c & 1) ? (c >> 1) ^ LUNARY_CRC32C_POLY : c >> 1;
        }

        lunary_crc32c_tables[0][i] = c;
    }

    for (i = 0; i < 256; i++) {
        for (k = 1; k < 8; k++) {
            c = lunary_crc32c_tables[k - 1][i];
            lunary_crc32c_tables[k][i] = (c >> 8)
                                         ^ lunary_crc32c_tables[0][c & 0xff];
        }
    }

    lunary_crc32c_fn = lunary_crc32c_table;

#if (LUNARY_CRC32C_SSE42)
    if (!portable && __builtin_cpu_supports("sse4.2")) {
        lunary_crc32c_fn = lunary_crc32c_sse42;
    }
#else
    (void) portable;
#endif
}


static uint32_t
lunary_crc32c_table(uint32_t crc, const unsigned char *p, size_t n)
{
    uint32_t  lo, hi;

    for ( /* void */ ; n >= 8; n -= 8, p += 8) {
        lo = crc ^ ((uint32_t) p[0] | (uint32_t) p[1] << 8
                    | (uint32_t) p[2] << 16 | (uint32_t) p[3] << 24);
        hi = (uint32_t) p[4] | (uint32_t) p[5] << 8
             | (uint32_t) p[6] << 16 | (uint32_t) p[7] << 24;

        crc = lunary_crc32c_tables[7][lo & 0xff]
              ^ lunary_crc32c_tables[6][(lo >> 8) & 0xff]
              ^ lunary_crc32c_tables[5][(lo >> 16) & 0xff]
              ^ lunary_crc32c_tables[4][lo >> 24]
              ^ lunary_crc32c_tables[3][hi & 0xff]
              ^ lunary_crc32c_tables[2][(hi >> 8) & 0xff]
              ^ lunary_crc32c_tables[1][(hi >> 16) & 0xff]
              ^ lunary_crc32c_tables[0][hi >> 24];
    }

    while (n--) {
        crc = (crc >> 8) ^ lunary_crc32c_tables[0][(crc ^ *p++) & 0xff];
    }

    return crc;
}


uint32_t
lunary_crc32c(uint32_t crc, const void *data, size_t n)
{
    if (lunary_crc32c_fn == NULL) {
        lunary_crc32c_init(0);
    }

    return ~lunary_crc32c_fn(~crc, data, n);
}
