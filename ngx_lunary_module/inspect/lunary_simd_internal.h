/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What the implementations of lunary_simd.h share: the loop around their masks,
 * their tables, and what those need that look at 64 bytes at once.  Of the
 * bytes of such a block a word has a bit each, the first one's is bit 0.
 *
 *     lunary_simd.c         portable and SSE2; which one is chosen
 *     lunary_simd_avx2.c    AVX2
 *     lunary_simd_avx512.c  AVX-512, also for the inside of strings
 *     lunary_simd_neon.c    NEON
 *     lunary_span.c         the inside of strings: portable and AVX2
 *
 * Invariant: nothing here needs more than any processor has.
 */

#ifndef LUNARY_SIMD_INTERNAL_H
#define LUNARY_SIMD_INTERNAL_H

#include "lunary_simd.h"

#if defined(__aarch64__) && defined(__ARM_NEON)
#define LUNARY_HAVE_NEON  1
#endif


/* what the tables hold, for declarations */

typedef const unsigned char *lunary_simd_fn(const unsigned char *p,
    const unsigned char *end);


/* any processor's: what the others leave at the end of a text, or for which
 * they have nothing better */

lunary_simd_fn  lunary_portable_text, lunary_portable_quote,
                lunary_portable_bracket, lunary_portable_number,
                lunary_portable_base64, lunary_portable_space,
                lunary_portable_nested, lunary_span_any;

/* depth brackets are open, and p is outside of strings: what is behind the one
 * that closes the outermost, or NULL */
const unsigned char *lunary_simd_brackets(const unsigned char *p,
    const unsigned char *end, size_t depth);


/* the loop: `bytes` at a time, `bits` of the mask for each; `leave` is done
 * before it is left */

#define lunary_simd_find(isa, attr, what, bytes, bits, leave, rest)          \
                                                                             \
attr const unsigned char *                                                   \
lunary_ ## isa ## _find_ ## what(const unsigned char *p,                     \
    const unsigned char *end)                                                \
{                                                                            \
    uint64_t  m;                                                             \
                                                                             \
    while (end - p >= bytes) {                                               \
        m = lunary_ ## isa ## _ ## what(p);                                  \
                                                                             \
        if (m) {                                                             \
            leave;                                                           \
            return p + __builtin_ctzll(m) / bits;                            \
        }                                                                    \
                                                                             \
        p += bytes;                                                          \
    }                                                                        \
                                                                             \
    leave;                                                                   \
                                                                             \
    return rest(p, end);                                                     \
}


#define lunary_simd_table(isa)                                               \
                                                                             \
const lunary_simd_t  lunary_simd_ ## isa = {                                 \
    #isa,                                                                    \
    lunary_ ## isa ## _find_text,                                            \
    lunary_ ## isa ## _find_quote,                                           \
    lunary_ ## isa ## _find_bracket,                                         \
    lunary_ ## isa ## _find_number,                                          \
    lunary_ ## isa ## _find_base64,                                          \
    lunary_ ## isa ## _find_space,                                           \
    lunary_ ## isa ## _nested,                                               \
    lunary_ ## isa ## _close,                                                \
    lunary_ ## isa ## _span,                                                 \
    lunary_ ## isa ## _padded                                                \
};


/* what one implementation has of a simpler one, and of another file */

#if defined(__SSE2__)

lunary_simd_fn  lunary_sse2_find_text, lunary_sse2_find_quote,
                lunary_sse2_find_bracket, lunary_sse2_find_number,
                lunary_sse2_find_base64, lunary_sse2_find_space;

#endif

#if (LUNARY_HAVE_AVX2)

extern const lunary_simd_t  lunary_simd_avx2;

lunary_simd_fn  lunary_avx2_find_text, lunary_avx2_find_quote,
                lunary_avx2_find_bracket, lunary_avx2_find_number,
                lunary_avx2_find_base64, lunary_avx2_find_space,
                lunary_span_avx2, lunary_span_avx2_padded;

#endif

#if (LUNARY_HAVE_AVX512)

extern const lunary_simd_t  lunary_simd_avx512;

lunary_simd_fn  lunary_avx512_nested, lunary_avx512_close,
                lunary_avx512_span, lunary_avx512_padded;

#endif

#if (LUNARY_HAVE_NEON)
extern const lunary_simd_t  lunary_simd_neon;
#endif


