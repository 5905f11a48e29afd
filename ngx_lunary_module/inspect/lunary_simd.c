/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Finding bytes.  See lunary_simd.h.
 *
 * An implementation is a set of masks: functions that look at so many bytes
 * at once and return a bit (of NEON: four) for each that is looked for.  The
 * loop around them is the same for all; what is left at the end goes to the
 * next simpler one.
 *
 * Invariant, of every function that uses them: where it is left, or another
 * one takes over, the upper halves of the wide registers are zero.  All that
 * follows is slower otherwise, the kernel too.  It is written out: gcc does it
 * itself from -O2 on only, and not before it jumps to a function of the same
 * file.
 */

#include "lunary_simd_internal.h"

#if defined(__aarch64__) && defined(__ARM_NEON)
#define LUNARY_HAVE_NEON  1
#include <arm_neon.h>
#endif

#if (LUNARY_HAVE_AVX2)
#include <immintrin.h>
#endif


/* portable: a table, and eight bytes at a time where that is simple */

#define LUNARY_IS_TEXT     0x01        /* stops text()                        */
#define LUNARY_IS_QUOTE    0x02
#define LUNARY_IS_BRACKET  0x04
#define LUNARY_IS_NUMBER   0x08        /* does not stop number()              */
#define LUNARY_IS_BASE64   0x10
#define LUNARY_IS_SPACE    0x20        /* does not stop space()               */

#define T  LUNARY_IS_TEXT
#define Q  LUNARY_IS_QUOTE
#define K  LUNARY_IS_BRACKET
#define N  LUNARY_IS_NUMBER
#define B  LUNARY_IS_BASE64
#define S  LUNARY_IS_SPACE

static const uint8_t  lunary_simd_class[256] = {

    /* 0x00: controls; tab, LF and CR part numbers */
    T, T, T, T, T, T, T, T,  T, T|N|S, T|N|S, T, T, T|N|S, T, T,
    T, T, T, T, T, T, T, T,  T, T, T, T, T, T, T, T,

    /*   ! " # $ % & '  ( ) * + , - . /  */
    N|S, 0, T|Q|K, 0, 0, 0, 0, 0,  0, 0, 0, N|B, N, N|B, N, B,

    /* 0 ... 9 : ; < = > ? */
    N|B, N|B, N|B, N|B, N|B, N|B, N|B, N|B,  N|B, N|B, 0, 0, 0, B, 0, 0,

    /* @ A ... O */
    0, B, B, B, B, B|N, B, B,  B, B, B, B, B, B, B, B,

    /* P ... Z [ \ ] ^ _ */
    B, B, B, B, B, B, B, B,  B, B, B, K, T|Q, K, 0, B,

    /* ` a ... o */
    0, B, B, B, B, B|N, B, B,  B, B, B, B, B, B, B, B,

    /* p ... z { | } ~ DEL */
    B, B, B, B, B, B, B, B,  B, B, B, K, 0, K, 0, 0,

    T, T, T, T, T, T, T, T,  T, T, T, T, T, T, T, T,
    T, T, T, T, T, T, T, T,  T, T, T, T, T, T, T, T,
    T, T, T, T, T, T, T, T,  T, T, T, T, T, T, T, T,
    T, T, T, T, T, T, T, T,  T, T, T, T, T, T, T, T,
    T, T, T, T, T, T, T, T,  T, T, T, T, T, T, T, T,
    T, T, T, T, T, T, T, T,  T, T, T, T, T, T, T, T,
    T, T, T, T, T, T, T, T,  T, T, T, T, T, T, T, T,
    T, T, T, T, T, T, T, T,  T, T, T, T, T, T, T, T
};

#undef T
#undef Q
#undef K
#undef N
#undef B
#undef S


#define LUNARY_ONES   0x0101010101010101ULL
#define LUNARY_HIGHS  0x8080808080808080ULL

/* has a bit set where a byte of w is zero, is c: exact as a yes or no */

