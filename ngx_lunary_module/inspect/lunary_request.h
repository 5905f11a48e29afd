/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What a request body says of the caller, and what has to be taken out of it
 * before the upstream sees it.  One scan: it keeps the text (as lunary_doc.h,
 * strict, would) and notes the identity members as they pass: their values,
 * whether one came twice, and where they stand in the original bytes.
 *
 * Invariants
 *   - names are compared after unescaping; identity is read from the exact
 *     names, duplicates are looked for with ASCII case folded (an upstream
 *     may fold);
 *   - only top-level members and those of `metadata` count;
 *   - at most LUNARY_REQUEST_MARKS places are noted (more: `flooded`, and
 *     the body is not rewritten), so memory is bounded; of a name that comes
 *     again the last value counts, however often;
 *   - offsets are in bytes of the body as fed.
 */

#ifndef LUNARY_REQUEST_H
#define LUNARY_REQUEST_H

#include "lunary_base.h"
#include "lunary_doc.h"


#define LUNARY_REQUEST_MARKS  64

/* what a member says; one bit each in strip masks is (1 << id) */

typedef enum {
    LUNARY_M_NONE = 0,
    /* top level */
    LUNARY_M_USER_ID,             /* user_id              */
    LUNARY_M_USERID,              /* userId               */
    LUNARY_M_USER,                /* user                 */
    LUNARY_M_SAFETY,              /* safety_identifier    */
    LUNARY_M_USER_PROPS,          /* user_props           */
    LUNARY_M_USERPROPS,           /* userProps            */
    LUNARY_M_THREAD_ID,           /* thread_id            */
    LUNARY_M_THREADID,            /* threadId             */
    LUNARY_M_PARENT_RUN_ID,       /* parent_run_id        */
    LUNARY_M_PARENTRUNID,         /* parentRunId          */
    LUNARY_M_TAGS,                /* tags                 */
    LUNARY_M_TEMPLATEID,          /* templateId           */
    LUNARY_M_METADATA,            /* metadata             */
    /* in metadata */
    LUNARY_M_MD_USER_ID,
    LUNARY_M_MD_USERID,
    LUNARY_M_MD_USER_PROPS,
    LUNARY_M_MD_USERPROPS,
    LUNARY_M_MD_THREAD_ID,
    LUNARY_M_MD_THREADID,
    LUNARY_M_MD_PARENT_RUN_ID,
    LUNARY_M_MD_PARENTRUNID,
    LUNARY_M_MD_TAGS,
    /* top level, not identity: where they stand is wanted by rewrites */
    LUNARY_M_STREAM,              /* stream               */
    LUNARY_M_STREAM_OPTIONS,      /* stream_options       */
    /* top level, identity as LiteLLM's clients spell it */
    LUNARY_M_LITELLM,             /* litellm_metadata     */
    LUNARY_M_MAX
} lunary_member_e;

#define lunary_member_bit(id)  ((uint32_t) 1 << (id))


/* a member's place in the original bytes */

typedef struct {
    uint8_t                id;           /* lunary_member_e                  */
    uint8_t                first;        /* no member before it in its object*/
    uint8_t                last;         /* none behind it                   */
    uint8_t                folded;       /* its name is in another case      */
    uint8_t                object;       /* metadata: the value is an object */
    uint8_t                any;          /* ... with members                 */
    uint64_t               start;        /* of the key's opening quote       */
    uint64_t               value;        /* of the value's first byte        */
    uint64_t               end;          /* behind the value's last byte     */
    uint64_t               prev_end;     /* behind the member before, or of
                                            the opening brace                */
    uint64_t               next;         /* start of the member behind, or of
                                            the closing brace                */
} lunary_mark_t;


/* who the body says is calling: decoded; empty where it does not say.
 * A user id that is no user id (section "user id" of docs/directives.md)
 * is empty.  props is a JSON object's text, tags a JSON array's text. */

typedef struct {
    lunary_str_t           user;
    lunary_str_t           props;
    lunary_str_t           thread;
    lunary_str_t           parent;
    lunary_str_t           tags;
} lunary_claims_t;


typedef struct lunary_request_s  lunary_request_t;

/* max: bound of the reduced text (lunary_doc.h), cut likewise */
lunary_request_t *lunary_request_create(lunary_mem_t *mem, size_t max,
    size_t cut);
void lunary_request_destroy(lunary_request_t *rq);

/*
 * Before the first piece: [place, place + size) is where the body is going to
 * lie, from its first byte on, and stay until rq is destroyed.  Of what lies
 * there no copy is kept, so long as behind it, in place, are LUNARY_STRING_PAD
 * bytes more: they are written to, and put back before lunary_request_feed()
 * returns.  Pieces from elsewhere are read as ever.
 */