/*
 * UTF-8 by three tables: what may be wrong with two bytes, by the first one's
 * upper half, its lower half, and the second one's upper half; where the three
 * share a bit, that is wrong.  CONTS is right where a third, a fourth is due.
 */

#define SHORT      0x01               /* 11...... not 10......                */
#define LONG       0x02               /* 0....... 10......                    */
#define OVERLONG3  0x04               /* 11100000 100.....                    */
#define LARGE      0x08               /* 11110100 1001.... and above          */
#define SURROGATE  0x10               /* 11101101 101.....                    */
#define OVERLONG2  0x20               /* 1100000. 10......                    */
#define OVERLONG4  0x40               /* 11110000 1000....                    */
#define LARGE8     0x40               /* 11110101 1000.... and above          */
#define CONTS      0x80               /* 10...... 10......                    */

#define ANY        (SHORT|LONG|CONTS)

static const unsigned char  lunary_simd_utf8_high[16] = {
    LONG, LONG, LONG, LONG, LONG, LONG, LONG, LONG,
    CONTS, CONTS, CONTS, CONTS,
    SHORT|OVERLONG2, SHORT, SHORT|OVERLONG3|SURROGATE,
    SHORT|LARGE|LARGE8|OVERLONG4
};

static const unsigned char  lunary_simd_utf8_low[16] = {
    ANY|OVERLONG3|OVERLONG2|OVERLONG4, ANY|OVERLONG2, ANY, ANY,
    ANY|LARGE, ANY|LARGE|LARGE8, ANY|LARGE|LARGE8, ANY|LARGE|LARGE8,
    ANY|LARGE|LARGE8, ANY|LARGE|LARGE8, ANY|LARGE|LARGE8,
    ANY|LARGE|LARGE8, ANY|LARGE|LARGE8, ANY|LARGE|LARGE8|SURROGATE,
    ANY|LARGE|LARGE8, ANY|LARGE|LARGE8
};

static const unsigned char  lunary_simd_utf8_next[16] = {
    SHORT, SHORT, SHORT, SHORT, SHORT, SHORT, SHORT, SHORT,
    LONG|OVERLONG2|CONTS|OVERLONG3|LARGE8|OVERLONG4,
    LONG|OVERLONG2|CONTS|OVERLONG3|LARGE,
    LONG|OVERLONG2|CONTS|SURROGATE|LARGE,
    LONG|OVERLONG2|CONTS|SURROGATE|LARGE,
    SHORT, SHORT, SHORT, SHORT
};

#undef SHORT
#undef LONG
#undef OVERLONG3
#undef LARGE
#undef SURROGATE
#undef OVERLONG2
#undef OVERLONG4
#undef LARGE8
#undef CONTS
#undef ANY


/*
 * The bytes behind a backslash that is not behind one itself; *odd: 1 where the
 * last byte of the block before is such a backslash, then of this one.
 */

static inline uint64_t
lunary_simd_escaped(uint64_t backslash, uint64_t *odd)
{
    uint64_t  follows, starts, sum;

    static const uint64_t  even = 0x5555555555555555ULL;

    /* mostly each stands alone, and what the next block is to know is known
     * without counting */

    if (((backslash & backslash << 1) | backslash >> 63 | *odd) == 0) {
        return backslash << 1;
    }

    backslash &= ~*odd;
    follows = backslash << 1 | *odd;
    starts = backslash & ~even & ~follows;

    *odd = __builtin_add_overflow(starts, backslash, &sum);

    return (even ^ (sum << 1)) & follows;
}


/*
 * The start of what lies at p, or begins before it: not before `from`.  odd: 1
 * where a backslash before p escapes it; due: bits of the hexadecimal digits
 * that are still to come, at p, of an escape before it.
 */

static inline const unsigned char *
lunary_simd_back(const unsigned char *from, const unsigned char *p,
    uint64_t odd, uint64_t due)
{
    const unsigned char  *q;

    if (odd) {
        return p - 1;
    }

    if (due) {
        return p - 6 + __builtin_popcountll(due);
    }

    for (q = p; q > from && p - q < 3 && q[-1] >= 0x80; q--) { /* void */ }

    /* a character's, unless it stands alone: before it ends an escape */

    while (q > from && q[-1] >= 0x80 && (*q & 0xc0) == 0x80) {
        q--;
    }

    return q;
}


#endif /* LUNARY_SIMD_INTERNAL_H */
