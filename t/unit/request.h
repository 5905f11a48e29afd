/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What the tests of request bodies share: feeding one in pieces, of copies or
 * from where it lies, and that nothing is left behind.
 */

#ifndef LUNARY_UNIT_REQUEST_H
#define LUNARY_UNIT_REQUEST_H

#include "unit.h"

#include "lunary_request.h"


static lunary_mem_t  mem;
static size_t        piece;            /* 0: whole                            */
static unsigned      lend;             /* pieces that lie where was lent: all,
                                          or all but each 2nd, 3rd, ...; 0:
                                          each is a copy                      */
static char         *place;            /* of the request before               */


static int
feed(lunary_request_t *rq, const char *text, size_t len)
{
    size_t          i, k, n;
    unsigned char  *p;

    free(place);

    place = malloc(len + 64);
    assert_non_null(place);

    memcpy(place, text, len);
    memset(place + len, 'b', 64);

    if (lend) {
        lunary_request_lend(rq, (unsigned char *) place, len + 64);
    }

    for (i = 0, n = 1; i < len; i += k, n++) {
        k = (piece == 0 || piece > len - i) ? len - i : piece;

        if (lend == 1 || (lend && n % lend != 0)) {
            (void) lunary_request_feed(rq, (unsigned char *) place + i, k);
            assert_memory_equal(place, text, len);
            continue;
        }

        p = unit_copy(text + i, k);
        (void) lunary_request_feed(rq, p, k);
        free(p);
    }

    for (i = 0; i < 64; i++) {
        assert_int_equal(place[len + i], 'b');
    }

    return lunary_request_finish(rq);
}


static int
setup(void **state)
{
    (void) state;

    lunary_mem_init(&mem);

    return 0;
}


static int
nothing_is_left(void **state)
{
    (void) state;

    free(place);

    return mem.used == 0 ? 0 : -1;
}


#endif /* LUNARY_UNIT_REQUEST_H */
