/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Who calls: the sources of lunary_user, verified ones before claims, each in
 * the order given; props, thread, parent run and tags beside them.
 *
 * Invariants
 *   - what is no user id (docs/directives.md) is no user, from any source;
 *   - a claim never replaces a verified user, it is kept beside it;
 *   - of a trusted peer's headers those are verified that lunary_header names
 *     and that are there once: what another one wrote is not the peer's word;
 *   - props of a source count only where that source names the very user
 *     that was settled on: one user's props never land on another.
 */

#include "ngx_http_lunary_module.h"
#include "ngx_http_lunary_json.h"
#include "inspect/lunary_json.h"


#define NGX_HTTP_LUNARY_CANDIDATES  16


/* what one source says */

typedef struct {
    ngx_str_t    user;
    ngx_str_t    props;
    ngx_str_t    name;
    ngx_uint_t   verified;
    ngx_uint_t   counter;
} ngx_http_lunary_candidate_t;


static ngx_int_t ngx_http_lunary_candidate(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf,
    ngx_http_lunary_source_t *src, ngx_http_lunary_candidate_t *c);
static ngx_uint_t ngx_http_lunary_password_checked(ngx_http_request_t *r);
static ngx_uint_t ngx_http_lunary_certificate_checked(ngx_http_request_t *r,
    ngx_str_t *name);


static ngx_http_lunary_source_t  ngx_http_lunary_default_sources[] = {
    { NGX_HTTP_LUNARY_SRC_SESSION, 0, ngx_string("session"),
      { ngx_null_string, NULL, NULL, NULL, { 0 } } },
    { NGX_HTTP_LUNARY_SRC_BODY, 0, ngx_string("body"),
      { ngx_null_string, NULL, NULL, NULL, { 0 } } },
    { NGX_HTTP_LUNARY_SRC_HEADER, 0, ngx_string("header"),
      { ngx_null_string, NULL, NULL, NULL, { 0 } } }
};


ngx_uint_t
ngx_http_lunary_has_source(ngx_http_lunary_loc_conf_t *lcf,
    ngx_http_lunary_source_e kind)
{
    ngx_uint_t                 i;
    ngx_http_lunary_source_t  *src;

    if (lcf->sources == NULL) {
        return kind == NGX_HTTP_LUNARY_SRC_SESSION
               || kind == NGX_HTTP_LUNARY_SRC_BODY
               || kind == NGX_HTTP_LUNARY_SRC_HEADER;
    }

    src = lcf->sources->elts;

    for (i = 0; i < lcf->sources->nelts; i++) {
        if (src[i].kind == kind) {
            return 1;
        }
    }

    return 0;
}


ngx_int_t
ngx_http_lunary_call_names(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_str_t                    app;
    const lunary_claims_t       *claims;
    ngx_http_lunary_identity_t  *id;

    id = &ctx->identity;
    ngx_memzero(id, sizeof(ngx_http_lunary_identity_t));

    if (lcf->app) {
        if (ngx_http_complex_value(r, lcf->app, &app) != NGX_OK) {
            return NGX_ERROR;
        }

        ctx->app = app;
    }

    if (ctx->app.len == 0) {
        ngx_str_set(&ctx->app, "default");
    }

    /* thread, parent run, tags: what the body says, else the headers */

    claims = lunary_call_claims(ctx->call);

    id->thread = claims->thread.len ? ngx_http_lunary_str(claims->thread)
                                    : ctx->headers.thread;
    id->parent = claims->parent.len ? ngx_http_lunary_str(claims->parent)
                                    : ctx->headers.parent;
    id->tags = claims->tags.len ? ngx_http_lunary_str(claims->tags)
                                : ctx->headers.tags;

    return NGX_OK;
}


