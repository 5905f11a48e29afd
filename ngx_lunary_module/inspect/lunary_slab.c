/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Free lists by size class in front of the C library's allocator.  See
 * lunary_slab.h.
 */

#include <stdlib.h>

#include "lunary_slab.h"


#define LUNARY_SLAB_UNIT  64


struct lunary_slab_block_s {
    lunary_slab_block_t  *next;
};


#if !(LUNARY_SLAB_OFF)

static inline size_t lunary_slab_class(size_t size);
static inline size_t lunary_slab_room(size_t n);
static void *lunary_slab_take(lunary_slab_t *slab, size_t size);
static void lunary_slab_give(lunary_slab_t *slab, void *p, size_t size);
static void lunary_slab_evict(lunary_slab_t *slab);


void *
lunary_slab_realloc(lunary_slab_t *slab, void *p, size_t old, size_t size)
{
    void    *q;
    size_t   from, to;

    if (size == 0) {

        if (p != NULL) {
            lunary_slab_give(slab, p, old);
        }

        return NULL;
    }

    if (p == NULL) {
        return lunary_slab_take(slab, size);
    }

    from = lunary_slab_class(old);
    to = lunary_slab_class(size);

    if (from >= LUNARY_SLAB_CLASSES && to >= LUNARY_SLAB_CLASSES) {
        return realloc(p, size);
    }

    if (from == to) {
        return p;
    }

    q = lunary_slab_take(slab, size);

    if (q == NULL) {
        return NULL;
    }

    memcpy(q, p, old < size ? old : size);
    lunary_slab_give(slab, p, old);

    return q;
}


/*
 * of 1 to 64 bytes: 0, and so on; above 4 KiB four classes share a power of
 * two; from LUNARY_SLAB_CLASSES on nothing is kept
 */

static inline size_t
lunary_slab_class(size_t size)
{
    unsigned  e;

    size--;

    if (size < LUNARY_SLAB_SMALL * LUNARY_SLAB_UNIT) {
        return size / LUNARY_SLAB_UNIT;
    }

    e = 63 - __builtin_clzll((unsigned long long) size);

    return LUNARY_SLAB_SMALL + (e - 12) * 4 + ((size >> (e - 2)) & 3);
}


/* the bytes of a block of that class */

static inline size_t
lunary_slab_room(size_t n)
{
    if (n < LUNARY_SLAB_SMALL) {
        return (n + 1) * LUNARY_SLAB_UNIT;
    }

    n -= LUNARY_SLAB_SMALL;

    return (n % 4 + 5) << (n / 4 + 10);
}


static void *
lunary_slab_take(lunary_slab_t *slab, size_t size)
{
    size_t                n;
    lunary_slab_block_t  *b;

    n = lunary_slab_class(size);

    if (n >= LUNARY_SLAB_CLASSES) {
        return malloc(size);
    }

    b = slab->free[n];

    if (b == NULL) {
        return malloc(lunary_slab_room(n));
    }

    slab->free[n] = b->next;

    if (n < LUNARY_SLAB_SMALL) {
        slab->kept -= lunary_slab_room(n);

    } else {
        slab->kept_large -= lunary_slab_room(n);
    }

    return b;
}


static void
lunary_slab_give(lunary_slab_t *slab, void *p, size_t size)
{
    size_t                n, room;
    lunary_slab_block_t  *b;

    n = lunary_slab_class(size);

    if (n >= LUNARY_SLAB_CLASSES) {
        free(p);
        return;
    }

    room = lunary_slab_room(n);

    if (n < LUNARY_SLAB_SMALL) {

        if (slab->kept + room > LUNARY_SLAB_KEEP) {
            free(p);
            return;
        }

        slab->kept += room;

    } else {

        while (slab->kept_large + room > LUNARY_SLAB_KEEP_LARGE) {
            lunary_slab_evict(slab);
        }

        slab->kept_large += room;
    }

    b = p;
    b->next = slab->free[n];
    slab->free[n] = b;
}


/* frees a large block; the classes take turns */

static void
lunary_slab_evict(lunary_slab_t *slab)
{
    size_t                n;
    lunary_slab_block_t  *b;

    do {
        n = LUNARY_SLAB_SMALL + slab->victim;
        slab->victim = (slab->victim + 1)
                       % (LUNARY_SLAB_CLASSES - LUNARY_SLAB_SMALL);
        b = slab->free[n];

    } while (b == NULL);

    slab->free[n] = b->next;
    slab->kept_large -= lunary_slab_room(n);

    free(b);
}


#else

void *
lunary_slab_realloc(lunary_slab_t *slab, void *p, size_t old, size_t size)
{
    (void) slab;
    (void) old;

    if (size == 0) {
        free(p);
        return NULL;
    }

    return realloc(p, size);
}

#endif


void
lunary_slab_clear(lunary_slab_t *slab)
{
    size_t                n;
    lunary_slab_block_t  *b, *next;

    for (n = 0; n < LUNARY_SLAB_CLASSES; n++) {

        for (b = slab->free[n]; b != NULL; b = next) {
            next = b->next;
            free(b);
        }

        slab->free[n] = NULL;
    }

    slab->kept = 0;
    slab->kept_large = 0;
}
