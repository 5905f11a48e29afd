/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Walking down a JSON text in one pass: for what comes most often, the chunks
 * and answers of chat completions.  lunary_json.h hands out a member with its
 * value, so that a nested value is looked at twice; here the caller stands
 * before each value and either walks into it or takes it as a slice.
 *
 *     lunary_walk_start(&w, text);
 *     if (lunary_walk_object(&w)) {
 *         while (lunary_walk_key(&w, &key)) {
 *             ... lunary_walk_value(&w), or walk into it ...
 *         }
 *     }
 *
 * Each value must be taken or walked through before the next key.  Malformed
 * text ends every loop.  Keys are compared as they are written.
 */

#ifndef LUNARY_WALK_H
#define LUNARY_WALK_H

#include "lunary_base.h"
#include "lunary_json.h"
#include "lunary_simd.h"


typedef struct {
    const unsigned char  *p;
    const unsigned char  *end;
} lunary_walk_t;


static inline void
lunary_walk_start(lunary_walk_t *w, lunary_str_t text)
{
    w->p = text.data;
    w->end = text.len != 0 ? text.data + text.len : text.data;
}


static inline void
lunary_walk_space(lunary_walk_t *w)
{
    while (w->p < w->end && *w->p <= ' '
           && (*w->p == ' ' || *w->p == '\n' || *w->p == '\r'
               || *w->p == '\t'))
    {
        w->p++;
    }
}


/* p is behind an opening quote: the closing one, or end */

static inline const unsigned char *
lunary_walk_close(const unsigned char *p, const unsigned char *end)
{
#if defined(__SSE2__)

    unsigned  m;

    while (end - p >= 16) {
        m = lunary_sse2_quote(p);

        if (m != 0) {
            p += __builtin_ctz(m);

            if (*p == '"') {
                return p;
            }

            return lunary_simd_close(p, end);
        }

        p += 16;
    }

#endif

    while (p < end && *p != '"') {

        if (*p == '\\') {
            return lunary_simd_close(p, end);
        }

        p++;
    }

    return p;
}


/* at a value: 1, and inside it, where it is an object, an array */

static inline int
lunary_walk_object(lunary_walk_t *w)
{
    if (w->p < w->end && *w->p == '{') {
        w->p++;
        return 1;
    }

    return 0;
}


static inline int
lunary_walk_array(lunary_walk_t *w)
{
    if (w->p < w->end && *w->p == '[') {
        w->p++;
        return 1;
    }

    return 0;
}


/* the next key, standing at its value; 0 behind the object's end */

static inline int
lunary_walk_key(lunary_walk_t *w, lunary_str_t *key)
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


/* stands at the next element; 0 behind the array's end */

static inline int
lunary_walk_element(lunary_walk_t *w)
{
    lunary_walk_space(w);

    if (w->p < w->end && *w->p == ',') {
        w->p++;
        lunary_walk_space(w);
    }

    if (w->p == w->end) {
        return 0;
    }

    if (*w->p == ']') {
        w->p++;
        return 0;
    }

    return 1;
}


/* takes the value as a slice; empty, and at the end, where it is none */

static inline lunary_str_t
lunary_walk_value(lunary_walk_t *w)
{
    lunary_str_t          v;
    const unsigned char  *start;

    start = w->p;

    if (start < w->end && *start == '"') {
        w->p = lunary_walk_close(start + 1, w->end);

        if (w->p == w->end) {
            return lunary_str(NULL, 0);
        }

        w->p++;

        return lunary_str(start, (size_t) (w->p - start));
    }

    if (w->end - start >= 4 && memcmp(start, "null", 4) == 0) {

        /* most of what is not told: null */

        w->p = start + 4;

        return lunary_str(start, 4);
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


#endif /* LUNARY_WALK_H */
