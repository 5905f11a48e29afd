/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Finding bytes with AVX2, 64 at a time.  See lunary_simd_internal.h for the
 * loop around the masks; the inside of strings is lunary_span.c's.
 *
 * Invariant: the registers' upper halves are left clean, see lunary_simd.c.
 */

#include "lunary_simd_internal.h"

#if (LUNARY_HAVE_AVX2)

#include <immintrin.h>


#define LUNARY_AVX2         __attribute__((target("avx2")))
#define LUNARY_AVX2_BITS    __attribute__((target("avx2,bmi,popcnt,pclmul")))
#define lunary_avx2_is(x, c)  _mm256_cmpeq_epi8(x, _mm256_set1_epi8(c))


LUNARY_AVX2 static inline __m256i
lunary_avx2_between(__m256i x, char first, char last)
{
    x = _mm256_sub_epi8(x, _mm256_set1_epi8(first));

    return _mm256_cmpeq_epi8(_mm256_min_epu8(x, _mm256_set1_epi8((char)
                                                    (last - first))), x);
}


LUNARY_AVX2 static inline __m256i
lunary_avx2_text_bytes(const unsigned char *p)
{
    __m256i  x, m;

    x = _mm256_loadu_si256((const __m256i *) p);
    m = _mm256_or_si256(lunary_avx2_is(x, '"'), lunary_avx2_is(x, '\\'));

    return _mm256_or_si256(m, _mm256_cmpgt_epi8(_mm256_set1_epi8(0x20), x));
}


LUNARY_AVX2 static inline __m256i
lunary_avx2_quote_bytes(const unsigned char *p)
{
    __m256i  x;

    x = _mm256_loadu_si256((const __m256i *) p);

    return _mm256_or_si256(lunary_avx2_is(x, '"'), lunary_avx2_is(x, '\\'));
}


LUNARY_AVX2 static inline __m256i
lunary_avx2_bracket_bytes(const unsigned char *p)
{
    __m256i  x, y, m;

    x = _mm256_loadu_si256((const __m256i *) p);
    y = _mm256_or_si256(x, _mm256_set1_epi8(0x20));
    m = _mm256_or_si256(lunary_avx2_is(y, '{'), lunary_avx2_is(y, '}'));

    return _mm256_or_si256(m, lunary_avx2_is(x, '"'));
}


/*
 * A byte is in the set where the tables of its two halves share a bit: a bit
 * for white space, for punctuation and space, for digits, for the letters.
 */

LUNARY_AVX2 static inline __m256i
lunary_avx2_number_bytes(const unsigned char *p)
{
    __m256i  x, low, high;

    low = _mm256_setr_epi8(6, 4, 4, 4, 4, 12, 4, 4, 4, 5, 1, 2, 2, 3, 2, 0,
                           6, 4, 4, 4, 4, 12, 4, 4, 4, 5, 1, 2, 2, 3, 2, 0);
    high = _mm256_setr_epi8(1, 0, 2, 4, 8, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                            1, 0, 2, 4, 8, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0);

    x = _mm256_loadu_si256((const __m256i *) p);
    low = _mm256_shuffle_epi8(low, x);
    x = _mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi8(0x0f));
    high = _mm256_shuffle_epi8(high, x);

    return _mm256_cmpeq_epi8(_mm256_and_si256(low, high),
                             _mm256_setzero_si256());
}


LUNARY_AVX2 static inline __m256i
lunary_avx2_base64_bytes(const unsigned char *p)
{
    __m256i  x, m;

    x = _mm256_loadu_si256((const __m256i *) p);
    m = lunary_avx2_between(_mm256_or_si256(x, _mm256_set1_epi8(0x20)),
                            'a', 'z');
    m = _mm256_or_si256(m, lunary_avx2_between(x, '/', '9'));
    m = _mm256_or_si256(m, _mm256_or_si256(lunary_avx2_is(x, '+'),
                                           lunary_avx2_is(x, '-')));
    m = _mm256_or_si256(m, _mm256_or_si256(lunary_avx2_is(x, '_'),
                                           lunary_avx2_is(x, '=')));

    return _mm256_xor_si256(m, _mm256_set1_epi8(-1));
}


LUNARY_AVX2 static inline __m256i
lunary_avx2_space_bytes(const unsigned char *p)
{
    __m256i  x, m;

    x = _mm256_loadu_si256((const __m256i *) p);
    m = _mm256_or_si256(_mm256_or_si256(lunary_avx2_is(x, ' '),
                                        lunary_avx2_is(x, '\n')),
                        _mm256_or_si256(lunary_avx2_is(x, '\r'),
                                        lunary_avx2_is(x, '\t')));

    return _mm256_xor_si256(m, _mm256_set1_epi8(-1));
}


/* 64 bytes at a time: one test for both halves */

#define lunary_avx2_mask(what)                                               \
                                                                             \
