/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What the two files of the scanner share: lunary_scan.c reads structure,
 * lunary_scan_token.c what is inside of strings, numbers and literals.
 */

#ifndef LUNARY_SCAN_INTERNAL_H
#define LUNARY_SCAN_INTERNAL_H

#include "lunary_scan.h"


/* where in a string we are: plain, behind a backslash, so many hexadecimal
 * digits short, or in the middle of a UTF-8 character */

enum {
    LUNARY_SUB_PLAIN = 0,
    LUNARY_SUB_HEX1,
    LUNARY_SUB_HEX2,
    LUNARY_SUB_HEX3,
    LUNARY_SUB_HEX4,
    LUNARY_SUB_ESCAPE,
    LUNARY_SUB_UTF8
};


/* what a scalar's `sub` is before its first byte */

#define LUNARY_SCAN_WORD  1

/* 1 where what has come of an open scalar is a whole one */
int lunary_scan_word_done(const lunary_scan_t *s);

/* 1 where a byte may stand behind a number or literal, and so not for one */
int lunary_scan_ends_word(unsigned char c);

/* inside of a string or key: STRING_END, MORE, REPAIR or ERROR */
lunary_scan_event_e lunary_scan_string(lunary_scan_t *s,
    const unsigned char **p, const unsigned char *end);

/* inside of a key that is long, escaped, or in pieces: KEY, KEY_LONG, MORE,
 * REPAIR or ERROR */
lunary_scan_event_e lunary_scan_name(lunary_scan_t *s,
    const unsigned char **p, const unsigned char *end);

/* a number or a literal: SCALAR, MORE, ERROR or LIMIT; MORE before the end
 * where it has ended and nobody wants to know */
lunary_scan_event_e lunary_scan_word(lunary_scan_t *s,
    const unsigned char **p, const unsigned char *end);

/* p is at a number of an array whose numbers are only counted: passes over
 * those that are plain, and stops at the first byte of one that remains */
const unsigned char *lunary_scan_numbers(lunary_scan_t *s,
    const unsigned char *p, const unsigned char *end);


#endif /* LUNARY_SCAN_INTERNAL_H */
