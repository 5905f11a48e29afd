/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The end of a JSON string.  See lunary_string.h.
 */

#include "lunary_escape.h"
#include "lunary_simd.h"
#include "lunary_string.h"

#if defined(__SSE2__) && (defined(__GNUC__) || defined(__clang__))            \
    && defined(__x86_64__)
#define LUNARY_STRING_AVX2  1
#include <immintrin.h>
#endif


/* what may stand behind a backslash and is the whole escape then */

static const uint8_t  lunary_string_simple[256] = {
    ['"'] = 1, ['\\'] = 1, ['/'] = 1, ['b'] = 1, ['f'] = 1, ['n'] = 1,
    ['r'] = 1, ['t'] = 1
};


/* behind \u and its digits, or NULL */

static inline const unsigned char *
lunary_string_hex(const unsigned char *p)
{
    int  i;

    if (p[1] != 'u') {
        return NULL;
    }

    for (i = 2; i < 6; i++) {
        if (lunary_hex(p[i]) < 0) {
            return NULL;
        }
    }

    return p + 6;
}


/* any processor: the search is lunary_simd.h's */

#if !defined(__SSE2__)

const unsigned char *
lunary_string_end(const unsigned char *p, const unsigned char *end, int *high)
{
    const unsigned char  *q;

    for ( ;; ) {
        p = lunary_simd_text(p, end);

        if (*p >= 0x80) {
            *high = 1;

            while (*p >= 0x80) {
                p++;
            }

            continue;
        }

        if (*p != '\\') {
            return p;
        }

        if (lunary_string_simple[p[1]]) {
            p += 2;
            continue;
        }

        q = lunary_string_hex(p);

        if (q == NULL) {
            return p;
        }

        p = q;
    }
}

#else

/* goes on behind an escape at bit i of a block of n bytes: the bits that are
 * left, or the next block */

#define lunary_string_masks(isa, attribute, word, ctz, n)                    \
                                                                             \
attribute static const unsigned char *                                       \
lunary_ ## isa ## _string(const unsigned char *p, int *high)                 \
{                                                                            \
    word                  m;                                                 \
    unsigned              i;                                                 \
    lunary_ ## isa ## _t  x[2], all;                                         \
    const unsigned char  *q;                                                 \
                                                                             \
    all = lunary_ ## isa ## _none();                                         \
                                                                             \
    for ( ;; ) {                                                             \
                                                                             \
        m = lunary_ ## isa ## _stops(p, x);                                  \
        all = lunary_ ## isa ## _or(all, x);                                 \
                                                                             \
        while (m != 0) {                                                     \
            i = (unsigned) ctz(m);                                           \
            q = p + i;                                                       \
                                                                             \
            if (*q != '\\') {                                                \
                goto done;                                                   \
            }                                                                \
                                                                             \
            if (lunary_string_simple[q[1]]) {                                \
                                                                             \
                if (i == n - 1) {                                            \
                    p++;                                                     \
                    break;                                                   \
                }                                                            \
                                                                             \
                m &= ~((word) 3 << i);                                       \
                continue;                                                    \
            }                                                                \
                                                                             \
            p = lunary_string_hex(q);                                        \
                                                                             \
            if (p == NULL) {                                                 \
                goto done;                                                   \
            }                                                                \
                                                                             \
            p -= n;                                                          \
            break;                                                           \
        }                                                                    \
                                                                             \
        p += n;                                                              \
    }                                                                        \
                                                                             \
done:                                                                        \
                                                                             \
    if (lunary_ ## isa ## _any(all)) {                                       \
        *high = 1;                                                           \
    }                                                                        \
                                                                             \
    return q;                                                                \
}


typedef __m128i  lunary_sse2_t;

#define lunary_sse2_none()     _mm_setzero_si128()
#define lunary_sse2_or(all, x)  _mm_or_si128(all, (x)[0])
#define lunary_sse2_any(all)   _mm_movemask_epi8(all)


