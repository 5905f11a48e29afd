/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What the files of a reduction share: lunary_reduce.c has the steps that look
 * at all of the text, lunary_reduce_elements.c drops old elements of arrays.
 */

#ifndef LUNARY_REDUCE_INTERNAL_H
#define LUNARY_REDUCE_INTERNAL_H

#include "lunary_cut.h"
#include "lunary_json.h"
#include "lunary_reduce.h"
#include "lunary_string.h"


#define LUNARY_REDUCE_ROUNDS  8       /* tries a step                         */
#define LUNARY_REDUCE_STEP    2048    /* bytes moved at once                  */


/* an object or array as the walk leaves it: offsets in the text */

typedef struct {
    size_t     start;                 /* of its bracket                       */
    size_t     last;                  /* of its newest entry                  */
    size_t     end;                   /* behind it                            */
    size_t     key;                   /* of the top-level key it is under ... */
    size_t     key_len;               /* ... without quotes                   */
    unsigned   depth;                 /* brackets open around it              */
    unsigned   open;                  /* 1: it has not ended yet              */
} lunary_node_t;

/* sees every container once, inner ones first */
typedef void (*lunary_reduce_visit_pt)(void *ctx, const lunary_reduce_t *r,
    const lunary_node_t *node);

typedef struct {
    lunary_node_t   node;
    size_t          best;             /* 0: none yet                          */
    size_t          need;
    size_t          least;
} lunary_choice_t;


/* visits what is in [0, fixed) of a text of which nothing is set aside;
 * returns how many brackets are open at `fixed` */
unsigned lunary_reduce_walk(const lunary_reduce_t *r,
    lunary_reduce_visit_pt visit, void *ctx);

/* an element of the hot array begins at this place, the one behind its last */
void lunary_reduce_found(lunary_reduce_hot_t *hot, size_t at);

/* what a round has to bring, so that a few of them do and not many */
size_t lunary_reduce_worth(const lunary_reduce_t *r, size_t target);

/* replaces [from, to) by a text that is not longer; node tells whose it was */
void lunary_reduce_edit(lunary_reduce_t *r, size_t from, size_t to,
    const unsigned char *text, size_t n, const lunary_node_t *node);


#endif /* LUNARY_REDUCE_INTERNAL_H */
