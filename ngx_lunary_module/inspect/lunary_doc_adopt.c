/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A document that goes on where another reader stopped: the text so far is
 * taken over as it lies, and the state is made what it would be had the
 * document read it.  See lunary_watch.h.
 */

#include "lunary_doc_internal.h"


void
lunary_doc_adopt(lunary_doc_t *d, const lunary_adopt_t *a)
{
    unsigned        i, class;
    lunary_scan_t  *s;

    s = &d->scan;

    d->r.data = a->data;
    d->r.len = a->len;
    d->cap = a->cap;
    d->offset = a->offset;

    if (a->len == 0) {
        return;
    }

    d->key_at = a->key;
    d->open_at = a->string;
    d->class = (uint8_t) a->class;

    if (a->name.len != 0 && a->name.len <= LUNARY_REDUCE_KEY) {
        d->r.last.len = (uint8_t) a->name.len;
        memcpy(d->r.last.key, a->name.data, a->name.len);
    }

    s->state = (uint8_t) a->state;
    s->depth = a->depth;
    s->value_end = a->end;

    for (i = 0; i < 64; i += 8) {
        s->stack[i / 8] = (unsigned char) (a->arrays >> i);
    }

    for (i = 0; i < a->depth; i++) {
        class = 0;

        if (a->strings >> i & 1) {
            class = LUNARY_MEDIA_STRING|LUNARY_MEDIA_ELEMENT;
        }

        if (a->vectors >> i & 1) {
            class |= LUNARY_MEDIA_VECTOR;
        }

        d->classes[i + 1] = (uint8_t) class;
    }

    if (a->depth && (a->arrays >> (a->depth - 1) & 1)) {
        d->class = d->classes[a->depth];

        if (a->state == LUNARY_SCAN_S_ELEMENT
            && (d->class & LUNARY_MEDIA_VECTOR))
        {
            d->vector = 1;
            d->mark = a->bracket;
            d->from = a->end;
            s->numbers = 0;
        }
    }

    if (a->state == LUNARY_SCAN_S_DONE) {
        d->rc = LUNARY_DONE;
        return;
    }

    lunary_doc_want(d, a->watched);

    if (a->state == LUNARY_SCAN_S_STRING) {
        s->notify = (s->want & LUNARY_SCAN_WANT_STRING) != 0;
    }
}