static inline unsigned
lunary_sse2_stops(const unsigned char *p, __m128i *x)
{
    __m128i  m;

    *x = _mm_loadu_si128((const __m128i *) p);

    m = _mm_or_si128(_mm_cmpeq_epi8(*x, _mm_set1_epi8('"')),
                     _mm_cmpeq_epi8(*x, _mm_set1_epi8('\\')));
    m = _mm_or_si128(m, _mm_cmpeq_epi8(_mm_min_epu8(*x, _mm_set1_epi8(0x1f)),
                                       *x));

    return (unsigned) _mm_movemask_epi8(m);
}


lunary_string_masks(sse2, , unsigned, __builtin_ctz, 16)


#if (LUNARY_STRING_AVX2)

typedef __m256i  lunary_avx2_t;

#define LUNARY_AVX2             __attribute__((target("avx2")))

#define lunary_avx2_none()      _mm256_setzero_si256()
#define lunary_avx2_or(all, x)                                               \
    _mm256_or_si256(all, _mm256_or_si256((x)[0], (x)[1]))
#define lunary_avx2_any(all)    _mm256_movemask_epi8(all)


LUNARY_AVX2 static inline __m256i
lunary_avx2_stop(__m256i x)
{
    __m256i  m;

    m = _mm256_or_si256(_mm256_cmpeq_epi8(x, _mm256_set1_epi8('"')),
                        _mm256_cmpeq_epi8(x, _mm256_set1_epi8('\\')));

    return _mm256_or_si256(m, _mm256_cmpeq_epi8(
                                  _mm256_min_epu8(x, _mm256_set1_epi8(0x1f)),
                                  x));
}


LUNARY_AVX2 static inline uint64_t
lunary_avx2_stops(const unsigned char *p, __m256i *x)
{
    __m256i  a, b;

    x[0] = _mm256_loadu_si256((const __m256i *) p);
    x[1] = _mm256_loadu_si256((const __m256i *) (p + 32));

    a = lunary_avx2_stop(x[0]);
    b = lunary_avx2_stop(x[1]);

    return (uint64_t) (uint32_t) _mm256_movemask_epi8(a)
           | (uint64_t) (uint32_t) _mm256_movemask_epi8(b) << 32;
}


lunary_string_masks(avx2, LUNARY_AVX2, uint64_t, __builtin_ctzll, 64)

#endif


typedef const unsigned char *(*lunary_string_pt)(const unsigned char *p,
    int *high);

static const unsigned char *lunary_string_choose(const unsigned char *p,
    int *high);

static lunary_string_pt  lunary_string_long = lunary_string_choose;


/* two threads may choose at once, and choose the same */

static const unsigned char *
lunary_string_choose(const unsigned char *p, int *high)
{
    lunary_string_pt  fn;

    fn = lunary_sse2_string;

#if (LUNARY_STRING_AVX2)

    if (__builtin_cpu_supports("avx2")) {
        fn = lunary_avx2_string;
    }

#endif

    lunary_string_long = fn;

    return fn(p, high);
}


/* most strings are short: the first bytes without a call */

const unsigned char *
lunary_string_end(const unsigned char *p, const unsigned char *end, int *high)
{
    unsigned              m;
    __m128i               x;
    const unsigned char  *q;

    (void) end;

    m = lunary_sse2_stops(p, &x);

    if (m != 0) {
        q = p + __builtin_ctz(m);

        if (*q == '"') {
            *high |= (_mm_movemask_epi8(x) != 0);
            return q;
        }
    }

    return lunary_string_long(p, high);
}

#endif


#if (LUNARY_STRING_AVX2)

/* 64 bytes at a time: a bit for each byte that is looked for */

LUNARY_AVX2 static inline uint64_t
lunary_avx2_quotes(const unsigned char *p)
{
    __m256i  a, b, q, e;

    q = _mm256_set1_epi8('"');
    e = _mm256_set1_epi8('\\');
    a = _mm256_loadu_si256((const __m256i *) p);
    b = _mm256_loadu_si256((const __m256i *) (p + 32));
    a = _mm256_or_si256(_mm256_cmpeq_epi8(a, q), _mm256_cmpeq_epi8(a, e));
    b = _mm256_or_si256(_mm256_cmpeq_epi8(b, q), _mm256_cmpeq_epi8(b, e));

    return (uint64_t) (uint32_t) _mm256_movemask_epi8(a)
           | (uint64_t) (uint32_t) _mm256_movemask_epi8(b) << 32;
}


