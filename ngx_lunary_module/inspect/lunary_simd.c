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
const unsigned char *                                                        \
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
const unsigned char *                                                        \
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


const unsigned char *
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

static lunary_simd_table(sse2)

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


static lunary_simd_table(choose)

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