void lunary_request_lend(lunary_request_t *rq, unsigned char *place,
    size_t size);

/* like lunary_doc_feed() and lunary_doc_finish() */
int lunary_request_feed(lunary_request_t *rq, const unsigned char *p,
    size_t n);
int lunary_request_finish(lunary_request_t *rq);

/*
 * Of a body that was broken off: what lunary_request_feed() said, or would
 * have said had its last bytes come one by one.  LUNARY_OK or an error.
 */
int lunary_request_judge(lunary_request_t *rq);

/* as lunary_doc_torn(), lunary_doc_close(), lunary_doc_text(),
 * lunary_doc_array(), lunary_doc_removed_of() */
int lunary_request_torn(const lunary_request_t *rq);
int lunary_request_close(lunary_request_t *rq);
lunary_str_t lunary_request_text(const lunary_request_t *rq);
lunary_str_t lunary_request_array(const lunary_request_t *rq);
size_t lunary_request_removed_of(const lunary_request_t *rq, lunary_str_t key);

/*
 * The members of a complete body as they were found while it was read, in
 * order: LUNARY_OK, LUNARY_DONE behind the last; LUNARY_ERROR where they are
 * not known (the text tells).  Key without its quotes, as written; both lie
 * in the text.
 */
int lunary_request_member(const lunary_request_t *rq, size_t i,
    lunary_str_t *key, lunary_str_t *value);

/*
 * After finish(): the claims, borrowed from rq.  A top-level value that is no
 * object claims nothing.  The order among names is section 3 of the contract:
 * user_id userId user safety_identifier metadata.user_id metadata.userId;
 * the first non-empty *string* wins, whatever type the others have.
 */
const lunary_claims_t *lunary_request_claims(lunary_request_t *rq);

/*
 * After finish(): 1 where a member names a user who is not `user`, which then
 * stands in *out, from mem.  The claim is what the first member says; an
 * upstream may read the others.  safety_identifier does not count beside
 * another one: it is meant to be no name (a hash).
 */
int lunary_request_other_user(lunary_request_t *rq, lunary_str_t user,
    lunary_mem_t *mem, lunary_buf_t *out);

/* 1 where an identity member came twice in one object, ASCII case folded
 * (`metadata` itself too, where either holds an identity member) */
int lunary_request_duplicate(const lunary_request_t *rq);

/* 1 where more members were to be noted than LUNARY_REQUEST_MARKS */
int lunary_request_flooded(const lunary_request_t *rq);

/* the marks, in the order of the bytes */
const lunary_mark_t *lunary_request_marks(const lunary_request_t *rq,
    size_t *n);


/*
 * Edits of the original bytes: [start, end) is replaced by text (empty:
 * removed).  Sorted, not overlapping.
 */
typedef struct {
    uint64_t               start;
    uint64_t               end;
    lunary_str_t           text;         /* borrowed */
} lunary_edit_t;

/*
 * The edits that take out the members whose bits are in strip (and `metadata`
 * where nothing is left in it but was), commas included.  Returns their
 * number, at most max (LUNARY_REQUEST_MARKS suffices), 0 where there is
 * nothing to do.
 */
size_t lunary_request_strip(const lunary_request_t *rq, uint32_t strip,
    lunary_edit_t *edits, size_t max);

/*
 * The same, and members put in: `root` (`"name":value,...`, no comma at its
 * ends) into the body, `metadata` into each metadata that stays an object,
 * or into one of its own.  folded is like strip, for names that are those
 * members' but for their case; to be put in, they should be in both.  The
 * new bytes come from mem into scratch, which must be empty and outlive the
 * edits.  Returns their number, or LUNARY_ERROR where the body cannot be
 * rewritten (no object, flooded, more than max edits), or LUNARY_NOMEM.
 */
typedef struct {
    uint32_t               strip;
    uint32_t               folded;
    lunary_str_t           root;
    lunary_str_t           metadata;
} lunary_rewrite_t;

int lunary_request_rewrite(const lunary_request_t *rq,
    const lunary_rewrite_t *rw, lunary_mem_t *mem, lunary_buf_t *scratch,
    lunary_edit_t *edits, size_t max);

/* 1 where s can be a user id: non-empty, not all blank, valid UTF-8, at most
 * 256 bytes, no control, zero-width or bidi characters; else 0 */
int lunary_user_id_valid(lunary_str_t s);


#endif /* LUNARY_REQUEST_H */
