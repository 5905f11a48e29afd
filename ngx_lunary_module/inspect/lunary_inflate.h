/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Content-Encoding taken off as the bytes pass, with state across buffers:
 * gzip (also of several members), deflate (zlib's format or raw), and br and
 * zstd where the build has their libraries (LUNARY_HAVE_BROTLI,
 * LUNARY_HAVE_ZSTD).
 *
 * Invariants
 *   - memory is bounded: zlib 44 KiB, brotli and zstd by a window of
 *     LUNARY_INFLATE_WINDOW (larger ones are LUNARY_ERROR), a piece of
 *     8 KiB besides;
 *   - so is time: what inflates to more than LUNARY_INFLATE_RATIO times its
 *     size once it is over `small`, or to more than LUNARY_INFLATE_MAX, is
 *     LUNARY_LIMIT and no longer read.  Streams that repeat what they found
 *     in every chunk come 150 times as small as br: an answer has more room
 *     than a request.
 */

#ifndef LUNARY_INFLATE_H
#define LUNARY_INFLATE_H

#include "lunary_base.h"


#define LUNARY_INFLATE_MAX     ((uint64_t) 256 * 1024 * 1024)
#define LUNARY_INFLATE_RATIO   100

/* values of small */
#define LUNARY_INFLATE_REQUEST   (1024 * 1024)
#define LUNARY_INFLATE_RESPONSE  (8 * 1024 * 1024)

#define LUNARY_INFLATE_WINDOW  23            /* bits; zstd, RFC 9659: 8 MB   */


typedef struct lunary_inflate_s  lunary_inflate_t;

/* takes inflated bytes; valid during the call only */
typedef void (*lunary_inflate_pt)(void *ctx, const unsigned char *p,
    size_t n);


/*
 * What a Content-Encoding's value asks for: LUNARY_OK: *inf is a new inflater,
 * NULL where none is needed (empty, identity); LUNARY_ERROR: it cannot be
 * read (unknown, or several encodings); LUNARY_NOMEM.  Up to small bytes may
 * come out of however few.
 */
int lunary_inflate_create(lunary_mem_t *mem, lunary_str_t encoding,
    size_t small, lunary_inflate_t **inf);
void lunary_inflate_destroy(lunary_inflate_t *inf);

/*
 * LUNARY_OK: more may come; LUNARY_DONE: the stream is complete;
 * LUNARY_ERROR, LUNARY_LIMIT, LUNARY_NOMEM: sticky.
 */
int lunary_inflate_feed(lunary_inflate_t *inf, const unsigned char *p,
    size_t n, lunary_inflate_pt sink, void *ctx);


#endif /* LUNARY_INFLATE_H */
