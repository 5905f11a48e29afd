/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Reducing a text: old elements of arrays go.  See lunary_reduce.h.
 *
 * Mostly one array, the messages of a chat, loses its oldest elements each
 * time that newer ones have come, and what is behind them would be moved each
 * time: all of the text, for a few KiB of it.  So from the second time on what
 * is left of the old elements is set aside, that is, it stays where it is, and
 * what follows it goes to where the dropped ones were:
 *
 *     head, marker | dropped elements | old elements | the newest one's start
 *     head, marker | the newest one's start | free | old elements | free
 *
 * To drop some more is to let what is set aside start later.  It is put in its
 * place again when the text is wanted as a whole.
 */

#include "lunary_reduce_internal.h"


#define LUNARY_REDUCE_ASIDE   512     /* less is not worth setting aside      */
#define LUNARY_REDUCE_SWAP    64


static int lunary_reduce_hot(lunary_reduce_t *r, lunary_choice_t *c,
    unsigned depth);
static size_t lunary_reduce_known(lunary_reduce_t *r, size_t first,
    size_t need);
static void lunary_reduce_array(void *ctx, const lunary_reduce_t *r,
    const lunary_node_t *node);
static size_t lunary_reduce_drop(lunary_reduce_t *r,
    const lunary_node_t *node, size_t need);
static size_t lunary_reduce_drop_aside(lunary_reduce_t *r, size_t first,
    size_t gone, const unsigned char *text, size_t n);
static int lunary_reduce_worth_aside(const lunary_reduce_t *r, size_t first,
    size_t to, size_t n);
static void lunary_reduce_set_aside(lunary_reduce_t *r, size_t first,
    size_t to, const unsigned char *text, size_t n);
static void lunary_reduce_rotate(unsigned char *p, size_t a, size_t b);
static void lunary_reduce_swap(unsigned char *p, unsigned char *q, size_t n);


void
lunary_reduce_elements(lunary_reduce_t *r, size_t target, unsigned depth)
{
    int              i;
    unsigned         open;
    lunary_choice_t  c;

    for (i = 0; i < LUNARY_REDUCE_ROUNDS && lunary_reduce_size(r) > target;
         i++)
    {
        c.best = 0;
        c.need = lunary_reduce_worth(r, target);

        if (!lunary_reduce_hot(r, &c, depth)) {

            lunary_reduce_gather(r);

            open = lunary_reduce_walk(r, lunary_reduce_array, &c);

            if (c.best != 0 && c.node.open) {
                r->hot.valid = 1;
                r->hot.start = c.node.start;
                r->hot.last = c.node.last;
                r->hot.key = c.node.key;
                r->hot.key_len = c.node.key_len;
                r->hot.at = r->fixed;
                r->hot.open = 0;
                r->hot.depth = c.node.depth + 1;
                r->hot.level = open - r->hot.depth;
                r->hot.ended = 0;
                r->hot.closed = 0;
                r->hot.lost = 0;
                r->hot.drops = 0;
                r->hot.n = 0;
            }
        }

        if (c.best == 0
            || lunary_reduce_drop(r, &c.node,
                                  lunary_reduce_size(r) - target)
               == 0)
        {
            return;
        }
    }
}


/* of arrays the one whose old elements are the most; on a tie the outermost */

static void
lunary_reduce_array(void *ctx, const lunary_reduce_t *r,
    const lunary_node_t *node)
{
    size_t            n;
    lunary_choice_t  *c = ctx;

    n = node->last - node->start - 1;

    if (r->data[node->start] == '[' && n >= c->need && n >= c->best) {
        c->best = n;
        c->node = *node;
    }
}


/*
 * 1 where the array that lost elements before is the one to lose more: it is
 * still open, or a member of the whole, and its old elements are half of the
 * text, so that no other array has as many bytes.
 */

