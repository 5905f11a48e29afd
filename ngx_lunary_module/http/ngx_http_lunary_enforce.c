/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The verdict: may this request go on, and if not, what is the caller told.
 * Refusals have the shape of the API that was called, so that official SDKs
 * raise their own typed error, and are sent by us: an error_page cannot turn
 * them into something that looks like an answer.
 *
 * Invariants
 *   - a verdict is either reached or the request is refused: what cannot be
 *     judged never passes where a user is required;
 *   - no text that a client sent is in a refusal.
 */

#include "ngx_http_lunary_module.h"


typedef enum {
    NGX_HTTP_LUNARY_R_NONE = 0,
    NGX_HTTP_LUNARY_R_USER,
    NGX_HTTP_LUNARY_R_VERIFIED,
    NGX_HTTP_LUNARY_R_MISMATCH,
    NGX_HTTP_LUNARY_R_BLOCKED,
    NGX_HTTP_LUNARY_R_BUDGET,
    NGX_HTTP_LUNARY_R_DUPLICATE,
    NGX_HTTP_LUNARY_R_JSON,
    NGX_HTTP_LUNARY_R_ENCODING,
    NGX_HTTP_LUNARY_R_UNAVAILABLE
} ngx_http_lunary_refusal_e;


typedef struct {
    ngx_str_t              code;
    ngx_uint_t             status;
    ngx_lunary_counter_e   counter;
    ngx_str_t              param;          /* JSON                           */
    ngx_str_t              retry_after;    /* empty: none                    */
    ngx_str_t              message;
} ngx_http_lunary_refusal_t;


/* how each API names an error of that status */

typedef struct {
    ngx_uint_t             status;
    ngx_str_t              openai;
    ngx_str_t              anthropic;
    ngx_str_t              gemini;
    ngx_str_t              bedrock;
} ngx_http_lunary_status_names_t;


static ngx_uint_t ngx_http_lunary_exempt(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf, ngx_uint_t mode);
static ngx_uint_t ngx_http_lunary_plain(ngx_http_request_t *r,
    ngx_uint_t *origin, ngx_uint_t *preflight);
static ngx_uint_t ngx_http_lunary_is_public(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf);
static ngx_uint_t ngx_http_lunary_straight(ngx_http_request_t *r);
static ngx_uint_t ngx_http_lunary_straight_path(u_char *p, u_char *last,
    ngx_uint_t raw);
static ngx_uint_t ngx_http_lunary_needs_user(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf, ngx_uint_t *mode);
static ngx_http_lunary_refusal_e ngx_http_lunary_judge(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf);
static ngx_http_lunary_refusal_e ngx_http_lunary_judge_identity(
    ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf);
static ngx_http_lunary_refusal_e ngx_http_lunary_judge_policy(
    ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx, ngx_uint_t mode);
static ngx_int_t ngx_http_lunary_refuse(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_refusal_t *ref);
static ngx_buf_t *ngx_http_lunary_refusal_body(ngx_http_request_t *r,
    lunary_style_e style, ngx_http_lunary_refusal_t *ref);
static ngx_http_lunary_status_names_t *ngx_http_lunary_status_names(
    ngx_uint_t status);


