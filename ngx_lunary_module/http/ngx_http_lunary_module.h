/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What the files of http/ share: the configuration, the context of a request,
 * and who does what with it.  http/ is the only room that sees nginx's HTTP.
 *
 *     ngx_http_lunary_module.c     directives, phases, process start and end
 *     ngx_http_lunary_conf.c       the directives that need parsing
 *     ngx_http_lunary_conf_verified.c  what `verified:` may not stand before
 *     ngx_http_lunary_request.c    phase handler: read, identify, judge
 *     ngx_http_lunary_headers.c    headers looked up by name
 *     ngx_http_lunary_identity.c   sources, precedence, claims
 *     ngx_http_lunary_accept.c     names that other gateways give them
 *     ngx_http_lunary_session.c    session id, look-up
 *     ngx_http_lunary_session_value.c  what a session holds
 *     ngx_http_lunary_cache.c      look-ups remembered in shared memory
 *     ngx_http_lunary_cascade.c    users inherited from a parent or thread
 *     ngx_http_lunary_policy.c     blocked users, budgets
 *     ngx_http_lunary_enforce.c    the verdict and the refusal
 *     ngx_http_lunary_answer.c     answers of our own
 *     ngx_http_lunary_rewrite.c    what the upstream gets
 *     ngx_http_lunary_inject.c     the user that the upstream is told
 *     ngx_http_lunary_filter.c     header and body filters (second module)
 *     ngx_http_lunary_usage.c      lunary_stream_usage: usage asked for, and
 *                                  left out again
 *     ngx_http_lunary_log.c        log phase: the run into the outbox
 *     ngx_http_lunary_outcome.c    how a call ended
 *     ngx_http_lunary_provider.c   whose service was called
 *     ngx_http_lunary_json.c       judging small JSON texts (yajl)
 *     ngx_http_lunary_variables.c  variables
 *     ngx_http_lunary_status.c     the status page
 *     ngx_http_lunary_ingest.c     events of Lunary's SDKs
 *
 * Invariants
 *   - one context a main request, whatever internal redirects, error pages,
 *     named locations and subrequests do: it hangs on a pool cleanup and is
 *     found there again when nginx has zeroed the module contexts;
 *   - an error of ours never fails the client's request, except where a user
 *     is required and cannot be judged;
 *   - exactly one run a context, written in the log phase.
 */

#ifndef NGX_HTTP_LUNARY_MODULE_H
#define NGX_HTTP_LUNARY_MODULE_H

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "inspect/lunary_call.h"
#include "run/lunary_run.h"
#include "client/ngx_lunary_redis.h"
#include "outbox/ngx_lunary_outbox.h"
#include "stats/ngx_lunary_stats.h"
#include "ngx_http_lunary_headers.h"


/* a directive that takes one of some words, or a variable that gives one */

typedef struct {
    ngx_uint_t                 value;
    ngx_http_complex_value_t  *cv;             /* NULL: value is it          */
} ngx_http_lunary_choice_t;


#define NGX_HTTP_LUNARY_REQUIRE_OFF       0
#define NGX_HTTP_LUNARY_REQUIRE_ON        1
#define NGX_HTTP_LUNARY_REQUIRE_VERIFIED  2

#define NGX_HTTP_LUNARY_PREACCESS         0
#define NGX_HTTP_LUNARY_PRECONTENT        1

#define NGX_HTTP_LUNARY_FORMAT_AUTO       0
#define NGX_HTTP_LUNARY_FORMAT_HASH       1
#define NGX_HTTP_LUNARY_FORMAT_JSON       2
#define NGX_HTTP_LUNARY_FORMAT_STRING     3

#define NGX_HTTP_LUNARY_ID_COOKIE         1
#define NGX_HTTP_LUNARY_ID_HEADER         2
#define NGX_HTTP_LUNARY_ID_BEARER         3


/* where a user may come from, an entry of lunary_user */

typedef enum {
    NGX_HTTP_LUNARY_SRC_SESSION = 0,
    NGX_HTTP_LUNARY_SRC_BODY,
    NGX_HTTP_LUNARY_SRC_HEADER,
    NGX_HTTP_LUNARY_SRC_PARENT,
    NGX_HTTP_LUNARY_SRC_VALUE
} ngx_http_lunary_source_e;

