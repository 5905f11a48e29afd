/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * How a text is made to fit, and how it ends.  See lunary_doc.h, rules 2 to 4.
 */

#include "lunary_doc_internal.h"


#define LUNARY_DOC_NUMBERS  16             /* are a vector where room is short*/


static void lunary_doc_fixed(lunary_doc_t *d);
static void lunary_doc_moved(lunary_doc_t *d, size_t fixed);
static void lunary_doc_break_string(lunary_doc_t *d);
static int lunary_doc_drop_last(lunary_doc_t *d);
static void lunary_doc_fit(lunary_reduce_t *r, size_t max, int cutting);


/*
 * The text has reached its limit.  The first time its strings are cut, and
 * from then on those that follow, as they come; if that is not enough, or
 * later, whole elements and values go.
 */

void
lunary_doc_reduce(lunary_doc_t *d, uint64_t offset)
{
    int               depth;
    size_t            fixed, enough;
    lunary_reduce_t  *r;

    r = &d->r;

    /* more than the bound, so that an open string, which may be held longer
     * than it will be, costs nobody's place */

    enough = d->max + d->above / 2;

    if (d->vector && r->len - d->mark > d->max / 4) {

        /* there is no room for as many numbers as it takes to be sure */

        if (d->scan.numbers > LUNARY_DOC_NUMBERS) {
            lunary_doc_vector(d);
            return;
        }

        d->vector = 0;
    }

    if (!d->cutting) {
        d->cutting = 1;

        lunary_doc_fixed(d);
        fixed = r->fixed;
        lunary_reduce_strings(r);
        lunary_doc_moved(d, fixed);

        if (d->scan.state == LUNARY_SCAN_S_STRING && d->mode == MODE_TEXT) {
            d->mode = MODE_CUT;
            d->scan.notify = 1;
            lunary_cut_start(&d->cut, d->open_at);
        }

        lunary_doc_want(d, d->watched);
    }

    if (d->mode == MODE_CUT) {
        r->len = lunary_cut_trim(&d->cut, r->data, r->len, r->cut);
    }

    if (lunary_reduce_size(r) <= enough) {
        return;
    }

    lunary_doc_fixed(d);
    fixed = r->fixed;
    lunary_reduce_elements(r, d->max, d->scan.depth);
    lunary_doc_moved(d, fixed);

    if (lunary_reduce_size(r) <= enough) {
        return;
    }

    d->vector = 0;

    lunary_doc_fixed(d);
    fixed = r->fixed;
    depth = lunary_reduce_values(r, d->max);

    if (depth >= 0) {
        d->mode = MODE_SKIP;
        d->skip = (unsigned) depth;
        d->from = offset;

    } else {
        lunary_doc_moved(d, fixed);
    }

    if (lunary_reduce_size(r) <= enough) {
        return;
    }

    lunary_doc_fixed(d);
    (void) lunary_reduce_members(r, d->max);

    if (d->mode != MODE_SKIP) {
        d->from = offset;
    }

    d->mode = MODE_FULL;
}


/* where in the text begins what is not complete yet */

static void
lunary_doc_fixed(lunary_doc_t *d)
{
    size_t          fixed;
    lunary_scan_t  *s;

    s = &d->scan;
    fixed = d->r.len;

    if (d->mode == MODE_SKIP) {
        d->r.fixed = fixed;
        return;
    }

    switch (s->state) {

    case LUNARY_SCAN_S_NAME:
    case LUNARY_SCAN_S_COLON:
        fixed = d->key_at;
        break;

    case LUNARY_SCAN_S_STRING:
        fixed = d->open_at - 1;
        break;

    case LUNARY_SCAN_S_SCALAR:
        fixed = d->open_at;

        /* fall through */

    case LUNARY_SCAN_S_VALUE:

        if (s->depth && !lunary_scan_array(s, s->depth)) {
            fixed = d->key_at;
        }

        break;

    default:
        break;
    }

    if (d->vector && fixed > d->mark) {
        fixed = d->mark;
    }

    d->r.fixed = fixed;
}


