/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Walking down a JSON text: what is not usual.  See lunary_walk.h.
 */

#include "lunary_walk.h"


int
lunary_walk_key_slow(lunary_walk_t *w, lunary_str_t *key)
{
    const unsigned char  *p, *q, *end;

    p = w->p;
    end = w->end;

    if (p < end && *p == ',') {
        p++;
    }

    if (p < end && *p <= ' ') {

        /* white space, a comma in the midst of it */

        lunary_walk_space(w);

        if (w->p < end && *w->p == ',') {
            w->p++;
            lunary_walk_space(w);
        }

        p = w->p;
    }

    if (p == end || *p != '"') {
        w->p = (p < end && *p == '}') ? p + 1 : end;
        return 0;
    }

    p++;
    q = lunary_walk_close(p, end);

    *key = lunary_str(p, (size_t) (q - p));

    if (end - q < 3) {
        w->p = end;
        return 0;
    }

    w->p = q + 1;

    if (q[1] != ':') {
        lunary_walk_space(w);

        if (w->p == end || *w->p != ':') {
            w->p = end;
            return 0;
        }
    }

    w->p++;

    if (w->p < end && *w->p <= ' ') {
        lunary_walk_space(w);
    }

    return w->p < end;
}


lunary_str_t
lunary_walk_value_slow(lunary_walk_t *w)
{
    lunary_str_t          v;
    const unsigned char  *start;

    start = w->p;

    if (start < w->end && *start == '"') {

        /* it does not end */

        w->p = w->end;

        return lunary_str(NULL, 0);
    }

    if (start < w->end && *start >= '0' && *start <= '9') {

        for (w->p++; w->p < w->end && *w->p >= '0' && *w->p <= '9'; w->p++) {
            /* void */
        }

        if (w->p < w->end && (*w->p == ',' || *w->p == '}')) {
            return lunary_str(start, (size_t) (w->p - start));
        }

        w->p = start;
    }

    v = lunary_json_value(&w->p, w->end);

    if (v.len != 0) {
        return v;
    }

    /* NaN, Infinity and the like: no values, but no end of the text either */

    start = w->p;

    while (w->p < w->end
           && ((*w->p | 0x20) >= 'a' && (*w->p | 0x20) <= 'z'))
    {
        w->p++;
    }

    if (w->p == start) {
        w->p = w->end;
    }

    return lunary_str(start, (size_t) (w->p - start));
}
