/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The functions of lunary_simd.h that look at every byte of a string, with
 * AVX-512: a comparison of 64 bytes is one instruction, and its outcome a word
 * with a bit for each.  The masks mean what those of lunary_span.c and
 * lunary_simd.c (AVX2) do.
 *
 * It is for processors with VBMI2: those with AVX-512 before them slow down
 * when it is used.
 *
 * Invariants
 *   - bytes outside of [p, end) are not loaded, but where they are known to be
 *     there (padded);
 *   - the upper halves of the registers are left clean, see lunary_simd.c.
 */

#include "lunary_simd_internal.h"

#if (LUNARY_HAVE_AVX512)

#include <immintrin.h>


#define LUNARY_AVX512  __attribute__((target(                                \
    "avx512f,avx512bw,avx512vbmi,avx512vbmi2,avx2,bmi,bmi2,popcnt,pclmul")))

/* so far ahead a long string is fetched: what a network wrote is not near */

#define LUNARY_AVX512_AHEAD  1024

#define lunary_avx512_fetch(p)                                               \
    _mm_prefetch((const char *) ((uintptr_t) (p) + LUNARY_AVX512_AHEAD),     \
                 _MM_HINT_T0)

#define lunary_avx512_is(x, c)                                               \
    _mm512_cmpeq_epi8_mask(x, _mm512_set1_epi8(c))


/* 64 bytes of the n at p, and `fill` where there are fewer */

LUNARY_AVX512 static inline __m512i
lunary_avx512_load(const unsigned char *p, size_t n, char fill)
{
    if (n >= 64) {
        return _mm512_loadu_si512(p);
    }

    return _mm512_mask_loadu_epi8(_mm512_set1_epi8(fill),
                                  ((__mmask64) 1 << n) - 1, p);
}


LUNARY_AVX512 static inline __m512i
lunary_avx512_table(const unsigned char *table)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *) table));
}


/* bits at, or up to three bytes behind, what is no UTF-8 in x */

LUNARY_AVX512 static inline uint64_t
lunary_avx512_utf8(__m512i x, __m512i before)
{
    __m512i  carried, one, two, three, high, low, next, half, due;

    /* each 16 bytes beside the 16 before them */

    carried = _mm512_alignr_epi32(x, before, 12);
    one = _mm512_alignr_epi8(x, carried, 15);
    two = _mm512_alignr_epi8(x, carried, 14);
    three = _mm512_alignr_epi8(x, carried, 13);

    half = _mm512_set1_epi8(0x0f);

    high = lunary_avx512_table(lunary_simd_utf8_high);
    low = lunary_avx512_table(lunary_simd_utf8_low);
    next = lunary_avx512_table(lunary_simd_utf8_next);

    high = _mm512_shuffle_epi8(high,
                               _mm512_and_si512(_mm512_srli_epi16(one, 4),
                                                half));
    low = _mm512_shuffle_epi8(low, _mm512_and_si512(one, half));
    next = _mm512_shuffle_epi8(next,
                               _mm512_and_si512(_mm512_srli_epi16(x, 4),
                                                half));

    /* bit 7: behind 111..... and whatever, behind 1111.... and two more */

    due = _mm512_or_si512(_mm512_subs_epu8(two, _mm512_set1_epi8(0x60)),
                          _mm512_subs_epu8(three, _mm512_set1_epi8(0x70)));
    due = _mm512_and_si512(due, _mm512_set1_epi8((char) 0x80));

    high = _mm512_and_si512(_mm512_and_si512(high, low), next);

    return _mm512_cmpneq_epi8_mask(high, due);
}


/* what makes an escape of one letter behind a backslash, by its last six bits:
 * but `b`, where '"' is, and nothing is where NUL and '@' would be */

static const unsigned char  lunary_avx512_letters[64] = {
    [0] = 'n', ['"'] = '"', ['/'] = '/', ['\\' - 64] = '\\', ['f' - 64] = 'f',
    ['n' - 64] = 'n', ['r' - 64] = 'r', ['t' - 64] = 't'
};


LUNARY_AVX512 static inline uint64_t
lunary_avx512_digit(__m512i x)
{
    __m512i  d, l;

    d = _mm512_sub_epi8(x, _mm512_set1_epi8('0'));
    l = _mm512_sub_epi8(_mm512_or_si512(x, _mm512_set1_epi8(0x20)),
                        _mm512_set1_epi8('a'));

    return _mm512_cmple_epu8_mask(d, _mm512_set1_epi8(9))
           | _mm512_cmple_epu8_mask(l, _mm512_set1_epi8(5));
}


