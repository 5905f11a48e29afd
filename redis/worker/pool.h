/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Memory that is given back all at once: pieces are cut off larger chunks.
 *
 * Invariants
 *   - a piece stays where it is until its pool is reset or freed;
 *   - a pool that is reset keeps at most LW_POOL_KEEP bytes for the next use;
 *   - all zeroes is an empty pool.
 */

#ifndef LW_POOL_H
#define LW_POOL_H

#include <stddef.h>
#include <stdint.h>


#define LW_POOL_KEEP   (4 * 1024 * 1024)


typedef struct lw_chunk_s  lw_chunk_t;

typedef struct {
    lw_chunk_t     *chunks;        /* the newest one first                    */
    unsigned char  *pos;           /* of the newest: what is free             */
    unsigned char  *end;
} lw_pool_t;


/* n bytes, aligned for any pointer or integer; NULL where there are none */
void *lw_pool_more(lw_pool_t *p, size_t n);

void lw_pool_reset(lw_pool_t *p);
void lw_pool_free(lw_pool_t *p);


static inline void *
lw_pool_alloc(lw_pool_t *p, size_t n)
{
    void  *piece;

    n = (n + 7) & ~(size_t) 7;

    if (n > (size_t) (p->end - p->pos)) {
        return lw_pool_more(p, n);
    }

    piece = p->pos;
    p->pos += n;

    return piece;
}


#endif /* LW_POOL_H */
