/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * One call's memory.  See lunary_arena.h.
 */

#include "lunary_arena.h"
#include "lunary_slab.h"


#define lunary_arena_round(n)  (((n) + 15) & ~(size_t) 15)


static void *lunary_arena_realloc(void *ctx, void *p, size_t old, size_t size);
static void *lunary_arena_take(lunary_arena_t *a, size_t size);


#if (LUNARY_SLAB_OFF)
int  lunary_arena_off = 1;
#else
int  lunary_arena_off;
#endif


void
lunary_arena_init(lunary_arena_t *a, lunary_mem_t *parent, void *start,
    size_t size)
{
    a->mem.fn = lunary_arena_realloc;
    a->mem.ctx = a;
    a->mem.used = 0;
    a->mem.peak = 0;
    a->parent = parent;
    a->start = start;
    a->free = start;
    a->end = a->start + size;
    a->outside = 0;

    if (lunary_arena_off) {
        a->end = a->start;
    }
}


/* as lunary_mem_t's fn() */

static void *
lunary_arena_realloc(void *ctx, void *p, size_t old, size_t size)
{
    int              last;
    void            *q;
    unsigned char   *at = p;
    lunary_arena_t  *a = ctx;

    if (p == NULL) {
        return lunary_arena_take(a, size);
    }

    if (at < a->start || at >= a->end) {
        q = lunary_realloc(a->parent, p, old, size);
        a->outside -= (size == 0);

        return q;
    }

    last = (at + lunary_arena_round(old) == a->free);

    if (size == 0) {

        if (last) {
            a->free = at;
        }

        return NULL;
    }

    if (size <= old) {
        return p;
    }

    if (last && size <= (size_t) (a->end - at)) {
        a->free = at + lunary_arena_round(size);
        return p;
    }

    q = lunary_arena_take(a, size);

    if (q != NULL) {
        memcpy(q, p, old);
    }

    return q;
}


static void *
lunary_arena_take(lunary_arena_t *a, size_t size)
{
    void    *p;
    size_t   n;

    n = lunary_arena_round(size);

    if (n <= (size_t) (a->end - a->free) && n >= size) {
        p = a->free;
        a->free += n;

        return p;
    }

    p = lunary_alloc(a->parent, size);
    a->outside += (p != NULL);

    return p;
}
