/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Reducing a text.  See lunary_reduce.h.
 */

#include "lunary_reduce_internal.h"


#define LUNARY_REDUCE_LEVELS  64      /* containers nested deeper are not seen*/
#define LUNARY_REDUCE_WORTH   128     /* less is not worth a marker           */


static size_t lunary_reduce_string(lunary_reduce_t *r, unsigned char *s,
    size_t len, lunary_str_t key);
static void lunary_reduce_begin(lunary_reduce_hot_t *hot, size_t at,
    size_t key, size_t key_len);
static void lunary_reduce_move(unsigned char *to, const unsigned char *from,
    size_t n);
static void lunary_reduce_value(void *ctx, const lunary_reduce_t *r,
    const lunary_node_t *node);


void
lunary_reduce_init(lunary_reduce_t *r, size_t cut)
{
    r->data = NULL;
    r->len = 0;
    r->fixed = 0;
    r->aside = 0;
    r->cut = cut;
    r->removed = 0;
    r->nmarks = 0;
    r->nnotes = 0;
    r->hot.valid = 0;
    r->hot.end = 0;
    r->hot.ended = 0;
    r->hot.closed = 0;
    r->hot.drops = 0;
    r->hot.n = 0;
    r->hot.moved = 0;
    r->last.len = 0;
}


void
lunary_reduce_note(lunary_reduce_t *r, lunary_str_t key, size_t n)
{
    unsigned               i;
    lunary_reduce_note_t  *note;

    r->removed += n;

    if (key.len > LUNARY_REDUCE_KEY) {
        return;
    }

    for (i = 0; i < r->nnotes; i++) {
        note = &r->notes[i];

        if (lunary_str_eq(key, (const char *) note->key, note->len)) {
            note->removed += n;
            return;
        }
    }

    if (r->nnotes < LUNARY_REDUCE_NOTES) {
        note = &r->notes[r->nnotes++];
        note->removed = n;
        note->len = (uint8_t) key.len;

        if (key.len) {
            memcpy(note->key, key.data, key.len);
        }
    }
}


size_t
lunary_reduce_noted(const lunary_reduce_t *r, lunary_str_t key)
{
    unsigned  i;

    for (i = 0; i < r->nnotes; i++) {

        if (lunary_str_eq(key, (const char *) r->notes[i].key,
                          r->notes[i].len))
        {
            return r->notes[i].removed;
        }
    }

    return 0;
}


/*
 * One sweep: [from, p) has been looked at and is not moved yet, dst is where
 * it goes.  The current top-level key is copied out, since it moves too.  An
 * array that is a member of the whole may be the hot one, and is written down.
 */

#define lunary_reduce_place(p)  (size_t) (dst + ((p) - from) - r->data)

void
lunary_reduce_strings(lunary_reduce_t *r)
{
    size_t                 n, key_at;
    unsigned               depth;
    unsigned char         *p, *q, *end, *from, *dst, last;
    lunary_reduce_note_t   key;

    p = r->data;
    end = p + r->fixed;
    from = p;
    dst = p;
    depth = 0;
    last = 0;
    key.len = 0;
    key_at = 0;

    r->hot.valid = 0;
    r->hot.closed = 1;

    while (p < end) {

        switch (*p) {

        case ' ':
        case '\n':
        case '\r':
        case '\t':
            n = (size_t) (p - from);
            memmove(dst, from, n);
            dst += n;

            do {
                p++;
            } while (p < end && (*p == ' ' || *p == '\n' || *p == '\r'
                                 || *p == '\t'));

            from = p;
            continue;

        case '"':
            q = (unsigned char *) lunary_string_close(p + 1, end);
            n = (size_t) (q - p - 1);

            if (depth == 1 && r->data[0] == '{'
                && (last == '{' || last == ','))
            {
                key.len = (uint8_t) (n <= LUNARY_REDUCE_KEY ? n : 0);
                memcpy(key.key, p + 1, key.len);
                key_at = lunary_reduce_place(p + 1);
            }

            if (n > r->cut + LUNARY_CUT_GRACE) {

                /* the string is shortened where it is, then moved along */

                n = lunary_reduce_string(r, p + 1, n,
                                         lunary_str(key.key, key.len));
                n += (size_t) (p + 1 - from);
                memmove(dst, from, n);
                dst += n;
                from = q;
            }

            p = q + 1;
            continue;

        case '{':
        case '[':
            depth++;
            last = *p;

            if (depth == 2 && *p == '[' && key.len != 0) {
                lunary_reduce_begin(&r->hot, lunary_reduce_place(p), key_at,
                                    key.len);
            }

            break;

        case '}':
        case ']':
            depth--;
            last = *p;

            if (depth == 1 && !r->hot.closed) {
                r->hot.closed = 1;
                r->hot.ended = 1;
                r->hot.end = lunary_reduce_place(p + 1);
            }

            break;

        case ',':
            last = *p;

            if (depth == 2 && !r->hot.closed) {
                r->hot.last = lunary_reduce_place(p + 1);
                lunary_reduce_found(&r->hot, r->hot.last);
            }

            break;

        case ':':
            last = *p;
            break;

        default:
            break;
        }

        p++;
    }

    n = (size_t) (r->data + r->len - from);
    memmove(dst, from, n);

    r->fixed = (size_t) (dst + (end - from) - r->data);
    r->len = (size_t) (dst + n - r->data);

    r->hot.at = r->fixed;
    r->hot.level = r->hot.closed ? 0 : depth - 2;
    r->hot.lost = 0;
}

