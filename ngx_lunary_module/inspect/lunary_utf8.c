/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * UTF-8.  See lunary_utf8.h.
 */

#include "lunary_json.h"
#include "lunary_utf8.h"


int
lunary_utf8_char(const unsigned char *p, const unsigned char *end,
    uint32_t *cp)
{
    int            i, n;
    uint32_t       c;
    unsigned char  lo, hi;

    c = *p;

    if (c < 0x80) {
        *cp = c;
        return 1;
    }

    /* what the second byte may be tells overlong forms and surrogates */

    lo = 0x80;
    hi = 0xbf;

    if (c < 0xc2) {
        return -1;

    } else if (c < 0xe0) {
        n = 2;
        c &= 0x1f;

    } else if (c < 0xf0) {
        n = 3;
        lo = (c == 0xe0) ? 0xa0 : 0x80;
        hi = (c == 0xed) ? 0x9f : 0xbf;
        c &= 0x0f;

    } else if (c < 0xf5) {
        n = 4;
        lo = (c == 0xf0) ? 0x90 : 0x80;
        hi = (c == 0xf4) ? 0x8f : 0xbf;
        c &= 0x07;

    } else {
        return -1;
    }

    for (i = 1; i < n; i++) {

        if (p + i == end) {
            return 0;
        }

        if (p[i] < lo || p[i] > hi) {
            return -i;
        }

        c = (c << 6) | (p[i] & 0x3f);
        lo = 0x80;
        hi = 0xbf;
    }

    *cp = c;

    return n;
}


/* most are three bytes long, and most of those have no exception */

const unsigned char *
lunary_utf8_run(const unsigned char *p, const unsigned char *end, int *n)
{
    uint32_t  cp, w;

    *n = 1;

    while (p < end && *p >= 0x80) {

        if (end - p >= 4) {
            w = (uint32_t) p[0] << 16 | (uint32_t) p[1] << 8 | p[2];

            if ((w & 0xf0c0c0) == 0xe08080 && p[0] != 0xe0 && p[0] != 0xed) {
                p += 3;
                continue;
            }

            if ((w & 0xe0c000) == 0xc08000 && p[0] >= 0xc2) {
                p += 2;
                continue;
            }
        }

        *n = lunary_utf8_char(p, end, &cp);

        if (*n <= 0) {
            break;
        }

        p += *n;
    }

    return p;
}


size_t
lunary_utf8_span(const unsigned char *p, const unsigned char *end)
{
    int                   n;
    uint64_t              w;
    const unsigned char  *start;

    start = p;

    while (p < end) {

        if (*p < 0x80) {

            while (end - p >= 8) {
                memcpy(&w, p, 8);

                if (w & 0x8080808080808080ULL) {
                    break;
                }

                p += 8;
            }

            while (p < end && *p < 0x80) {
                p++;
            }

            continue;
        }

        p = lunary_utf8_run(p, end, &n);

        if (n <= 0) {
            break;
        }
    }

    return (size_t) (p - start);
}


int
lunary_utf8_put(unsigned char *p, uint32_t cp)
{
    if (cp < 0x80) {
        p[0] = (unsigned char) cp;
        return 1;
    }

    if (cp < 0x800) {
        p[0] = (unsigned char) (0xc0 | (cp >> 6));
        p[1] = (unsigned char) (0x80 | (cp & 0x3f));
        return 2;
    }

    if (cp < 0x10000) {
        p[0] = (unsigned char) (0xe0 | (cp >> 12));
        p[1] = (unsigned char) (0x80 | ((cp >> 6) & 0x3f));
        p[2] = (unsigned char) (0x80 | (cp & 0x3f));
        return 3;
    }

    p[0] = (unsigned char) (0xf0 | (cp >> 18));
    p[1] = (unsigned char) (0x80 | ((cp >> 12) & 0x3f));
    p[2] = (unsigned char) (0x80 | ((cp >> 6) & 0x3f));
    p[3] = (unsigned char) (0x80 | (cp & 0x3f));

    return 4;
}


int
lunary_utf8_valid(lunary_str_t s)
{
    return s.len == 0
           || lunary_utf8_span(s.data, s.data + s.len) == s.len;
}
