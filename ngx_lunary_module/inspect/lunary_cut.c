/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Cutting strings.  See lunary_cut.h.
 *
 * A growing string is head | tail.  Of the tail only the end is needed, and
 * whether it begins inside of an escape: so long runs are not even copied, and
 * after short ones all but the end is dropped once that pays.  What becomes of
 * the string does not depend on how its bytes came.
 */

#include "lunary_cut.h"
#include "lunary_escape.h"
#include "lunary_simd.h"


#define LUNARY_CUT_BACK  64         /* so far back an easy place is sought    */
#define LUNARY_CUT_MORE  16         /* kept of a tail that may lose its end:
                                       an escape, a pair's half, a character  */


static int lunary_cut_surrogate(const unsigned char *p,
    const unsigned char *end, unsigned char from);
static size_t lunary_cut_drop(lunary_cut_t *c, unsigned char *text,
    size_t len, const unsigned char *tail);


size_t
lunary_cut_marker(unsigned char *p, size_t n)
{
    size_t  len;

    memcpy(p, "\xE2\x80\xA6", 3);
    len = lunary_cut_count(p + 3, n);
    memcpy(p + 3 + len, "\xE2\x80\xA6", 3);

    return len + 6;
}


size_t
lunary_cut_count(unsigned char *p, size_t n)
{
    size_t         len;
    unsigned char  text[24], *q, *end;

    end = text + sizeof(text);
    q = end;

    do {
        *--q = (unsigned char) ('0' + n % 10);
        n /= 10;
    } while (n != 0);

    len = (size_t) (end - q);

    p[0] = '[';
    memcpy(p + 1, q, len);
    memcpy(p + 1 + len, " bytes]", 7);

    return len + 8;
}


unsigned
lunary_cut_state(unsigned state, const unsigned char *p,
    const unsigned char *end)
{
    unsigned              clean;
    const unsigned char  *q;

    /* no escape is longer than six bytes: behind five that are no backslash
     * we are outside of any, whatever was before them */

    if (end - p > LUNARY_CUT_BACK) {
        clean = 0;

        for (q = end; q > end - LUNARY_CUT_BACK && clean < 5; /* void */ ) {
            clean = (*--q == '\\') ? 0 : clean + 1;
        }

        if (clean == 5) {
            p = q + 5;
            state = 0;
        }
    }

    while (p < end) {

        if (state == 0) {
            p = lunary_simd_backslash(p, end);

            if (p == end) {
                break;
            }

            state = 1;

        } else if (state == 1) {
            state = (*p == 'u') ? 2 : 0;

        } else {
            state = (state == 5) ? 0 : state + 1;
        }

        p++;
    }

    return state;
}


/* 1 where \uXYYY stands at p with XY between `from` and `from` + 3 */

static int
lunary_cut_surrogate(const unsigned char *p, const unsigned char *end,
    unsigned char from)
{
    int  hi, lo;

    if (end - p < 6 || p[0] != '\\' || p[1] != 'u') {
        return 0;
    }

    hi = lunary_hex(p[2]);
    lo = lunary_hex(p[3]);

    return hi == 0xd && lo >= from && lo <= from + 3;
}


size_t
lunary_cut_head(const unsigned char *s, size_t max)
{
    size_t  n;

    n = max;

    while (n > 0 && max - n < 4 && (s[n] & 0xc0) == 0x80) {
        n--;
    }

    return lunary_cut_end(s, n, 0);
}


size_t
lunary_cut_end(const unsigned char *p, size_t n, unsigned state)
{
    unsigned  last;

    last = lunary_cut_state(state, p, p + n);

    n = (n > last) ? n - last : 0;

    /* the first half of a pair goes too, if those six bytes are one */

    if (n >= 6 && lunary_cut_surrogate(p + n - 6, p + n, 0x8)
        && lunary_cut_state(state, p, p + n - 6) == 0)
    {
        n -= 6;
    }

    return n;
}


const unsigned char *
lunary_cut_tail(const unsigned char *p, const unsigned char *end,
    unsigned state)
{
    while (p < end && state != 0) {
        state = lunary_cut_state(state, p, p + 1);
        p++;
    }

    while (p < end && (*p & 0xc0) == 0x80) {
        p++;
    }

    while (lunary_cut_surrogate(p, end, 0xc)) {
        p += 6;
    }

    return p;
}


