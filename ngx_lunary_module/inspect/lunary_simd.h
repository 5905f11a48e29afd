/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Finding the few bytes of a JSON text that matter.  Private to inspect/.
 *
 * Invariants
 *   - every function looks at [p, end) only and returns a pointer into it, or
 *     end where it found nothing;
 *   - every implementation gives the same answers: which one runs is chosen
 *     once, by what the processor can do.
 */

#ifndef LUNARY_SIMD_H
#define LUNARY_SIMD_H

#include "lunary_base.h"


/* the first quote, backslash, control (below 0x20) or byte above 0x7f */
const unsigned char *lunary_simd_text(const unsigned char *p,
    const unsigned char *end);

/* the first quote or backslash */
const unsigned char *lunary_simd_quote(const unsigned char *p,
    const unsigned char *end);

/* p is inside a string: its closing quote (escaped ones are passed over) */
const unsigned char *lunary_simd_close(const unsigned char *p,
    const unsigned char *end);

/* the first backslash */
const unsigned char *lunary_simd_backslash(const unsigned char *p,
    const unsigned char *end);

/* the first quote or bracket: " [ ] { } */
const unsigned char *lunary_simd_bracket(const unsigned char *p,
    const unsigned char *end);

/* the first byte that numbers and what parts them do not hold: all but
 * digits + - . e E , space, tab, CR, LF */
const unsigned char *lunary_simd_number(const unsigned char *p,
    const unsigned char *end);

/* the first byte that base64 does not hold: all but A-Z a-z 0-9 + / - _ = */
const unsigned char *lunary_simd_base64(const unsigned char *p,
    const unsigned char *end);


#endif /* LUNARY_SIMD_H */
