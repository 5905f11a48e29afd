/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Counted memory and growing buffers.  See lunary_base.h.
 */

#include <stdlib.h>

#include "lunary_base.h"


static void *lunary_mem_libc(void *ctx, void *p, size_t old, size_t size);


void
lunary_mem_init(lunary_mem_t *mem)
{
    mem->fn = lunary_mem_libc;
    mem->ctx = NULL;
    mem->used = 0;
    mem->peak = 0;
}


static void *
lunary_mem_libc(void *ctx, void *p, size_t old, size_t size)
{
    (void) ctx;
    (void) old;

    if (size == 0) {
        free(p);
        return NULL;
    }

    return realloc(p, size);
}


void *
lunary_realloc(lunary_mem_t *mem, void *p, size_t old, size_t size)
{
    void  *q;

    if (p == NULL && size == 0) {
        return NULL;
    }

    q = mem->fn(mem->ctx, p, old, size);

    if (q == NULL && size != 0) {
        return NULL;
    }

    mem->used += size - old;

    if (mem->used > mem->peak) {
        mem->peak = mem->used;
    }

    return q;
}


int
lunary_buf_grow(lunary_mem_t *mem, lunary_buf_t *b, size_t n)
{
    void    *p;
    size_t   cap;

    if (n > SIZE_MAX / 2 - b->len) {
        return LUNARY_NOMEM;
    }

    /* grows by half: what is held stays close to what is used */

    cap = b->cap + b->cap / 2;

    if (cap < b->len + n) {
        cap = b->len + n;
    }

    cap = (cap + 63) & ~(size_t) 63;

    p = lunary_realloc(mem, b->data, b->cap, cap);
    if (p == NULL) {
        return LUNARY_NOMEM;
    }

    b->data = p;
    b->cap = cap;

    return LUNARY_OK;
}


int
lunary_buf_append_int(lunary_mem_t *mem, lunary_buf_t *b, int64_t n)
{
    uint64_t       abs;
    unsigned char  text[24], *p, *end;

    end = text + sizeof(text);
    p = end;
    abs = (n < 0) ? 0 - (uint64_t) n : (uint64_t) n;

    do {
        *--p = (unsigned char) ('0' + abs % 10);
        abs /= 10;
    } while (abs != 0);

    if (n < 0) {
        *--p = '-';
    }

    return lunary_buf_append(mem, b, p, (size_t) (end - p));
}
