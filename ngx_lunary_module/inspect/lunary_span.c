/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * How far the inside of a JSON string goes: lunary_string_span() and
 * lunary_string_end() of lunary_string.h.
 *
 * With AVX2, and with AVX-512 (lunary_simd_avx512.c), 64 bytes are judged at
 * once, by masks with a bit for each byte, so that neither escapes nor
 * characters above U+007F cost a branch each:
 *   - a byte is escaped behind an odd row of backslashes; behind it stands
 *     one of nine letters, and behind a `u` four hexadecimal digits;
 *   - UTF-8 is looked up in three tables, by the halves of a byte and of the
 *     one before it, which agree on a bit for each way to be wrong (Keiser and
 *     Lemire, "Validating UTF-8 in less than one instruction per byte", 2021).
 * What is wrong, or not all there, is told by its mask only: the loop over
 * characters, which other processors run alone, then finds where it starts.
 *
 * Invariant: every implementation gives the same answer, which depends on
 * [p, end) only.
 */

#include "lunary_escape.h"
#include "lunary_simd_internal.h"
#include "lunary_string.h"
#include "lunary_utf8.h"

#if (LUNARY_HAVE_AVX2)
#include <immintrin.h>
#endif


/* any processor: the search for what is special is lunary_simd.h's */

const unsigned char *
lunary_span_any(const unsigned char *p, const unsigned char *end)
{
    int                   n;
    const unsigned char  *q;

    for ( ;; ) {
        p = lunary_simd_text(p, end);

        if (p == end) {
            return p;
        }

        if (*p >= 0x80) {
            q = p;
            p = lunary_utf8_run(p, end, &n);

            if (n <= 0 || p == q) {
                return p;
            }

            continue;
        }

        if (*p != '\\' || end - p < 2) {
            return p;
        }

        switch (p[1]) {

        case '"': case '\\': case '/': case 'b': case 'f': case 'n':
        case 'r': case 't':
            p += 2;
            continue;

        case 'u':

            if (end - p >= 6
                && (lunary_hex(p[2]) | lunary_hex(p[3])
                    | lunary_hex(p[4]) | lunary_hex(p[5])) >= 0)
            {
                p += 6;
                continue;
            }

            return p;

        default:
            return p;
        }
    }
}


#if (LUNARY_HAVE_AVX2)

#define LUNARY_AVX2           __attribute__((target("avx2,bmi,popcnt")))
#define lunary_avx2_is(x, c)  _mm256_cmpeq_epi8(x, _mm256_set1_epi8(c))

#define lunary_avx2_twice(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)    \
    _mm256_setr_epi8((char) (a), (char) (b), (char) (c), (char) (d),         \
                     (char) (e), (char) (f), (char) (g), (char) (h),         \
                     (char) (i), (char) (j), (char) (k), (char) (l),         \
                     (char) (m), (char) (n), (char) (o), (char) (p),         \
                     (char) (a), (char) (b), (char) (c), (char) (d),         \
                     (char) (e), (char) (f), (char) (g), (char) (h),         \
                     (char) (i), (char) (j), (char) (k), (char) (l),         \
                     (char) (m), (char) (n), (char) (o), (char) (p))


LUNARY_AVX2 static inline __m256i
lunary_avx2_half(__m256i x)
{
    return _mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi8(0x0f));
}


LUNARY_AVX2 static inline __m256i
lunary_avx2_table(const unsigned char *table)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)
                                                       table));
}


/* not zero at, or up to three bytes behind, what is no UTF-8 in x */

LUNARY_AVX2 static inline __m256i
lunary_avx2_utf8(__m256i x, __m256i before)
{
    __m256i  carried, one, two, three, high, low, next, due;

    carried = _mm256_permute2x128_si256(before, x, 0x21);
    one = _mm256_alignr_epi8(x, carried, 15);
    two = _mm256_alignr_epi8(x, carried, 14);
    three = _mm256_alignr_epi8(x, carried, 13);

    high = lunary_avx2_table(lunary_simd_utf8_high);
    low = lunary_avx2_table(lunary_simd_utf8_low);
    next = lunary_avx2_table(lunary_simd_utf8_next);

    high = _mm256_shuffle_epi8(high, lunary_avx2_half(one));
    low = _mm256_shuffle_epi8(low, _mm256_and_si256(one,
                                       _mm256_set1_epi8(0x0f)));
    next = _mm256_shuffle_epi8(next, lunary_avx2_half(x));

    /* bit 7: behind 111..... and whatever, behind 1111.... and two more */

    due = _mm256_or_si256(_mm256_subs_epu8(two, _mm256_set1_epi8(0x60)),
                          _mm256_subs_epu8(three, _mm256_set1_epi8(0x70)));
    due = _mm256_and_si256(due, _mm256_set1_epi8((char) 0x80));

    return _mm256_xor_si256(due, _mm256_and_si256(_mm256_and_si256(high, low),
                                                  next));
}


LUNARY_AVX2 static inline uint64_t
lunary_avx2_bits(__m256i a, __m256i b)
{
    return (uint64_t) (uint32_t) _mm256_movemask_epi8(a)
           | (uint64_t) (uint32_t) _mm256_movemask_epi8(b) << 32;
}


LUNARY_AVX2 static inline __m256i
lunary_avx2_control(__m256i x)
{
    return _mm256_cmpeq_epi8(_mm256_min_epu8(x, _mm256_set1_epi8(0x1f)), x);
}


/* what may not stand behind a backslash: what may has a bit for its column of
 * ASCII, by the lower half of the byte and by the upper */

