/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The escapes of JSON strings.  Private to inspect/; what others call is in
 * lunary_json.h.
 */

#ifndef LUNARY_ESCAPE_H
#define LUNARY_ESCAPE_H

#include "lunary_base.h"


/* the value of a hexadecimal digit, or -1 */
int lunary_hex(unsigned char c);

/*
 * Reads what starts at the backslash *p and moves behind it: a surrogate pair
 * counts as one.  Returns the length of the UTF-8 written to out, or -1 for a
 * bad escape (*p stays).  A lone surrogate becomes U+FFFD and sets *lone.
 */
int lunary_escape_read(const unsigned char **p, const unsigned char *end,
    unsigned char out[4], int *lone);

/* 1 where an escaped inside holds half of a surrogate pair */
int lunary_escape_lone(lunary_str_t inside);

/* 1 where an escaped inside stands for these bytes */
int lunary_escape_eq(lunary_str_t inside, lunary_str_t bytes);


#endif /* LUNARY_ESCAPE_H */
