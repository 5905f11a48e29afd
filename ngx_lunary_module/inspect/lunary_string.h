/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The end of a JSON string, escapes and all.  In a buffer that is followed by
 * zeroes: one pass that finds the closing quote, judges the escapes and
 * notices bytes above 0x7f; the zeroes are controls, so that nothing is
 * compared with the end.  Private to inspect/.
 */

#ifndef LUNARY_STRING_H
#define LUNARY_STRING_H

#include "lunary_base.h"


/* so many zeroes must follow the bytes */

#define LUNARY_STRING_PAD  64

/*
 * p is inside a string, not above end, where the padding is: returns its
 * closing quote; or what stops it: a byte below 0x20 (mostly: the padding), or
 * a backslash whose escape is none or not all there.  *high becomes 1 where a
 * byte above 0x7f may have come.
 */
const unsigned char *lunary_string_end(const unsigned char *p,
    const unsigned char *end, int *high);


/*
 * Where nothing is known of what follows `end`, and escapes are many: both
 * look at [p, end) only.
 *
 * close: as lunary_simd_close();
 * plain: as lunary_simd_text(), but may pass over escapes of one letter.
 */
const unsigned char *lunary_string_close(const unsigned char *p,
    const unsigned char *end);
const unsigned char *lunary_string_plain(const unsigned char *p,
    const unsigned char *end);


#endif /* LUNARY_STRING_H */
