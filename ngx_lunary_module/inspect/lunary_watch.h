/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Looking on while lunary_doc.c scans: where the members of the outermost
 * object (and of one in it) stand in the original bytes.  Private to inspect/:
 * lunary_request.c is who looks.
 */

#ifndef LUNARY_WATCH_H
#define LUNARY_WATCH_H

#include "lunary_doc.h"
#include "lunary_scan.h"


/*
 * Called with
 *   LUNARY_SCAN_KEY        a key in a watched object has come: s->key as
 *                          written, s->token, s->value_end.  Returns 1 where
 *                          the value's start and end are wanted;
 *   LUNARY_SCAN_OPEN       an object or array was opened: s->depth counts it;
 *   LUNARY_SCAN_CLOSE      one was closed: s->depth does not count it;
 *   LUNARY_SCAN_STRING     such a value starts: s->token;
 *   LUNARY_SCAN_STRING_END, LUNARY_SCAN_SCALAR   it ended: s->token (of a
 *                          scalar its start), s->value_end.
 * An object is watched where s->depth is not above the depth last returned by
 * lunary_doc_watch_depth().
 */
typedef int (*lunary_watch_pt)(void *ctx, lunary_scan_event_e event,
    const lunary_scan_t *s);

void lunary_doc_watch(lunary_doc_t *d, lunary_watch_pt watch, void *ctx);

/* events at this depth and above it (1: the outermost object) are told */
void lunary_doc_watch_depth(lunary_doc_t *d, unsigned depth);


/*
 * What another reader knows of the text that it read: [0, len) of data, which
 * the document takes over with its cap bytes.  It is the start of an object,
 * nested less than 64 deep, that a document would have kept as it is.  The
 * state is one between tokens, or in the plain part of a string that is not
 * to be probed.  len 0: nothing was read, and only data, cap and offset count.
 */
typedef struct {
    unsigned char        *data;
    size_t                cap;
    size_t                len;
    uint64_t              offset;     /* of what comes next, in the bytes     */

    lunary_scan_state_e   state;
    unsigned              depth;
    uint64_t              arrays;     /* bit i: bracket i + 1 is [ ...        */
    uint64_t              strings;    /* ... LUNARY_MEDIA_ELEMENT             */
    uint64_t              vectors;    /* ... LUNARY_MEDIA_VECTOR              */
    unsigned              class;      /* of the last key's value              */
    size_t                key;        /* in the text: the last key's quote    */
    size_t                string;     /* the open string's inside             */
    size_t                bracket;    /* behind the last bracket, in S_ELEMENT*/
    uint64_t              end;        /* scan.value_end                       */
    lunary_str_t          name;       /* the last top-level key               */
    int                   watched;    /* its value is wanted                  */
} lunary_adopt_t;

/* d is new, watched, and its watch_depth is set */
void lunary_doc_adopt(lunary_doc_t *d, const lunary_adopt_t *a);


#endif /* LUNARY_WATCH_H */