/* what was at `fixed` and behind it is now at r.fixed and behind it */

static void
lunary_doc_moved(lunary_doc_t *d, size_t fixed)
{
    size_t     n;
    unsigned   i;
    size_t    *at[5];

    n = fixed - d->r.fixed;

    at[0] = &d->key_at;
    at[1] = &d->open_at;
    at[2] = &d->mark;
    at[3] = &d->cut.at;
    at[4] = &d->cut.head;

    for (i = 0; i < 5; i++) {
        *at[i] -= (*at[i] >= fixed) ? n : 0;
    }
}


int
lunary_doc_finish(lunary_doc_t *d)
{
    if (d->rc < 0) {
        return d->rc;
    }

    if (!lunary_scan_finish(&d->scan)) {
        d->rc = LUNARY_ERROR;
        return d->rc;
    }

    d->rc = LUNARY_DONE;

    if (d->mode == MODE_FULL) {
        d->r.removed += (size_t) (d->scan.value_end - d->from) - 1;
        d->mode = MODE_TEXT;
        lunary_doc_add(d, d->r.data[0] == '{' ? "}" : "]", 1);
    }

    lunary_doc_fit(&d->r, d->max, d->cutting);

    return LUNARY_OK;
}


int
lunary_doc_torn(const lunary_doc_t *d)
{
    return d->scan.state == LUNARY_SCAN_S_STRING;
}


int
lunary_doc_close(lunary_doc_t *d)
{
    size_t          fixed;
    unsigned        depth;
    lunary_scan_t  *s;

    s = &d->scan;

    if (s->state == LUNARY_SCAN_S_DONE) {

        /* complete, perhaps with something behind it */

        if (d->rc < 0) {
            d->rc = LUNARY_DONE;
        }

        return lunary_doc_finish(d);
    }

    if (d->r.len == 0) {
        return LUNARY_ERROR;
    }

    if (lunary_doc_reserve(d, LUNARY_SCAN_DEPTH) != LUNARY_OK) {
        return LUNARY_NOMEM;
    }

    lunary_doc_fixed(d);
    fixed = d->r.fixed;
    lunary_reduce_gather(&d->r);
    lunary_doc_moved(d, fixed);

    depth = s->depth;

    switch (d->mode) {

    case MODE_SKIP:
        lunary_doc_skip_end(d, d->offset);
        depth = d->skip;
        break;

    case MODE_FULL:
        d->r.removed += (size_t) (d->offset - d->from);
        depth = 1;
        break;

    case MODE_VECTOR:
        lunary_doc_vector_end(d, d->offset, 0);
        break;

    case MODE_MEDIA:
        lunary_doc_media_end(d, d->offset);
        lunary_doc_string_end(d);
        lunary_doc_add(d, "\"", 1);
        break;

    default:

        if (s->state == LUNARY_SCAN_S_STRING) {
            lunary_doc_break_string(d);

        } else if (lunary_doc_drop_last(d) != LUNARY_OK) {
            return LUNARY_ERROR;
        }
    }

    for ( /* void */ ; depth > 0; depth--) {
        lunary_doc_add(d, lunary_scan_array(s, depth) ? "]" : "}", 1);
    }

    d->mode = MODE_TEXT;
    s->depth = 0;
    s->state = LUNARY_SCAN_S_DONE;

    lunary_doc_fit(&d->r, d->max, d->cutting);

    return LUNARY_OK;
}


/* ends an open string: half of an escape or a character does not stay */

static void
lunary_doc_break_string(lunary_doc_t *d)
{
    size_t    start;
    unsigned  state;

    if (d->mode == MODE_CUT && d->cut.head != 0) {
        start = d->cut.head;
        state = d->cut.state;

    } else {
        start = d->open_at;
        state = 0;
    }

    d->r.len -= d->scan.utf8_n;
    d->r.len = start + lunary_cut_end(d->r.data + start, d->r.len - start,
                                      state);

    if (d->mode == MODE_PROBE || d->mode == MODE_CUT) {
        lunary_doc_string_end(d);
    }

    lunary_doc_add(d, "\"", 1);
}