/* bits of what is escaped and does not make an escape alone; of `b`, too */

LUNARY_AVX512 static inline uint64_t
lunary_avx512_care(__m512i x, uint64_t follows)
{
    __m512i  letter;

    letter = _mm512_permutexvar_epi8(x,
                                 _mm512_loadu_si512(lunary_avx512_letters));

    return _mm512_mask_cmpneq_epi8_mask(follows, letter, x);
}


/*
 * Bits of what is wrong with what is escaped.  *due: bits of the digits that a
 * \u before these 64 bytes is to have; becomes that for the next 64.
 */

LUNARY_AVX512 static inline uint64_t
lunary_avx512_escapes(__m512i x, uint64_t follows, uint64_t *due)
{
    uint64_t  care, u, now;

    care = lunary_avx512_care(x, follows) & ~lunary_avx512_is(x, 'b');
    u = care & lunary_avx512_is(x, 'u');
    now = u << 1 | u << 2 | u << 3 | u << 4 | *due;

    *due = u >> 63 | u >> 62 | u >> 61 | u >> 60;

    return (care & ~u) | (now & ~lunary_avx512_digit(x));
}


/* bits of quotes and control characters */

LUNARY_AVX512 static inline uint64_t
lunary_avx512_stop(__m512i x)
{
    return lunary_avx512_is(x, '"')
           | _mm512_cmplt_epu8_mask(x, _mm512_set1_epi8(0x20));
}


LUNARY_AVX512 static inline __attribute__((always_inline))
const unsigned char *
lunary_avx512_string(const unsigned char *p, const unsigned char *end,
    int padded)
{
    __m512i               x, y, before;
    uint64_t              stop, bad, slash, high, odd, due, wide, follows;
    uint64_t              stop_y, slash_y, follows_y, odd_next, due_next;
    const unsigned char  *from;

    from = p;
    odd = 0;                          /* 1: the first byte is escaped         */
    due = 0;                          /* bits of digits due from a \u before  */
    wide = 0;                         /* the block before is not all ASCII    */
    before = _mm512_setzero_si512();

    for ( ;; ) {

        /* the zeroes behind the end stop, whatever is due */

        x = padded ? _mm512_loadu_si512(p)
                   : lunary_avx512_load(p, (size_t) (end - p), 0);

        slash = lunary_avx512_is(x, '\\');
        stop = lunary_avx512_stop(x);
        high = _mm512_movepi8_mask(x);

        bad = 0;
        odd_next = odd;
        due_next = due;

        if (high | wide) {
            bad = lunary_avx512_utf8(x, before);
        }

        if (slash | odd | due) {
            follows = lunary_simd_escaped(slash, &odd_next);

            /* an escaped quote is none, and a control is no escape */

            stop &= ~follows;
            bad |= lunary_avx512_escapes(x, follows, &due_next);
        }

        if (stop | bad) {

            /* what is behind the first stop does not count */

            if (bad & (stop ^ (stop - 1))) {
                break;
            }

            if (stop != 0) {
                _mm256_zeroupper();
                return p + __builtin_ctzll(stop);
            }

            break;
        }

        odd = odd_next;
        due = due_next;
        wide = high;
        before = x;
        p += 64;

        /* 128 bytes of text mostly have an escape, or none has: so it is
         * foreseen which way it goes */

        for ( /* void */ ; end - p >= 128; p += 128) {

            lunary_avx512_fetch(p);
            lunary_avx512_fetch(p + 64);

            x = _mm512_loadu_si512(p);
            y = _mm512_loadu_si512(p + 64);

            slash = lunary_avx512_is(x, '\\');
            slash_y = lunary_avx512_is(y, '\\');
            stop = lunary_avx512_stop(x);
            stop_y = lunary_avx512_stop(y);
            high = _mm512_movepi8_mask(_mm512_or_si512(x, y));

            bad = 0;
            odd_next = odd;
            due_next = due;

            if (high | wide) {
                bad = lunary_avx512_utf8(x, before) | lunary_avx512_utf8(y, x);
            }

            if (slash | slash_y | odd | due) {
                follows = lunary_simd_escaped(slash, &odd_next);
                follows_y = lunary_simd_escaped(slash_y, &odd_next);

                stop &= ~follows;
                stop_y &= ~follows_y;

                if (lunary_avx512_care(x, follows)
                    | lunary_avx512_care(y, follows_y) | due)
                {
                    bad |= lunary_avx512_escapes(x, follows, &due_next);
                    bad |= lunary_avx512_escapes(y, follows_y, &due_next);
                }
            }

            if (stop | stop_y | bad) {

                if (bad) {
                    break;                          /* 64 bytes tell where   */
                }

                _mm256_zeroupper();

                return stop ? p + __builtin_ctzll(stop)
                            : p + 64 + __builtin_ctzll(stop_y);
            }

            odd = odd_next;
            due = due_next;
            wide = high;
            before = y;
        }
    }

    _mm256_zeroupper();

    return lunary_span_any(lunary_simd_back(from, p, odd, due), end);
}


