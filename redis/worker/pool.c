/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Pools.  See pool.h.
 */

#include <stdlib.h>

#include "pool.h"


#define LW_CHUNK_MIN   (16 * 1024)
#define LW_CHUNK_MAX   (1024 * 1024)


struct lw_chunk_s {
    lw_chunk_t     *next;
    size_t          size;          /* of data                                 */
    unsigned char   data[];
};


static void lw_pool_begin(lw_pool_t *p);


void *
lw_pool_more(lw_pool_t *p, size_t n)
{
    size_t       size;
    lw_chunk_t  *c;

    /* each chunk is as large as all before it: few of them, little is idle */

    size = LW_CHUNK_MIN;

    if (p->chunks) {
        size = p->chunks->size < LW_CHUNK_MAX ? p->chunks->size * 2
                                              : LW_CHUNK_MAX;
    }

    if (size < n) {
        size = n;
    }

    if (n > SIZE_MAX / 2) {
        return NULL;
    }

    c = malloc(sizeof(*c) + size);
    if (c == NULL) {
        return NULL;
    }

    c->next = p->chunks;
    c->size = size;
    p->chunks = c;

    p->pos = c->data + n;
    p->end = c->data + size;

    return c->data;
}


/* one chunk of what was needed last time serves better than many small ones */

void
lw_pool_reset(lw_pool_t *p)
{
    size_t       sum;
    lw_chunk_t  *c;

    if (p->chunks == NULL) {
        return;
    }

    sum = 0;

    for (c = p->chunks; c; c = c->next) {
        sum += c->size;
    }

    if (p->chunks->next == NULL && sum <= LW_POOL_KEEP) {
        lw_pool_begin(p);
        return;
    }

    lw_pool_free(p);

    if (sum > LW_POOL_KEEP) {
        sum = LW_POOL_KEEP;
    }

    c = malloc(sizeof(*c) + sum);
    if (c == NULL) {
        return;
    }

    c->next = NULL;
    c->size = sum;
    p->chunks = c;

    lw_pool_begin(p);
}


static void
lw_pool_begin(lw_pool_t *p)
{
    p->pos = p->chunks->data;
    p->end = p->chunks->data + p->chunks->size;
}


void
lw_pool_free(lw_pool_t *p)
{
    lw_chunk_t  *c, *next;

    for (c = p->chunks; c; c = next) {
        next = c->next;
        free(c);
    }

    p->chunks = NULL;
    p->pos = NULL;
    p->end = NULL;
}
