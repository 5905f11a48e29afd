/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * One document, kept and reduced as it arrives.  See lunary_doc.h.
 *
 * The scanner (lunary_scan.h) tells what the bytes are, in steps that are cut
 * so that the text cannot pass its limit within one; most bytes are copied
 * once, in runs, at the end of a step.  What happens to a run depends on the
 * mode, and the mode changes between runs only.
 *
 * The result is a function of the bytes and not of the pieces they come in,
 * because everything is decided at places in the text: a reduction where its
 * length reaches the limit, the end of a media string's start, a cut.
 */

#include "lunary_doc_internal.h"
#include "lunary_string.h"


#define LUNARY_DOC_MIN    2048             /* bound of a text, at least       */
#define LUNARY_DOC_KEY    16384            /* a longer key loses its end      */


static size_t lunary_doc_above(size_t max);
static int lunary_doc_start(lunary_doc_t *d, const unsigned char **pp,
    const unsigned char *end);
static int lunary_doc_behind(const lunary_doc_t *d, const unsigned char *p,
    const unsigned char *end);
static size_t lunary_doc_room(const lunary_doc_t *d, size_t n);
static int lunary_doc_step(lunary_doc_t *d, const unsigned char **pp,
    const unsigned char *end, const unsigned char *last);
static int lunary_doc_long(lunary_doc_t *d, const unsigned char **pp,
    const unsigned char *close);
static void lunary_doc_put(lunary_doc_t *d, const unsigned char *from,
    const unsigned char *to);
static void lunary_doc_settle(lunary_doc_t *d, uint64_t offset);
static const unsigned char *lunary_doc_space(lunary_doc_t *d,
    const unsigned char *from, const unsigned char *p);


lunary_doc_t *
lunary_doc_create(lunary_mem_t *mem, size_t max, size_t cut, unsigned flags)
{
    lunary_doc_t  *d;

    d = lunary_alloc(mem, sizeof(lunary_doc_t));
    if (d == NULL) {
        return NULL;
    }

    if (max < LUNARY_DOC_MIN) {
        max = LUNARY_DOC_MIN;
    }

    if (max > SIZE_MAX / 4) {
        max = SIZE_MAX / 4;
    }

    if (cut == 0) {
        cut = max / 16;
    }

    if (cut > max / 4) {
        cut = max / 4;
    }

    if (cut < 32) {
        cut = 32;
    }

    d->mem = mem;
    d->max = max;
    d->above = lunary_doc_above(max);
    d->limit = max + d->above;
    d->cap = 0;
    d->flags = (uint8_t) flags;
    d->watch = NULL;
    d->watch_ctx = NULL;

    lunary_reduce_init(&d->r, cut);
    lunary_doc_reset(d);

    return d;
}


/*
 * How far a text may grow above its bound before it is reduced: a few KiB, of
 * a large one a part, so that a byte costs the same however large it is.
 */

static size_t
lunary_doc_above(size_t max)
{
    if (max <= 8 * LUNARY_DOC_ABOVE) {
        return max / 8;
    }

    return (max <= 32 * LUNARY_DOC_ABOVE) ? LUNARY_DOC_ABOVE : max / 32;
}


void
lunary_doc_destroy(lunary_doc_t *d)
{
    if (d == NULL) {
        return;
    }

    lunary_free(d->mem, d->r.data, d->cap);
    lunary_free(d->mem, d, sizeof(lunary_doc_t));
}


void
lunary_doc_reset(lunary_doc_t *d)
{
    unsigned char  *text;

    text = d->r.data;

    lunary_reduce_init(&d->r, d->r.cut);

    d->r.data = text;

    d->rc = LUNARY_OK;
    d->mode = MODE_TEXT;
    d->cutting = 0;
    d->bom = 0;
    d->class = 0;
    d->vector = 0;
    d->watched = 0;
    d->skip = 0;
    d->watch_depth = 0;
    d->key_at = 0;
    d->open_at = 0;
    d->mark = 0;
    d->offset = 0;
    d->from = 0;
    d->classes[0] = 0;

    lunary_scan_init(&d->scan, d->flags & LUNARY_DOC_STRICT);

    d->scan.numbers_max = LUNARY_MEDIA_NUMBERS;
    d->scan.key_depth = 1;

    d->scan.key_limit = (d->r.cut < LUNARY_DOC_KEY) ? d->r.cut : LUNARY_DOC_KEY;

    if (d->scan.key_limit < LUNARY_SCAN_KEY_MAX) {
        d->scan.key_limit = LUNARY_SCAN_KEY_MAX;
    }
}


