/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What the files of a request body share.
 *
 *   lunary_request.c       its life, and who reads it
 *   lunary_request_note.c  notes where members stand and what they hold
 *   lunary_request_read.c  reads a body that fits and holds nothing special,
 *                          where it lies
 *   lunary_doc.c           reads any other (lunary_watch.h)
 *   lunary_claims.c        what the notes say of the caller
 *   lunary_splice.c        makes edits of them
 */

#ifndef LUNARY_REQUEST_INTERNAL_H
#define LUNARY_REQUEST_INTERNAL_H

#include "lunary_request.h"


/* a value as it was written: its place in `held`, or in `raw` */

typedef struct {
    uint32_t   at;
    uint32_t   len;
} lunary_held_t;


/* the member that is being read, one for each watched object */

typedef struct {
    uint8_t    id;                    /* 0: none of ours                      */
    uint8_t    claim;
    uint8_t    any;                   /* a member came before                 */
    int8_t     mark;                  /* -1: none                             */
    uint32_t   seen;                  /* names that came, case folded         */
} lunary_level_t;


/* what has been noted so far */

typedef struct {
    lunary_level_t       level[2];    /* the body, its metadata               */

    uint8_t              object;      /* the body is an object ...            */
    uint8_t              inside;      /* in metadata, by any case             */
    uint8_t              exact;       /* ... written so                       */
    uint8_t              identity;    /* some metadata holds an identity      */
    uint8_t              twice;       /* metadata came twice                  */
    uint8_t              duplicate;
    uint8_t              flooded;
    uint8_t              copying;     /* lunary_member_e, or 0                */
    uint8_t              nmarks;
    uint8_t              nmembers;
    uint8_t              many;        /* more members than are kept           */

    uint32_t             there;       /* by lunary_member_e: a value is held, */
    uint32_t             lost;        /* ... was too long to be               */

    uint64_t             root;        /* the body's members start here        */
    uint64_t             copied;      /* of the value: up to this offset      */

    lunary_held_t        values[LUNARY_M_MAX];
} lunary_notes_t;


/* how far lunary_request_read.c has come; places are in `raw` */

typedef struct {
    uint64_t             arrays;      /* bit i: bracket i + 1 is [            */
    uint64_t             strings;     /* ... its strings may be media         */
    uint64_t             vectors;     /* ... its numbers may be               */

    size_t               at;          /* a token starts or goes on here       */
    size_t               key;         /* the last key's opening quote         */
    size_t               string;      /* of the open string: its inside       */
    size_t               end;         /* behind the last value, or bracket    */

    uint8_t              state;       /* lunary_scan_state_e                  */
    uint8_t              depth;
    uint8_t              class;       /* of the last key's value              */
} lunary_read_t;


/* the body's members, as long as they are read in place */

#define LUNARY_REQUEST_MEMBERS  24

typedef struct {
    uint32_t             key;         /* inside of its quotes                 */
    uint32_t             key_len;
    uint32_t             value;
    uint32_t             end;
} lunary_place_t;


struct lunary_request_s {
    lunary_mem_t        *mem;
    size_t               max;
    size_t               cut;

    /* the body so far, or doc; while it is read, LUNARY_STRING_PAD zeroes are
     * behind it */

    lunary_buf_t         raw;
    unsigned char       *lent;        /* where it may lie (no copy is kept)   */
    unsigned char       *lent_end;
    lunary_doc_t        *doc;

    uint64_t             base;        /* raw's first byte in the body         */
    uint64_t             offset;      /* bytes fed before this piece          */
    const unsigned char *piece;       /* doc: what it is fed                  */

    int                  rc;          /* raw: OK, DONE, or < 0                */
    uint8_t              lies;        /* raw is what was lent                 */
    uint8_t              complete;
    uint8_t              nomem;

    lunary_buf_t         held;
    lunary_buf_t         decoded;
    lunary_claims_t      claims;

    lunary_mark_t       *marks;
    unsigned             marks_max;

    lunary_read_t        read;
    lunary_notes_t       n;
    lunary_place_t       members[LUNARY_REQUEST_MEMBERS + 1];
};


/* reads the claims out of what is held: LUNARY_OK or LUNARY_NOMEM */
int lunary_claims_read(lunary_request_t *rq);


/*
 * Reads what has come to raw: LUNARY_OK (more may come), LUNARY_DONE (the
 * object has ended; only white space is behind it), or LUNARY_ERROR: this is
 * a document's, from the state before on.
 */
int lunary_request_read(lunary_request_t *rq);


/*
 * Notes.  inside: 0 for the body, 1 for its metadata.  Offsets are those of
 * the body.
 */

enum {
    LUNARY_NOTE_SCALAR = 0,
    LUNARY_NOTE_STRING,
    LUNARY_NOTE_OBJECT,
    LUNARY_NOTE_ARRAY
};

/* a key that starts at token, behind what ends at before; 1: one of ours */
int lunary_note_key(lunary_request_t *rq, unsigned inside, lunary_str_t key,
    uint64_t token, uint64_t before);

/* a value starts, ends, in one of those objects */
void lunary_note_value(lunary_request_t *rq, unsigned inside, int kind,
    uint64_t token);
void lunary_note_end(lunary_request_t *rq, unsigned inside, uint64_t end);

/* a bracket opened or closed; depth counts those that are open around it */
void lunary_note_open(lunary_request_t *rq, unsigned depth, int array,
    uint64_t token);
void lunary_note_close(lunary_request_t *rq, unsigned depth, uint64_t token);

/* copies what doc's piece has of the open value, up to end */
void lunary_note_copy(lunary_request_t *rq, uint64_t end);

/* copies what lies in raw, of the open value up to end: OK or NOMEM */
int lunary_note_carry(lunary_request_t *rq, size_t end);


#endif /* LUNARY_REQUEST_INTERNAL_H */