static ngx_http_lunary_refusal_t  ngx_http_lunary_refusals[] = {

    { ngx_null_string, 0, 0, ngx_null_string, ngx_null_string,
      ngx_null_string },

    { ngx_string("user_required"), 400, NGX_LUNARY_C_REJECTED_REQUIRED,
      ngx_string("\"user\""), ngx_null_string,
      ngx_string("This API needs to know its user: set 'user' in the request "
                 "body or the X-Lunary-User-Id header to a non-empty id.") },

    { ngx_string("user_required"), 401, NGX_LUNARY_C_REJECTED_REQUIRED,
      ngx_string("\"user\""), ngx_null_string,
      ngx_string("This API needs a verified user: sign in, and send your "
                 "session or token with the call.") },

    { ngx_string("user_mismatch"), 403, NGX_LUNARY_C_REJECTED_MISMATCH,
      ngx_string("\"user\""), ngx_null_string,
      ngx_string("The user named in the call is not the user who is signed "
                 "in.") },

    { ngx_string("user_blocked"), 403, NGX_LUNARY_C_REJECTED_BLOCKED,
      ngx_string("\"user\""), ngx_null_string,
      ngx_string("This user is blocked.") },

    { ngx_string("budget_exceeded"), 429, NGX_LUNARY_C_REJECTED_BUDGET,
      ngx_string("null"), ngx_null_string,
      ngx_string("This user's budget is spent.") },

    { ngx_string("duplicate_identity"), 400, NGX_LUNARY_C_REJECTED_DUPLICATE,
      ngx_string("\"user\""), ngx_null_string,
      ngx_string("The call names its user twice: send each identity member "
                 "and header once.") },

    { ngx_string("invalid_json"), 400, NGX_LUNARY_C_REJECTED_JSON,
      ngx_string("null"), ngx_null_string,
      ngx_string("The request body is not valid JSON, so its user could not "
                 "be read.") },

    { ngx_string("unsupported_encoding"), 415, NGX_LUNARY_C_REJECTED_ENCODING,
      ngx_string("null"), ngx_null_string,
      ngx_string("The request body's Content-Encoding could not be read, so "
                 "its user is not known: send it uncompressed or as gzip.") },

    { ngx_string("identity_unavailable"), 503,
      NGX_LUNARY_C_REJECTED_UNAVAILABLE,
      ngx_string("null"), ngx_string("1"),
      ngx_string("The session store cannot be asked at the moment, so the "
                 "user could not be verified.") }
};


static ngx_http_lunary_status_names_t  ngx_http_lunary_names[] = {

    { 400, ngx_string("invalid_request_error"),
      ngx_string("invalid_request_error"), ngx_string("INVALID_ARGUMENT"),
      ngx_string("ValidationException") },

    { 401, ngx_string("authentication_error"),
      ngx_string("authentication_error"), ngx_string("UNAUTHENTICATED"),
      ngx_string("UnrecognizedClientException") },

    { 403, ngx_string("permission_error"),
      ngx_string("permission_error"), ngx_string("PERMISSION_DENIED"),
      ngx_string("AccessDeniedException") },

    { 415, ngx_string("invalid_request_error"),
      ngx_string("invalid_request_error"), ngx_string("INVALID_ARGUMENT"),
      ngx_string("ValidationException") },

    { 429, ngx_string("insufficient_quota"),
      ngx_string("rate_limit_error"), ngx_string("RESOURCE_EXHAUSTED"),
      ngx_string("ThrottlingException") },

    { 503, ngx_string("server_error"),
      ngx_string("api_error"), ngx_string("UNAVAILABLE"),
      ngx_string("ServiceUnavailableException") }
};


/* when a line that may repeat was last written */

static time_t  ngx_http_lunary_enforce_said;


ngx_int_t
ngx_http_lunary_enforce(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_http_lunary_refusal_e   code;
    ngx_http_lunary_refusal_t  *ref;

    code = ngx_http_lunary_judge(r, ctx, lcf);

    if (code == NGX_HTTP_LUNARY_R_NONE) {
        ctx->verdict = NGX_HTTP_LUNARY_PASSED;
        return NGX_DECLINED;
    }

    ref = &ngx_http_lunary_refusals[code];

    ngx_lunary_stats_inc(ref->counter);

    ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                  "lunary: %s: %V",
                  lcf->dry_run ? "would refuse, dry run" : "refused",
                  &ref->code);

    if (lcf->dry_run) {
        ctx->verdict = NGX_HTTP_LUNARY_REJECTED_DRY_RUN;
        ctx->would_reject = ref->code;

        return NGX_DECLINED;
    }

    ctx->verdict = NGX_HTTP_LUNARY_REJECTED;
    ctx->refusal = code;

    if (!ctx->identity.verified && ctx->identity.user.len
        && (code == NGX_HTTP_LUNARY_R_VERIFIED
            || code == NGX_HTTP_LUNARY_R_UNAVAILABLE))
    {
        /* the claim was not enough: nobody's run */

        ctx->identity.claimed = ctx->identity.user;
        ngx_str_null(&ctx->identity.user);
        ngx_str_null(&ctx->identity.source);
        ngx_str_null(&ctx->identity.props);
        ctx->identity.counter = NGX_LUNARY_C_IDENTITY_NONE;
    }

    return ngx_http_lunary_refuse(r, ctx, ref);
}


