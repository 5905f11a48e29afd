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
 *
 * Where the text was read as a whole before (lunary_whole.h), what is found
 * there was written down, and the bytes are not searched again.
 */

#ifndef LUNARY_WALK_H
#define LUNARY_WALK_H

#include "lunary_base.h"
#include "lunary_json.h"
#include "lunary_simd.h"
#include "lunary_whole.h"


typedef struct {
    const unsigned char  *p;
    const unsigned char  *end;
    const lunary_node_t  *node;         /* what we stand at, where there is
                                           a tape: p is the text's start then */
} lunary_walk_t;


static inline void
lunary_walk_start(lunary_walk_t *w, lunary_str_t text)
{
    w->node = NULL;
    w->p = text.data;
    w->end = text.len != 0 ? text.data + text.len : text.data;
}


/* the same where the text's tape may be there (else it is NULL) */

static inline void
lunary_walk_tape(lunary_walk_t *w, lunary_str_t text,
    const lunary_tape_t *tape)
{
    lunary_walk_start(w, text);

    if (tape != NULL && tape->n != 0 && tape->text == text.data) {
        w->node = tape->nodes;
    }
}


/* u: a walk of its own through a value; w stood before it */

static inline void
lunary_walk_inside(lunary_walk_t *u, const lunary_walk_t *w,
    lunary_str_t value)
{
    if (w->node != NULL) {
        *u = *w;

    } else {
        lunary_walk_start(u, value);
    }
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
    if (w->node != NULL) {

        if (w->p[w->node->start] == '{') {
            w->node++;
            return 1;
        }

        return 0;
    }

    if (w->p < w->end && *w->p == '{') {
        w->p++;
        return 1;
    }

    return 0;
}


static inline int
lunary_walk_array(lunary_walk_t *w)
{
    if (w->node != NULL) {

        if (w->p[w->node->start] == '[') {
            w->node++;
            return 1;
        }

        return 0;
    }

    if (w->p < w->end && *w->p == '[') {
        w->p++;
        return 1;
    }

    return 0;
}


/* the next key, standing at its value; 0 behind the object's end */

int lunary_walk_key_slow(lunary_walk_t *w, lunary_str_t *key);

static inline int
lunary_walk_key(lunary_walk_t *w, lunary_str_t *key)
{
    if (w->node != NULL) {

        if (w->node->key_len == LUNARY_NODE_END) {
            w->node++;
            return 0;
        }

        *key = lunary_str(w->p + w->node->key, w->node->key_len);

        return 1;
    }

#if defined(__SSE2__)

    {
    unsigned              m;
    const unsigned char  *p, *q;

    /* mostly: a comma, a short plain key, a colon, a value, all of it near,
     * and no space or one between them */

    p = w->p;

    if (w->end - p >= 24) {
        p += (*p == ',');
        p += (*p == ' ');

        if (*p == '"') {
            p++;
            m = lunary_sse2_quote(p);

            if (m) {
                q = p + __builtin_ctz(m);

                if (*q == '"' && q[1] == ':') {
                    *key = lunary_str(p, (size_t) (q - p));
                    q += 2;
                    q += (*q == ' ');

                    if (*q > ' ') {
                        w->p = q;
                        return 1;
                    }
                }
            }
        }
    }
    }

#endif

    return lunary_walk_key_slow(w, key);
}


/* stands at the next element; 0 behind the array's end */

static inline int
lunary_walk_element(lunary_walk_t *w)
{
    if (w->node != NULL) {

        if (w->node->key_len == LUNARY_NODE_END) {
            w->node++;
            return 0;
        }

        return 1;
    }

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

lunary_str_t lunary_walk_value_slow(lunary_walk_t *w);

static inline lunary_str_t
lunary_walk_value(lunary_walk_t *w)
{
    lunary_str_t          v;
    const unsigned char  *start, *p;

    if (w->node != NULL) {
        v = lunary_str(w->p + w->node->start,
                       w->node->end - w->node->start);
        w->node += w->node->next;

        return v;
    }

    start = w->p;

    if (start < w->end) {

        if (*start == '"') {
            p = lunary_walk_close(start + 1, w->end);

            if (p < w->end) {
                w->p = p + 1;
                return lunary_str(start, (size_t) (w->p - start));
            }

        } else if (*start == 'n' && w->end - start >= 4
                   && memcmp(start, "null", 4) == 0)
        {
            /* most of what is not told: null */

            w->p = start + 4;

            return lunary_str(start, 4);
        }
    }

    return lunary_walk_value_slow(w);
}


#endif /* LUNARY_WALK_H */
