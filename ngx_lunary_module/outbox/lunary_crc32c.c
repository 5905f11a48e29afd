/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * CRC-32C: eight tables and eight bytes a step, or SSE4.2's instruction.
 *
 * The instruction takes one word a cycle but its result three, so that long
 * data is taken in three lanes side by side.  What a lane has found is carried
 * over the bytes behind it by a multiplication: with x^(8n-33) modulo the
 * polynomial, where n is their number, and the instruction itself reduces the
 * product (bits are reflected, hence 33).
 *
 * With VPCLMULQDQ data is not summed up but folded: 16 bytes are replaced by a
 * product that leaves the same remainder, n bytes further on, and added to what
 * is there.  Their first half is multiplied with x^(8n+64-33), the second one
 * with x^(8n-33); a vector has two such 16 bytes.  The instruction makes the
 * sum of the last 16 (Gopal et al., "Fast CRC Computation for Generic
 * Polynomials Using PCLMULQDQ Instruction", Intel, 2009).
 */

#include <string.h>

#include "lunary_crc32c.h"


#define LUNARY_CRC32C_POLY  0x82f63b78u

#if defined(__x86_64__) && defined(__GNUC__)
#define LUNARY_CRC32C_SSE42  1
#include <nmmintrin.h>
#include <wmmintrin.h>

#if defined(__clang__) ? (__clang_major__ >= 10) : (__GNUC__ >= 9)
#define LUNARY_CRC32C_VECTOR  1
#include <immintrin.h>
#endif

#define LUNARY_CRC32C_LANE   128             /* bytes, a multiple of eight   */
#endif


typedef uint32_t (*lunary_crc32c_pt)(uint32_t crc, const unsigned char *p,
    size_t n);

static uint32_t lunary_crc32c_table(uint32_t crc, const unsigned char *p,
    size_t n);

static uint32_t          lunary_crc32c_tables[8][256];
static lunary_crc32c_pt  lunary_crc32c_fn;
static lunary_crc32c_e   lunary_crc32c_is;
static lunary_crc32c_e   lunary_crc32c_most;


#if (LUNARY_CRC32C_SSE42)

/* x^(8n-33) for one lane and for two */
static uint32_t  lunary_crc32c_one;
static uint32_t  lunary_crc32c_two;


/* x^n modulo the polynomial, reflected */

static uint32_t
lunary_crc32c_power(unsigned n)
{
    uint32_t  p;

    for (p = 0x80000000u; n != 0; n--) {
        p = (p & 1) ? (p >> 1) ^ LUNARY_CRC32C_POLY : p >> 1;
    }

    return p;
}


static inline uint64_t
lunary_crc32c_word(const unsigned char *p)
{
    uint64_t  w;

    memcpy(&w, p, 8);

    return w;
}


__attribute__((target("sse4.2")))
static uint32_t
lunary_crc32c_sse42(uint32_t crc, const unsigned char *p, size_t n)
{
    uint64_t  c;

    c = crc;

    for ( /* void */ ; n >= 32; n -= 32, p += 32) {
        c = _mm_crc32_u64(c, lunary_crc32c_word(p));
        c = _mm_crc32_u64(c, lunary_crc32c_word(p + 8));
        c = _mm_crc32_u64(c, lunary_crc32c_word(p + 16));
        c = _mm_crc32_u64(c, lunary_crc32c_word(p + 24));
    }

    for ( /* void */ ; n >= 8; n -= 8, p += 8) {
        c = _mm_crc32_u64(c, lunary_crc32c_word(p));
    }

    crc = (uint32_t) c;

    while (n--) {
        crc = _mm_crc32_u8(crc, *p++);
    }

    return crc;
}


/* the lane's sum, over the bytes that `power` stands for */

__attribute__((target("sse4.2,pclmul")))
static inline uint64_t
lunary_crc32c_carry(uint64_t crc, uint32_t power)
{
    __m128i  product;

    product = _mm_clmulepi64_si128(_mm_cvtsi64_si128((int64_t) crc),
                                   _mm_cvtsi64_si128((int64_t) power), 0);

    return _mm_crc32_u64(0, (uint64_t) _mm_cvtsi128_si64(product));
}


__attribute__((target("sse4.2,pclmul")))
static uint32_t
lunary_crc32c_lanes(uint32_t crc, const unsigned char *p, size_t n)
{
    size_t    i;
    uint64_t  a, b, c;

    a = crc;

    for ( /* void */ ;
         n >= 3 * LUNARY_CRC32C_LANE;
         n -= 3 * LUNARY_CRC32C_LANE, p += 3 * LUNARY_CRC32C_LANE)
    {
        b = 0;
        c = 0;

        for (i = 0; i < LUNARY_CRC32C_LANE; i += 16) {
            a = _mm_crc32_u64(a, lunary_crc32c_word(p + i));
            b = _mm_crc32_u64(b, lunary_crc32c_word(p + i
                                                    + LUNARY_CRC32C_LANE));
            c = _mm_crc32_u64(c, lunary_crc32c_word(p + i
                                                    + 2 * LUNARY_CRC32C_LANE));

            a = _mm_crc32_u64(a, lunary_crc32c_word(p + i + 8));
            b = _mm_crc32_u64(b, lunary_crc32c_word(p + i + 8
                                                    + LUNARY_CRC32C_LANE));
            c = _mm_crc32_u64(c, lunary_crc32c_word(p + i + 8
                                                    + 2 * LUNARY_CRC32C_LANE));
        }

        a = lunary_crc32c_carry(a, lunary_crc32c_two)
            ^ lunary_crc32c_carry(b, lunary_crc32c_one) ^ c;
    }

    return lunary_crc32c_sse42((uint32_t) a, p, n);
}

#endif


#if (LUNARY_CRC32C_VECTOR)

/* vectors of 32 bytes, which whatever has the instruction can multiply */

#define LUNARY_CRC32C_256  __attribute__((target(                            \
    "avx2,vpclmulqdq,sse4.2,pclmul")))