ngx_int_t
ngx_http_lunary_enforce_subrequest(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_uint_t                   mode, main;
    ngx_http_lunary_ctx_t       *ctx;
    ngx_http_lunary_loc_conf_t  *mlcf;

    mode = ngx_http_lunary_choice(r, &lcf->require,
                                  ngx_http_lunary_require_words,
                                  NGX_HTTP_LUNARY_REQUIRE_VERIFIED);

    if (mode == NGX_HTTP_LUNARY_REQUIRE_OFF || lcf->dry_run
        || ngx_http_lunary_is_public(r, lcf)
        || ngx_http_lunary_exempt(r, lcf, mode))
    {
        return NGX_DECLINED;
    }

    ctx = ngx_http_lunary_get_ctx(r);

    if (ctx && ctx->judged) {

        /* a dry run let the main request pass, not what it leads to */

        if (ctx->verdict != NGX_HTTP_LUNARY_PASSED
            || (lcf->conflict && ctx->identity.verified
                && ctx->identity.conflict)
            || (lcf->policy && (ctx->policy.blocked || ctx->policy.spent)))
        {
            return NGX_HTTP_FORBIDDEN;
        }

        if (ctx->identity.user.len
            && (mode == NGX_HTTP_LUNARY_REQUIRE_ON || ctx->identity.verified))
        {
            return NGX_DECLINED;
        }

        return NGX_HTTP_FORBIDDEN;
    }

    /*
     * auth_request asks before the main request is judged in precontent: it
     * will be, and this answer alone lets nobody in
     */

    mlcf = ngx_http_get_module_loc_conf(r->main, ngx_http_lunary_module);

    if (mlcf->phase == NGX_HTTP_LUNARY_PRECONTENT
        && !mlcf->dry_run
        && ngx_http_lunary_enabled(r->main, mlcf)
        && ngx_http_lunary_needs_user(r->main, mlcf, &main)
        && main >= mode)
    {
        return NGX_DECLINED;
    }

    return NGX_HTTP_FORBIDDEN;
}


/* requests that need no user where others do */

static ngx_uint_t
ngx_http_lunary_exempt(ngx_http_request_t *r, ngx_http_lunary_loc_conf_t *lcf,
    ngx_uint_t mode)
{
    ngx_uint_t   origin, preflight;

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD|NGX_HTTP_OPTIONS))) {
        return 0;
    }

    if (mode == NGX_HTTP_LUNARY_REQUIRE_VERIFIED
        && r->method != NGX_HTTP_OPTIONS)
    {
        return 0;
    }

    if (!ngx_http_lunary_plain(r, &origin, &preflight)) {
        return 0;
    }

    if (mode == NGX_HTTP_LUNARY_REQUIRE_VERIFIED) {
        return origin && preflight;
    }

    return 1;
}


/*
 * 1 where the method is all that is asked for: no body, no Upgrade, and no
 * header by which upstreams take one method for another
 */

