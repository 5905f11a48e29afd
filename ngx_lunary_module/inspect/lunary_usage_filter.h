/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * lunary_stream_usage: asking an OpenAI-style stream for its usage, and taking
 * the extra chunk out again where the client had not asked for it.
 *
 * Invariants
 *   - the request changes by one edit that merges "include_usage":true into
 *     what the client sent;
 *   - of the response only whole events go missing whose data is an object
 *     with an empty `choices` array and a `usage` object; every other byte is
 *     passed on as it came, in order;
 *   - what is held back is one unfinished event, of LUNARY_USAGE_HELD bytes
 *     at most; a longer one is passed on as it comes.
 */

#ifndef LUNARY_USAGE_FILTER_H
#define LUNARY_USAGE_FILTER_H

#include "lunary_base.h"
#include "lunary_call.h"


#define LUNARY_USAGE_HELD  65536


typedef enum {
    LUNARY_USAGE_NO = 0,          /* no such stream: nothing to do           */
    LUNARY_USAGE_ASKED,           /* the client asked itself                 */
    LUNARY_USAGE_ADDED            /* *edit asks: the filter is to be used    */
} lunary_usage_e;

/*
 * What is to be done for a call whose request ended.  The edit's offsets are
 * of the body as fed (lunary_request.h); its text is static.
 */
lunary_usage_e lunary_usage_edit(lunary_call_t *call, lunary_edit_t *edit);


/* takes bytes to pass on: of the feed, or (where an event was held back) of
 * the filter's own; valid until the next call of the filter */
typedef void (*lunary_usage_pt)(void *ctx, const unsigned char *p, size_t n);

typedef struct {
    lunary_mem_t          *mem;
    lunary_usage_pt        pass;
    void                  *ctx;

    lunary_buf_t           held;       /* the unfinished event               */
    uint64_t               dropped;    /* events that were left out          */
    unsigned               line:1;     /* a line of the event has begun      */
    unsigned               cr:1;       /* a CR was the last byte             */
    unsigned               lf_too:2;   /* ... and ended an event: its LF is
                                          passed (1) or left out (2)         */
    unsigned               through:1;  /* too long: passed on as it comes    */
} lunary_usage_filter_t;


void lunary_usage_filter_init(lunary_usage_filter_t *f, lunary_mem_t *mem,
    lunary_usage_pt pass, void *ctx);

/* LUNARY_OK; LUNARY_NOMEM: passed on what could not be held */
int lunary_usage_filter_feed(lunary_usage_filter_t *f,
    const unsigned char *p, size_t n);

/* no more bytes: passes on what is held */
void lunary_usage_filter_end(lunary_usage_filter_t *f);

void lunary_usage_filter_free(lunary_usage_filter_t *f);


#endif /* LUNARY_USAGE_FILTER_H */