/* as signed numbers, bytes above 0x7f are below 0x20 too */

LUNARY_AVX2 static inline uint64_t
lunary_avx2_specials(const unsigned char *p)
{
    __m256i  a, b, c;

    c = _mm256_set1_epi8(0x20);
    a = _mm256_loadu_si256((const __m256i *) p);
    b = _mm256_loadu_si256((const __m256i *) (p + 32));

    return lunary_avx2_quotes(p)
           | (uint64_t) (uint32_t) _mm256_movemask_epi8(
                                       _mm256_cmpgt_epi8(c, a))
           | (uint64_t) (uint32_t) _mm256_movemask_epi8(
                                       _mm256_cmpgt_epi8(c, b)) << 32;
}


/* goes on where a backslash is no reason to stop */

#define lunary_string_blocks(name, mask, passes, rest)                       \
                                                                             \
LUNARY_AVX2 static const unsigned char *                                     \
lunary_avx2_string_ ## name(const unsigned char *p,                          \
    const unsigned char *end)                                                \
{                                                                            \
    uint64_t              m;                                                 \
    unsigned              i;                                                 \
    const unsigned char  *q;                                                 \
                                                                             \
    while (end - p > 64) {                                                   \
                                                                             \
        for (m = mask(p); m != 0; m &= ~((uint64_t) 3 << i)) {               \
            i = (unsigned) __builtin_ctzll(m);                               \
            q = p + i;                                                       \
                                                                             \
            if (*q != '\\' || !(passes)) {                                   \
                return q;                                                    \
            }                                                                \
                                                                             \
            if (i == 63) {                                                   \
                p++;                                                         \
                break;                                                       \
            }                                                                \
        }                                                                    \
                                                                             \
        p += 64;                                                             \
    }                                                                        \
                                                                             \
    return rest(p, end);                                                     \
}


lunary_string_blocks(close, lunary_avx2_quotes, 1, lunary_simd_close)
lunary_string_blocks(plain, lunary_avx2_specials, lunary_string_simple[q[1]],
                     lunary_simd_text)

#endif


typedef const unsigned char *(*lunary_string_find_pt)(const unsigned char *p,
    const unsigned char *end);

static const unsigned char *lunary_string_choose_close(
    const unsigned char *p, const unsigned char *end);
static const unsigned char *lunary_string_choose_plain(
    const unsigned char *p, const unsigned char *end);

static lunary_string_find_pt  lunary_string_find_close =
    lunary_string_choose_close;
static lunary_string_find_pt  lunary_string_find_plain =
    lunary_string_choose_plain;


static const unsigned char *
lunary_string_text(const unsigned char *p, const unsigned char *end)
{
    return lunary_simd_text(p, end);
}


static void
lunary_string_choose_find(void)
{
    lunary_string_find_close = lunary_simd_close;
    lunary_string_find_plain = lunary_string_text;

#if (LUNARY_STRING_AVX2)

    if (__builtin_cpu_supports("avx2")) {
        lunary_string_find_close = lunary_avx2_string_close;
        lunary_string_find_plain = lunary_avx2_string_plain;
    }

#endif
}


static const unsigned char *
lunary_string_choose_close(const unsigned char *p, const unsigned char *end)
{
    lunary_string_choose_find();

    return lunary_string_find_close(p, end);
}


static const unsigned char *
lunary_string_choose_plain(const unsigned char *p, const unsigned char *end)
{
    lunary_string_choose_find();

    return lunary_string_find_plain(p, end);
}


const unsigned char *
lunary_string_close(const unsigned char *p, const unsigned char *end)
{
    return lunary_string_find_close(p, end);
}


const unsigned char *
lunary_string_plain(const unsigned char *p, const unsigned char *end)
{
    return lunary_string_find_plain(p, end);
}