static ngx_uint_t
ngx_http_lunary_plain(ngx_http_request_t *r, ngx_uint_t *origin,
    ngx_uint_t *preflight)
{
    ngx_uint_t               n;
    ngx_table_elt_t         *h;
    ngx_http_lunary_walk_t   w;
    static ngx_str_t         others[] = {
        ngx_string("Upgrade"),
        ngx_string("X-HTTP-Method-Override"),
        ngx_string("X-HTTP-Method"),
        ngx_string("X-Method-Override"),
        ngx_null_string
    };
    static ngx_str_t         cors[] = {
        ngx_string("Origin"),
        ngx_string("Access-Control-Request-Method")
    };

    if (r->headers_in.content_length_n > 0 || r->headers_in.chunked
        || r->headers_in.upgrade
        || (r->request_body && r->request_body->bufs))
    {
        return 0;
    }

    *origin = 0;
    *preflight = 0;

    ngx_http_lunary_walk(&w, &r->headers_in.headers);

    while ((h = ngx_http_lunary_walk_next(&w)) != NULL) {

        for (n = 0; others[n].len; n++) {
            if (ngx_http_lunary_same_name(&h->key, &others[n])) {
                return 0;
            }
        }

        *origin |= ngx_http_lunary_same_name(&h->key, &cors[0]);
        *preflight |= ngx_http_lunary_same_name(&h->key, &cors[1]);
    }

    return 1;
}


static ngx_uint_t
ngx_http_lunary_is_public(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_uint_t                 i, origin, preflight;
    ngx_http_lunary_public_t  *pub;

    if (lcf->public == NULL) {
        return 0;
    }

    pub = lcf->public->elts;

    for (i = 0; i < lcf->public->nelts; i++) {

        if (pub[i].method.len
            && (pub[i].method.len != r->method_name.len
                || ngx_strncmp(pub[i].method.data, r->method_name.data,
                               r->method_name.len)
                   != 0)

            /* GET includes HEAD, as for limit_except */

            && (r->method != NGX_HTTP_HEAD || pub[i].method.len != 3
                || ngx_strncmp(pub[i].method.data, "GET", 3) != 0))
        {
            continue;
        }

        if (pub[i].prefix ? r->uri.len < pub[i].path.len
                          : r->uri.len != pub[i].path.len)
        {
            continue;
        }

        if (ngx_strncmp(r->uri.data, pub[i].path.data, pub[i].path.len) != 0) {
            continue;
        }

        /* public for GET is not what a GET may be made to do */

        if (pub[i].method.len
            && (r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD|NGX_HTTP_OPTIONS))
            && !ngx_http_lunary_plain(r, &origin, &preflight))
        {
            continue;
        }

        return ngx_http_lunary_straight(r);
    }

    return 0;
}


/*
 * 1 where the path is the same to everybody.  nginx passes it on as the client
 * wrote it, and others resolve it otherwise: `..;` is `..` to Tomcat, a
 * backslash a slash to IIS, %252e a dot to whoever decodes twice, and %2f no
 * slash to whoever decodes late.
 */

static ngx_uint_t
ngx_http_lunary_straight(ngx_http_request_t *r)
{
    u_char  *last;

    last = ngx_strlchr(r->unparsed_uri.data,
                       r->unparsed_uri.data + r->unparsed_uri.len, '?');

    if (last == NULL) {
        last = r->unparsed_uri.data + r->unparsed_uri.len;
    }

    return ngx_http_lunary_straight_path(r->unparsed_uri.data, last, 1)
           && ngx_http_lunary_straight_path(r->uri.data,
                                            r->uri.data + r->uri.len, 0);
}


/* raw: as it was written; dot segments are the same to everybody there */

static ngx_uint_t
ngx_http_lunary_straight_path(u_char *p, u_char *last, ngx_uint_t raw)
{
    u_char  *start, c;

    for (start = p; p < last; p++) {

        switch (*p) {

        case '\\':
            return 0;

        case '.':

            if (!raw && last - p >= 2 && p[1] == '.'
                && (p == start || p[-1] == '/'))
            {
                return 0;
            }

            break;

        case '%':

            if (last - p < 3) {
                break;
            }

            c = (u_char) (p[2] | 0x20);

            /* %2f %5c; what is still encoded when nginx has decoded: %2e,
             * and %25, a percent sign */

            if ((p[1] == '2' && (c == 'f' || (!raw && c == 'e')))
                || (p[1] == '5' && c == 'c')
                || (!raw && p[1] == '2' && p[2] == '5'))
            {
                return 0;
            }

            break;
        }
    }

    return 1;
}