ngx_int_t
ngx_http_lunary_identify(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_uint_t                    i, n, count, pick, body;
    lunary_buf_t                  other;
    ngx_http_lunary_source_t     *src;
    ngx_http_lunary_identity_t   *id;
    ngx_http_lunary_candidate_t   c[NGX_HTTP_LUNARY_CANDIDATES];

    if (ngx_http_lunary_call_names(r, ctx, lcf) != NGX_OK) {
        return NGX_ERROR;
    }

    id = &ctx->identity;

    /* what each source says */

    if (lcf->sources) {
        src = lcf->sources->elts;
        count = lcf->sources->nelts;

    } else {
        src = ngx_http_lunary_default_sources;
        count = sizeof(ngx_http_lunary_default_sources)
                / sizeof(ngx_http_lunary_source_t);
    }

    n = 0;
    body = 0;

    for (i = 0; i < count && n < NGX_HTTP_LUNARY_CANDIDATES; i++) {

        body |= (src[i].kind == NGX_HTTP_LUNARY_SRC_BODY);

        if (ngx_http_lunary_candidate(r, ctx, lcf, &src[i], &c[n])
            != NGX_OK)
        {
            return NGX_ERROR;
        }

        if (c[n].user.len) {
            n++;
        }
    }

    id->counter = NGX_LUNARY_C_IDENTITY_NONE;

    if (n == 0) {
        return NGX_OK;
    }

    /* verified sources before claims */

    pick = 0;

    for (i = 0; i < n; i++) {
        if (c[i].verified) {
            pick = i;
            break;
        }
    }

    id->user = c[pick].user;
    id->props = c[pick].props;
    id->source = c[pick].name;
    id->verified = c[pick].verified ? 1 : 0;
    id->counter = c[pick].counter;

    for (i = 0; i < n; i++) {

        if (i == pick) {
            continue;
        }

        if (c[i].user.len != id->user.len
            || ngx_memcmp(c[i].user.data, id->user.data, id->user.len) != 0)
        {
            if (id->verified && !c[i].verified && !id->conflict) {
                id->conflict = 1;
                id->claimed = c[i].user;
            }

            continue;
        }

        /* a claim adds nothing to what is known of a verified user but what
         * a verified source did not say */

        if (c[i].props.len
            && ngx_http_lunary_merge_props(r, ctx, &id->props, &c[i].props)
               != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    /* behind the member that is the claim there may be others, which an
     * upstream reads */

    if (lcf->conflict && body && id->verified && !id->conflict) {

        ngx_memzero(&other, sizeof(lunary_buf_t));

        if (lunary_call_other_user(ctx->call, lunary_ngx_str(id->user),
                                   &ctx->mem, &other))
        {
            id->conflict = 1;

            if (other.len
                && ngx_http_lunary_pool_copy(r->pool, lunary_buf_str(&other),
                                             &id->claimed)
                   != NGX_OK)
            {
                lunary_buf_free(&ctx->mem, &other);
                return NGX_ERROR;
            }
        }

        lunary_buf_free(&ctx->mem, &other);
    }

    if (lcf->props_set && lcf->props && id->props.len) {
        return ngx_http_lunary_filter_props(r, ctx, lcf->props, &id->props);
    }

    return NGX_OK;
}


/*
 * By the log phase nobody has judged: a 413, a client that left meanwhile.
 * What it said is its user only where that would have been enough, and no
 * session might have named another.
 */

void
ngx_http_lunary_identify_late(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx)
{
    ngx_uint_t                   mode, asked;
    ngx_http_lunary_loc_conf_t  *lcf;

    lcf = ctx->conf;
    ctx->late = 1;

    if (!ctx->headers.read) {
        ngx_http_lunary_read_headers(r, ctx, lcf);
    }

    if (ngx_http_lunary_identify(r, ctx, lcf) != NGX_OK
        || ctx->identity.user.len == 0 || ctx->identity.verified)
    {
        return;
    }

    mode = ngx_http_lunary_choice(r, &lcf->require,
                                  ngx_http_lunary_require_words,
                                  NGX_HTTP_LUNARY_REQUIRE_VERIFIED);

    asked = ctx->lookup.state != NGX_HTTP_LUNARY_LOOKUP_NONE
            && ctx->lookup.state != NGX_HTTP_LUNARY_LOOKUP_WAIT;

    if (mode == NGX_HTTP_LUNARY_REQUIRE_VERIFIED
        || (lcf->session.key && !asked
            && ngx_http_lunary_has_source(lcf, NGX_HTTP_LUNARY_SRC_SESSION)))
    {
        ngx_http_lunary_disown(&ctx->identity);
    }
}


void
ngx_http_lunary_disown(ngx_http_lunary_identity_t *id)
{
    id->claimed = id->user;

    ngx_str_null(&id->user);
    ngx_str_null(&id->source);
    ngx_str_null(&id->props);

    id->counter = NGX_LUNARY_C_IDENTITY_NONE;
}


static ngx_int_t
ngx_http_lunary_candidate(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf, ngx_http_lunary_source_t *src,
    ngx_http_lunary_candidate_t *c)
{
    const lunary_claims_t  *claims;

    ngx_memzero(c, sizeof(ngx_http_lunary_candidate_t));

    c->name = src->name;

    switch (src->kind) {

    case NGX_HTTP_LUNARY_SRC_SESSION:
        c->user = ctx->lookup.user;
        c->props = ctx->lookup.props;
        c->verified = 1;
        c->counter = NGX_LUNARY_C_IDENTITY_SESSION;
        break;

    case NGX_HTTP_LUNARY_SRC_BODY:
        claims = lunary_call_claims(ctx->call);
        c->user = ngx_http_lunary_str(claims->user);
        c->props = ngx_http_lunary_str(claims->props);
        c->counter = NGX_LUNARY_C_IDENTITY_BODY;

        if (c->user.len == 0 && lcf->accept
            && ngx_http_lunary_accept_body(r, ctx, lcf, &c->user) == NGX_ERROR)
        {
            return NGX_ERROR;
        }

        break;

    case NGX_HTTP_LUNARY_SRC_HEADER:
        c->user = ctx->headers.user;
        c->props = ctx->headers.props;
        c->verified = ctx->headers.trusted && !ctx->headers.accepted
                      && !ctx->headers.duplicate;
        c->counter = NGX_LUNARY_C_IDENTITY_HEADER;
        break;

    case NGX_HTTP_LUNARY_SRC_PARENT:
        c->user = ctx->cascade.user;
        c->props = ctx->cascade.props;
        c->counter = NGX_LUNARY_C_IDENTITY_PARENT;
        break;

    default: /* NGX_HTTP_LUNARY_SRC_VALUE */

        /* what proves it may not have run: no access phase was reached */

        if (src->verified && ctx->late) {
            break;
        }

        if (ngx_http_complex_value(r, &src->value, &c->user) != NGX_OK) {
            return NGX_ERROR;
        }

        c->verified = src->verified;
        c->counter = NGX_LUNARY_C_IDENTITY_VARIABLE;

        if (src->verified && c->user.len
            && ngx_strcasestrn(src->name.data, "remote_user",
                               sizeof("remote_user") - 2)
            && !ngx_http_lunary_password_checked(r))
        {
            /* a name without a password is nobody, not even a claim */

            c->user.len = 0;
        }

        if (src->verified && c->user.len
            && !ngx_http_lunary_certificate_checked(r, &src->name))
        {
            c->user.len = 0;
        }

        break;
    }

    if (c->user.len && !lunary_user_id_valid(lunary_ngx_str(c->user))) {
        c->user.len = 0;
    }

    return NGX_OK;
}


/*
 * 1 where $remote_user can be here only because auth_basic has checked its
 * password: it is on in this location, with a file of passwords (without one
 * nginx takes it for off), and nothing else was enough.
 */

static ngx_uint_t
ngx_http_lunary_password_checked(ngx_http_request_t *r)
{
    char                      *conf;
    ngx_str_t                  realm;
    ngx_uint_t                 i, file, on;
    ngx_module_t             **modules;
    ngx_command_t             *cmd;
    ngx_http_complex_value_t  *value;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (clcf->satisfy != NGX_HTTP_SATISFY_ALL) {
        return 0;
    }

    modules = ngx_cycle->modules;

    for (i = 0; modules[i]; i++) {
        if (modules[i]->type == NGX_HTTP_MODULE
            && ngx_strcmp(modules[i]->name, "ngx_http_auth_basic_module") == 0)
        {
            break;
        }
    }

    if (modules[i] == NULL) {
        return 0;
    }

    conf = r->loc_conf[modules[i]->ctx_index];

    file = 0;
    on = 0;

    for (cmd = modules[i]->commands; cmd->name.len; cmd++) {

        if (ngx_strcmp(cmd->name.data, "auth_basic_user_file") == 0) {
            value = *(ngx_http_complex_value_t **) (conf + cmd->offset);

            file = (value != NULL && value != NGX_CONF_UNSET_PTR);

        } else if (ngx_strcmp(cmd->name.data, "auth_basic") == 0) {
            value = *(ngx_http_complex_value_t **) (conf + cmd->offset);

            if (value == NULL || value == NGX_CONF_UNSET_PTR
                || ngx_http_complex_value(r, value, &realm) != NGX_OK)
            {
                return 0;
            }

            on = !(realm.len == 3 && ngx_strncmp(realm.data, "off", 3) == 0);
        }
    }

    return file && on;
}


/*
 * 1 where names in a client's certificate can be believed: with
 * `ssl_verify_client optional_no_ca` anybody writes his own.  A fingerprint
 * needs nobody's word: who shows it holds the key.
 */

static ngx_uint_t
ngx_http_lunary_certificate_checked(ngx_http_request_t *r, ngx_str_t *name)
{
    ngx_str_t                   var;
    ngx_uint_t                  i;
    ngx_http_variable_value_t  *vv;
    static char                *said[] = {
        "ssl_client_s_dn", "ssl_client_i_dn", "ssl_client_serial", NULL
    };

    for (i = 0; said[i]; i++) {
        if (ngx_strcasestrn(name->data, said[i], ngx_strlen(said[i]) - 1)) {
            break;
        }
    }

    if (said[i] == NULL) {
        return 1;
    }

    ngx_str_set(&var, "ssl_client_verify");

    vv = ngx_http_get_variable(r, &var, ngx_hash_key(var.data, var.len));

    return vv && vv->valid && !vv->not_found
           && vv->len == sizeof("SUCCESS") - 1
           && ngx_strncmp(vv->data, "SUCCESS", vv->len) == 0;
}
