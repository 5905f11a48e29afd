/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What the three files of a request body share: lunary_request.c notes where
 * members stand and what they hold, lunary_claims.c reads that, lunary_splice.c
 * makes edits of it.
 */

#ifndef LUNARY_REQUEST_INTERNAL_H
#define LUNARY_REQUEST_INTERNAL_H

#include "lunary_request.h"


/* a value as it was written: its place in `held` */

typedef struct {
    uint32_t   at;
    uint32_t   len;
    uint8_t    there;                 /* a string, object or array            */
    uint8_t    lost;                  /* too long to be kept                  */
} lunary_held_t;


/* the member that is being read, one for each watched object */

typedef struct {
    uint8_t    id;                    /* 0: none of ours                      */
    uint8_t    claim;
    uint8_t    any;                   /* a member came before                 */
    int8_t     mark;                  /* -1: none                             */
    uint32_t   seen;                  /* names that came, case folded         */
} lunary_level_t;


struct lunary_request_s {
    lunary_mem_t        *mem;
    lunary_doc_t        *doc;

    lunary_level_t       level[2];    /* the body, its metadata               */

    uint8_t              object;      /* the body is an object ...            */
    uint64_t             root;        /* ... whose members start here         */
    uint8_t              inside;      /* in metadata, by any case             */
    uint8_t              exact;       /* ... written so                       */
    uint8_t              identity;    /* some metadata holds an identity      */
    uint8_t              twice;       /* metadata came twice                  */
    uint8_t              duplicate;
    uint8_t              flooded;
    uint8_t              complete;
    uint8_t              nomem;

    uint8_t              copying;     /* lunary_member_e, or 0                */
    uint64_t             copied;      /* up to this offset                    */

    const unsigned char *piece;
    uint64_t             offset;      /* of the piece                         */

    lunary_buf_t         held;
    lunary_held_t        values[LUNARY_M_MAX];

    lunary_buf_t         decoded;
    lunary_claims_t      claims;

    unsigned             nmarks;
    lunary_mark_t        marks[LUNARY_REQUEST_MARKS];
};


/* reads the claims out of what is held: LUNARY_OK or LUNARY_NOMEM */
int lunary_claims_read(lunary_request_t *rq);


#endif /* LUNARY_REQUEST_INTERNAL_H */