void
lunary_doc_watch(lunary_doc_t *d, lunary_watch_pt watch, void *ctx)
{
    d->watch = watch;
    d->watch_ctx = ctx;
    d->watch_depth = (watch != NULL);
}


void
lunary_doc_watch_depth(lunary_doc_t *d, unsigned depth)
{
    d->watch_depth = depth;
}


int
lunary_doc_feed(lunary_doc_t *d, const unsigned char *p, size_t n)
{
    int                   rc;
    size_t                room;
    const unsigned char  *end, *start;

    if (d->rc < 0) {
        return d->rc;
    }

    start = p;
    end = p + n;

    lunary_scan_piece(&d->scan, p, d->offset);

    if (d->r.len == 0 && d->scan.state == LUNARY_SCAN_S_VALUE
        && d->scan.depth == 0)
    {
        d->rc = lunary_doc_start(d, &p, end);
    }

    while (p < end && d->rc == LUNARY_OK) {

        room = lunary_doc_room(d, (size_t) (end - p));

        rc = lunary_doc_reserve(d,
                 lunary_doc_cut(d) ? lunary_cut_reach(&d->cut, d->r.cut)
                                     - d->r.len
                 : lunary_doc_kept(d) ? room : 0);
        if (rc != LUNARY_OK) {
            d->rc = rc;
            break;
        }

        d->rc = lunary_doc_step(d, &p, p + room, end);

        if (lunary_reduce_size(&d->r) >= d->limit && lunary_doc_kept(d)
            && !lunary_doc_cut(d))
        {
            lunary_doc_reduce(d, lunary_doc_at(d, p));
        }
    }

    if (d->rc == LUNARY_DONE && p < end) {
        d->rc = lunary_doc_behind(d, p, end);
    }

    /* in the case of an error it is where that stands */

    d->offset += (uint64_t) ((d->rc < 0 ? p : end) - start);

    return d->rc;
}


/* before the value: white space, and one BOM where we are not strict */

static int
lunary_doc_start(lunary_doc_t *d, const unsigned char **pp,
    const unsigned char *end)
{
    const unsigned char  *p;

    static const unsigned char  bom[] = "\xEF\xBB\xBF";

    for (p = *pp; p < end; p++) {

        if (d->bom < 3 && *p == bom[d->bom]
            && !(d->flags & LUNARY_DOC_STRICT)
            && d->offset + (uint64_t) (p - *pp) == d->bom)
        {
            d->bom++;
            continue;
        }

        if (d->bom == 1 || d->bom == 2) {
            *pp = p;
            return LUNARY_ERROR;
        }

        if (*p != ' ' && *p != '\n' && *p != '\r' && *p != '\t') {
            break;
        }
    }

    *pp = p;

    return LUNARY_OK;
}


/* behind the value */

static int
lunary_doc_behind(const lunary_doc_t *d, const unsigned char *p,
    const unsigned char *end)
{
    if (!(d->flags & LUNARY_DOC_STRICT)) {
        return LUNARY_DONE;
    }

    for ( /* void */ ; p < end; p++) {
        if (*p != ' ' && *p != '\n' && *p != '\r' && *p != '\t') {
            return LUNARY_ERROR;
        }
    }

    return LUNARY_DONE;
}


/* room for n bytes of the wire and what may be written beside them */

