/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What is no text does not enter the text: base64 and vectors of numbers.  See
 * lunary_doc.h, rule 1.
 */

#include "lunary_doc_internal.h"
#include "lunary_simd.h"


void
lunary_doc_media(lunary_doc_t *d, const unsigned char **pp,
    const unsigned char *end)
{
    const unsigned char  *p;

    p = *pp;

    while (p < end) {

        if (d->probe.escape) {
            d->probe.escape = 0;

            if (!lunary_media_escape(*p)) {

                /* the backslash was none of it: scan on behind it */

                lunary_doc_media_end(d, lunary_doc_at(d, p) - 1);
                lunary_doc_add(d, "\\", 1);
                lunary_scan_backslash(&d->scan);
                break;
            }

            p++;
            continue;
        }

        p = lunary_simd_base64(p, end);

        if (p == end) {
            break;
        }

        if (*p != '\\') {
            lunary_doc_media_end(d, lunary_doc_at(d, p));
            break;
        }

        d->probe.escape = 1;
        p++;
    }

    *pp = p;
}


void
lunary_doc_media_end(lunary_doc_t *d, uint64_t end)
{
    d->r.len += lunary_cut_count(d->r.data + d->r.len,
                                 (size_t) (end - d->from));
    d->mode = d->cutting ? MODE_CUT : MODE_TEXT;
}


/* the array at `mark` is a long one of numbers, and they are dropped */

void
lunary_doc_vector(lunary_doc_t *d)
{
    d->r.len = d->mark;
    d->vector = 0;
    d->mode = MODE_VECTOR;

    lunary_doc_want(d, 0);
}


/*
 * Passes over the numbers of a vector.  Where we are not strict they are
 * believed: only what ends them goes through the scanner.
 */

void
lunary_doc_numbers(lunary_doc_t *d, const unsigned char **pp,
    const unsigned char *end)
{
    const unsigned char  *p, *q;

    if (d->scan.strict || d->scan.state == LUNARY_SCAN_S_SCALAR) {
        return;
    }

    q = lunary_simd_number(*pp, end);

    /* the last byte but for white space tells what the scanner is to expect */

    for (p = q; p > *pp; p--) {

        if (p[-1] != ' ' && p[-1] != '\n' && p[-1] != '\r' && p[-1] != '\t') {
            d->scan.state = (p[-1] == ',') ? LUNARY_SCAN_S_VALUE
                                           : LUNARY_SCAN_S_NEXT;
            break;
        }
    }

    *pp = q;
}


/* more: another element follows, and the comma before it was dropped */

void
lunary_doc_vector_end(lunary_doc_t *d, uint64_t end, int more)
{
    lunary_doc_add(d, "\"", 1);

    d->r.len += lunary_cut_count(d->r.data + d->r.len,
                                 (size_t) (end - d->from));

    lunary_doc_add(d, "\",", more ? 2 : 1);

    d->mode = MODE_TEXT;

    lunary_doc_want(d, 0);
}
