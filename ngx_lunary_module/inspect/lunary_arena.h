/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Memory of one owner that goes at once: small blocks come one behind the
 * other from a chunk, larger ones from the memory behind it.
 *
 * Invariants
 *   - a block in the chunk grows in place while it is the last one; given
 *     back, it is free again only then;
 *   - `outside` counts the blocks that came from the parent: where it is 0,
 *     giving back the chunk gives back all;
 *   - under a sanitizer the chunk is not used, so that every block's end and
 *     life is seen; nor where a test has each allocation fail in turn.
 */

#ifndef LUNARY_ARENA_H
#define LUNARY_ARENA_H

#include "lunary_base.h"


typedef struct {
    lunary_mem_t          mem;        /* for whoever allocates                */
    lunary_mem_t         *parent;
    unsigned char        *start;
    unsigned char        *free;
    unsigned char        *end;
    size_t                outside;
} lunary_arena_t;


/* 1 (tests only): no chunk is used from here on */
extern int  lunary_arena_off;

/* [start, start + size) is the chunk, aligned as malloc()'s */
void lunary_arena_init(lunary_arena_t *a, lunary_mem_t *parent, void *start,
    size_t size);


#endif /* LUNARY_ARENA_H */
