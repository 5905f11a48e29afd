/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What the files of http/ share: the configuration, the context of a request,
 * and who does what with it.  http/ is the only room that sees nginx's HTTP.
 *
 *     ngx_http_lunary_module.c     directives, phases, process start and end
 *     ngx_http_lunary_conf.h       the configuration, and its files
 *     ngx_http_lunary_ctx.c        the context, its call, ids and clock
 *     ngx_http_lunary_request.c    phase handlers: read, identify, judge
 *     ngx_http_lunary_request_body.c  reads and scans the body
 *     ngx_http_lunary_headers.c    headers looked up by name
 *     ngx_http_lunary_identity.c   sources, precedence, claims
 *     ngx_http_lunary_identity_headers.c  what headers say
 *     ngx_http_lunary_props.c      props merged and filtered
 *     ngx_http_lunary_accept.c     names that other gateways give them
 *     ngx_http_lunary_session_id.c session id
 *     ngx_http_lunary_session.c    look-up
 *     ngx_http_lunary_session_value.c  what a session holds
 *     ngx_http_lunary_cache.c      look-ups remembered in shared memory
 *     ngx_http_lunary_cascade.c    users inherited from a parent or thread
 *     ngx_http_lunary_policy.c     blocked users, budgets
 *     ngx_http_lunary_policy_number.c  what a call may take
 *     ngx_http_lunary_settle.c     ... and what it took
 *     ngx_http_lunary_enforce.c    the verdict
 *     ngx_http_lunary_refusal.c    the refusal
 *     ngx_http_lunary_answer.c     answers of our own
 *     ngx_http_lunary_rewrite.c    what the upstream gets
 *     ngx_http_lunary_rewrite_headers.c  ... of its headers
 *     ngx_http_lunary_rewrite_values.c  ... of a header's value
 *     ngx_http_lunary_header_vars.c  what $http_NAME says of these
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

#include "ngx_http_lunary_conf.h"
#include "ngx_http_lunary_ctx.h"


/* ngx_http_lunary_module.c */

extern ngx_module_t  ngx_http_lunary_module;
extern ngx_module_t  ngx_http_lunary_filter_module;

/* 1 where lunary is on for the request in this location */
ngx_uint_t ngx_http_lunary_enabled(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf);

/*
 * What a choice stands for.  `strict` where its variable gives none of the
 * words, also where it is empty: a map without a default opens nothing.  That
 * is said in the log, once a second and worker at most
 */
ngx_uint_t ngx_http_lunary_choice(ngx_http_request_t *r,
    ngx_http_lunary_choice_t *choice, ngx_conf_enum_t *words,
    ngx_uint_t strict);

extern ngx_conf_enum_t  ngx_http_lunary_enable_words[];
extern ngx_conf_enum_t  ngx_http_lunary_require_words[];
extern ngx_conf_enum_t  ngx_http_lunary_capture_words[];

/*
 * The prefix of the keys: the stream's name up to its last colon, "" where it
 * has none
 */
ngx_str_t ngx_http_lunary_prefix(ngx_http_request_t *r);

/* 1 from init_process to exit_process, in processes that serve requests */
extern ngx_uint_t  ngx_http_lunary_serving;

/* the worker's connection for look-ups on a target; NULL: none */
ngx_lunary_redis_t *ngx_http_lunary_lookup_redis(
    ngx_lunary_redis_conf_t *conf);

/* 1 once a second: what may repeat for every request is said no more often;
 * *said is the place's own */
ngx_uint_t ngx_http_lunary_seldom(time_t *said);

/* "Redis refused WHAT: ..." of an error reply, as often as that */
void ngx_http_lunary_redis_refused(ngx_log_t *log, time_t *said,
    redisReply *reply, const char *what);


/* ngx_http_lunary_request.c */

/* the request waits for something else than its connection: NGX_AGAIN */
ngx_int_t ngx_http_lunary_suspend(ngx_http_request_t *r);

/* it is there: the phases go on, the handler is called again; r may be gone
 * when this returns */
void ngx_http_lunary_resume(ngx_http_request_t *r);

ngx_int_t ngx_http_lunary_preaccess_handler(ngx_http_request_t *r);
ngx_int_t ngx_http_lunary_precontent_handler(ngx_http_request_t *r);


/* ngx_http_lunary_request_body.c */

/*
 * NGX_OK: the body is here and scanned, or is not to be read (ctx->unread);
 * NGX_DONE: it will be, the phases go on by themselves; otherwise a status to
 * finalize the request with.
 */
ngx_int_t ngx_http_lunary_read_body(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);

/* a body that was not read in the location before (ctx->unread): NGX_OK or a
 * status; ctx->conf is the new location's */
ngx_int_t ngx_http_lunary_body_again(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);

/* the body that is there, unless it is what was scanned: NGX_OK or a status */
ngx_int_t ngx_http_lunary_scan_body(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);

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

/*
 * The same for a call that ended before it was judged: what the client said,
 * and nothing that an access phase would have proven
 */
void ngx_http_lunary_identify_late(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);