#define lunary_swar_zero(w)   (((w) - LUNARY_ONES) & ~(w) & LUNARY_HIGHS)
#define lunary_swar_is(w, c)  lunary_swar_zero((w) ^ (LUNARY_ONES * (c)))


static inline uint64_t
lunary_swar_text(uint64_t w)
{
    return lunary_swar_is(w, '"') | lunary_swar_is(w, '\\')
           | ((w - LUNARY_ONES * 0x20) & LUNARY_HIGHS) | (w & LUNARY_HIGHS);
}


static inline uint64_t
lunary_swar_quote(uint64_t w)
{
    return lunary_swar_is(w, '"') | lunary_swar_is(w, '\\');
}


static inline uint64_t
lunary_swar_bracket(uint64_t w)
{
    uint64_t  y;

    y = w | LUNARY_ONES * 0x20;

    return lunary_swar_is(y, '{') | lunary_swar_is(y, '}')
           | lunary_swar_is(w, '"');
}


#define lunary_portable_words(what, class)                                   \
                                                                             \
static const unsigned char *                                                 \
lunary_portable_ ## what(const unsigned char *p, const unsigned char *end)   \
{                                                                            \
    uint64_t  w;                                                             \
                                                                             \
    while (end - p >= 8) {                                                   \
        memcpy(&w, p, 8);                                                    \
                                                                             \
        if (lunary_swar_ ## what(w)) {                                       \
            break;                                                           \
        }                                                                    \
                                                                             \
        p += 8;                                                              \
    }                                                                        \
                                                                             \
    while (p < end && !(lunary_simd_class[*p] & class)) {                    \
        p++;                                                                 \
    }                                                                        \
                                                                             \
    return p;                                                                \
}

#define lunary_portable_bytes(what, class)                                   \
                                                                             \
static const unsigned char *                                                 \
lunary_portable_ ## what(const unsigned char *p, const unsigned char *end)   \
{                                                                            \
    while (p < end && (lunary_simd_class[*p] & class)) {                     \
        p++;                                                                 \
    }                                                                        \
                                                                             \
    return p;                                                                \
}


lunary_portable_words(text, LUNARY_IS_TEXT)
lunary_portable_words(quote, LUNARY_IS_QUOTE)
lunary_portable_words(bracket, LUNARY_IS_BRACKET)
lunary_portable_bytes(number, LUNARY_IS_NUMBER)
lunary_portable_bytes(base64, LUNARY_IS_BASE64)
lunary_portable_bytes(space, LUNARY_IS_SPACE)


/* depth brackets are open, and we are outside of strings */

static const unsigned char *
lunary_simd_brackets(const unsigned char *p, const unsigned char *end,
    size_t depth)
{
    for ( ;; ) {
        p = lunary_simd_bracket(p, end);

        if (p == end) {
            return NULL;
        }

        switch (*p++) {

        case '"':
            p = lunary_simd_close(p, end);

            if (p == end) {
                return NULL;
            }

            p++;
            break;

        case '{':
        case '[':
            depth++;
            break;

        default: /* '}' or ']' */

            if (--depth == 0) {
                return p;
            }
        }
    }
}


const unsigned char *
lunary_portable_nested(const unsigned char *p, const unsigned char *end)
{
    return lunary_simd_brackets(p, end, 1);
}


#define lunary_simd_table(isa)                                               \
                                                                             \
static const lunary_simd_t  lunary_simd_ ## isa = {                          \
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

const lunary_simd_t  lunary_simd_portable = {
    "portable",
    lunary_portable_text,
    lunary_portable_quote,
    lunary_portable_bracket,
    lunary_portable_number,
    lunary_portable_base64,
    lunary_portable_space,
    lunary_portable_nested,
    lunary_simd_close,
    lunary_span_any,
    lunary_span_any
};


/* the loop: `bytes` at a time, `bits` of the mask for each; `leave` is done
 * before it is left */

#define lunary_simd_find(isa, attr, what, bytes, bits, leave, rest)          \
                                                                             \
