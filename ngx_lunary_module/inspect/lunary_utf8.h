/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * UTF-8 by RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
 * Private to inspect/.
 */

#ifndef LUNARY_UTF8_H
#define LUNARY_UTF8_H

#include "lunary_base.h"


#define LUNARY_UTF8_BAD      "\xEF\xBF\xBD"     /* U+FFFD                    */
#define LUNARY_UTF8_BAD_LEN  3


/*
 * Looks at the sequence that starts at p, p < end.
 *
 * 1..4: it is a character of that length, *cp is its code point.
 * 0: it may become one, but the bytes end too early.
 * Negative: it is none.  The negated result is the length of what one U+FFFD
 * stands for: the longest start of a character (Unicode 15, section 3.9).
 */
int lunary_utf8_char(const unsigned char *p, const unsigned char *end,
    uint32_t *cp);

/*
 * Passes over the characters above U+007F that follow each other from p on,
 * p < end.  *n is above 0 where one of ASCII or the end comes next, else what
 * lunary_utf8_char() says of the bytes returned.
 */
const unsigned char *lunary_utf8_run(const unsigned char *p,
    const unsigned char *end, int *n);

/* the length of the longest valid start of [p, end) */
size_t lunary_utf8_span(const unsigned char *p, const unsigned char *end);

/* writes a code point that is no surrogate; returns the length, 1..4 */
int lunary_utf8_put(unsigned char *p, uint32_t cp);


#endif /* LUNARY_UTF8_H */