/* does this location ask this request for its user, and how strictly? */

static ngx_uint_t
ngx_http_lunary_needs_user(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf, ngx_uint_t *mode)
{
    *mode = ngx_http_lunary_choice(r, &lcf->require,
                                   ngx_http_lunary_require_words,
                                   NGX_HTTP_LUNARY_REQUIRE_VERIFIED);

    return *mode != NGX_HTTP_LUNARY_REQUIRE_OFF
           && !ngx_http_lunary_is_public(r, lcf)
           && !ngx_http_lunary_exempt(r, lcf, *mode);
}


ngx_uint_t
ngx_http_lunary_would_pass(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_uint_t  mode;

    return ngx_http_lunary_needs_user(r, lcf, &mode)
           && ngx_http_lunary_judge_identity(r, ctx, lcf)
              == NGX_HTTP_LUNARY_R_NONE;
}


static ngx_http_lunary_refusal_e
ngx_http_lunary_judge(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_uint_t                 mode;
    ngx_http_lunary_refusal_e  code;

    code = ngx_http_lunary_judge_identity(r, ctx, lcf);

    if (code != NGX_HTTP_LUNARY_R_NONE || !lcf->policy
        || !ngx_http_lunary_needs_user(r, lcf, &mode))
    {
        return code;
    }

    return ngx_http_lunary_judge_policy(r, ctx, mode);
}


static ngx_http_lunary_refusal_e
ngx_http_lunary_judge_policy(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_uint_t mode)
{
    if (ctx->policy.state != NGX_HTTP_LUNARY_LOOKUP_HIT) {

        if (mode == NGX_HTTP_LUNARY_REQUIRE_VERIFIED) {
            return NGX_HTTP_LUNARY_R_UNAVAILABLE;
        }

        if (ngx_http_lunary_seldom(&ngx_http_lunary_enforce_said)) {
            ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                          "lunary: passed without asking for the user's "
                          "policy");
        }

        return NGX_HTTP_LUNARY_R_NONE;
    }

    if (ctx->policy.blocked) {
        return NGX_HTTP_LUNARY_R_BLOCKED;
    }

    if (ctx->policy.spent) {
        return NGX_HTTP_LUNARY_R_BUDGET;
    }

    return NGX_HTTP_LUNARY_R_NONE;
}