int
lunary_doc_reserve(lunary_doc_t *d, size_t n)
{
    void    *p;
    size_t   cap;

    n += d->r.len + LUNARY_DOC_SLACK;

    if (n <= (d->r.aside ? d->r.aside_at : d->cap)) {
        return LUNARY_OK;
    }

    n += d->r.aside;

    if (n > d->cap) {
        cap = d->cap + d->cap / 2;

        if (cap > d->limit + LUNARY_DOC_SLACK) {
            cap = d->limit + LUNARY_DOC_SLACK;
        }

        if (cap < n) {
            cap = n;
        }

        p = lunary_realloc(d->mem, d->r.data, d->cap, cap);
        if (p == NULL) {
            return LUNARY_NOMEM;
        }

        d->r.data = p;
        d->cap = cap;
    }

    if (d->r.aside) {
        lunary_reduce_raise(&d->r, d->cap);
    }

    return LUNARY_OK;
}


/* how many of the next n bytes a step may take */

static size_t
lunary_doc_room(const lunary_doc_t *d, size_t n)
{
    size_t  room;

    if (!lunary_doc_kept(d) || lunary_doc_cut(d)) {
        return n;
    }

    room = d->limit - lunary_reduce_size(&d->r);

    if (n > room) {
        n = room;
    }

    if (d->mode == MODE_TEXT) {
        return n;
    }

    room = (d->mode == MODE_CUT)
           ? lunary_cut_room(&d->cut, d->r.len, d->r.cut)
           : lunary_probe_room(&d->probe);

    return n < room ? n : room;
}


/*
 * Takes bytes up to `end`, or less where the mode changes; or, where a string
 * is cut, more, up to `last`.  LUNARY_OK: go on; LUNARY_DONE: the value is
 * complete; or an error.
 */

