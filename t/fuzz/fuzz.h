/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What fuzz targets share.  The first bytes of an input choose how the rest is
 * cut into pieces, so that the fuzzer can learn it.
 */

#ifndef LUNARY_FUZZ_H
#define LUNARY_FUZZ_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lunary_base.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


/* stops, and says what was not so */

#define must(what)                                                           \
    do {                                                                     \
        if (!(what)) {                                                       \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__,       \
                    #what);                                                  \
            abort();                                                         \
        }                                                                    \
    } while (0)


/* pieces of a length that `how` and what was taken so far decide */

static inline size_t
fuzz_piece(unsigned how, size_t at, size_t left)
{
    size_t  n;

    switch (how & 3) {

    case 0:
        n = 1;
        break;

    case 1:
        n = 1 + (how >> 2) % 64;
        break;

    case 2:
        n = 1 + (at * 2654435761u + how) % 300;
        break;

    default:

        /* one cut somewhere */

        n = (at == 0) ? 1 + (how >> 2) * left / 64 : left;
    }

    return n < left ? n : left;
}


/* memory of its own: a byte read behind a piece is seen */

static inline unsigned char *
fuzz_copy(const unsigned char *p, size_t n)
{
    unsigned char  *q;

    q = malloc(n ? n : 1);
    must(q != NULL);
    memcpy(q, p, n);

    return q;
}


#endif /* LUNARY_FUZZ_H */
