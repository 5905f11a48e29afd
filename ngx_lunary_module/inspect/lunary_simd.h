/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Finding the few bytes of a JSON text that matter.  Private to inspect/.
 *
 * Invariants
 *   - every function looks at [p, end) only and returns a pointer into it, or
 *     end where it found nothing;
 *   - every implementation gives the same answers; the best one that the
 *     processor has is taken at the first call.
 */

#ifndef LUNARY_SIMD_H
#define LUNARY_SIMD_H

#include "lunary_base.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#if defined(__SSE2__) && (defined(__GNUC__) || defined(__clang__))            \
    && defined(__x86_64__)
#define LUNARY_HAVE_AVX2  1

#if defined(__clang__) ? (__clang_major__ >= 10) : (__GNUC__ >= 9)
#define LUNARY_HAVE_AVX512  1
#endif

#endif


typedef const unsigned char *(*lunary_simd_pt)(const unsigned char *p,
    const unsigned char *end);

typedef struct {
    const char      *name;              /* "avx512", "avx2", "sse2", "neon",
                                         * "portable" */
    lunary_simd_pt   text;
    lunary_simd_pt   quote;
    lunary_simd_pt   bracket;
    lunary_simd_pt   number;
    lunary_simd_pt   base64;
    lunary_simd_pt   space;
    lunary_simd_pt   nested;
    lunary_simd_pt   close;
    lunary_simd_pt   span;
    lunary_simd_pt   padded;
} lunary_simd_t;

extern const lunary_simd_t  *lunary_simd;
extern const lunary_simd_t   lunary_simd_portable;

/* 1 where the processor has AVX2 and what comes with it, and that, or more, is
 * chosen */
int lunary_simd_wide(void);

/* what this processor can run, best first; ends with a NULL */
const lunary_simd_t *const *lunary_simd_all(void);


/*
 * text:    the first quote, backslash, control (below 0x20) or byte above 0x7f
 * quote:   the first quote or backslash
 * bracket: the first quote or bracket: " [ ] { }
 * number:  the first byte that numbers and what parts them do not hold: all
 *          but digits + - . e E , space, tab, CR, LF
 * base64:  the first byte that base64 does not hold: all but A-Z a-z 0-9 + / -
 *          _ =
 * space:   the first byte that is no white space of JSON
 * nested:  p is behind an opening bracket: what is behind the one that closes
 *          it, strings passed over; NULL where there is none
 * close, span, padded: p is inside of a string; see lunary_string.h
 *
 * What is looked for is mostly near: where that is cheap the first bytes are
 * looked at without a call.
 */

#define lunary_simd_number(p, end)  lunary_simd->number(p, end)
#define lunary_simd_base64(p, end)  lunary_simd->base64(p, end)
#define lunary_simd_nested(p, end)  lunary_simd->nested(p, end)

#if defined(__SSE2__)

static inline unsigned
lunary_sse2_text(const unsigned char *p)
{
    __m128i  x, m;

    /* as signed numbers, bytes above 0x7f are below 0x20 too */

    x = _mm_loadu_si128((const __m128i *) p);
    m = _mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8('"')),
                     _mm_cmpeq_epi8(x, _mm_set1_epi8('\\')));
    m = _mm_or_si128(m, _mm_cmplt_epi8(x, _mm_set1_epi8(0x20)));

    return (unsigned) _mm_movemask_epi8(m);
}


static inline unsigned
lunary_sse2_quote(const unsigned char *p)
{
    __m128i  x, m;

    x = _mm_loadu_si128((const __m128i *) p);
    m = _mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8('"')),
                     _mm_cmpeq_epi8(x, _mm_set1_epi8('\\')));

    return (unsigned) _mm_movemask_epi8(m);
}


static inline unsigned
lunary_sse2_bracket(const unsigned char *p)
{
    __m128i  x, y, m;

    /* a bracket of either kind differs by 0x20 from one of the other */

    x = _mm_loadu_si128((const __m128i *) p);
    y = _mm_or_si128(x, _mm_set1_epi8(0x20));
    m = _mm_or_si128(_mm_cmpeq_epi8(y, _mm_set1_epi8('{')),
                     _mm_cmpeq_epi8(y, _mm_set1_epi8('}')));
    m = _mm_or_si128(m, _mm_cmpeq_epi8(x, _mm_set1_epi8('"')));

    return (unsigned) _mm_movemask_epi8(m);
}


static inline unsigned
lunary_sse2_space(const unsigned char *p)
{
    __m128i  x, m;

    x = _mm_loadu_si128((const __m128i *) p);
    m = _mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8(' ')),
                     _mm_cmpeq_epi8(x, _mm_set1_epi8('\n')));
    m = _mm_or_si128(m, _mm_cmpeq_epi8(x, _mm_set1_epi8('\r')));
    m = _mm_or_si128(m, _mm_cmpeq_epi8(x, _mm_set1_epi8('\t')));

    return (unsigned) _mm_movemask_epi8(m) ^ 0xffff;
}


#define lunary_simd_near(what)                                               \
                                                                             \
static inline const unsigned char *                                          \
lunary_simd_ ## what(const unsigned char *p, const unsigned char *end)       \
{                                                                            \
    unsigned  m;                                                             \
                                                                             \
    if (end - p >= 16) {                                                     \
        m = lunary_sse2_ ## what(p);                                         \
                                                                             \
        if (m) {                                                             \
            return p + __builtin_ctz(m);                                     \
        }                                                                    \
                                                                             \
        p += 16;                                                             \
    }                                                                        \
                                                                             \
    return ((end - p < 16) ? &lunary_simd_portable : lunary_simd)            \
           ->what(p, end);                                                   \
}

lunary_simd_near(text)
lunary_simd_near(quote)
lunary_simd_near(bracket)
lunary_simd_near(space)

#undef lunary_simd_near

#else

#define lunary_simd_text(p, end)     lunary_simd->text(p, end)
#define lunary_simd_quote(p, end)    lunary_simd->quote(p, end)
#define lunary_simd_bracket(p, end)  lunary_simd->bracket(p, end)
#define lunary_simd_space(p, end)    lunary_simd->space(p, end)

#endif


/* the first backslash: the C library's search is as good as any */

static inline const unsigned char *
lunary_simd_backslash(const unsigned char *p, const unsigned char *end)
{
    const void  *q;

    if (p == end) {
        return end;
    }

    q = memchr(p, '\\', (size_t) (end - p));

    return (q != NULL) ? q : end;
}


/* p is inside a string: its closing quote (escaped ones are passed over) */
const unsigned char *lunary_simd_close(const unsigned char *p,
    const unsigned char *end);


#endif /* LUNARY_SIMD_H */