static int
lunary_doc_step(lunary_doc_t *d, const unsigned char **pp,
    const unsigned char *end, const unsigned char *last)
{
    int                   back, mode;
    size_t                len;
    lunary_scan_t        *s;
    const unsigned char  *p, *q, *from;
    lunary_scan_event_e   ev;

    s = &d->scan;

    if (d->mode == MODE_MEDIA) {
        lunary_doc_media(d, pp, end);
        return LUNARY_OK;
    }

    if (d->mode == MODE_VECTOR) {
        lunary_doc_numbers(d, pp, end);
    }

    p = *pp;
    from = p;

    for ( ;; ) {

        /* 1: bytes are kept again, and how many may come is to be seen */
        back = 0;

        ev = lunary_scan_next(s, &p, end);

        switch (ev) {

        case LUNARY_SCAN_MORE:
            lunary_doc_put(d, from, p);
            lunary_doc_settle(d, lunary_doc_at(d, p));
            *pp = p;

            return LUNARY_OK;

        case LUNARY_SCAN_SPACE:
            from = lunary_doc_space(d, from, p);
            continue;

        case LUNARY_SCAN_KEY:

            if (d->mode == MODE_KEY) {
                lunary_doc_key_end(d, lunary_doc_at(d, p) - 1);
                from = p - 1;
                back = 1;
            }

            lunary_doc_key(d);

            if (back) {
                break;
            }

            continue;

        case LUNARY_SCAN_KEY_LONG:
            lunary_doc_put(d, from, p);
            lunary_doc_key_long(d, lunary_doc_at(d, p));
            *pp = p;

            return LUNARY_OK;

        case LUNARY_SCAN_OPEN:

            if (d->mode == MODE_VECTOR) {
                lunary_doc_vector_end(d, s->token, 1);
                from = p - 1;
                back = 1;
            }

            len = d->r.len + (size_t) (p - from);

            lunary_reduce_opened(&d->r, s->depth, len - 1);
            lunary_doc_open(d, p[-1] == '[', len, s->token + 1);

            if (back) {
                break;
            }

            continue;

        case LUNARY_SCAN_CLOSE:

            if (d->mode == MODE_VECTOR) {
                lunary_doc_vector_end(d, s->token, 0);
                from = p - 1;
                back = 1;

            } else if (d->mode == MODE_SKIP && s->depth == d->skip) {
                lunary_doc_skip_end(d, s->value_end);
                s->name_start = NULL;
                from = p;
                back = 1;
            }

            lunary_reduce_closed(&d->r, s->depth,
                                 d->r.len + (size_t) (p - from));
            lunary_doc_closed(d);

            break;

        case LUNARY_SCAN_STRING:

            if (d->mode == MODE_VECTOR) {
                lunary_doc_vector_end(d, s->token, 1);
                from = p - 1;
                back = 1;
            }

            mode = lunary_doc_string(d, p, last);

            /* behind what was dropped there is no room yet */

            if (mode == MODE_CUT && !back) {
                q = lunary_string_span(p, last);

                if (q == last || *q != '"') {

                    /* it is not all here, or something is to be mended */

                } else if (q < end
                           && (size_t) (q - p) <= d->r.cut + LUNARY_CUT_GRACE)
                {
                    /* it needs no cutting */

                    p = q;
                    s->notify = d->watched;
                    mode = MODE_TEXT;

                } else {
                    lunary_doc_put(d, from, p);
                    *pp = p;

                    return lunary_doc_long(d, pp, q);
                }
            }

            if (mode != MODE_TEXT) {

                /* what is before it, and the quote, are no part of it */

                lunary_doc_put(d, from, p);
                lunary_probe_init(&d->probe, d->class & LUNARY_MEDIA_STRING);
                lunary_cut_start(&d->cut, d->r.len);
                d->mode = (uint8_t) mode;
                *pp = p;

                return LUNARY_OK;
            }

            if (back) {
                break;
            }

            continue;

        case LUNARY_SCAN_STRING_END:

            if (d->mode == MODE_PROBE || d->mode == MODE_CUT) {
                lunary_doc_put(d, from, p - 1);
                lunary_doc_string_end(d);
                from = p - 1;
                back = 1;
            }

            lunary_doc_tell(d, ev, s->depth);

            break;

        case LUNARY_SCAN_SCALAR:

            if (s->bad && lunary_doc_kept(d)) {

                /* the word may have begun in a run before this one */

                if (s->start != NULL) {
                    lunary_doc_put(d, from, s->start);

                } else {
                    d->r.len = d->open_at;
                }

                lunary_doc_add(d, "null", 4);
                from = p;
                back = 1;
            }

            s->start = NULL;

            lunary_doc_tell(d, ev, s->depth);

            if (d->mode == MODE_VECTOR) {
                back = 1;
            }

            if (d->vector && !s->bad) {

                if (s->number) {
                    lunary_doc_put(d, from, p);
                    lunary_doc_vector(d);
                    from = p;
                    back = 1;

                } else {
                    d->vector = 0;
                    lunary_doc_want(d, 0);
                }
            }

            break;

        case LUNARY_SCAN_REPAIR:
            lunary_doc_put(d, from, p - s->repair);
            lunary_doc_repair(d);
            lunary_doc_settle(d, lunary_doc_at(d, p));
            *pp = p;

            return LUNARY_OK;

        case LUNARY_SCAN_ERROR:
        case LUNARY_SCAN_LIMIT:
        default:
            lunary_doc_put(d, from, p);
            lunary_doc_settle(d, lunary_doc_at(d, p));
            *pp = p;

            return (ev == LUNARY_SCAN_LIMIT) ? LUNARY_LIMIT : LUNARY_ERROR;
        }

        /* mostly: a value has ended */

        if (back || s->state == LUNARY_SCAN_S_DONE) {
            break;
        }
    }

    lunary_doc_put(d, from, p);
    *pp = p;

    return (s->state == LUNARY_SCAN_S_DONE) ? LUNARY_DONE : LUNARY_OK;
}


/*
 * A string begins at *pp that is to be cut if it is too long, and is all here:
 * its closing quote is at q.  It is taken with that, and its middle is not even
 * copied.  Where the text would reach its limit while the string grows it is
 * reduced at that place, as if the string had come in pieces.
 */