size_t
lunary_cut_string(unsigned char *to, const unsigned char *s, size_t n,
    size_t cut, size_t *removed)
{
    size_t                half, head, len;
    unsigned              state;
    unsigned char         marker[LUNARY_CUT_MARKER];
    const unsigned char  *end, *tail;

    half = cut / 2;
    end = s + n;

    head = lunary_cut_head(s, half);
    state = lunary_cut_state(0, s + head, end - half);
    tail = lunary_cut_tail(end - half, end, state);

    len = lunary_cut_marker(marker, (size_t) (tail - s) - head);

    *removed = (size_t) (tail - s) - head - len;

    memmove(to, s, head);
    memmove(to + head + len, tail, (size_t) (end - tail));
    memcpy(to + head, marker, len);

    return n - *removed;
}


void
lunary_cut_start(lunary_cut_t *c, size_t at)
{
    c->at = at;
    c->head = 0;
    c->taken = 0;
    c->state = 0;
}


size_t
lunary_cut_limit(size_t cut)
{
    size_t  half;

    half = cut / 2;

    return cut + (half > LUNARY_CUT_GRACE ? half : LUNARY_CUT_GRACE + 1);
}


size_t
lunary_cut_room(const lunary_cut_t *c, size_t len, size_t cut)
{
    size_t  n, limit;

    n = len - c->at;
    limit = lunary_cut_limit(cut);

    return (n < limit) ? limit - n : 1;
}


size_t
lunary_cut_trim(lunary_cut_t *c, unsigned char *text, size_t len, size_t cut)
{
    size_t  half;

    half = cut / 2;

    if (c->head != 0 || len - c->at < lunary_cut_limit(cut)) {
        return len;
    }

    c->head = c->at + lunary_cut_head(text + c->at, half);

    return lunary_cut_drop(c, text, len, text + len - half - LUNARY_CUT_MORE);
}


size_t
lunary_cut_reach(const lunary_cut_t *c, size_t cut)
{
    /* lunary_cut_add(): as long as it leaves a string, and what it adds */

    return c->head + cut + LUNARY_CUT_MORE + cut / 2 + LUNARY_CUT_MORE;
}


size_t
lunary_cut_add(lunary_cut_t *c, unsigned char *text, size_t len, size_t cut,
    const unsigned char *p, size_t n)
{
    size_t  keep;

    keep = cut / 2 + LUNARY_CUT_MORE;

    if (n >= keep) {
        c->state = lunary_cut_state(c->state, text + c->head, text + len);
        c->state = lunary_cut_state(c->state, p, p + n - keep);
        c->taken += len - c->head + n - keep;

        memcpy(text + c->head, p + n - keep, keep);

        return c->head + keep;
    }

    memcpy(text + len, p, n);
    len += n;

    if (len - c->head > cut + LUNARY_CUT_MORE) {
        len = lunary_cut_drop(c, text, len, text + len - keep);
    }

    return len;
}


size_t
lunary_cut_finish(lunary_cut_t *c, unsigned char *text, size_t len,
    size_t cut, size_t *removed)
{
    size_t                n, half;
    unsigned char         marker[LUNARY_CUT_MARKER];
    const unsigned char  *tail, *end;

    *removed = 0;

    if (c->head == 0 && len - c->at <= cut + LUNARY_CUT_GRACE) {
        return len;
    }

    half = cut / 2;

    if (c->head == 0) {
        c->head = c->at + lunary_cut_head(text + c->at, half);
    }

    /* first to where the last half begins, then on to a good place */

    if (len - c->head > half) {
        len = lunary_cut_drop(c, text, len, text + len - half);
    }

    end = text + len;
    tail = lunary_cut_tail(text + c->head, end, c->state);

    len = lunary_cut_drop(c, text, len, tail);

    n = lunary_cut_marker(marker, c->taken);

    memmove(text + c->head + n, text + c->head, len - c->head);
    memcpy(text + c->head, marker, n);

    *removed = c->taken - n;

    return len + n;
}


/* drops the bytes between head and tail */

static size_t
lunary_cut_drop(lunary_cut_t *c, unsigned char *text, size_t len,
    const unsigned char *tail)
{
    size_t  n;

    n = (size_t) (tail - text) - c->head;

    c->state = lunary_cut_state(c->state, text + c->head, tail);
    c->taken += n;

    memmove(text + c->head, tail, len - c->head - n);

    return len - n;
}
