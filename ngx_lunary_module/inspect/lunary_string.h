/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The inside of a JSON string, escapes and all: where it ends, and how much of
 * it is valid.  Private to inspect/.
 *
 * What is valid: characters of UTF-8 that are no controls, and whole escapes;
 * a lone half of a surrogate pair counts as one.
 */

#ifndef LUNARY_STRING_H
#define LUNARY_STRING_H

#include "lunary_base.h"
#include "lunary_simd.h"


/*
 * p is inside a string, at the start of a character: returns the first one
 * that is not a valid one or is not all there, mostly the closing quote; or
 * end.
 */

static inline const unsigned char *
lunary_string_span(const unsigned char *p, const unsigned char *end)
{
    return lunary_simd->span(p, end);
}


/* the same where so many zeroes follow the bytes: nothing is compared with
 * the end, and strings that are short cost little */

#define LUNARY_STRING_PAD  64

static inline const unsigned char *
lunary_string_end(const unsigned char *p, const unsigned char *end)
{
#if defined(__SSE2__)

    unsigned  m;

    m = lunary_sse2_text(p);

    if (m != 0) {

        if (p[__builtin_ctz(m)] == '"') {
            return p + __builtin_ctz(m);
        }

    } else {
        p += 16;
    }

#endif

    return lunary_simd->padded(p, end);
}


/* 1 where c is among the bytes of s, a name or an id: these are short, and most
 * of the time of memchr() is its call */

static inline int
lunary_string_has(lunary_str_t s, unsigned char c)
{
    size_t    i;
    uint32_t  first, last;
    uint64_t  w, all;

    all = 0;

    if (s.len >= 8) {

        for (i = 0; ; i += 8) {

            if (i > s.len - 8) {
                i = s.len - 8;
            }

            memcpy(&w, s.data + i, 8);
            w ^= 0x0101010101010101ull * c;
            all |= (w - 0x0101010101010101ull) & ~w;

            if (i == s.len - 8) {
                return (all & 0x8080808080808080ull) != 0;
            }
        }
    }

    if (s.len >= 4) {
        memcpy(&first, s.data, 4);
        memcpy(&last, s.data + s.len - 4, 4);

        w = (first | (uint64_t) last << 32) ^ 0x0101010101010101ull * c;

        return ((w - 0x0101010101010101ull) & ~w & 0x8080808080808080ull) != 0;
    }

    for (i = 0; i < s.len; i++) {
        if (s.data[i] == c) {
            return 1;
        }
    }

    return 0;
}


/* as lunary_simd_close(), where escapes are many */

static inline const unsigned char *
lunary_string_close(const unsigned char *p, const unsigned char *end)
{
    return lunary_simd->close(p, end);
}


#endif /* LUNARY_STRING_H */