typedef struct {
    ngx_http_lunary_source_e   kind;
    ngx_uint_t                 verified;       /* verified:$var              */
    ngx_str_t                  name;           /* as written, without prefix */
    ngx_http_complex_value_t   value;          /* SRC_VALUE                  */
} ngx_http_lunary_source_t;


/* header names of lunary_header, by what they carry */

typedef enum {
    NGX_HTTP_LUNARY_H_USER = 0,
    NGX_HTTP_LUNARY_H_PROPS,
    NGX_HTTP_LUNARY_H_THREAD,
    NGX_HTTP_LUNARY_H_PARENT,
    NGX_HTTP_LUNARY_H_TAGS,
    NGX_HTTP_LUNARY_H_MAX
} ngx_http_lunary_header_e;


/* systems of lunary_accept */

#define NGX_HTTP_LUNARY_ACCEPT_LITELLM    0x01
#define NGX_HTTP_LUNARY_ACCEPT_HELICONE   0x02
#define NGX_HTTP_LUNARY_ACCEPT_PORTKEY    0x04


typedef struct {
    ngx_http_complex_value_t  *key;            /* NULL: no session           */
    size_t                     literal;        /* bytes of it that are text  */
    size_t                     head;           /* ... before its variables   */
    ngx_str_t                  target;         /* redis=NAME                 */
    ngx_lunary_redis_conf_t   *redis;          /* found when merging         */
    ngx_uint_t                 format;
    ngx_str_t                  user;           /* field or path, or empty    */
    ngx_str_t                  props;
} ngx_http_lunary_session_conf_t;


typedef struct {
    ngx_uint_t                 from;           /* NGX_HTTP_LUNARY_ID_*, 0 no */
    ngx_str_t                  name;           /* of the cookie or header    */
    ngx_array_t               *secrets;        /* of ngx_str_t; NULL: none   */
} ngx_http_lunary_session_id_conf_t;


typedef struct {
    ngx_shm_zone_t            *zone;           /* NULL: off                  */
    ngx_msec_t                 valid;
    ngx_msec_t                 negative;
} ngx_http_lunary_cache_conf_t;


typedef struct {
    ngx_uint_t                 members;        /* NGX_HTTP_LUNARY_INJECT_*   */
    ngx_array_t               *headers;        /* of ngx_str_t, or NULL      */
    ngx_str_t                  key;            /* of HMAC; empty: plain      */
} ngx_http_lunary_inject_conf_t;

#define NGX_HTTP_LUNARY_INJECT_USER      0x01
#define NGX_HTTP_LUNARY_INJECT_SAFETY    0x02
#define NGX_HTTP_LUNARY_INJECT_METADATA  0x04


typedef struct ngx_http_lunary_ingest_conf_s  ngx_http_lunary_ingest_conf_t;


typedef struct {
    ngx_str_t                  method;         /* empty: any                 */
    ngx_str_t                  path;
    ngx_uint_t                 prefix;         /* it ended in `*`            */
} ngx_http_lunary_public_t;


typedef struct {
    ngx_array_t                redis;          /* ngx_lunary_redis_conf_t *  */
    ngx_lunary_outbox_conf_t   outbox;
    ngx_flag_t                 stream_set;
    ngx_flag_t                 spool_set;
    ngx_flag_t                 used;           /* some location has lunary   */
    ngx_flag_t                 status;         /* some has lunary_status     */
    ngx_flag_t                 notice;         /* capture notice was given   */
    ngx_int_t                  request_id;     /* index of $request_id       */
    ngx_int_t                  proxy_host;     /* index of $proxy_host, or
                                                  NGX_ERROR: no proxy module */
    ngx_flag_t                 cascade;        /* some lunary_user lists
                                                  parent                     */
    ngx_array_t                lookups;        /* targets of sessions,
                                                  ngx_lunary_redis_conf_t *  */
} ngx_http_lunary_main_conf_t;