/* a claim that was not enough: it is kept as one, the run is nobody's */
void ngx_http_lunary_disown(ngx_http_lunary_identity_t *id);

/* 1 where the name is one of the identity headers of lcf ('_' is '-') */
ngx_uint_t ngx_http_lunary_identity_header(ngx_http_lunary_loc_conf_t *lcf,
    ngx_str_t *name);

/* 1 where lunary_user lists the kind */
ngx_uint_t ngx_http_lunary_has_source(ngx_http_lunary_loc_conf_t *lcf,
    ngx_http_lunary_source_e kind);


/* ngx_http_lunary_session_id.c */

/* the key of the look-up, see session_id(); empty: no look-up */
ngx_int_t ngx_http_lunary_session_key(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf, ngx_str_t *key);

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


/* ngx_http_lunary_session_value.c */

/* reads one reply of a look-up (GET or HGETALL) into *found */
void ngx_http_lunary_session_value(ngx_http_lunary_found_t *found,
    redisReply *reply);


/* ngx_http_lunary_props.c: NGX_OK or NGX_ERROR (no memory) */

/* *props becomes the members of both objects; those of *props win */
ngx_int_t ngx_http_lunary_merge_props(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_str_t *props, ngx_str_t *lower);

/* keeps the members of these names; empty where there are none */
ngx_int_t ngx_http_lunary_filter_props(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_array_t *names, ngx_str_t *props);

ngx_int_t ngx_http_lunary_pool_copy(ngx_pool_t *pool, lunary_str_t from,
    ngx_str_t *to);


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

/* ms that a reservation lives without being settled */
#define NGX_HTTP_LUNARY_HELD_MS  900000

/* what a call may take at most, in tokens, by its body */
int64_t ngx_http_lunary_policy_want(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);

/* hands back a reservation, or a part of it: `used` tokens are spent */
void ngx_http_lunary_settle(ngx_http_lunary_policy_t *policy, u_char *run_id,
    int64_t used, ngx_lunary_redis_t *redis);

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

/* its headers: NGX_OK or NGX_ERROR (no memory) */
ngx_int_t ngx_http_lunary_rewrite_headers(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf,
    ngx_uint_t what);

#define NGX_HTTP_LUNARY_PUT_IN    1   /* lunary_inject_user's                 */
#define NGX_HTTP_LUNARY_TAKE_OUT  2   /* claims, the session's, encodings     */

/* those of a subrequest, as the main request's will be in lcf; ctx: NULL where
 * nobody has been judged.  NGX_OK or NGX_ERROR (no memory) */
ngx_int_t ngx_http_lunary_rewrite_subrequest(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);

/* the list as it was, but for what others have changed in it since */
void ngx_http_lunary_restore_headers(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx);

/* of the body as it is now, and whether two are of the same one */
void ngx_http_lunary_body_id(ngx_http_request_t *r,
    ngx_http_lunary_body_id_t *id);
ngx_uint_t ngx_http_lunary_same_body(ngx_http_lunary_body_id_t *a,
    ngx_http_lunary_body_id_t *b);

/* the body that the upstream gets: NGX_OK or NGX_ERROR (no memory) */
ngx_int_t ngx_http_lunary_rewrite_body(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);

/* notes which headers will be taken out: NGX_OK or NGX_ERROR (no memory) */
ngx_int_t ngx_http_lunary_rewrite_mark(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);


/* ngx_http_lunary_rewrite_values.c */

/* *value, of a Cookie header, without that cookie.  NGX_DECLINED: it is not
 * there; NGX_OK: nothing else is; NGX_DONE: *value is changed; NGX_ERROR: no
 * memory */
ngx_int_t ngx_http_lunary_without_cookie(ngx_http_request_t *r,
    ngx_str_t *name, ngx_str_t *value);

/* *value, of Accept-Encoding, with the codings that can be read.  NGX_DECLINED:
 * all can; NGX_DONE: *value has only those, "identity" where there were none;
 * NGX_ERROR: no memory */
ngx_int_t ngx_http_lunary_readable_codings(ngx_http_request_t *r,
    ngx_str_t *value);


/* ngx_http_lunary_header_vars.c */

/* when all of the configuration is read: NGX_OK or NGX_ERROR (no memory) */
ngx_int_t ngx_http_lunary_header_vars(ngx_conf_t *cf,
    ngx_http_lunary_main_conf_t *mcf);

/* of a header by any case, before it is taken out: $http_NAME keeps it */
void ngx_http_lunary_header_var_keep(ngx_http_request_t *r,
    ngx_str_t *header);

/* when it changes: $http_NAME is to be asked for again */
void ngx_http_lunary_header_var_drop(ngx_http_request_t *r,
    ngx_str_t *header);


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

/*
 * In the log phase: the call's context, made where no phase was reached, with
 * what is known of the caller.  NGX_DECLINED: lunary is off, ctx is NULL;
 * NGX_ERROR: no memory
 */
ngx_int_t ngx_http_lunary_log_ctx(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t **ctx);

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
