/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * One document, whole.  See lunary_doc.h.  (Reduction follows.)
 */

#include "lunary_doc.h"
#include "lunary_json.h"


struct lunary_doc_s {
    lunary_mem_t  *mem;
    lunary_buf_t   buf;
    lunary_buf_t   text;
    size_t         max;
    unsigned       flags;
    int            rc;
};


lunary_doc_t *
lunary_doc_create(lunary_mem_t *mem, size_t max, size_t cut, unsigned flags)
{
    lunary_doc_t  *d;

    (void) cut;

    d = lunary_alloc(mem, sizeof(lunary_doc_t));
    if (d == NULL) {
        return NULL;
    }

    memset(d, 0, sizeof(lunary_doc_t));
    d->mem = mem;
    d->max = max;
    d->flags = flags;

    return d;
}


void
lunary_doc_destroy(lunary_doc_t *d)
{
    lunary_mem_t  *mem;

    mem = d->mem;
    lunary_buf_free(mem, &d->buf);
    lunary_buf_free(mem, &d->text);
    lunary_free(mem, d, sizeof(lunary_doc_t));
}


void
lunary_doc_reset(lunary_doc_t *d)
{
    d->buf.len = 0;
    d->text.len = 0;
    d->rc = LUNARY_OK;
}


int
lunary_doc_feed(lunary_doc_t *d, const unsigned char *p, size_t n)
{
    if (d->rc < 0) {
        return d->rc;
    }

    if (d->buf.len + n > d->max + d->max / 8) {
        d->rc = LUNARY_LIMIT;
        return d->rc;
    }

    d->rc = lunary_buf_append(d->mem, &d->buf, p, n);

    return d->rc;
}


int
lunary_doc_finish(lunary_doc_t *d)
{
    lunary_str_t          v;
    const unsigned char  *p, *end;

    if (d->rc < 0) {
        return d->rc;
    }

    p = d->buf.data;
    end = p + d->buf.len;

    v = lunary_json_value(&p, end);

    d->text.len = 0;

    if (v.len == 0 || lunary_json_copy(d->mem, &d->text, v) != LUNARY_OK
        || !lunary_json_valid(lunary_buf_str(&d->text), LUNARY_DOC_DEPTH))
    {
        d->rc = LUNARY_ERROR;
    }

    return d->rc;
}


int
lunary_doc_close(lunary_doc_t *d)
{
    (void) d;

    return LUNARY_ERROR;
}


lunary_str_t
lunary_doc_text(const lunary_doc_t *d)
{
    return lunary_buf_str(&d->text);
}


size_t
lunary_doc_removed(const lunary_doc_t *d)
{
    (void) d;

    return 0;
}


size_t
lunary_doc_removed_of(const lunary_doc_t *d, lunary_str_t key)
{
    (void) d;
    (void) key;

    return 0;
}


int
lunary_doc_cap(lunary_mem_t *mem, lunary_buf_t *out, lunary_str_t v,
    size_t max, size_t *removed)
{
    *removed = 0;

    if (v.len <= max) {
        return lunary_buf_append(mem, out, v.data, v.len);
    }

    *removed = v.len;

    return lunary_buf_lit(mem, out, "null");
}
