/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Memory for calls, kept between them: a call takes some twenty small blocks
 * and gives them back a moment later, always of the same few sizes, and one or
 * two as large as its texts.  These are kept because the C library would give
 * their pages back to the system, and each page's next first use is a fault.
 *
 * Invariants
 *   - a block that is given back is handed out again for its size class only;
 *   - at most LUNARY_SLAB_KEEP bytes of small and LUNARY_SLAB_KEEP_LARGE of
 *     large blocks are kept unused, the rest is the C library's;
 *   - a large block that nobody takes makes room for one that was given back
 *     later: sizes that went out of use do not stay;
 *   - one slab is used by one thread;
 *   - under a sanitizer nothing is kept, so that it sees every block's end
 *     and life.
 */

#ifndef LUNARY_SLAB_H
#define LUNARY_SLAB_H

#include "lunary_base.h"


#define LUNARY_SLAB_SMALL       64               /* of 64 bytes, up to 4 KiB */
#define LUNARY_SLAB_CLASSES     100              /* then 4 a power of two,
                                                    up to 2 MiB              */
#define LUNARY_SLAB_KEEP        (512 * 1024)
#define LUNARY_SLAB_KEEP_LARGE  (4 * 1024 * 1024)

#if defined(__SANITIZE_ADDRESS__)
#define LUNARY_SLAB_OFF  1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LUNARY_SLAB_OFF  1
#endif
#endif


typedef struct lunary_slab_block_s  lunary_slab_block_t;

/* all zeroes is an empty one */

typedef struct {
    lunary_slab_block_t  *free[LUNARY_SLAB_CLASSES];
    size_t                kept;                  /* bytes of small blocks    */
    size_t                kept_large;
    unsigned              victim;                /* class to take from next  */
} lunary_slab_t;


/* as lunary_mem_t's fn() */
void *lunary_slab_realloc(lunary_slab_t *slab, void *p, size_t old,
    size_t size);

/* gives back what is kept; blocks that are in use stay valid */
void lunary_slab_clear(lunary_slab_t *slab);


#endif /* LUNARY_SLAB_H */