/* over 32 bytes, over 128, and over 16: the first part of a vector onto the
 * second one, which stays */

static uint64_t  lunary_crc32c_fold32[2];
static uint64_t  lunary_crc32c_fold128[2];
static uint64_t  lunary_crc32c_fold16[2];


static void
lunary_crc32c_fold_init(uint64_t *pair, unsigned bytes)
{
    pair[0] = lunary_crc32c_power(8 * bytes + 64 - 33);
    pair[1] = lunary_crc32c_power(8 * bytes - 33);
}


LUNARY_CRC32C_256 static inline __m256i
lunary_crc32c_pair(const uint64_t *pair)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)
                                                       pair));
}


LUNARY_CRC32C_256 static inline __m256i
lunary_crc32c_load(const unsigned char *p)
{
    return _mm256_loadu_si256((const __m256i *) p);
}


LUNARY_CRC32C_256 static inline __m256i
lunary_crc32c_fold(__m256i x, __m256i by, __m256i onto)
{
    return _mm256_xor_si256(
               _mm256_xor_si256(_mm256_clmulepi64_epi128(x, by, 0x00),
                                _mm256_clmulepi64_epi128(x, by, 0x11)),
               onto);
}


LUNARY_CRC32C_256 static uint32_t
lunary_crc32c_folds(uint32_t crc, const unsigned char *p, size_t n)
{
    __m128i   x, y, pair;
    __m256i   a, b, c, d, by, far;
    uint64_t  sum;

    if (n < 64) {
        return lunary_crc32c_sse42(crc, p, n);
    }

    by = lunary_crc32c_pair(lunary_crc32c_fold32);

    a = _mm256_xor_si256(lunary_crc32c_load(p),
                         _mm256_setr_epi32((int) crc, 0, 0, 0, 0, 0, 0, 0));

    if (n >= 256) {
        far = lunary_crc32c_pair(lunary_crc32c_fold128);

        b = lunary_crc32c_load(p + 32);
        c = lunary_crc32c_load(p + 64);
        d = lunary_crc32c_load(p + 96);

        for (n -= 128, p += 128; n >= 128; n -= 128, p += 128) {
            a = lunary_crc32c_fold(a, far, lunary_crc32c_load(p));
            b = lunary_crc32c_fold(b, far, lunary_crc32c_load(p + 32));
            c = lunary_crc32c_fold(c, far, lunary_crc32c_load(p + 64));
            d = lunary_crc32c_fold(d, far, lunary_crc32c_load(p + 96));
        }

        b = lunary_crc32c_fold(a, by, b);
        c = lunary_crc32c_fold(b, by, c);
        a = lunary_crc32c_fold(c, by, d);

    } else {
        n -= 32;
        p += 32;
    }

    for ( /* void */ ; n >= 32; n -= 32, p += 32) {
        a = lunary_crc32c_fold(a, by, lunary_crc32c_load(p));
    }

    /* two parts become one */

    pair = _mm_loadu_si128((const __m128i *) lunary_crc32c_fold16);
    x = _mm256_castsi256_si128(a);

    y = _mm_xor_si128(_mm_clmulepi64_si128(x, pair, 0x00),
                      _mm_clmulepi64_si128(x, pair, 0x11));
    y = _mm_xor_si128(y, _mm256_extracti128_si256(a, 1));

    sum = _mm_crc32_u64(0, (uint64_t) _mm_cvtsi128_si64(y));
    sum = _mm_crc32_u64(sum, (uint64_t) _mm_extract_epi64(y, 1));

    /* see lunary_simd.c */

    _mm256_zeroupper();

    return lunary_crc32c_sse42((uint32_t) sum, p, n);
}

