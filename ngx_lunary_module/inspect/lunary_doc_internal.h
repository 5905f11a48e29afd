/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What the files of a document share: lunary_doc.c takes the bytes in,
 * lunary_doc_event.c does what the scanner's events ask for,
 * lunary_doc_media.c drops what is no text, lunary_doc_fit.c makes the text as
 * long as it may be and ends it.
 */

#ifndef LUNARY_DOC_INTERNAL_H
#define LUNARY_DOC_INTERNAL_H

#include "lunary_cut.h"
#include "lunary_doc.h"
#include "lunary_media.h"
#include "lunary_reduce.h"
#include "lunary_watch.h"


#define LUNARY_DOC_SLACK  128              /* for markers and closing quotes  */
#define LUNARY_DOC_ABOVE  4096


/* what is being done with the bytes; up to MODE_CUT they go into the text */

enum {
    MODE_TEXT = 0,           /* kept                                          */
    MODE_PROBE,              /* kept: the start of a string, may be media     */
    MODE_CUT,                /* kept: a string, cut once it is too long       */
    MODE_KEY,                /* dropped: the end of a very long key           */
    MODE_MEDIA,              /* dropped: base64 inside a string               */
    MODE_VECTOR,             /* dropped: the numbers of a long array          */
    MODE_SKIP,               /* dropped: up to the end of an object or array  */
    MODE_FULL                /* dropped: all the rest                         */
};


struct lunary_doc_s {
    lunary_mem_t      *mem;

    size_t             max;
    size_t             above;
    size_t             limit;            /* the text is reduced when it is
                                            that long: max + above            */
    size_t             cap;              /* of r.data                         */

    int                rc;
    uint8_t            flags;
    uint8_t            mode;
    uint8_t            cutting;          /* the first reduction has been      */
    uint8_t            bom;              /* bytes of one that have come       */
    uint8_t            class;            /* of the last key's value           */
    uint8_t            vector;           /* an array at `mark` may be one     */
    uint8_t            watched;          /* who looks on wants this value     */

    unsigned           skip;             /* MODE_SKIP: brackets open around   */
    unsigned           watch_depth;

    size_t             key_at;           /* in the text: the last key's quote */
    size_t             open_at;          /* the open string's inside, or the
                                            open scalar                       */
    size_t             mark;             /* behind the array's bracket        */

    uint64_t           offset;           /* bytes fed                         */
    uint64_t           from;             /* where what is dropped begins      */

    lunary_watch_pt    watch;
    void              *watch_ctx;

    lunary_probe_t     probe;
    lunary_cut_t       cut;
    lunary_scan_t      scan;
    lunary_reduce_t    r;

    /* by depth: LUNARY_MEDIA_* of an array's elements, 0 for objects */
    uint8_t            classes[LUNARY_SCAN_DEPTH + 1];
};


#define lunary_doc_kept(d)     ((d)->mode <= MODE_CUT)

/* the end of a string that is being cut is not a part of the text yet: how
 * much of it is there depends on the pieces */
#define lunary_doc_cut(d)      ((d)->mode == MODE_CUT && (d)->cut.head != 0)

#define lunary_doc_at(d, p)    lunary_scan_offset(&(d)->scan, p)


/* appends bytes for which there is room */

static inline void
lunary_doc_add(lunary_doc_t *d, const void *p, size_t n)
{
    memcpy(d->r.data + d->r.len, p, n);
    d->r.len += n;
}


/* makes room for n bytes of the wire and what may be written beside them */
int lunary_doc_reserve(lunary_doc_t *d, size_t n);

/*
 * Events, in lunary_doc_event.c.
 */

/* calls who looks on, for what is in an object at this depth */
void lunary_doc_tell(lunary_doc_t *d, lunary_scan_event_e event,
    unsigned depth);

/* sets what the scanner tells from here on; watched: a value is wanted */
void lunary_doc_want(lunary_doc_t *d, int watched);

void lunary_doc_key(lunary_doc_t *d);
void lunary_doc_key_long(lunary_doc_t *d, uint64_t offset);
void lunary_doc_key_end(lunary_doc_t *d, uint64_t end);

/* len is the text's length behind the bracket, offset the place behind it */
void lunary_doc_open(lunary_doc_t *d, int array, size_t len, uint64_t offset);
void lunary_doc_closed(lunary_doc_t *d);

/* what was made null while it was open ends at this offset */
void lunary_doc_skip_end(lunary_doc_t *d, uint64_t end);

/* a string value starts; p is behind its quote: the mode to read it in, where
 * it has to be followed, else MODE_TEXT */
int lunary_doc_string(lunary_doc_t *d, const unsigned char *p,
    const unsigned char *end);

/* the text holds a string's inside, whole or what is kept of it so far */
void lunary_doc_string_end(lunary_doc_t *d);

/* writes what stands for bytes that must not be in a string */
void lunary_doc_repair(lunary_doc_t *d);


/*
 * The modes in which bytes are dropped: how they begin, go on and end.
 * `end` is the offset where they do; more: another element follows, and the
 * comma before it was dropped.
 */
void lunary_doc_media(lunary_doc_t *d, const unsigned char **pp,
    const unsigned char *end);
void lunary_doc_media_end(lunary_doc_t *d, uint64_t end);
void lunary_doc_vector(lunary_doc_t *d);
void lunary_doc_numbers(lunary_doc_t *d, const unsigned char **pp,
    const unsigned char *end);
void lunary_doc_vector_end(lunary_doc_t *d, uint64_t end, int more);

/* the text has reached its limit, at this offset of the bytes */
void lunary_doc_reduce(lunary_doc_t *d, uint64_t offset);


#endif /* LUNARY_DOC_INTERNAL_H */