/* takes out a member or element whose value is not complete */

static int
lunary_doc_drop_last(lunary_doc_t *d)
{
    int             object;
    size_t          len;
    lunary_scan_t  *s;

    s = &d->scan;

    if (s->depth == 0) {
        return LUNARY_ERROR;
    }

    object = !lunary_scan_array(s, s->depth);
    len = d->r.len;

    switch (s->state) {

    case LUNARY_SCAN_S_NAME:
    case LUNARY_SCAN_S_COLON:
        len = d->key_at;
        break;

    case LUNARY_SCAN_S_SCALAR:
    case LUNARY_SCAN_S_VALUE:

        if (object) {
            len = d->key_at;

        } else if (s->state == LUNARY_SCAN_S_SCALAR) {
            len = d->open_at;
        }

        break;

    case LUNARY_SCAN_S_KEY:
        break;

    default:
        return LUNARY_OK;
    }

    /* and the comma before it, and white space around that */

    while (strchr(" \n\r\t,", d->r.data[len - 1]) != NULL) {
        len--;
    }

    d->r.len = len;

    /* an element may have been taken note of with its comma */

    d->r.hot.valid = 0;

    return LUNARY_OK;
}


lunary_str_t
lunary_doc_text(const lunary_doc_t *d)
{
    return lunary_str(d->r.data, d->r.len);
}


lunary_str_t
lunary_doc_array(const lunary_doc_t *d)
{
    const lunary_reduce_hot_t  *hot;

    hot = &d->r.hot;

    if (!hot->valid || !hot->ended) {
        return lunary_str(NULL, 0);
    }

    return lunary_str(d->r.data + hot->start, hot->end - hot->start);
}


void
lunary_doc_release(lunary_doc_t *d, lunary_buf_t *b)
{
    b->data = d->r.data;
    b->len = d->r.len;
    b->cap = d->cap;

    d->r.data = NULL;
    d->r.len = 0;
    d->cap = 0;
}


size_t
lunary_doc_removed(const lunary_doc_t *d)
{
    return d->r.removed;
}


size_t
lunary_doc_removed_of(const lunary_doc_t *d, lunary_str_t key)
{
    return lunary_reduce_noted(&d->r, key);
}


/* a complete text: makes it as long as it may be */

static void
lunary_doc_fit(lunary_reduce_t *r, size_t max, int cutting)
{
    r->fixed = r->len;

    if (r->len > max && !cutting) {
        lunary_reduce_strings(r);
    }

    lunary_reduce_elements(r, max, 0);
    lunary_reduce_gather(r);

    if (r->len > max) {
        (void) lunary_reduce_values(r, max);
    }

    if (r->len > max && lunary_reduce_members(r, max)) {
        r->data[r->len++] = (r->data[0] == '{') ? '}' : ']';
        r->removed--;
    }
}


void
lunary_doc_shrink(lunary_buf_t *b, size_t max, size_t *removed)
{
    lunary_reduce_t  r;

    *removed = 0;

    if (b->len <= max) {
        return;
    }

    lunary_reduce_init(&r, max / 16);

    r.data = b->data;
    r.len = b->len;

    lunary_doc_fit(&r, max, 0);

    if (r.len > max) {
        memcpy(r.data, "null", 4);
        r.len = 4;
        r.removed = b->len;
    }

    b->len = r.len;
    *removed = r.removed;
}


int
lunary_doc_cap(lunary_mem_t *mem, lunary_buf_t *out, lunary_str_t v,
    size_t max, size_t *removed)
{
    lunary_buf_t  b;

    *removed = 0;

    if (v.len <= max) {
        return lunary_buf_append(mem, out, v.data, v.len);
    }

    if (lunary_buf_reserve(mem, out, v.len) != LUNARY_OK) {
        return LUNARY_NOMEM;
    }

    b.data = out->data + out->len;
    b.len = v.len;
    b.cap = v.len;

    memcpy(b.data, v.data, v.len);

    lunary_doc_shrink(&b, max, removed);

    out->len += b.len;

    return LUNARY_OK;
}