#undef lunary_reduce_place


/* an array is opened: it may be the hot one, unless one before it is so large
 * that this will hardly be larger */

static void
lunary_reduce_begin(lunary_reduce_hot_t *hot, size_t at, size_t key,
    size_t key_len)
{
    if (hot->valid && hot->last - hot->start > at / 2) {
        return;
    }

    hot->valid = 1;
    hot->start = at;
    hot->last = at + 1;
    hot->key = key;
    hot->key_len = key_len;
    hot->open = 0;
    hot->depth = 2;
    hot->ended = 0;
    hot->closed = 0;
    hot->drops = 0;
    hot->n = 0;
}


/* cuts the string whose inside is s; returns what is left of it */

static size_t
lunary_reduce_string(lunary_reduce_t *r, unsigned char *s, size_t len,
    lunary_str_t key)
{
    size_t  removed;

    len = lunary_cut_string(s, s, len, r->cut, &removed);

    lunary_reduce_note(r, key, removed);

    return len;
}


unsigned
lunary_reduce_walk(const lunary_reduce_t *r, lunary_reduce_visit_pt visit,
    void *ctx)
{
    size_t                key, key_len;
    unsigned              depth, open;
    unsigned char         last;
    lunary_node_t        *node, nodes[LUNARY_REDUCE_LEVELS];
    const unsigned char  *p, *q, *end;

    p = r->data;
    end = p + r->fixed;
    depth = 0;
    key = 0;
    key_len = 0;
    last = 0;

    for ( /* void */ ; p < end; p++) {

        switch (*p) {

        case '"':
            q = lunary_string_close(p + 1, end);

            if (depth == 1 && r->data[0] == '{'
                && (last == '{' || last == ','))
            {
                key = (size_t) (p + 1 - r->data);
                key_len = (size_t) (q - p - 1);
            }

            p = q;
            continue;

        case '{':
        case '[':

            if (depth < LUNARY_REDUCE_LEVELS) {
                node = &nodes[depth];
                node->start = (size_t) (p - r->data);
                node->last = node->start + 1;
                node->depth = depth;
                node->key = key;
                node->key_len = key_len;
            }

            depth++;
            break;

        case '}':
        case ']':

            if (depth == 0) {
                break;
            }

            depth--;

            if (depth < LUNARY_REDUCE_LEVELS) {
                node = &nodes[depth];
                node->end = (size_t) (p + 1 - r->data);
                node->open = 0;
                visit(ctx, r, node);
            }

            break;

        case ',':

            if (depth != 0 && depth <= LUNARY_REDUCE_LEVELS) {
                nodes[depth - 1].last = (size_t) (p + 1 - r->data);
            }

            break;

        case ':':
            break;

        default:
            continue;
        }

        last = *p;
    }

    open = depth;

    if (depth > LUNARY_REDUCE_LEVELS) {
        depth = LUNARY_REDUCE_LEVELS;
    }

    while (depth-- > 0) {
        node = &nodes[depth];
        node->end = r->len;
        node->open = 1;
        visit(ctx, r, node);
    }

    return open;
}


