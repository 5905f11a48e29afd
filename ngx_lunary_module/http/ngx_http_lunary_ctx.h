/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The context of a request: what is known of its call, its caller and its end.
 *
 * Invariants
 *   - one context a main request, whatever internal redirects, error pages,
 *     named locations and subrequests do: it hangs on a pool cleanup and is
 *     found there again when nginx has zeroed the module contexts;
 *   - exactly one run a context, written in the log phase.
 */

#ifndef NGX_HTTP_LUNARY_CTX_H
#define NGX_HTTP_LUNARY_CTX_H

#include "ngx_http_lunary_conf.h"


/* who calls: settled once a request (and again after an internal redirect) */

typedef struct {
    ngx_str_t                  user;           /* empty: nobody known        */
    ngx_str_t                  claimed;        /* an overridden or rejected
                                                  claim                      */
    ngx_str_t                  props;          /* JSON object, or empty      */
    ngx_str_t                  thread;
    ngx_str_t                  parent;
    ngx_str_t                  tags;           /* JSON array, or empty       */
    ngx_str_t                  source;
    ngx_uint_t                 counter;        /* of identity_total          */
    unsigned                   verified:1;
    unsigned                   conflict:1;     /* a claim names another user */
} ngx_http_lunary_identity_t;


/* what the request's headers say, read once, before they are stripped */

typedef struct {
    ngx_str_t                  user;
    ngx_str_t                  props;
    ngx_str_t                  thread;
    ngx_str_t                  parent;
    ngx_str_t                  tags;
    unsigned                   read:1;
    unsigned                   duplicate:1;    /* user header twice          */
    unsigned                   trusted:1;      /* by lunary_trusted_from     */
    unsigned                   accepted:1;     /* user as lunary_accept has
                                                  it: a claim from anybody   */
} ngx_http_lunary_headers_t;


/* a session look-up */

typedef enum {
    NGX_HTTP_LUNARY_LOOKUP_NONE = 0,           /* not made                   */
    NGX_HTTP_LUNARY_LOOKUP_WAIT,
    NGX_HTTP_LUNARY_LOOKUP_HIT,
    NGX_HTTP_LUNARY_LOOKUP_MISS,               /* no such session, or none
                                                  that names a user          */
    NGX_HTTP_LUNARY_LOOKUP_FAILED              /* Redis could not be asked   */
} ngx_http_lunary_lookup_e;

typedef struct {
    ngx_http_lunary_lookup_e   state;
    ngx_str_t                  key;
    ngx_str_t                  user;
    ngx_str_t                  props;
} ngx_http_lunary_lookup_state_t;


/* what was found under a session's key */

typedef struct {
    ngx_http_lunary_session_conf_t  *conf;
    ngx_pool_t                *pool;           /* what is found lives there  */
    ngx_log_t                 *log;
    lunary_mem_t               mem;
    ngx_str_t                  user;
    ngx_str_t                  props;
    unsigned                   exists:1;
    unsigned                   failed:1;       /* not read: no memory, an
                                                  error of Redis             */
} ngx_http_lunary_found_t;


/* what a parent run or a thread hands down */

typedef struct {
    ngx_http_lunary_lookup_e   state;
    ngx_str_t                  app;            /* it was asked for           */
    ngx_str_t                  user;
    ngx_str_t                  props;
    ngx_uint_t                 pending;
    unsigned                   failed:1;
} ngx_http_lunary_cascade_t;


/* the user's policy, and what was reserved of the budget */

typedef struct {
    ngx_http_lunary_lookup_e   state;          /* HIT: judged                */
    ngx_str_t                  app;            /* for whom                   */
    ngx_str_t                  user;
    ngx_str_t                  budget;         /* key; empty: no budget      */
    int64_t                    reserved;       /* tokens                     */
    time_t                     retry_after;
    unsigned                   blocked:1;
    unsigned                   spent:1;
    unsigned                   retried:1;      /* the script was sent whole  */
    unsigned                   estimated:1;    /* settled without usage      */
} ngx_http_lunary_policy_t;


/* a body is still the same one: other modules replace it, also in place */

typedef struct {
    ngx_chain_t               *bufs;
    u_char                    *first;          /* byte, where it is in memory*/
    off_t                      size;
} ngx_http_lunary_body_id_t;


typedef struct ngx_http_lunary_usage_s  ngx_http_lunary_usage_t;
typedef struct ngx_http_lunary_ctx_s  ngx_http_lunary_ctx_t;

typedef enum {
    NGX_HTTP_LUNARY_VERDICT_NONE = 0,
    NGX_HTTP_LUNARY_PASSED,
    NGX_HTTP_LUNARY_REJECTED,
    NGX_HTTP_LUNARY_REJECTED_DRY_RUN
} ngx_http_lunary_verdict_e;

/* in the order of the counters NGX_LUNARY_C_RUNS_* */

typedef enum {
    NGX_HTTP_LUNARY_OK = 0,
    NGX_HTTP_LUNARY_ERROR,
    NGX_HTTP_LUNARY_REFUSED,
    NGX_HTTP_LUNARY_ABORTED,
    NGX_HTTP_LUNARY_TRUNCATED,
    NGX_HTTP_LUNARY_TIMEOUT
} ngx_http_lunary_outcome_e;

struct ngx_http_lunary_ctx_s {
    ngx_http_request_t                *request;      /* main                 */
    lunary_mem_t                       mem;
    lunary_call_t                     *call;
    ngx_http_lunary_loc_conf_t        *conf;         /* where it began       */

