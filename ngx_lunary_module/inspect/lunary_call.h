/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The door of inspect/: one LLM call.  Bytes of its request and response go
 * in as they pass, in any split; the fields of a run come out.
 *
 *     create → start → request* → request_end → answer → response*
 *            → response_end → finish → destroy
 *
 * Any step may be missing (a refused call has no answer, an aborted one no
 * end): finish() makes the most of what was seen.
 *
 * Invariants
 *   - nothing here fails the caller's traffic: a body that cannot be read
 *     sets request_state / response_state, and the rest is passed over;
 *   - linear time and bounded memory, whatever the bytes: about capture_max a
 *     captured field and a few KiB; where something is inflated 44 KiB more
 *     (br and zstd: their window, lunary_inflate.h); a JSON answer that comes
 *     in pieces is held until it is read, its long text once;
 *   - nothing points into the caller's bytes once a function has returned,
 *     but into those that were lent.
 */

#ifndef LUNARY_CALL_H
#define LUNARY_CALL_H

#include "lunary_base.h"
#include "lunary_dialect.h"
#include "lunary_request.h"
#include "../run/lunary_run.h"


typedef struct {
    size_t                    capture_max;     /* bytes of one field's JSON  */
    unsigned                  capture;         /* LUNARY_CAPTURE_*           */
    const lunary_dialect_t   *forced;          /* by lunary_api, or NULL     */
} lunary_call_conf_t;


/* what became of reading a body */

typedef enum {
    LUNARY_BODY_NONE = 0,          /* no byte came                            */
    LUNARY_BODY_PARTIAL,           /* under way, or broke off                 */
    LUNARY_BODY_JSON,              /* one complete JSON value                 */
    LUNARY_BODY_FORM,              /* multipart or urlencoded, read           */
    LUNARY_BODY_STREAM,            /* responses: events were read             */
    LUNARY_BODY_OTHER,             /* neither (media, text): not read         */
    LUNARY_BODY_INVALID,           /* should be JSON and is not               */
    LUNARY_BODY_LIMIT,             /* nested too deep                         */
    LUNARY_BODY_ENCODING,          /* a Content-Encoding we cannot read, or
                                      broken compressed data                  */
    LUNARY_BODY_NOMEM
} lunary_body_state_e;


/* token counts as reported; LUNARY_UNKNOWN where not */

#define LUNARY_UNKNOWN  INT64_MIN

typedef struct {
    int64_t    prompt;
    int64_t    completion;
    int64_t    total;
    int64_t    cached;
    int64_t    cache_write;
    int64_t    reasoning;
} lunary_tokens_t;


/* what the caller may read at any time; everything else is private to
 * inspect/ (lunary_call_internal.h).  Slices belong to the call. */

struct lunary_call_s {
    lunary_mem_t             *mem;
    lunary_call_conf_t        conf;

    const lunary_dialect_t   *dialect;         /* never NULL after start()   */

    lunary_body_state_e       request_state;
    lunary_str_t              model;           /* asked for, decoded; final
                                                  after request_end()        */
    int                       stream;          /* 1, 0; -1: not said         */

    lunary_body_state_e       response_state;
    unsigned                  content:1;       /* a first content token came */
    unsigned                  terminal:1;      /* the dialect's terminal event
                                                  or a complete body came    */
    unsigned                  torn:1;          /* a stream ended within an
                                                  event                      */
    unsigned                  errored:1;       /* an error event or body came*/
    unsigned                  recognised:1;    /* a dialect knew this request
                                                  by path or was forced      */
    lunary_tokens_t           tokens;          /* as reported so far         */
    int64_t                   input_tokens;    /* comparable, or UNKNOWN;    */
    int64_t                   output_tokens;   /* final after finish()       */
};


/* NULL where memory is out.  conf is copied. */
lunary_call_t *lunary_call_create(lunary_mem_t *mem,
    const lunary_call_conf_t *conf);
void lunary_call_destroy(lunary_call_t *call);

/*
 * The request's head.  path is the decoded URI path without query; the types
 * are header values, empty where absent.  Slices are copied where kept.
 */
void lunary_call_start(lunary_call_t *call, lunary_str_t method,
    lunary_str_t path, lunary_str_t content_type,
    lunary_str_t content_encoding);

/*
 * Before the body: where it is going to lie, and stays until the call is
 * destroyed.  No copy of it is kept then (lunary_request_lend()); behind it
 * there should be LUNARY_CALL_BEHIND bytes more within size.
 */
#define LUNARY_CALL_BEHIND  64

void lunary_call_lend(lunary_call_t *call, unsigned char *place, size_t size);

/* the request's body as it arrives, before any transfer of ours: bytes are
 * counted from 0 and edits refer to them */
void lunary_call_request(lunary_call_t *call, const unsigned char *p,
    size_t n);

/* the request's body is complete: settles dialect, model, stream, claims */
void lunary_call_request_end(lunary_call_t *call);

/*
 * Claims of the body (JSON, or form fields `user`), after request_end();
 * all empty where there are none.  Borrowed.
 */
const lunary_claims_t *lunary_call_claims(lunary_call_t *call);

/* the scanner's view of a JSON body, for rewriting; NULL where the body is
 * not JSON or was compressed (offsets would not be the wire's) */
lunary_request_t *lunary_call_body(lunary_call_t *call);

/* a body's text as far as it was read, JSON or "", and how many bytes it has
 * when inflated: also where lunary_call_body() is NULL */
lunary_str_t lunary_call_body_text(const lunary_call_t *call);
uint64_t lunary_call_body_size(const lunary_call_t *call);

/* 1 where the body is JSON or a form and the caller's identity came twice,
 * or in a form that another parser may read otherwise */
int lunary_call_duplicate(const lunary_call_t *call);

/* 1 where a JSON body's member names another user, who is in *out then; see
 * lunary_request_other_user() */
int lunary_call_other_user(lunary_call_t *call, lunary_str_t user,
    lunary_mem_t *mem, lunary_buf_t *out);

/* what fields of a form may name the user: LUNARY_FORM_* of lunary_form.h */
unsigned lunary_call_form_names(const lunary_call_t *call);

/*
 * The response's head: status, Content-Type and Content-Encoding.
 * header(ctx, name, len) returns another response header's value (name in
 * lower case), empty where absent; it is called only before answer() returns.
 */
typedef lunary_str_t (*lunary_header_pt)(void *ctx, const char *name,
    size_t len);

void lunary_call_answer(lunary_call_t *call, unsigned status,
    lunary_str_t content_type, lunary_str_t content_encoding,
    lunary_header_pt header, void *ctx);

/* the response's body as it passes */
void lunary_call_response(lunary_call_t *call, const unsigned char *p,
    size_t n);

/* the response's body ended; complete is 0 where it broke off */
void lunary_call_response_end(lunary_call_t *call, int complete);

/*
 * Sets what the bodies told on the run: type api model response_model
 * response_id params metadata input output input_bytes output_bytes truncated
 * stream finish_reason usage *_tokens error body_error client_request_id.
 * Each is borrowed from the call until it is destroyed.  Identity is not set
 * here.
 */
void lunary_call_finish(lunary_call_t *call, lunary_run_t *run);


#endif /* LUNARY_CALL_H */
