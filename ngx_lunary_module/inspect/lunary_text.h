/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Strings that grow by deltas and stay bounded: the texts of an answer while
 * it streams.  What is kept is the escaped inside of a JSON string, appended
 * as it came, so that neither a delta nor the finished field is ever decoded
 * and encoded again, and a surrogate pair split over two deltas meets again.
 *
 * Invariants
 *   - a text always is a valid inside of a JSON string in UTF-8;
 *   - the texts of one field share a budget: as long as they fit in it
 *     together they are whole; once they do not, each that is longer than
 *     cut keeps its first and last cut/2, and stays so;
 *   - what a budget's texts hold is at most max + cut bytes;
 *   - appending costs a copy, trimming is paid by the bytes it drops.
 */

#ifndef LUNARY_TEXT_H
#define LUNARY_TEXT_H

#include "lunary_base.h"


typedef struct lunary_text_s  lunary_text_t;

typedef struct {
    size_t                max;        /* bytes that fit in the field         */
    size_t                cut;        /* a text longer than this is cut      */
    size_t                held;       /* bytes that its texts hold           */
    lunary_text_t        *texts;      /* those that hold any                 */
    lunary_str_t          valid;      /* insides in here need no mending ... */
    lunary_text_t        *borrower;   /* ... and this text's lies there      */
    unsigned              lent:1;     /* a text may: it is to be owned later */
    unsigned              over:1;     /* did not fit: texts are being cut    */
    unsigned              off:1;      /* nothing is kept, sizes are counted  */
} lunary_budget_t;

struct lunary_text_s {
    lunary_buf_t          buf;        /* the head, then the tail             */
    size_t                head;       /* bytes of the head, where cut        */
    uint64_t              size;       /* all bytes that were appended        */
    lunary_text_t        *next;       /* of the budget's texts               */
    unsigned              cut:1;
    unsigned              listed:1;
};


/* all zeroes is an empty text; a text may not move once it was appended to */

/*
 * Appends a piece of a JSON string's escaped inside.  What is not UTF-8 or a
 * raw control character is mended.  LUNARY_OK or LUNARY_NOMEM (the piece is
 * counted, not kept).
 */
int lunary_text_append(lunary_mem_t *mem, lunary_budget_t *b,
    lunary_text_t *t, lunary_str_t inside);

/* bytes that were appended and are not held */
static inline uint64_t
lunary_text_lost(const lunary_text_t *t)
{
    return t->size - t->buf.len;
}

/* no more comes: a cut text's tail becomes as short as its head */
void lunary_text_settle(lunary_budget_t *b, lunary_text_t *t);

/*
 * Appends the text to out, with the mark ...[N bytes]... (U+2026) where bytes
 * are missing.
 */
int lunary_text_write(lunary_mem_t *mem, const lunary_text_t *t,
    lunary_buf_t *out);

/*
 * While `lent` is set a long text is not copied out of `valid`: it lies there
 * and is b->borrower, until it is appended to, cut, or given memory that its
 * bytes are to be found in: all of `valid`, as a buffer of its own.
 */
void lunary_text_own(lunary_budget_t *b, lunary_buf_t *buf);

/* gives the memory back; the text is empty then, its size stays known */
void lunary_text_free(lunary_mem_t *mem, lunary_budget_t *b,
    lunary_text_t *t);

/*
 * Appends the inside of a string as it came from the wire, mended where it is
 * no UTF-8, has a raw control character or an escape that is none: what is
 * added always is a valid inside.  LUNARY_OK, or LUNARY_NOMEM (b as before).
 */
int lunary_inside_copy(lunary_mem_t *mem, lunary_buf_t *b,
    lunary_str_t inside);

/*
 * The largest place not behind `want` (lunary_inside_floor) or the smallest
 * not before it (lunary_inside_ceil) where the inside of a string can be cut:
 * not in an escape, a surrogate pair or a UTF-8 sequence.
 */
size_t lunary_inside_floor(lunary_str_t inside, size_t want);
size_t lunary_inside_ceil(lunary_str_t inside, size_t want);


#endif /* LUNARY_TEXT_H */
