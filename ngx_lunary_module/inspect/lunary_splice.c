/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Taking members out of a request body, and putting some in.  See
 * lunary_request.h.
 */

#include "lunary_request_internal.h"


static unsigned lunary_splice_inner(const lunary_request_t *rq, unsigned i);
static int lunary_splice_removed(const lunary_request_t *rq, unsigned i,
    const lunary_rewrite_t *rw);
static int lunary_splice_emptied(const lunary_request_t *rq, unsigned i,
    unsigned end, const lunary_rewrite_t *rw);
static size_t lunary_splice_cuts(const lunary_request_t *rq,
    const lunary_rewrite_t *rw, lunary_edit_t *edits, size_t max);
static size_t lunary_splice_runs(const lunary_request_t *rq, unsigned i,
    unsigned end, const lunary_rewrite_t *rw, lunary_edit_t *edits,
    size_t max);
static int lunary_splice_put(const lunary_request_t *rq,
    const lunary_rewrite_t *rw, lunary_mem_t *mem, lunary_buf_t *scratch,
    lunary_edit_t *edits, size_t max);
static void lunary_splice_sort(lunary_edit_t *edits, size_t n);


size_t
lunary_request_strip(const lunary_request_t *rq, uint32_t strip,
    lunary_edit_t *edits, size_t max)
{
    lunary_rewrite_t  rw;

    if (!rq->complete || rq->n.flooded || strip == 0) {
        return 0;
    }

    memset(&rw, 0, sizeof(lunary_rewrite_t));

    rw.strip = strip;

    return lunary_splice_cuts(rq, &rw, edits, max);
}


static size_t
lunary_splice_cuts(const lunary_request_t *rq, const lunary_rewrite_t *rw,
    lunary_edit_t *edits, size_t max)
{
    size_t                n, k;
    unsigned              i, end;
    const lunary_mark_t  *m;

    n = lunary_splice_runs(rq, 0, rq->n.nmarks, rw, edits, max);

    /* inside of each metadata that stays; then all in order */

    for (i = 0; i < rq->n.nmarks && n < max; i++) {
        m = &rq->marks[i];

        if (m->id != LUNARY_M_METADATA
            || lunary_splice_removed(rq, i, rw))
        {
            continue;
        }

        end = lunary_splice_inner(rq, i);

        n += lunary_splice_runs(rq, i + 1, end, rw, edits + n, max - n);
    }

    lunary_splice_sort(edits, n);

    for (k = 0; k < n; k++) {
        edits[k].text = lunary_str(NULL, 0);
    }

    return n;
}


/* the marks of what stands in metadata i end here; they begin at i + 1 */

static unsigned
lunary_splice_inner(const lunary_request_t *rq, unsigned i)
{
    unsigned  k;

    for (k = i + 1;
         k < rq->n.nmarks && rq->marks[k].start < rq->marks[i].end;
         k++)
    {
        /* void */
    }

    return k;
}


/* 1 where the member goes: asked for, or metadata in which all goes */

static int
lunary_splice_removed(const lunary_request_t *rq, unsigned i,
    const lunary_rewrite_t *rw)
{
    const lunary_mark_t  *m;

    m = &rq->marks[i];

    if ((m->folded ? rw->folded : rw->strip) & lunary_member_bit(m->id)) {
        return 1;
    }

    if (m->id != LUNARY_M_METADATA) {
        return 0;
    }

    return lunary_splice_emptied(rq, i + 1, lunary_splice_inner(rq, i), rw);
}


/* 1 where the object whose marks are in [i, end) has members, and all go */

static int
lunary_splice_emptied(const lunary_request_t *rq, unsigned i, unsigned end,
    const lunary_rewrite_t *rw)
{
    uint64_t              next;
    const lunary_mark_t  *m;

    if (i == end || !rq->marks[i].first) {
        return 0;
    }

    next = rq->marks[i].start;

    while (i < end) {

        m = &rq->marks[i];

        if (m->start != next || !lunary_splice_removed(rq, i, rw)) {
            return 0;
        }

        if (m->last) {
            return 1;
        }

        next = m->next;
        i = lunary_splice_inner(rq, i);
    }

    return 0;
}


/*
 * The edits of one object, whose marks are in [i, end): members side by side
 * go in one.  With them goes the comma behind them, or, at the end, the one
 * before them.
 */

static size_t
lunary_splice_runs(const lunary_request_t *rq, unsigned i, unsigned end,
    const lunary_rewrite_t *rw, lunary_edit_t *edits, size_t max)
{
    size_t                n;
    unsigned              next;
    const lunary_mark_t  *first, *last;

    n = 0;

    for ( /* void */ ; i < end && n < max; i = next) {

        first = &rq->marks[i];
        next = lunary_splice_inner(rq, i);

        if (!lunary_splice_removed(rq, i, rw)) {
            continue;
        }

        last = first;

        while (next < end && rq->marks[next].start == last->next
               && lunary_splice_removed(rq, next, rw))
        {
            last = &rq->marks[next];
            next = lunary_splice_inner(rq, next);
        }

        if (!last->last) {
            edits[n].start = first->start;
            edits[n].end = last->next;

        } else {
            edits[n].start = first->first ? first->start : first->prev_end;
            edits[n].end = last->end;
        }

        n++;
    }

    return n;
}