attr static const unsigned char *                                            \
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


#if defined(__SSE2__)

/* 1 where a byte, less `first`, is not above `last` - `first` */

static inline __m128i
lunary_sse2_between(__m128i x, char first, char last)
{
    x = _mm_sub_epi8(x, _mm_set1_epi8(first));

    return _mm_cmpeq_epi8(_mm_min_epu8(x, _mm_set1_epi8((char)
                                                        (last - first))), x);
}

#define lunary_sse2_is(x, c)  _mm_cmpeq_epi8(x, _mm_set1_epi8(c))


static inline unsigned
lunary_sse2_number(const unsigned char *p)
{
    __m128i  x, m;

    x = _mm_loadu_si128((const __m128i *) p);

    /* + , - . / and the digits are neighbours: / is none of them */

    m = _mm_andnot_si128(lunary_sse2_is(x, '/'),
                         lunary_sse2_between(x, '+', '9'));
    m = _mm_or_si128(m, lunary_sse2_is(_mm_or_si128(x, _mm_set1_epi8(0x20)),
                                       'e'));
    m = _mm_or_si128(m, _mm_or_si128(lunary_sse2_is(x, ' '),
                                     lunary_sse2_is(x, '\n')));
    m = _mm_or_si128(m, _mm_or_si128(lunary_sse2_is(x, '\r'),
                                     lunary_sse2_is(x, '\t')));

    return (unsigned) _mm_movemask_epi8(m) ^ 0xffff;
}


static inline unsigned
lunary_sse2_base64(const unsigned char *p)
{
    __m128i  x, m;

    x = _mm_loadu_si128((const __m128i *) p);
    m = lunary_sse2_between(_mm_or_si128(x, _mm_set1_epi8(0x20)), 'a', 'z');
    m = _mm_or_si128(m, lunary_sse2_between(x, '/', '9'));
    m = _mm_or_si128(m, _mm_or_si128(lunary_sse2_is(x, '+'),
                                     lunary_sse2_is(x, '-')));
    m = _mm_or_si128(m, _mm_or_si128(lunary_sse2_is(x, '_'),
                                     lunary_sse2_is(x, '=')));

    return (unsigned) _mm_movemask_epi8(m) ^ 0xffff;
}


lunary_simd_find(sse2, , text, 16, 1, , lunary_portable_text)
lunary_simd_find(sse2, , quote, 16, 1, , lunary_portable_quote)
lunary_simd_find(sse2, , bracket, 16, 1, , lunary_portable_bracket)
lunary_simd_find(sse2, , number, 16, 1, , lunary_portable_number)
lunary_simd_find(sse2, , base64, 16, 1, , lunary_portable_base64)
lunary_simd_find(sse2, , space, 16, 1, , lunary_portable_space)

#define lunary_sse2_nested  lunary_portable_nested
#define lunary_sse2_close   lunary_simd_close
#define lunary_sse2_span    lunary_span_any
#define lunary_sse2_padded  lunary_span_any

lunary_simd_table(sse2)

#endif


#if (LUNARY_HAVE_AVX2)

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

#endif


#if (LUNARY_HAVE_AVX512)

/* what is looked for without what is around it is near, or mostly is */

#define lunary_avx512_find_text     lunary_avx2_find_text
#define lunary_avx512_find_quote    lunary_avx2_find_quote
#define lunary_avx512_find_bracket  lunary_avx2_find_bracket
#define lunary_avx512_find_number   lunary_avx2_find_number
#define lunary_avx512_find_base64   lunary_avx2_find_base64
#define lunary_avx512_find_space    lunary_avx2_find_space

lunary_simd_table(avx512)

#endif


#if (LUNARY_HAVE_NEON)

#define lunary_neon_is(x, c)  vceqq_u8(x, vdupq_n_u8(c))


/* four bits for each byte */

