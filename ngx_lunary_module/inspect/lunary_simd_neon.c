/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Finding bytes with NEON, 16 at a time: a mask has four bits for each byte.
 * See lunary_simd_internal.h for the loop around the masks.
 */

#include "lunary_simd_internal.h"

#if (LUNARY_HAVE_NEON)

#include <arm_neon.h>


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


lunary_simd_find(neon, static, text, 16, 4, , lunary_portable_text)
lunary_simd_find(neon, static, quote, 16, 4, , lunary_portable_quote)
lunary_simd_find(neon, static, bracket, 16, 4, , lunary_portable_bracket)
lunary_simd_find(neon, static, number, 16, 4, , lunary_portable_number)
lunary_simd_find(neon, static, base64, 16, 4, , lunary_portable_base64)
lunary_simd_find(neon, static, space, 16, 4, , lunary_portable_space)

#define lunary_neon_nested  lunary_portable_nested
#define lunary_neon_close   lunary_simd_close
#define lunary_neon_span    lunary_span_any
#define lunary_neon_padded  lunary_span_any

lunary_simd_table(neon)


#endif /* LUNARY_HAVE_NEON */