size_t
lunary_reduce_worth(const lunary_reduce_t *r, size_t target)
{
    size_t  n;

    n = (lunary_reduce_size(r) - target) / LUNARY_REDUCE_ROUNDS;

    return n > LUNARY_REDUCE_WORTH ? n : LUNARY_REDUCE_WORTH;
}


/* the smallest container that suffices, else the largest; never the outermost
 * one, nor one that was taken out already */

static void
lunary_reduce_value(void *ctx, const lunary_reduce_t *r,
    const lunary_node_t *node)
{
    size_t            n;
    lunary_choice_t  *c = ctx;

    (void) r;

    n = node->end - node->start;

    if (node->depth == 0 || n < c->least) {
        return;
    }

    if (c->best == 0
        || (n >= c->need && (c->best < c->need || n < c->best))
        || (n < c->need && n > c->best))
    {
        c->best = n;
        c->node = *node;
    }
}


int
lunary_reduce_values(lunary_reduce_t *r, size_t target)
{
    int              i;
    lunary_choice_t  c;

    lunary_reduce_gather(r);

    for (i = 0; i < LUNARY_REDUCE_ROUNDS && r->len > target; i++) {

        c.best = 0;
        c.need = r->len - target + sizeof("null") - 1;
        c.least = lunary_reduce_worth(r, target);

        lunary_reduce_walk(r, lunary_reduce_value, &c);

        if (c.best == 0) {
            break;
        }

        lunary_reduce_edit(r, c.node.start, c.node.end,
                           (const unsigned char *) "null", 4, &c.node);

        if (c.node.open) {
            return (int) c.node.depth;
        }
    }

    return -1;
}


int
lunary_reduce_members(lunary_reduce_t *r, size_t target)
{
    size_t                depth, keep;
    const unsigned char  *p, *end;

    lunary_reduce_gather(r);

    if (r->len == 0 || (r->data[0] != '{' && r->data[0] != '[')) {
        return 0;
    }

    p = r->data;
    end = p + (r->fixed < target ? r->fixed : target);
    depth = 0;
    keep = 1;

    for ( /* void */ ; p < end; p++) {

        switch (*p) {

        case '"':
            p = lunary_string_close(p + 1, end);

            if (p == end) {
                p--;
            }

            break;

        case '{':
        case '[':
            depth++;
            break;

        case '}':
        case ']':
            depth--;
            break;

        case ',':

            if (depth == 1) {
                keep = (size_t) (p - r->data);
            }

            break;

        default:
            break;
        }
    }

    r->removed += r->len - keep;
    r->len = keep;
    r->fixed = keep;
    r->hot.valid = 0;

    return 1;
}


void
lunary_reduce_edit(lunary_reduce_t *r, size_t from, size_t to,
    const unsigned char *text, size_t n, const lunary_node_t *node)
{
    size_t                 less;
    unsigned               i, k;
    lunary_reduce_mark_t  *m;

    less = to - from - n;

    lunary_reduce_note(r, lunary_str(r->data + node->key, node->key_len),
                       less);

    lunary_reduce_move(r->data + from + n, r->data + to, r->len - to);
    memcpy(r->data + from, text, n);

    if (from == r->hot.start + 1 && to <= r->hot.last) {
        r->hot.last -= less;
        r->hot.end -= less;
        r->hot.at -= less;
        r->hot.open = 0;
        r->hot.moved += less;

    } else {
        r->hot.valid = 0;
    }

    r->len -= less;
    r->fixed = (r->fixed >= to) ? r->fixed - less : from + n;

    for (i = 0, k = 0; i < r->nmarks; i++) {
        m = &r->marks[i];

        if (m->at >= from && m->at < to) {
            continue;
        }

        r->marks[k] = *m;
        r->marks[k++].at -= (m->at >= to) ? less : 0;
    }

    r->nmarks = k;
}


/* memmove() to a lower place, in steps that stay in the first cache */

static void
lunary_reduce_move(unsigned char *to, const unsigned char *from, size_t n)
{
    for ( /* void */ ; n > LUNARY_REDUCE_STEP; n -= LUNARY_REDUCE_STEP) {
        memmove(to, from, LUNARY_REDUCE_STEP);
        to += LUNARY_REDUCE_STEP;
        from += LUNARY_REDUCE_STEP;
    }

    memmove(to, from, n);
}