static inline uint64_t
lunary_neon_bits(uint8x16_t m)
{
    return vget_lane_u64(vreinterpret_u64_u8(
                             vshrn_n_u16(vreinterpretq_u16_u8(m), 4)), 0);
}


static inline uint8x16_t
lunary_neon_between(uint8x16_t x, uint8_t first, uint8_t last)
{
    return vcleq_u8(vsubq_u8(x, vdupq_n_u8(first)),
                    vdupq_n_u8((uint8_t) (last - first)));
}


static inline uint64_t
lunary_neon_text(const unsigned char *p)
{
    uint8x16_t  x, m;

    x = vld1q_u8(p);
    m = vorrq_u8(lunary_neon_is(x, '"'), lunary_neon_is(x, '\\'));
    m = vorrq_u8(m, vcltq_u8(x, vdupq_n_u8(0x20)));
    m = vorrq_u8(m, vcgtq_u8(x, vdupq_n_u8(0x7f)));

    return lunary_neon_bits(m);
}


static inline uint64_t
lunary_neon_quote(const unsigned char *p)
{
    uint8x16_t  x;

    x = vld1q_u8(p);

    return lunary_neon_bits(vorrq_u8(lunary_neon_is(x, '"'),
                                     lunary_neon_is(x, '\\')));
}


static inline uint64_t
lunary_neon_bracket(const unsigned char *p)
{
    uint8x16_t  x, y, m;

    x = vld1q_u8(p);
    y = vorrq_u8(x, vdupq_n_u8(0x20));
    m = vorrq_u8(lunary_neon_is(y, '{'), lunary_neon_is(y, '}'));

    return lunary_neon_bits(vorrq_u8(m, lunary_neon_is(x, '"')));
}


static inline uint64_t
lunary_neon_number(const unsigned char *p)
{
    uint8x16_t  x, m;

    x = vld1q_u8(p);
    m = vbicq_u8(lunary_neon_between(x, '+', '9'), lunary_neon_is(x, '/'));
    m = vorrq_u8(m, lunary_neon_is(vorrq_u8(x, vdupq_n_u8(0x20)), 'e'));
    m = vorrq_u8(m, vorrq_u8(lunary_neon_is(x, ' '),
                             lunary_neon_is(x, '\n')));
    m = vorrq_u8(m, vorrq_u8(lunary_neon_is(x, '\r'),
                             lunary_neon_is(x, '\t')));

    return ~lunary_neon_bits(m);
}


static inline uint64_t
lunary_neon_space(const unsigned char *p)
{
    uint8x16_t  x, m;

    x = vld1q_u8(p);
    m = vorrq_u8(vorrq_u8(lunary_neon_is(x, ' '), lunary_neon_is(x, '\n')),
                 vorrq_u8(lunary_neon_is(x, '\r'), lunary_neon_is(x, '\t')));

    return ~lunary_neon_bits(m);
}


static inline uint64_t
lunary_neon_base64(const unsigned char *p)
{
    uint8x16_t  x, m;

    x = vld1q_u8(p);
    m = lunary_neon_between(vorrq_u8(x, vdupq_n_u8(0x20)), 'a', 'z');
    m = vorrq_u8(m, lunary_neon_between(x, '/', '9'));
    m = vorrq_u8(m, vorrq_u8(lunary_neon_is(x, '+'),
                             lunary_neon_is(x, '-')));
    m = vorrq_u8(m, vorrq_u8(lunary_neon_is(x, '_'),
                             lunary_neon_is(x, '=')));

    return ~lunary_neon_bits(m);
}


lunary_simd_find(neon, , text, 16, 4, , lunary_portable_text)
lunary_simd_find(neon, , quote, 16, 4, , lunary_portable_quote)
lunary_simd_find(neon, , bracket, 16, 4, , lunary_portable_bracket)
lunary_simd_find(neon, , number, 16, 4, , lunary_portable_number)
lunary_simd_find(neon, , base64, 16, 4, , lunary_portable_base64)
lunary_simd_find(neon, , space, 16, 4, , lunary_portable_space)