static ngx_http_lunary_refusal_e
ngx_http_lunary_judge_identity(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_uint_t                    mode, body, twice;
    lunary_request_t             *rq;
    ngx_http_lunary_identity_t   *id;

    id = &ctx->identity;

    if (id->verified && id->conflict && lcf->conflict) {
        return NGX_HTTP_LUNARY_R_MISMATCH;
    }

    /* what the client wrote where we tell the upstream its user */

    if (lcf->inject.members && ngx_http_lunary_inject_refused(r, ctx, lcf)) {

        switch (ctx->call->request_state) {

        case LUNARY_BODY_ENCODING:
            return NGX_HTTP_LUNARY_R_ENCODING;

        case LUNARY_BODY_FORM:
            return NGX_HTTP_LUNARY_R_MISMATCH;

        case LUNARY_BODY_JSON:
            rq = lunary_call_body(ctx->call);

            return rq == NULL ? NGX_HTTP_LUNARY_R_ENCODING
                   : lunary_request_flooded(rq) ? NGX_HTTP_LUNARY_R_DUPLICATE
                   : NGX_HTTP_LUNARY_R_JSON;

        default:
            return NGX_HTTP_LUNARY_R_JSON;
        }
    }

    if (!ngx_http_lunary_needs_user(r, lcf, &mode)) {
        return NGX_HTTP_LUNARY_R_NONE;
    }

    if (!id->verified && mode == NGX_HTTP_LUNARY_REQUIRE_VERIFIED) {

        /* a trusted peer that hands on the client's header beside its own */

        if (ctx->headers.duplicate && ctx->headers.trusted
            && ngx_http_lunary_has_source(lcf, NGX_HTTP_LUNARY_SRC_HEADER))
        {
            return NGX_HTTP_LUNARY_R_DUPLICATE;
        }

        return ctx->lookup.state == NGX_HTTP_LUNARY_LOOKUP_FAILED
               ? NGX_HTTP_LUNARY_R_UNAVAILABLE
               : NGX_HTTP_LUNARY_R_VERIFIED;
    }

    body = ngx_http_lunary_has_source(lcf, NGX_HTTP_LUNARY_SRC_BODY);

    /* are the claims needed, to name the user or to hold them against him? */

    if (!id->verified || lcf->conflict) {

        twice = (body && lunary_call_duplicate(ctx->call))
                || (ctx->headers.duplicate
                    && ngx_http_lunary_has_source(lcf,
                                               NGX_HTTP_LUNARY_SRC_HEADER));

        if (twice) {
            return NGX_HTTP_LUNARY_R_DUPLICATE;
        }

        if (body && (id->user.len == 0 || id->verified)) {

            switch (ctx->call->request_state) {

            case LUNARY_BODY_ENCODING:
                return NGX_HTTP_LUNARY_R_ENCODING;

            case LUNARY_BODY_INVALID:
            case LUNARY_BODY_PARTIAL:
            case LUNARY_BODY_LIMIT:
            case LUNARY_BODY_NOMEM:
                return NGX_HTTP_LUNARY_R_JSON;

            default:
                break;
            }
        }
    }

    if (id->user.len) {
        return NGX_HTTP_LUNARY_R_NONE;
    }

    if (ctx->lookup.state == NGX_HTTP_LUNARY_LOOKUP_FAILED
        || ctx->cascade.state == NGX_HTTP_LUNARY_LOOKUP_FAILED)
    {
        return NGX_HTTP_LUNARY_R_UNAVAILABLE;
    }

    return NGX_HTTP_LUNARY_R_USER;
}