static int
lunary_reduce_hot(lunary_reduce_t *r, lunary_choice_t *c, unsigned depth)
{
    size_t                 n;
    lunary_reduce_hot_t   *hot;
    const unsigned char   *p, *end;

    hot = &r->hot;

    if (!hot->valid || hot->at > r->fixed) {
        return 0;
    }

    p = r->data + hot->at;
    end = r->data + r->fixed;

    if (!hot->ended && hot->level == 0 && hot->open == hot->at + 1
        && depth > hot->depth)
    {
        /* a comma, and all that follows is in the element that is open now */

        hot->last = hot->open;
        hot->level = depth - hot->depth;
        lunary_reduce_found(hot, hot->last);
        p = end;
    }

    for ( /* void */ ; p < end && !hot->closed; p++) {

        switch (*p) {

        case '"':
            p = lunary_string_close(p + 1, end);
            break;

        case '{':
        case '[':
            hot->level++;
            break;

        case '}':
        case ']':

            if (hot->level != 0) {
                hot->level--;
                break;
            }

            if (hot->depth != 2 || r->data[0] != '{') {
                hot->valid = 0;
                return 0;
            }

            hot->closed = 1;
            hot->ended = 1;
            hot->end = (size_t) (p + 1 - r->data);
            break;

        case ',':

            if (hot->level == 0) {
                hot->last = (size_t) (p + 1 - r->data);
                lunary_reduce_found(hot, hot->last);
            }

            break;

        default:
            break;
        }
    }

    hot->at = r->fixed;
    hot->open = 0;
    hot->lost = 0;

    n = hot->last - hot->start - 1 + r->aside;

    if (n < lunary_reduce_size(r) / 2 + 1 || n < c->need) {
        return 0;
    }

    c->best = n;
    c->node.start = hot->start;
    c->node.last = hot->last;
    c->node.key = hot->key;
    c->node.key_len = hot->key_len;

    return 1;
}


/*
 * An object or array in the hot one has ended.  If we have looked at the text
 * up to the middle of it, or up to the comma before it, we need not look on.
 */

void
lunary_reduce_element(lunary_reduce_t *r, size_t end)
{
    lunary_reduce_hot_t  *hot;

    hot = &r->hot;

    if (hot->level == 0 && (hot->open != hot->at || hot->last != hot->at)) {

        if (hot->open != hot->at + 1) {
            hot->lost = 1;
            return;
        }

        hot->last = hot->open;
        lunary_reduce_found(hot, hot->last);
    }

    hot->at = end;
    hot->level = 0;
}


void
lunary_reduce_found(lunary_reduce_hot_t *hot, size_t at)
{
    unsigned  i;

    if (hot->n == 0) {
        hot->first = 0;
        hot->moved = 0;
        hot->each = 1;
        hot->count = 0;
    }

    if (++hot->count < hot->each) {
        return;
    }

    if (hot->first + hot->n == LUNARY_REDUCE_ENDS) {

        memmove(hot->ends, hot->ends + hot->first, hot->n * sizeof(size_t));
        hot->first = 0;

        if (hot->n > LUNARY_REDUCE_ENDS / 2) {

            for (i = 0; i < hot->n / 2; i++) {
                hot->ends[i] = hot->ends[2 * i + 1];
            }

            /* of an odd number the last is one that came since */

            hot->count += (hot->n & 1) ? hot->each : 0;
            hot->n /= 2;
            hot->each *= 2;

            if (hot->count < hot->each) {
                return;
            }
        }
    }

    hot->count = 0;
    hot->ends[hot->first + hot->n++] = at + hot->moved;
}


/*
 * How many bytes behind `first` the last place lies that is known to be an
 * element's, and is less than `need`; else 0.  What is set aside counts as if
 * it were in its place.
 */

static size_t
lunary_reduce_known(lunary_reduce_t *r, size_t first, size_t need)
{
    size_t                at, next;
    lunary_reduce_hot_t  *hot;

    hot = &r->hot;

    if (!hot->valid || first != hot->start + 1) {
        return 0;
    }

    for (at = 0; hot->n != 0; at = next) {

        next = hot->ends[hot->first] - hot->moved + r->aside - first;

        if (next >= need) {

            /* it is the one to stop at, where none lies between */

            return (at != 0 && hot->each == 1) ? next : at;
        }

        hot->first++;
        hot->n--;
    }

    return at;
}


/*
 * Replaces old elements of an array by one that tells of them.  Where such a
 * one is there already, it goes with them and its bytes are added.
 */