static int
lunary_doc_long(lunary_doc_t *d, const unsigned char **pp,
    const unsigned char *q)
{
    size_t                n, grown, room, removed;
    const unsigned char  *p;

    p = *pp;
    n = (size_t) (q - p);
    room = d->limit - lunary_reduce_size(&d->r);

    grown = lunary_cut_limit(d->r.cut) - 1;
    grown = n < grown ? n : grown;

    lunary_cut_start(&d->cut, d->r.len);

    if (grown >= room) {
        d->mode = MODE_CUT;

        if (lunary_doc_reserve(d, room) != LUNARY_OK) {
            return LUNARY_NOMEM;
        }

        lunary_doc_add(d, p, room);
        lunary_doc_reduce(d, lunary_doc_at(d, p + room));

        if (d->mode != MODE_CUT
            || lunary_reduce_size(&d->r) - room + grown >= d->limit)
        {
            /* on from there in steps; the scanner is to know what it is in */

            (void) lunary_scan_next(&d->scan, pp, p + room);
            d->scan.start = NULL;

            return LUNARY_OK;
        }

        d->r.len = d->cut.at;
        d->mode = MODE_TEXT;
    }

    if (lunary_doc_reserve(d, grown) != LUNARY_OK) {
        return LUNARY_NOMEM;
    }

    if (n <= d->r.cut + LUNARY_CUT_GRACE) {
        lunary_doc_add(d, p, n);

    } else {
        d->r.len += lunary_cut_string(d->r.data + d->r.len, p, n, d->r.cut,
                                      &removed);

        lunary_reduce_note(&d->r, lunary_str(d->r.last.key, d->r.last.len),
                           removed);
    }

    lunary_doc_add(d, "\"", 1);
    *pp = q + 1;

    lunary_scan_string_read(&d->scan, *pp);
    lunary_doc_tell(d, LUNARY_SCAN_STRING_END, d->scan.depth);

    return d->scan.depth ? LUNARY_OK : LUNARY_DONE;
}


/*
 * Appends a run, where runs are kept, and notes where in the text the open
 * token starts, where that is in the run.
 */

static void
lunary_doc_put(lunary_doc_t *d, const unsigned char *from,
    const unsigned char *to)
{
    lunary_scan_t  *s;

    s = &d->scan;

    if (lunary_doc_kept(d)) {

        if (s->name_start != NULL) {
            d->key_at = d->r.len + (size_t) (s->name_start - from);
        }

        if (s->start != NULL) {
            d->open_at = d->r.len + (size_t) (s->start - from)
                         + (s->state == LUNARY_SCAN_S_STRING);
        }

        if (lunary_doc_cut(d)) {
            d->r.len = lunary_cut_add(&d->cut, d->r.data, d->r.len, d->r.cut,
                                      from, (size_t) (to - from));

        } else {
            lunary_doc_add(d, from, (size_t) (to - from));
        }
    }

    s->name_start = NULL;
    s->start = NULL;
}


/* after a run: is the string media, has it grown too long */

static void
lunary_doc_settle(lunary_doc_t *d, uint64_t offset)
{
    size_t  run;

    if (d->mode == MODE_PROBE) {

        switch (lunary_probe(&d->probe, d->r.data + d->cut.at,
                             d->r.len - d->cut.at))
        {
        case LUNARY_OK:
            return;

        case LUNARY_DONE:
            run = d->cut.at + d->probe.run;
            d->from = offset - (d->r.len - run);
            d->r.len = run;
            d->mode = MODE_MEDIA;
            return;

        default:
            d->mode = d->cutting ? MODE_CUT : MODE_TEXT;
        }
    }

    if (d->mode == MODE_CUT) {
        d->r.len = lunary_cut_trim(&d->cut, d->r.data, d->r.len, d->r.cut);
    }
}


/* white space that is not kept: whatever was reduced is without it */

static const unsigned char *
lunary_doc_space(lunary_doc_t *d, const unsigned char *from,
    const unsigned char *p)
{
    const unsigned char  *start;

    start = d->scan.start;
    d->scan.start = NULL;

    lunary_doc_put(d, from, start);

    return p;
}