LUNARY_AVX512 const unsigned char *
lunary_avx512_span(const unsigned char *p, const unsigned char *end)
{
    return lunary_avx512_string(p, end, 0);
}


LUNARY_AVX512 const unsigned char *
lunary_avx512_padded(const unsigned char *p, const unsigned char *end)
{
    return lunary_avx512_string(p, end, 1);
}


/* the quotes that are not escaped tell what is inside of strings, and brackets
 * outside of them are counted */

LUNARY_AVX512 const unsigned char *
lunary_avx512_nested(const unsigned char *p, const unsigned char *end)
{
    size_t    depth, i, n;
    __m512i   x, y;
    uint64_t  quote, slash, open, close, inside, in, odd, bit;

    depth = 1;
    in = 0;
    odd = 0;
    n = (size_t) (end - p);

    for (i = 0; i < n; i += 64) {

        x = lunary_avx512_load(p + i, n - i, ' ');

        quote = lunary_avx512_is(x, '"');
        slash = lunary_avx512_is(x, '\\');

        if (slash | odd) {
            quote &= ~lunary_simd_escaped(slash, &odd);
        }

        inside = (uint64_t) _mm_cvtsi128_si64(
                     _mm_clmulepi64_si128(_mm_cvtsi64_si128((int64_t) quote),
                                          _mm_set1_epi8(-1), 0)) ^ in;

        if (slash & ~inside) {

            /* outside of strings a backslash escapes nothing */

            _mm256_zeroupper();

            return lunary_portable_nested(p, end);
        }

        in = (uint64_t) ((int64_t) inside >> 63);

        if (inside == UINT64_MAX) {
            continue;
        }

        /* a bracket of either kind differs by 0x20 from one of the other */

        y = _mm512_or_si512(x, _mm512_set1_epi8(0x20));

        open = lunary_avx512_is(y, '{') & ~inside;
        close = lunary_avx512_is(y, '}') & ~inside;

        if ((size_t) __builtin_popcountll(close) < depth) {
            depth += (size_t) __builtin_popcountll(open);
            depth -= (size_t) __builtin_popcountll(close);
            continue;
        }

        for ( /* void */ ; close; close &= close - 1) {
            bit = close & (0 - close);
            depth += (size_t) __builtin_popcountll(open & (bit - 1));
            open &= ~(bit - 1);

            if (--depth == 0) {
                _mm256_zeroupper();
                return p + i + __builtin_ctzll(bit) + 1;
            }
        }

        depth += (size_t) __builtin_popcountll(open);
    }

    _mm256_zeroupper();

    return NULL;
}


LUNARY_AVX512 const unsigned char *
lunary_avx512_close(const unsigned char *p, const unsigned char *end)
{
    size_t    i, n;
    __m512i   x;
    uint64_t  quote, slash, odd;

    odd = 0;
    n = (size_t) (end - p);

    for (i = 0; i < n; i += 64) {

        x = lunary_avx512_load(p + i, n - i, 0);

        quote = lunary_avx512_is(x, '"');
        slash = lunary_avx512_is(x, '\\');

        if (slash | odd) {
            quote &= ~lunary_simd_escaped(slash, &odd);
        }

        if (quote) {
            _mm256_zeroupper();
            return p + i + __builtin_ctzll(quote);
        }
    }

    _mm256_zeroupper();

    return end;
}


/* what is looked for without what is around it is near, or mostly is */

#define lunary_avx512_find_text     lunary_avx2_find_text
#define lunary_avx512_find_quote    lunary_avx2_find_quote
#define lunary_avx512_find_bracket  lunary_avx2_find_bracket
#define lunary_avx512_find_number   lunary_avx2_find_number
#define lunary_avx512_find_base64   lunary_avx2_find_base64
#define lunary_avx512_find_space    lunary_avx2_find_space

lunary_simd_table(avx512)


#endif /* LUNARY_HAVE_AVX512 */