static ngx_int_t
ngx_http_lunary_refuse(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_refusal_t *ref)
{
    ngx_int_t                        rc;
    ngx_str_t                        value;
    ngx_buf_t                       *b;
    lunary_style_e                   style;
    ngx_table_elt_t                 *h;
    ngx_http_lunary_status_names_t  *names;

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    style = ctx->call->dialect->style;

    b = ngx_http_lunary_refusal_body(r, style, ref);
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* not that of an `error_page ... =200` on the way */

    r->err_status = 0;

    ngx_str_set(&value, "false");

    if (ngx_http_lunary_add_header(r, "x-should-retry", &value) == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    value = ref->retry_after;

    if (ctx->refusal == NGX_HTTP_LUNARY_R_BUDGET) {

        value.data = ngx_pnalloc(r->pool, NGX_TIME_T_LEN);
        if (value.data == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        value.len = ngx_sprintf(value.data, "%T", ctx->policy.retry_after)
                    - value.data;
    }

    if (value.len
        && ngx_http_lunary_add_header(r, "Retry-After", &value) == NULL)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ref->status == NGX_HTTP_UNAUTHORIZED) {

        ngx_str_set(&value, "Bearer realm=\"lunary\"");

        h = ngx_http_lunary_add_header(r, "WWW-Authenticate", &value);
        if (h == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        r->headers_out.www_authenticate = h;
    }

    if (style == LUNARY_STYLE_BEDROCK) {

        names = ngx_http_lunary_status_names(ref->status);

        if (ngx_http_lunary_add_header(r, "x-amzn-ErrorType",
                                       &names->bedrock)
            == NULL)
        {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    rc = ngx_http_lunary_send(r, ref->status, &ngx_http_lunary_json_type, b);

    ngx_http_finalize_request(r, rc);

    return NGX_DONE;
}


static ngx_http_lunary_status_names_t *
ngx_http_lunary_status_names(ngx_uint_t status)
{
    ngx_uint_t  i;

    for (i = 0;
         i < sizeof(ngx_http_lunary_names) / sizeof(ngx_http_lunary_names[0]);
         i++)
    {
        if (ngx_http_lunary_names[i].status == status) {
            return &ngx_http_lunary_names[i];
        }
    }

    return &ngx_http_lunary_names[0];
}


static ngx_buf_t *
ngx_http_lunary_refusal_body(ngx_http_request_t *r, lunary_style_e style,
    ngx_http_lunary_refusal_t *ref)
{
    size_t                           size;
    ngx_buf_t                       *b;
    ngx_http_lunary_status_names_t  *names;

    names = ngx_http_lunary_status_names(ref->status);

    size = 512 + ref->message.len + ref->code.len + ref->param.len;

    b = ngx_create_temp_buf(r->pool, size);
    if (b == NULL) {
        return NULL;
    }

    switch (style) {

    case LUNARY_STYLE_ANTHROPIC:
        b->last = ngx_slprintf(b->last, b->end,
                               "{\"type\":\"error\",\"error\":{\"type\":\"%V\","
                               "\"message\":\"%V (%V)\"}}",
                               &names->anthropic, &ref->message, &ref->code);
        break;

    case LUNARY_STYLE_GEMINI:
        b->last = ngx_slprintf(b->last, b->end,
                               "{\"error\":{\"code\":%ui,\"message\":\"%V\","
                               "\"status\":\"%V\",\"details\":[{\"@type\":"
                               "\"type.googleapis.com/google.rpc.ErrorInfo\","
                               "\"reason\":\"%V\",\"domain\":\"lunary\"}]}}",
                               ref->status, &ref->message, &names->gemini,
                               &ref->code);
        break;

    case LUNARY_STYLE_OLLAMA:
        b->last = ngx_slprintf(b->last, b->end, "{\"error\":\"%V (%V)\"}",
                               &ref->message, &ref->code);
        break;

    case LUNARY_STYLE_BEDROCK:
        b->last = ngx_slprintf(b->last, b->end, "{\"message\":\"%V (%V)\"}",
                               &ref->message, &ref->code);
        break;

    default: /* LUNARY_STYLE_OPENAI */
        b->last = ngx_slprintf(b->last, b->end,
                               "{\"error\":{\"message\":\"%V\",\"type\":\"%V\","
                               "\"param\":%V,\"code\":\"%V\"}}",
                               &ref->message, &names->openai, &ref->param,
                               &ref->code);
        break;
    }

    b->last_buf = 1;
    b->last_in_chain = 1;

    return b;
}


ngx_int_t
ngx_http_lunary_refusal_error(ngx_http_lunary_ctx_t *ctx, ngx_pool_t *pool,
    ngx_str_t *json)
{
    size_t                           size;
    ngx_http_lunary_refusal_t       *ref;
    ngx_http_lunary_status_names_t  *names;

    ref = &ngx_http_lunary_refusals[ctx->refusal];
    names = ngx_http_lunary_status_names(ref->status);

    size = sizeof("{\"message\":\"\",\"type\":\"\",\"code\":\"\"}") - 1
           + ref->message.len + names->openai.len + ref->code.len;

    json->data = ngx_pnalloc(pool, size);
    if (json->data == NULL) {
        return NGX_ERROR;
    }

    json->len = ngx_sprintf(json->data,
                            "{\"message\":\"%V\",\"type\":\"%V\","
                            "\"code\":\"%V\"}",
                            &ref->message, &names->openai, &ref->code)
                - json->data;

    return NGX_OK;
}
