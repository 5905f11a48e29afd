/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What the scanner's events change in a document: what is told next, which
 * mode bytes are in, what is written beside them.  See lunary_doc.c.
 */

#include "lunary_doc_internal.h"
#include "lunary_utf8.h"


void
lunary_doc_tell(lunary_doc_t *d, lunary_scan_event_e event, unsigned depth)
{
    if (d->watch != NULL && depth <= d->watch_depth) {
        (void) d->watch(d->watch_ctx, event, &d->scan);
    }
}


void
lunary_doc_want(lunary_doc_t *d, int watched)
{
    unsigned  want, deep;

    want = 0;

    d->watched = (uint8_t) watched;

    /* where nothing is special the next key need not be told to make it so */

    deep = d->watch_depth > 1 ? d->watch_depth : 1;
    d->scan.key_depth = (d->class || watched) ? LUNARY_SCAN_DEPTH : deep;

    if (d->cutting) {
        want = LUNARY_SCAN_WANT_SPACE|LUNARY_SCAN_WANT_STRING;
    }

    if (d->class & LUNARY_MEDIA_STRING) {
        want |= LUNARY_SCAN_WANT_STRING;
    }

    if (watched) {
        want |= LUNARY_SCAN_WANT_STRING|LUNARY_SCAN_WANT_SCALAR;
    }

    if (d->vector) {
        want |= LUNARY_SCAN_WANT_STRING|LUNARY_SCAN_WANT_COUNT;
    }

    if (d->mode == MODE_VECTOR) {
        want |= LUNARY_SCAN_WANT_STRING;

        /* where we are not strict, all but single words pass the scanner by */

        if (!d->scan.strict) {
            want |= LUNARY_SCAN_WANT_SCALAR;
        }
    }

    d->scan.want = (uint8_t) want;
}


void
lunary_doc_key(lunary_doc_t *d)
{
    int             watched;
    lunary_scan_t  *s;

    s = &d->scan;

    d->class = (uint8_t) lunary_media_class(s->key);

    if (s->depth == 1) {
        d->r.last.len = (uint8_t) (s->key.len <= LUNARY_REDUCE_KEY
                                   ? s->key.len : 0);
        memcpy(d->r.last.key, s->key.data, d->r.last.len);
    }

    watched = d->watch != NULL && s->depth <= d->watch_depth
              && d->watch(d->watch_ctx, LUNARY_SCAN_KEY, s);

    lunary_doc_want(d, watched);
}


/* a key is very long: from here on it is dropped */

void
lunary_doc_key_long(lunary_doc_t *d, uint64_t offset)
{
    size_t  key, len;

    if (!lunary_doc_kept(d)) {
        return;
    }

    key = d->key_at + 1;
    len = d->r.len;

    d->r.len -= d->scan.utf8_n;
    d->r.len = key + lunary_cut_end(d->r.data + key, d->r.len - key, 0);

    d->from = offset - (len - d->r.len);
    d->mode = MODE_KEY;
}


void
lunary_doc_key_end(lunary_doc_t *d, uint64_t end)
{
    size_t         n, gone;
    unsigned char  marker[LUNARY_CUT_MARKER];

    d->mode = MODE_TEXT;

    gone = (size_t) (end - d->from);

    if (gone == 0) {
        return;
    }

    /* of a few bytes it would be longer than they are */

    n = lunary_cut_marker(marker, gone);

    if (gone > n) {
        lunary_doc_add(d, marker, n);
        gone -= n;
    }

    lunary_reduce_note(&d->r, lunary_str(d->r.last.key, d->r.last.len), gone);
}


void
lunary_doc_open(lunary_doc_t *d, int array, size_t len, uint64_t offset)
{
    unsigned  class;

    class = d->class;

    d->vector = 0;
    d->class = 0;

    if (array) {

        if (class & LUNARY_MEDIA_ELEMENT) {
            d->class = LUNARY_MEDIA_STRING|LUNARY_MEDIA_ELEMENT;
        }

        if (class & LUNARY_MEDIA_VECTOR) {
            d->class |= LUNARY_MEDIA_VECTOR;

            if (d->mode == MODE_TEXT) {
                d->vector = 1;
                d->mark = len;
                d->from = offset;
                d->scan.numbers = 0;
            }
        }
    }

    d->classes[d->scan.depth] = d->class;

    lunary_doc_tell(d, LUNARY_SCAN_OPEN, d->scan.depth - 1);
    lunary_doc_want(d, 0);
}


void
lunary_doc_closed(lunary_doc_t *d)
{
    d->vector = 0;
    d->class = d->classes[d->scan.depth];

    lunary_doc_tell(d, LUNARY_SCAN_CLOSE, d->scan.depth);
    lunary_doc_want(d, 0);
}


/* bytes are kept again behind what was made null */

void
lunary_doc_skip_end(lunary_doc_t *d, uint64_t end)
{
    lunary_reduce_note(&d->r, lunary_str(d->r.last.key, d->r.last.len),
                       (size_t) (end - d->from));

    d->mode = MODE_TEXT;
}


int
lunary_doc_string(lunary_doc_t *d, const unsigned char *p,
    const unsigned char *end)
{
    lunary_doc_tell(d, LUNARY_SCAN_STRING, d->scan.depth);

    if (d->vector) {
        d->vector = 0;
        lunary_doc_want(d, 1);
    }

    if (d->mode != MODE_TEXT) {
        return MODE_TEXT;
    }

    if ((d->class & LUNARY_MEDIA_STRING) || p == end || *p == 'd') {
        return MODE_PROBE;
    }

    return d->cutting ? MODE_CUT : MODE_TEXT;
}


void
lunary_doc_string_end(lunary_doc_t *d)
{
    size_t  removed;

    if (d->cutting) {
        d->r.len = lunary_cut_finish(&d->cut, d->r.data, d->r.len, d->r.cut,
                                     &removed);
        if (removed) {
            lunary_reduce_note(&d->r, lunary_str(d->r.last.key,
                                                 d->r.last.len), removed);
        }
    }

    d->mode = MODE_TEXT;
}


void
lunary_doc_repair(lunary_doc_t *d)
{
    lunary_scan_t  *s;
    unsigned char   c[6];

    static const char  hex[] = "0123456789abcdef";

    if (!lunary_doc_kept(d)) {
        return;
    }

    s = &d->scan;

    if (s->control == 0x80) {
        d->r.len -= s->utf8_back;
        s->utf8_back = 0;
        lunary_doc_add(d, LUNARY_UTF8_BAD, LUNARY_UTF8_BAD_LEN);
        return;
    }

    memcpy(c, "\\u00", 4);
    c[4] = (unsigned char) hex[s->control >> 4];
    c[5] = (unsigned char) hex[s->control & 0x0f];

    lunary_doc_add(d, c, sizeof(c));
}