static size_t
lunary_reduce_drop(lunary_reduce_t *r, const lunary_node_t *node, size_t need)
{
    int                    object, ours;
    size_t                 n, bytes, first, before, behind, old, gone;
    unsigned               i;
    lunary_str_t           v;
    unsigned char          text[LUNARY_CUT_MARKER + 64];
    const unsigned char   *p, *end, *start;

    first = node->start + 1;
    behind = first;
    bytes = 0;
    ours = 0;

    for (i = 0; i < r->nmarks; i++) {

        if (r->marks[i].at == first) {
            bytes = r->marks[i].bytes;
            p = r->data + first;
            (void) lunary_json_value(&p, r->data + node->last);
            behind = (size_t) (p + 1 - r->data);
            ours = 1;
            break;
        }
    }

    old = node->last - behind + r->aside;

    if (old == 0) {
        return 0;
    }

    object = (r->data[r->aside ? r->aside_at : behind] == '{');

    /* the marker's own length is not known before its number: the longest */

    need += sizeof(text);

    n = lunary_reduce_known(r, first, need);

    gone = (n > behind - first) ? n - (behind - first) : 0;

    while (gone < old && behind - first + gone < need) {

        if (gone < r->aside) {
            p = r->data + r->aside_at + gone;
            end = r->data + r->aside_at + r->aside;

        } else {
            p = r->data + behind + gone - r->aside;
            end = r->data + node->last;
        }

        start = p;
        v = lunary_json_value(&p, end);

        if (v.len == 0) {
            return 0;
        }

        p++;                                      /* the comma behind it */
        gone += (size_t) (p - start);
    }

    /* without the last comma; the one behind the old marker was one too */

    bytes += gone - 1 + (size_t) ours;

    n = 0;

    if (object || (ours && r->data[first] == '{')) {
        memcpy(text, "{\"role\":\"omitted\",\"content\":", 28);
        n = 28;
    }

    text[n++] = '"';
    n += lunary_cut_marker(text + n, bytes);
    text[n++] = '"';

    if (n > 28 && text[0] == '{') {
        text[n++] = '}';
    }

    text[n++] = ',';

    if (behind - first + gone <= n) {
        return 0;
    }

    before = lunary_reduce_size(r);

    gone = lunary_reduce_drop_aside(r, first, gone, text, n);

    if (gone) {

        if (lunary_reduce_worth_aside(r, first, behind + gone, n)) {
            lunary_reduce_set_aside(r, first, behind + gone, text, n);

        } else {
            lunary_reduce_edit(r, first, behind + gone, text, n, node);
        }

        if (r->nmarks < LUNARY_REDUCE_MARKS) {
            r->marks[r->nmarks].at = first;
            r->marks[r->nmarks].bytes = bytes;
            r->nmarks++;
        }

    } else {
        r->marks[i].bytes = bytes;
    }

    r->hot.drops++;

    return before - lunary_reduce_size(r);
}


/* drops so many bytes of old elements, from what is set aside; returns how
 * many are left to be dropped from the text, where nothing is set aside any
 * more, else 0: text is the new marker, then, and in its place */

static size_t
lunary_reduce_drop_aside(lunary_reduce_t *r, size_t first, size_t gone,
    const unsigned char *text, size_t n)
{
    size_t                more, marker;
    lunary_str_t          key;
    lunary_reduce_hot_t  *hot;

    if (r->aside == 0) {
        return gone;
    }

    hot = &r->hot;
    key = lunary_str(r->data + hot->key, hot->key_len);

    if (gone > r->aside) {
        gone -= r->aside;
        lunary_reduce_note(r, key, r->aside);
        r->aside = 0;

        return gone;
    }

    marker = r->behind - first;

    lunary_reduce_note(r, key, marker + gone - n);

    r->aside_at += gone;
    r->aside -= gone;

    if (n != marker) {
        memmove(r->data + first + n, r->data + r->behind, r->len - r->behind);
    }

    memcpy(r->data + first, text, n);

    more = n - marker;                /* may be less: modulo SIZE_MAX + 1 */

    r->len += more;
    r->fixed += more;
    r->behind += more;
    hot->last += more;
    hot->end += more;
    hot->at += more;
    hot->moved -= more;

    return 0;
}


/* 1 where the old elements from `to` on are to be set aside: they are many,
 * others went before, and what is behind them has room in front of them */