int
lunary_request_rewrite(const lunary_request_t *rq, const lunary_rewrite_t *rw,
    lunary_mem_t *mem, lunary_buf_t *scratch, lunary_edit_t *edits, size_t max)
{
    int                    put;
    size_t                 n;
    unsigned               i;
    lunary_rewrite_t       more;
    const lunary_mark_t   *m;

    if (!rq->complete || rq->n.flooded || !rq->n.object) {
        return LUNARY_ERROR;
    }

    more = *rw;

    if (rw->metadata.len) {

        /* one that is no object could not take them: it goes */

        for (i = 0; i < rq->n.nmarks; i++) {
            m = &rq->marks[i];

            if (m->id == LUNARY_M_METADATA && !m->folded && !m->object) {
                more.strip |= lunary_member_bit(LUNARY_M_METADATA);
            }
        }
    }

    n = lunary_splice_cuts(rq, &more, edits, max);

    put = lunary_splice_put(rq, &more, mem, scratch, edits + n, max - n);

    if (put < 0) {
        return put;
    }

    n += (size_t) put;

    if (n >= max) {
        return LUNARY_ERROR;
    }

    lunary_splice_sort(edits, n);

    return (int) n;
}


static int
lunary_splice_put(const lunary_request_t *rq, const lunary_rewrite_t *rw,
    lunary_mem_t *mem, lunary_buf_t *scratch, lunary_edit_t *edits, size_t max)
{
    int                   rc, placed;
    size_t                n, at;
    unsigned              i, end;
    const lunary_mark_t  *m;

    if (rw->root.len == 0 && rw->metadata.len == 0) {
        return 0;
    }

    /* all room at once: edits point into it */

    if (lunary_buf_reserve(mem, scratch, rw->root.len
                           + 2 * (rw->metadata.len + 1)
                           + sizeof("\"metadata\":{},,") - 1)
        != LUNARY_OK)
    {
        return LUNARY_NOMEM;
    }

    n = 0;
    rc = 0;
    placed = 0;

    if (rw->metadata.len) {

        /* with its comma; without, where nothing else is in there */

        rc = lunary_buf_append(mem, scratch, rw->metadata.data,
                               rw->metadata.len)
           | lunary_buf_lit(mem, scratch, ",");

        for (i = 0; i < rq->n.nmarks; i++) {
            m = &rq->marks[i];

            if (m->id != LUNARY_M_METADATA || m->folded || !m->object
                || (rw->strip & lunary_member_bit(LUNARY_M_METADATA)))
            {
                continue;
            }

            end = lunary_splice_inner(rq, i);

            if (lunary_splice_emptied(rq, i + 1, end, rw)) {
                continue;
            }

            if (n == max) {
                return LUNARY_ERROR;
            }

            edits[n].start = m->value + 1;
            edits[n].end = m->value + 1;
            edits[n].text = lunary_str(scratch->data,
                                       rw->metadata.len + (m->any != 0));
            n++;
            placed = 1;
        }
    }

    at = scratch->len;

    if (rw->root.len) {
        rc |= lunary_buf_append(mem, scratch, rw->root.data, rw->root.len)
            | lunary_buf_lit(mem, scratch, ",");
    }

    if (rw->metadata.len && !placed) {
        rc |= lunary_buf_lit(mem, scratch, "\"metadata\":{")
            | lunary_buf_append(mem, scratch, rw->metadata.data,
                                rw->metadata.len)
            | lunary_buf_lit(mem, scratch, "},");
    }

    if (rc != LUNARY_OK) {
        return LUNARY_NOMEM;
    }

    if (scratch->len > at) {

        if (n == max) {
            return LUNARY_ERROR;
        }

        edits[n].start = rq->n.root;
        edits[n].end = rq->n.root;
        edits[n].text = lunary_str(scratch->data + at, scratch->len - at);

        /* nothing stands behind: neither does a comma */

        if (!rq->n.level[0].any
            || lunary_splice_emptied(rq, 0, rq->n.nmarks, rw))
        {
            edits[n].text.len--;
        }

        n++;
    }

    return (int) n;
}


/* few edits, nearly in order; what is put in stands before what is cut */

static void
lunary_splice_sort(lunary_edit_t *edits, size_t n)
{
    size_t         i, k;
    lunary_edit_t  e;

    for (i = 1; i < n; i++) {
        e = edits[i];

        for (k = i;
             k > 0
             && (edits[k - 1].start > e.start
                 || (edits[k - 1].start == e.start
                     && edits[k - 1].end > e.end));
             k--)
        {
            edits[k] = edits[k - 1];
        }

        edits[k] = e;
    }
}