#endif


lunary_crc32c_e
lunary_crc32c_init(lunary_crc32c_e most)
{
    int              i, k;
    uint32_t         c;
    lunary_crc32c_e  is;

    if (lunary_crc32c_fn != NULL && most == lunary_crc32c_most) {
        return lunary_crc32c_is;
    }

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

    is = LUNARY_CRC32C_TABLE;
    lunary_crc32c_fn = lunary_crc32c_table;

#if (LUNARY_CRC32C_SSE42)

    if (most >= LUNARY_CRC32C_WORDS && __builtin_cpu_supports("sse4.2")) {
        is = LUNARY_CRC32C_WORDS;
        lunary_crc32c_fn = lunary_crc32c_sse42;
    }

    if (most >= LUNARY_CRC32C_LANES && is == LUNARY_CRC32C_WORDS
        && __builtin_cpu_supports("pclmul"))
    {
        lunary_crc32c_one = lunary_crc32c_power(8 * LUNARY_CRC32C_LANE - 33);
        lunary_crc32c_two = lunary_crc32c_power(16 * LUNARY_CRC32C_LANE - 33);

        is = LUNARY_CRC32C_LANES;
        lunary_crc32c_fn = lunary_crc32c_lanes;
    }

#endif

#if (LUNARY_CRC32C_VECTOR)

    if (most >= LUNARY_CRC32C_FOLDS && is == LUNARY_CRC32C_LANES
        && __builtin_cpu_supports("avx2")
        && __builtin_cpu_supports("vpclmulqdq"))
    {
        lunary_crc32c_fold_init(lunary_crc32c_fold16, 16);
        lunary_crc32c_fold_init(lunary_crc32c_fold32, 32);
        lunary_crc32c_fold_init(lunary_crc32c_fold128, 128);

        is = LUNARY_CRC32C_FOLDS;
        lunary_crc32c_fn = lunary_crc32c_folds;
    }

#endif

    lunary_crc32c_is = is;
    lunary_crc32c_most = most;

    return is;
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
        (void) lunary_crc32c_init(LUNARY_CRC32C_BEST);
    }

    return ~lunary_crc32c_fn(~crc, data, n);
}