static int
lunary_reduce_worth_aside(const lunary_reduce_t *r, size_t first, size_t to,
    size_t n)
{
    int                         ours;
    unsigned                    i;
    const lunary_reduce_hot_t  *hot;

    hot = &r->hot;

    if (!hot->valid || hot->closed || first != hot->start + 1
        || hot->drops == 0
        || hot->last < to + LUNARY_REDUCE_ASIDE
        || first + n + r->len - hot->last > to)
    {
        return 0;
    }

    /* what takes part in it has one mark, its own */

    ours = 0;

    for (i = 0; i < r->nmarks; i++) {

        if (r->marks[i].at >= to) {
            return 0;
        }

        ours |= (r->marks[i].at == first);
    }

    return ours;
}


/* replaces [first, to) by a text, as lunary_reduce_edit() does, and sets aside
 * the old elements behind it */

static void
lunary_reduce_set_aside(lunary_reduce_t *r, size_t first, size_t to,
    const unsigned char *text, size_t n)
{
    size_t                less;
    unsigned              i, k;
    lunary_reduce_hot_t  *hot;

    hot = &r->hot;

    lunary_reduce_note(r, lunary_str(r->data + hot->key, hot->key_len),
                       to - first - n);

    memcpy(r->data + first, text, n);
    memmove(r->data + first + n, r->data + hot->last, r->len - hot->last);

    r->behind = first + n;
    r->aside_at = to;
    r->aside = hot->last - to;

    less = hot->last - r->behind;

    r->len -= less;
    r->fixed -= less;
    hot->last -= less;
    hot->at -= less;
    hot->moved += less;

    for (i = 0, k = 0; i < r->nmarks; i++) {

        if (r->marks[i].at < first) {
            r->marks[k++] = r->marks[i];
        }
    }

    r->nmarks = k;
}


void
lunary_reduce_raise(lunary_reduce_t *r, size_t cap)
{
    memmove(r->data + cap - r->aside, r->data + r->aside_at, r->aside);
    r->aside_at = cap - r->aside;
}


void
lunary_reduce_gather(lunary_reduce_t *r)
{
    if (r->aside == 0) {
        return;
    }

    memmove(r->data + r->len, r->data + r->aside_at, r->aside);

    lunary_reduce_rotate(r->data + r->behind, r->len - r->behind, r->aside);

    r->len += r->aside;
    r->fixed += r->aside;
    r->hot.last += r->aside;
    r->hot.end += r->aside;
    r->hot.at += r->aside;
    r->hot.open = 0;
    r->hot.moved -= r->aside;
    r->aside = 0;
}


/* a bytes at p and the b bytes behind them change places */

static void
lunary_reduce_rotate(unsigned char *p, size_t a, size_t b)
{
    unsigned char  few[LUNARY_REDUCE_STEP];

    for ( ;; ) {

        if (a <= sizeof(few)) {
            memcpy(few, p, a);
            memmove(p, p + a, b);
            memcpy(p + b, few, a);
            return;
        }

        if (b <= sizeof(few)) {
            memcpy(few, p + a, b);
            memmove(p + b, p, a);
            memcpy(p, few, b);
            return;
        }

        if (a <= b) {
            b -= a;
            lunary_reduce_swap(p, p + a + b, a);

        } else {
            lunary_reduce_swap(p, p + a, b);
            p += b;
            a -= b;
        }
    }
}


/* the n bytes at p and at q change places */

static void
lunary_reduce_swap(unsigned char *p, unsigned char *q, size_t n)
{
    unsigned char  c, few[2][LUNARY_REDUCE_SWAP];

    for ( /* void */ ; n >= LUNARY_REDUCE_SWAP; n -= LUNARY_REDUCE_SWAP) {

        memcpy(few[0], p, LUNARY_REDUCE_SWAP);
        memcpy(few[1], q, LUNARY_REDUCE_SWAP);
        memcpy(p, few[1], LUNARY_REDUCE_SWAP);
        memcpy(q, few[0], LUNARY_REDUCE_SWAP);

        p += LUNARY_REDUCE_SWAP;
        q += LUNARY_REDUCE_SWAP;
    }

    for ( /* void */ ; n != 0; n--) {
        c = *p;
        *p++ = *q;
        *q++ = c;
    }
}