LUNARY_AVX2 static inline uint64_t                                           \
lunary_avx2_ ## what(const unsigned char *p)                                 \
{                                                                            \
    __m256i  a, b, c;                                                        \
                                                                             \
    a = lunary_avx2_ ## what ## _bytes(p);                                   \
    b = lunary_avx2_ ## what ## _bytes(p + 32);                              \
    c = _mm256_or_si256(a, b);                                               \
                                                                             \
    if (_mm256_testz_si256(c, c)) {                                          \
        return 0;                                                            \
    }                                                                        \
                                                                             \
    return (uint64_t) (uint32_t) _mm256_movemask_epi8(a)                     \
           | (uint64_t) (uint32_t) _mm256_movemask_epi8(b) << 32;            \
}                                                                            \
                                                                             \
lunary_simd_find(avx2, LUNARY_AVX2, what, 64, 1, _mm256_zeroupper(),         \
                 lunary_sse2_find_ ## what)

lunary_avx2_mask(text)
lunary_avx2_mask(quote)
lunary_avx2_mask(bracket)
lunary_avx2_mask(number)
lunary_avx2_mask(base64)
lunary_avx2_mask(space)


LUNARY_AVX2_BITS static inline uint64_t
lunary_avx2_bits(__m256i a, __m256i b)
{
    return (uint64_t) (uint32_t) _mm256_movemask_epi8(a)
           | (uint64_t) (uint32_t) _mm256_movemask_epi8(b) << 32;
}


/*
 * 64 bytes at a time: the quotes that are not escaped tell what is inside of
 * strings, and brackets outside of them are counted.
 */

LUNARY_AVX2_BITS static const unsigned char *
lunary_avx2_nested(const unsigned char *p, const unsigned char *end)
{
    size_t                depth;
    __m256i               a, b, la, lb;
    uint64_t              quote, slash, open, close, inside, in, odd, bit;
    unsigned char         tail[64];
    const unsigned char  *block, *from;

    depth = 1;
    in = 0;
    odd = 0;
    from = p;

    for ( /* void */ ; p < end; p += 64) {

        block = p;

        if (end - p < 64) {
            memset(tail, ' ', sizeof(tail));
            memcpy(tail, p, (size_t) (end - p));
            block = tail;
        }

        a = _mm256_loadu_si256((const __m256i *) block);
        b = _mm256_loadu_si256((const __m256i *) (block + 32));

        quote = lunary_avx2_bits(lunary_avx2_is(a, '"'),
                                 lunary_avx2_is(b, '"'));
        slash = lunary_avx2_bits(lunary_avx2_is(a, '\\'),
                                 lunary_avx2_is(b, '\\'));

        if (slash | odd) {
            quote &= ~lunary_simd_escaped(slash, &odd);
        }

        inside = (uint64_t) _mm_cvtsi128_si64(
                     _mm_clmulepi64_si128(_mm_cvtsi64_si128((int64_t) quote),
                                          _mm_set1_epi8(-1), 0)) ^ in;

        if (slash & ~inside) {

            /* outside of strings a backslash escapes nothing */

            _mm256_zeroupper();

            return lunary_simd_brackets(from, end, 1);
        }

        /* a bracket of either kind differs by 0x20 from one of the other */

        la = _mm256_or_si256(a, _mm256_set1_epi8(0x20));
        lb = _mm256_or_si256(b, _mm256_set1_epi8(0x20));

        open = lunary_avx2_bits(lunary_avx2_is(la, '{'),
                                lunary_avx2_is(lb, '{')) & ~inside;
        close = lunary_avx2_bits(lunary_avx2_is(la, '}'),
                                 lunary_avx2_is(lb, '}')) & ~inside;

        in = (uint64_t) ((int64_t) inside >> 63);

        if ((size_t) __builtin_popcountll(close) >= depth) {

            for ( /* void */ ; close; close &= close - 1) {
                bit = close & (0 - close);
                depth += (size_t) __builtin_popcountll(open & (bit - 1));
                open &= ~(bit - 1);

                if (--depth == 0) {
                    _mm256_zeroupper();
                    return p + __builtin_ctzll(bit) + 1;
                }
            }

            depth += (size_t) __builtin_popcountll(open);

        } else {
            depth += (size_t) __builtin_popcountll(open);
            depth -= (size_t) __builtin_popcountll(close);
        }
    }

    _mm256_zeroupper();

    return NULL;
}


LUNARY_AVX2_BITS static const unsigned char *
lunary_avx2_close(const unsigned char *p, const unsigned char *end)
{
    __m256i   a, b;
    uint64_t  quote, slash, odd;

    for (odd = 0; end - p >= 64; p += 64) {

        a = _mm256_loadu_si256((const __m256i *) p);
        b = _mm256_loadu_si256((const __m256i *) (p + 32));

        quote = lunary_avx2_bits(lunary_avx2_is(a, '"'),
                                 lunary_avx2_is(b, '"'));
        slash = lunary_avx2_bits(lunary_avx2_is(a, '\\'),
                                 lunary_avx2_is(b, '\\'));

        if (slash | odd) {
            quote &= ~lunary_simd_escaped(slash, &odd);
        }

        if (quote) {
            _mm256_zeroupper();
            return p + __builtin_ctzll(quote);
        }
    }

    _mm256_zeroupper();

    return (odd && p == end) ? end : lunary_simd_close(p + odd, end);
}


#define lunary_avx2_span    lunary_span_avx2
#define lunary_avx2_padded  lunary_span_avx2_padded

lunary_simd_table(avx2)


#endif /* LUNARY_HAVE_AVX2 */
