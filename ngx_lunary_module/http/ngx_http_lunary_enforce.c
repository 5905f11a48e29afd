/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The verdict: may this request go on?
 *
 * Invariants
 *   - a verdict is either reached or the request is refused: what cannot be
 *     judged never passes where a user is required;
 *   - no text that a client sent is in a refusal.
 */

#include "ngx_http_lunary_refusal.h"


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

        ngx_http_lunary_disown(&ctx->identity);
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