LUNARY_AVX2 static inline __m256i
lunary_avx2_no_letter(__m256i x)
{
    __m256i  low, high;

    low = lunary_avx2_twice(0, 0, 13, 0, 8, 8, 4, 0, 0, 0, 0, 0, 2, 0, 4, 1);
    high = lunary_avx2_twice(0, 0, 1, 0, 0, 2, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0);

    low = _mm256_shuffle_epi8(low, x);
    high = _mm256_shuffle_epi8(high, lunary_avx2_half(x));

    return _mm256_cmpeq_epi8(_mm256_and_si256(low, high),
                             _mm256_setzero_si256());
}


LUNARY_AVX2 static inline __m256i
lunary_avx2_digit(__m256i x)
{
    __m256i  d, l;

    d = _mm256_sub_epi8(x, _mm256_set1_epi8('0'));
    l = _mm256_sub_epi8(_mm256_or_si256(x, _mm256_set1_epi8(0x20)),
                        _mm256_set1_epi8('a'));

    d = _mm256_cmpeq_epi8(_mm256_min_epu8(d, _mm256_set1_epi8(9)), d);
    l = _mm256_cmpeq_epi8(_mm256_min_epu8(l, _mm256_set1_epi8(5)), l);

    return _mm256_or_si256(d, l);
}


/* 1 where one or two bytes are escaped, or none, and each makes an escape of
 * one letter: so it mostly is */

LUNARY_AVX2 static inline int
lunary_avx2_few(const unsigned char *p, uint64_t follows)
{
    uint64_t  more;

    static const uint8_t  letter[256] = {
        ['"'] = 1, ['\\'] = 1, ['/'] = 1, ['b'] = 1, ['f'] = 1, ['n'] = 1,
        ['r'] = 1, ['t'] = 1
    };

    more = follows & (follows - 1);

    if (follows == 0) {
        return 1;
    }

    if (more & (more - 1)) {
        return 0;
    }

    if (more == 0) {
        more = follows;
    }

    return letter[p[__builtin_ctzll(follows)]]
           & letter[p[__builtin_ctzll(more)]];
}


LUNARY_AVX2 static inline __attribute__((always_inline)) const unsigned char *
lunary_avx2_span(const unsigned char *p, const unsigned char *end, int padded)
{
    size_t                n;
    __m256i               a, b, before, any;
    uint64_t              stop, bad, slash, odd, due, u;
    uint64_t              follows, odd_next, due_next;
    unsigned char         tail[64];
    const unsigned char  *from, *block;

    from = p;
    odd = 0;                          /* bit 0: the first byte is escaped     */
    due = 0;                          /* bits of digits due from a \u before  */
    before = _mm256_setzero_si256();

    for ( ;; ) {

        n = (size_t) (end - p);
        block = p;

        if (!padded && n < 64) {

            /* the zeroes behind it stop, whatever is due */

            memset(tail, 0, sizeof(tail));
            memcpy(tail, p, n);
            block = tail;
        }

        a = _mm256_loadu_si256((const __m256i *) block);
        b = _mm256_loadu_si256((const __m256i *) (block + 32));

        stop = lunary_avx2_bits(_mm256_or_si256(lunary_avx2_is(a, '"'),
                                                lunary_avx2_control(a)),
                                _mm256_or_si256(lunary_avx2_is(b, '"'),
                                                lunary_avx2_control(b)));
        slash = lunary_avx2_bits(lunary_avx2_is(a, '\\'),
                                 lunary_avx2_is(b, '\\'));
        bad = 0;
        odd_next = 0;
        due_next = 0;

        any = _mm256_or_si256(_mm256_or_si256(a, b), before);

        if (_mm256_movemask_epi8(any)) {
            bad = ~lunary_avx2_bits(
                      _mm256_cmpeq_epi8(lunary_avx2_utf8(a, before),
                                        _mm256_setzero_si256()),
                      _mm256_cmpeq_epi8(lunary_avx2_utf8(b, a),
                                        _mm256_setzero_si256()));
        }

        if (slash | odd | due) {

            odd_next = odd;
            follows = lunary_simd_escaped(slash, &odd_next);

            /* an escaped quote is none, and a control is no escape */

            stop &= ~follows;

            if (due == 0 && lunary_avx2_few(block, follows)) {
                goto judged;
            }

            bad |= follows & lunary_avx2_bits(lunary_avx2_no_letter(a),
                                              lunary_avx2_no_letter(b));

            u = follows & lunary_avx2_bits(lunary_avx2_is(a, 'u'),
                                           lunary_avx2_is(b, 'u'));

            if (u | due) {
                bad |= (u << 1 | u << 2 | u << 3 | u << 4 | due)
                       & ~lunary_avx2_bits(lunary_avx2_digit(a),
                                           lunary_avx2_digit(b));

                due_next = u >> 63 | u >> 62 | u >> 61 | u >> 60;
            }
        }

judged:

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
        before = b;
        p += 64;
    }

    _mm256_zeroupper();

    return lunary_span_any(lunary_simd_back(from, p, odd, due), end);
}


LUNARY_AVX2 const unsigned char *
lunary_span_avx2(const unsigned char *p, const unsigned char *end)
{
    return lunary_avx2_span(p, end, 0);
}


LUNARY_AVX2 const unsigned char *
lunary_span_avx2_padded(const unsigned char *p, const unsigned char *end)
{
    return lunary_avx2_span(p, end, 1);
}

#endif
