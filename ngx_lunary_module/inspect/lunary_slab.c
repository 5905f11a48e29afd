/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Free lists by size class in front of the C library's allocator.  See
 * lunary_slab.h.
 */

#include <stdlib.h>

#include "lunary_slab.h"


#define LUNARY_SLAB_UNIT  64

#if defined(__SANITIZE_ADDRESS__)
#define LUNARY_SLAB_OFF  1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LUNARY_SLAB_OFF  1
#endif
#endif


struct lunary_slab_block_s {
    lunary_slab_block_t  *next;
};


#if !(LUNARY_SLAB_OFF)

static inline size_t lunary_slab_class(size_t size);
static void *lunary_slab_take(lunary_slab_t *slab, size_t size);
static void lunary_slab_give(lunary_slab_t *slab, void *p, size_t size);


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


/* of 1 to 64 bytes: 0; from LUNARY_SLAB_CLASSES on nothing is kept */

static inline size_t
lunary_slab_class(size_t size)
{
    return (size - 1) / LUNARY_SLAB_UNIT;
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
        return malloc((n + 1) * LUNARY_SLAB_UNIT);
    }

    slab->free[n] = b->next;
    slab->kept -= (n + 1) * LUNARY_SLAB_UNIT;

    return b;
}


static void
lunary_slab_give(lunary_slab_t *slab, void *p, size_t size)
{
    size_t                n;
    lunary_slab_block_t  *b;

    n = lunary_slab_class(size);

    if (n >= LUNARY_SLAB_CLASSES
        || slab->kept + (n + 1) * LUNARY_SLAB_UNIT > LUNARY_SLAB_KEEP)
    {
        free(p);
        return;
    }

    b = p;
    b->next = slab->free[n];

    slab->free[n] = b;
    slab->kept += (n + 1) * LUNARY_SLAB_UNIT;
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
}