typedef struct {
    ngx_http_lunary_choice_t            enable;
    ngx_flag_t                          blanket;   /* ... set at http level  */
    ngx_http_complex_value_t           *app;
    ngx_array_t                        *sources;   /* ..._source_t           */
    ngx_array_t                        *headers[NGX_HTTP_LUNARY_H_MAX];
    ngx_uint_t                          accept;    /* ..._ACCEPT_*           */
    ngx_array_t                        *names[NGX_HTTP_LUNARY_H_MAX];
                                                   /* headers and accept     */
    ngx_uint_t                          own_names; /* users' before accept's */
    ngx_http_lunary_names_t            *identity;  /* names, as a set        */
    ngx_http_lunary_names_t            *changed;   /* headers that may go,
                                                      or change              */
    ngx_array_t                        *trusted;   /* ngx_cidr_t             */
    ngx_flag_t                          trusted_unix;
    ngx_http_lunary_session_conf_t      session;
    ngx_flag_t                          session_set;
    ngx_http_lunary_session_id_conf_t   session_id;
    ngx_flag_t                          session_id_set;
    ngx_http_lunary_cache_conf_t        cache;
    ngx_flag_t                          cache_set;
    ngx_flag_t                          policy;
    ngx_http_lunary_inject_conf_t       inject;
    ngx_flag_t                          inject_set;
    ngx_http_lunary_choice_t            require;
    ngx_array_t                        *public;    /* ..._public_t           */
    ngx_flag_t                          dry_run;
    ngx_uint_t                          conflict;  /* 1: reject              */
    ngx_flag_t                          strip;
    ngx_flag_t                          stream_usage;
    ngx_http_lunary_choice_t            capture;
    size_t                              capture_max;
    ngx_array_t                        *props;     /* names; NULL: all       */
    ngx_flag_t                          props_set;
    const lunary_dialect_t             *api;       /* NULL: auto             */
    ngx_flag_t                          api_set;
    ngx_http_complex_value_t           *provider;
    ngx_flag_t                          run_header;
    ngx_uint_t                          phase;
    ngx_uint_t                          status;    /* of lunary_status       */
    ngx_http_lunary_ingest_conf_t      *ingest;    /* of lunary_ingest       */
} ngx_http_lunary_loc_conf_t;


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
    ngx_chain_t                       *body;         /* as it came, where it
                                                        was spliced ...      */
    ngx_chain_t                       *spliced;      /* ... into this        */
    off_t                              body_length;  /* Content-Length then  */
    ngx_str_t                          body_header;

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

    ngx_uint_t                         status;       /* when the head came:
                                                        its status, and      */
    ngx_uint_t                         states;       /* upstreams tried      */
    unsigned                           post:1;       /* by method            */
    unsigned                           body_started:1;
    unsigned                           body_ended:1; /* scanned to its end   */
    unsigned                           reading:1;
    unsigned                           read_done:1;
    unsigned                           aside:1;      /* no call: body left   */
    unsigned                           rewritten:1;
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
    unsigned                           finalized:1;
    unsigned                           logged:1;
};


/* ngx_http_lunary_module.c */

extern ngx_module_t  ngx_http_lunary_module;
extern ngx_module_t  ngx_http_lunary_filter_module;

/* 1 where lunary is on for the request in this location */
ngx_uint_t ngx_http_lunary_enabled(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf);

/* the word a choice stands for; `bad` where a variable gives no known one */
ngx_uint_t ngx_http_lunary_choice(ngx_http_request_t *r,
    ngx_http_lunary_choice_t *choice, ngx_conf_enum_t *words, ngx_uint_t bad);

extern ngx_conf_enum_t  ngx_http_lunary_enable_words[];
extern ngx_conf_enum_t  ngx_http_lunary_require_words[];
extern ngx_conf_enum_t  ngx_http_lunary_capture_words[];

/* 1 where the client sent a POST: an error_page has made it a GET, perhaps */
ngx_uint_t ngx_http_lunary_posted(ngx_http_request_t *r);

/* the main request's context, or NULL */
ngx_http_lunary_ctx_t *ngx_http_lunary_get_ctx(ngx_http_request_t *r);

/* the same, made where there is none; NULL where memory is out */
ngx_http_lunary_ctx_t *ngx_http_lunary_make_ctx(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf);

/*
 * The prefix of the keys: the stream's name up to its last colon, "" where it
 * has none
 */
ngx_str_t ngx_http_lunary_prefix(ngx_http_request_t *r);

/* ctx->call anew, with the request's head; NGX_OK or NGX_ERROR (no memory) */
ngx_int_t ngx_http_lunary_open_call(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);

/* 1 from init_process to exit_process, in processes that serve requests */
extern ngx_uint_t  ngx_http_lunary_serving;

/* ms of wall clock since the request's first byte, never negative */
ngx_msec_t ngx_http_lunary_elapsed(ngx_http_request_t *r);