#define lunary_neon_nested  lunary_portable_nested
#define lunary_neon_close   lunary_simd_close
#define lunary_neon_span    lunary_span_any
#define lunary_neon_padded  lunary_span_any

lunary_simd_table(neon)

#endif


/*
 * Until the first call the table holds functions that choose; two threads may
 * choose at once, and choose the same.
 */

#define lunary_simd_chooser(what)                                            \
                                                                             \
static const unsigned char *                                                 \
lunary_choose_find_ ## what(const unsigned char *p,                          \
    const unsigned char *end)                                                \
{                                                                            \
    lunary_simd = lunary_simd_all()[0];                                      \
                                                                             \
    return lunary_simd->what(p, end);                                        \
}


lunary_simd_chooser(text)
lunary_simd_chooser(quote)
lunary_simd_chooser(bracket)
lunary_simd_chooser(number)
lunary_simd_chooser(base64)
lunary_simd_chooser(space)


static const unsigned char *
lunary_choose_nested(const unsigned char *p, const unsigned char *end)
{
    lunary_simd = lunary_simd_all()[0];

    return lunary_simd->nested(p, end);
}


static const unsigned char *
lunary_choose_close(const unsigned char *p, const unsigned char *end)
{
    lunary_simd = lunary_simd_all()[0];

    return lunary_simd->close(p, end);
}


static const unsigned char *
lunary_choose_span(const unsigned char *p, const unsigned char *end)
{
    lunary_simd = lunary_simd_all()[0];

    return lunary_simd->span(p, end);
}


static const unsigned char *
lunary_choose_padded(const unsigned char *p, const unsigned char *end)
{
    lunary_simd = lunary_simd_all()[0];

    return lunary_simd->padded(p, end);
}


lunary_simd_table(choose)

const lunary_simd_t  *lunary_simd = &lunary_simd_choose;


int
lunary_simd_wide(void)
{
    if (lunary_simd == &lunary_simd_choose) {
        lunary_simd = lunary_simd_all()[0];
    }

#if (LUNARY_HAVE_AVX512)

    if (lunary_simd == &lunary_simd_avx512) {
        return 1;
    }

#endif

#if (LUNARY_HAVE_AVX2)
    return lunary_simd == &lunary_simd_avx2;
#else
    return 0;
#endif
}


const lunary_simd_t *const *
lunary_simd_all(void)
{
    const lunary_simd_t *const  *one;

    static const lunary_simd_t *const  all[] = {
#if (LUNARY_HAVE_AVX512)
        &lunary_simd_avx512,
#endif
#if (LUNARY_HAVE_AVX2)
        &lunary_simd_avx2,
#endif
#if defined(__SSE2__)
        &lunary_simd_sse2,
#endif
#if (LUNARY_HAVE_NEON)
        &lunary_simd_neon,
#endif
        &lunary_simd_portable,
        NULL
    };

    one = all;

#if (LUNARY_HAVE_AVX512)

    /* each by itself: what a virtual machine shows may lack any of them */

    if (!__builtin_cpu_supports("avx512bw")
        || !__builtin_cpu_supports("avx512vbmi")
        || !__builtin_cpu_supports("avx512vbmi2")
        || !__builtin_cpu_supports("bmi2")
        || !__builtin_cpu_supports("pclmul"))
    {
        one++;
    }

#endif

#if (LUNARY_HAVE_AVX2)

    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi")
        || !__builtin_cpu_supports("popcnt")
        || !__builtin_cpu_supports("pclmul"))
    {
        for (one = all; *one != &lunary_simd_sse2; one++) { /* void */ }
    }

#endif

    return one;
}


const unsigned char *
lunary_simd_close(const unsigned char *p, const unsigned char *end)
{
    for ( ;; ) {
        p = lunary_simd_quote(p, end);

        if (p == end || *p == '"') {
            return p;
        }

        if (end - p < 2) {
            return end;
        }

        p += 2;
    }
}