    ngx_http_lunary_headers_t          headers;
    ngx_list_t                         received;     /* headers_in.headers as
                                                        it came, where it was
                                                        swapped              */
    ngx_array_t                       *changes;      /* what was done to it,
                                                        to be undone         */
    ngx_array_t                       *marks;        /* what of it is to go:
                                                        u_char *, values     */
    ngx_uint_t                         mark;         /* the next one to meet */
    ngx_chain_t                       *body;         /* as it came, where it
                                                        was spliced ...      */
    ngx_http_lunary_body_id_t          spliced;      /* ... into this        */
    ngx_http_lunary_body_id_t          scanned;      /* what was read        */
    off_t                              body_length;  /* Content-Length then  */
    ngx_str_t                          body_header;
    u_char                            *map;          /* the body's file ...  */
    size_t                             map_size;
    ngx_fd_t                           map_fd;       /* ... this one         */

    ngx_str_t                          judged_uri;
    ngx_str_t                          judged_method;

    ngx_http_lunary_lookup_state_t     lookup;
    ngx_http_lunary_cascade_t          cascade;
    ngx_http_lunary_policy_t           policy;
    ngx_http_lunary_identity_t         identity;

    ngx_http_lunary_verdict_e          verdict;
    ngx_uint_t                         refusal;      /* index, see enforce   */
    ngx_str_t                          would_reject; /* code                 */

    ngx_str_t                          method;       /* as the client sent   */
    ngx_str_t                          uri;          /* before redirects     */
    ngx_str_t                          app;
    u_char                             run_id[36];

    off_t                              request_bytes;
    off_t                              turn;         /* of them, read before
                                                        this round           */
    u_char                            *first;        /* byte that was read   */
    ngx_buf_t                         *portion;      /* nginx's, with an end
                                                        that is ours ...     */
    u_char                            *portion_end;  /* ... and its own      */
    off_t                              response_bytes;
    ngx_msec_t                         ttft;         /* where has_first      */
    ngx_msec_t                         last;         /* last response byte,
                                                        ngx_current_msec     */

    void                             (*finalize)(ngx_http_request_t *r,
                                                 ngx_int_t rc);
                                                     /* the upstream's own   */
    ngx_http_lunary_usage_t           *usage;        /* where the upstream
                                                        was asked for it     */

    ngx_http_lunary_outcome_e          ended;        /* set by finalize      */
    ngx_str_t                          outcome;      /* its name             */
    lunary_run_t                      *run;          /* in the log phase     */

    ngx_event_t                        onward;       /* the phases behind us */

    ngx_uint_t                         status;       /* when the head came:
                                                        its status, and      */
    ngx_uint_t                         states;       /* upstreams tried      */
    unsigned                           post:1;       /* by method            */
    unsigned                           body_started:1;
    unsigned                           body_ended:1; /* scanned to its end   */
    unsigned                           reading:1;
    unsigned                           read_done:1;
    unsigned                           aside:1;      /* no call: body left   */
    unsigned                           unread:1;     /* body counted only    */
    unsigned                           rewritten:1;  /* the body             */
    unsigned                           headers_rewritten:1;
    unsigned                           headers_swapped:1;
    unsigned                           answered:1;   /* response head passed */
    unsigned                           measure:1;    /* response is counted  */
    unsigned                           inspect:1;    /* response is read     */
    unsigned                           last_seen:1;
    unsigned                           silent:1;     /* the upstream timed
                                                        out behind its head  */
    unsigned                           delivered:1;  /* the answer's end left
                                                        for the client       */
    unsigned                           has_first:1;
    unsigned                           judged:1;     /* in this location     */
    unsigned                           sent_on:1;    /* `onward` was posted  */
    unsigned                           late:1;       /* only in the log      */
    unsigned                           finalized:1;
    unsigned                           logged:1;
};


/* ngx_http_lunary_ctx.c */

/* a worker's start and end: what it keeps for ids, its memory */
void ngx_http_lunary_ctx_start(void);
void ngx_http_lunary_ctx_stop(void);

/* 1 where the client sent a POST: an error_page has made it a GET, perhaps */
ngx_uint_t ngx_http_lunary_posted(ngx_http_request_t *r);

/* the main request's context, or NULL */
ngx_http_lunary_ctx_t *ngx_http_lunary_get_ctx(ngx_http_request_t *r);

/* the same, made where there is none; NULL where memory is out */
ngx_http_lunary_ctx_t *ngx_http_lunary_make_ctx(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf);

/* LUNARY_CAPTURE_*: what may be kept of a call; a variable may depend on the
 * user, and is asked for once that is known: before, all is */
unsigned ngx_http_lunary_capture(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf, ngx_uint_t known);

/* ctx->call anew, with the request's head; NGX_OK or NGX_ERROR (no memory) */
ngx_int_t ngx_http_lunary_open_call(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);

/* ms of wall clock since the request's first byte, never negative */
ngx_msec_t ngx_http_lunary_elapsed(ngx_http_request_t *r);

/* 10 random bytes for an id */
void ngx_http_lunary_random(u_char out[10]);

/* $request_id; NGX_OK or NGX_ERROR (no memory) */
ngx_int_t ngx_http_lunary_request_id(ngx_http_request_t *r, ngx_str_t *id);


#endif /* NGX_HTTP_LUNARY_CTX_H */