/* the worker's connection for look-ups on a target; NULL: none */
ngx_lunary_redis_t *ngx_http_lunary_lookup_redis(
    ngx_lunary_redis_conf_t *conf);

/* 10 random bytes for an id */
void ngx_http_lunary_random(u_char out[10]);

/* 1 once a second: what may repeat for every request is said no more often;
 * *said is the place's own */
ngx_uint_t ngx_http_lunary_seldom(time_t *said);

/* "Redis refused WHAT: ..." of an error reply, as often as that */
void ngx_http_lunary_redis_refused(ngx_log_t *log, time_t *said,
    redisReply *reply, const char *what);

/* $request_id; NGX_OK or NGX_ERROR (no memory) */
ngx_int_t ngx_http_lunary_request_id(ngx_http_request_t *r, ngx_str_t *id);


/* ngx_http_lunary_conf.c: directive handlers; cmd->post may be set */

char *ngx_http_lunary_conf_redis(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_stream(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_spool(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_choice(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_user(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_header(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_trusted(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_session(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_session_id(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_public(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_props(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_api(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* ngx_http_lunary_conf_verified.c */

/* NGX_CONF_ERROR, logged, where VALUE of verified:VALUE is client text */
char *ngx_http_lunary_conf_verified(ngx_conf_t *cf, ngx_str_t *value);


/* checks of a merged location: NGX_CONF_OK or NGX_CONF_ERROR, logged */
char *ngx_http_lunary_conf_check(ngx_conf_t *cf,
    ngx_http_lunary_main_conf_t *mcf, ngx_http_lunary_loc_conf_t *lcf);

/* the target of that name ("" the unnamed one), or NULL */
ngx_lunary_redis_conf_t *ngx_http_lunary_conf_target(
    ngx_http_lunary_main_conf_t *mcf, ngx_str_t *name);


/* ngx_http_lunary_request.c */

/* the request waits for something else than its connection: NGX_AGAIN */
ngx_int_t ngx_http_lunary_suspend(ngx_http_request_t *r);

/* it is there: the phases go on, the handler is called again; r may be gone
 * when this returns */
void ngx_http_lunary_resume(ngx_http_request_t *r);

ngx_int_t ngx_http_lunary_preaccess_handler(ngx_http_request_t *r);
ngx_int_t ngx_http_lunary_precontent_handler(ngx_http_request_t *r);

/* request body filter: scans what passes */
ngx_int_t ngx_http_lunary_request_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in);
extern ngx_http_request_body_filter_pt  ngx_http_lunary_next_request_body;


/* ngx_http_lunary_identity.c */

/* reads the identity headers, once */
void ngx_http_lunary_read_headers(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);

/* app, thread, parent run and tags of the call, which need no Redis */
ngx_int_t ngx_http_lunary_call_names(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);

/* settles ctx->identity from all sources; NGX_OK or NGX_ERROR (no memory) */
ngx_int_t ngx_http_lunary_identify(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);

/* 1 where the name is one of the identity headers of lcf ('_' is '-') */
ngx_uint_t ngx_http_lunary_identity_header(ngx_http_lunary_loc_conf_t *lcf,
    ngx_str_t *name);

/* 1 where lunary_user lists the kind */
ngx_uint_t ngx_http_lunary_has_source(ngx_http_lunary_loc_conf_t *lcf,
    ngx_http_lunary_source_e kind);


/* ngx_http_lunary_session.c */

/* the session id that lunary_session_id reads; empty: none */
ngx_int_t ngx_http_lunary_session_id(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf, ngx_str_t *id);

/*
 * The next cookie of a header's value, which is moved behind it: between
 * semicolons and nowhere else, blanks around name and value taken off.
 * whole: all of it as it was written.  0 where there is none.
 */
ngx_uint_t ngx_http_lunary_next_cookie(ngx_str_t *rest, ngx_str_t *whole,
    ngx_str_t *name, ngx_str_t *value);

/*
 * Starts the look-up: NGX_OK: there is nothing to wait for (see the state),
 * NGX_AGAIN: the phases go on when the answer is there.
 */
ngx_int_t ngx_http_lunary_session_lookup(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);

/* a file's lines that are not empty, at least one, as ngx_str_t; NULL after
 * logging; what: the parameter that names the file */
ngx_array_t *ngx_http_lunary_read_lines(ngx_conf_t *cf, ngx_str_t *file,
    const char *what);


/* ngx_http_lunary_session_value.c */

/* reads one reply of a look-up (GET or HGETALL) into *found */
void ngx_http_lunary_session_value(ngx_http_lunary_found_t *found,
    redisReply *reply);


/* ngx_http_lunary_accept.c */

char *ngx_http_lunary_conf_accept(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* fills lcf->names from lcf->headers and lcf->accept, when merging */
ngx_int_t ngx_http_lunary_accept_names(ngx_conf_t *cf,
    ngx_http_lunary_loc_conf_t *lcf);

/* 1 where the name is a header that holds a JSON object of identity */
ngx_uint_t ngx_http_lunary_accept_header(ngx_http_lunary_loc_conf_t *lcf,
    ngx_str_t *name);

/* reads it into ctx->headers; NGX_DECLINED: it names no user */
ngx_int_t ngx_http_lunary_accept_metadata(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_str_t *text);

/* the user that a body names as such a system does, or empty */
ngx_int_t ngx_http_lunary_accept_body(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf,
    ngx_str_t *user);


/* ngx_http_lunary_cache.c */

#define NGX_HTTP_LUNARY_DIGEST  32

char *ngx_http_lunary_conf_cache(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* a key of the cache: SHA-256 over all parts, each with its length */
ngx_int_t ngx_http_lunary_cache_digest(ngx_str_t **parts, ngx_uint_t n,
    u_char digest[NGX_HTTP_LUNARY_DIGEST]);

/*
 * NGX_OK: found, both values copied to the pool; NGX_DONE: found, as absent;
 * NGX_DECLINED: not known; NGX_ERROR: no memory
 */
ngx_int_t ngx_http_lunary_cache_get(ngx_http_lunary_cache_conf_t *cache,
    u_char *digest, ngx_pool_t *pool, ngx_str_t *user, ngx_str_t *props);

/* keeps both values for ms, or absence where user is empty; what is too
 * large for the zone is not kept */
void ngx_http_lunary_cache_put(ngx_http_lunary_cache_conf_t *cache,
    u_char *digest, ngx_str_t *user, ngx_str_t *props, ngx_msec_t ms);


/* ngx_http_lunary_cascade.c */

/* asks for parent run and thread: NGX_OK: nothing to wait for, NGX_AGAIN */
ngx_int_t ngx_http_lunary_cascade_lookup(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);

/* makes the run and the thread of this request known as its user's */
void ngx_http_lunary_cascade_save(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);

/* the same for an SDK event: ids and props may be empty.  Nothing happens
 * where no lunary_user lists `parent`. */
void ngx_http_lunary_cascade_known(ngx_http_request_t *r, ngx_str_t *app,
    ngx_str_t *user, ngx_str_t *props, ngx_str_t *run, ngx_str_t *thread);


/* ngx_http_lunary_policy.c */

/* asks for the user's policy, reserves: NGX_OK (see state) or NGX_AGAIN */
ngx_int_t ngx_http_lunary_policy_lookup(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);

/* in the log phase: what was reserved becomes what was used */
void ngx_http_lunary_policy_settle(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);
void ngx_http_lunary_policy_exit(void);


/* ngx_http_lunary_inject.c */

char *ngx_http_lunary_conf_inject(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* the members (of NGX_HTTP_LUNARY_INJECT_*) that go into this body */
ngx_uint_t ngx_http_lunary_inject_members(ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf);

/* what the upstream is told: the id or its HMAC; empty where nobody is known */
ngx_int_t ngx_http_lunary_inject_value(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf,
    ngx_str_t *value);

/*
 * Takes out what the client sent, beside the members of `strip`, and puts the
 * value in.  edits has room for max; the number of edits, or NGX_ERROR
 */
ngx_int_t ngx_http_lunary_inject_edits(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf,
    uint32_t strip, lunary_edit_t *edits, size_t max);

/* 1 where the body may name another user there, and cannot be rewritten */
ngx_uint_t ngx_http_lunary_inject_refused(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);

/* 1 where the name is a header of lunary_inject_user ('_' is '-') */
ngx_uint_t ngx_http_lunary_inject_header(ngx_http_lunary_loc_conf_t *lcf,
    ngx_str_t *name);


/* ngx_http_lunary_enforce.c */

/*
 * The verdict on the main request in this location.  NGX_DECLINED: go on;
 * anything else: the phase handler's result, a refusal was sent.
 */
ngx_int_t ngx_http_lunary_enforce(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);

/* 1 where the verdict needs a user, and by identity alone it would pass */
ngx_uint_t ngx_http_lunary_would_pass(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);

/* the same for a subrequest, by the main request's verdict */
ngx_int_t ngx_http_lunary_enforce_subrequest(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf);

/* code, message and type of what was refused, for the run's error */
ngx_int_t ngx_http_lunary_refusal_error(ngx_http_lunary_ctx_t *ctx,
    ngx_pool_t *pool, ngx_str_t *json);


/* ngx_http_lunary_answer.c */

extern ngx_str_t  ngx_http_lunary_json_type;

/* an answer of one buf; NULL: there was no memory for it */
ngx_int_t ngx_http_lunary_send(ngx_http_request_t *r, ngx_uint_t status,
    ngx_str_t *type, ngx_buf_t *b);

/* adds a header to it, before that; NULL: no memory */
ngx_table_elt_t *ngx_http_lunary_add_header(ngx_http_request_t *r,
    const char *name, ngx_str_t *value);


/* ngx_http_lunary_rewrite.c */

/* lcf->identity and lcf->changed, when all else of lcf is merged */
ngx_int_t ngx_http_lunary_rewrite_names(ngx_conf_t *cf,
    ngx_http_lunary_loc_conf_t *lcf);

/* the request as it came, for a location that judges and rewrites it anew */
void ngx_http_lunary_rewrite_undo(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);

/* what the upstream gets: NGX_OK or NGX_ERROR (no memory) */
ngx_int_t ngx_http_lunary_rewrite(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);


/* ngx_http_lunary_usage.c */

/*
 * Adds the edit that asks for usage, where that helps, to n sorted ones (room
 * for one more is there); their number then, or NGX_ERROR (no memory)
 */
ngx_int_t ngx_http_lunary_usage_ask(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, lunary_edit_t *edits, ngx_int_t n);

/* header filter: is this a stream to be changed?  ctx->usage tells then */
void ngx_http_lunary_usage_header(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);

/* body filter in place of next() */
ngx_int_t ngx_http_lunary_usage_body(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_chain_t *in,
    ngx_http_output_body_filter_pt next);


/* ngx_http_lunary_log.c */

ngx_int_t ngx_http_lunary_log_handler(ngx_http_request_t *r);

/* settles outcome and tokens; idempotent; in the log phase only */
void ngx_http_lunary_finalize(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);


/* ngx_http_lunary_outcome.c: in the log phase only */

extern ngx_str_t  ngx_http_lunary_outcomes[];

/* how the call ended; ctx->run is filled from the bodies by then */
ngx_http_lunary_outcome_e ngx_http_lunary_outcome(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);

/* the status as $status has it; 0: none */
ngx_uint_t ngx_http_lunary_status_code(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);

/* the last upstream that was tried, or NULL; their number, unless NULL */
ngx_http_upstream_state_t *ngx_http_lunary_last_state(
    ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx, ngx_uint_t *attempts);

/* ms from the request's first byte to its end */
ngx_msec_t ngx_http_lunary_duration(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);


/* ngx_http_lunary_ingest.c */

char *ngx_http_lunary_conf_ingest(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


/* ngx_http_lunary_provider.c */

/* at the end of configuration: NGX_OK or NGX_ERROR */
ngx_int_t ngx_http_lunary_provider_init(ngx_conf_t *cf);

/* NGX_OK, *provider may be empty; NGX_ERROR: no memory */
ngx_int_t ngx_http_lunary_provider(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_str_t *provider);


/* ngx_http_lunary_variables.c, ngx_http_lunary_status.c */

ngx_int_t ngx_http_lunary_add_variables(ngx_conf_t *cf);
char *ngx_http_lunary_conf_status(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


static ngx_inline ngx_str_t
ngx_http_lunary_str(lunary_str_t s)
{
    ngx_str_t  str;

    str.len = s.len;
    str.data = (u_char *) s.data;

    return str;
}


static ngx_inline lunary_str_t
lunary_ngx_str(ngx_str_t s)
{
    return lunary_str(s.data, s.len);
}


#endif /* NGX_HTTP_LUNARY_MODULE_H */
