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


#define NGX_HTTP_LUNARY_PROPS_MAX   (64 * 1024)
#define NGX_HTTP_LUNARY_MERGE_BYTES (1024 * 1024)
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
static void ngx_http_lunary_read_header(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf,
    ngx_uint_t kind);
static ngx_table_elt_t *ngx_http_lunary_find_header(ngx_http_request_t *r,
    ngx_str_t *name, ngx_uint_t *n);
static ngx_int_t ngx_http_lunary_header_props(ngx_http_request_t *r,
    ngx_str_t *value, ngx_str_t *props);
static ngx_int_t ngx_http_lunary_prefix_props(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_str_t *prefix, ngx_str_t *props);
static ngx_int_t ngx_http_lunary_header_tags(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_str_t *value, ngx_str_t *tags);
static ngx_uint_t ngx_http_lunary_trusted_peer(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf);
static ngx_int_t ngx_http_lunary_merge_props(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_str_t *props, ngx_str_t *lower);
static ngx_int_t ngx_http_lunary_filter_props(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_array_t *names, ngx_str_t *props);
static ngx_int_t ngx_http_lunary_pool_copy(ngx_pool_t *pool,
    lunary_str_t from, ngx_str_t *to);


static ngx_http_lunary_source_t  ngx_http_lunary_default_sources[] = {
    { NGX_HTTP_LUNARY_SRC_SESSION, 0, ngx_string("session"),
      { ngx_null_string, NULL, NULL, NULL, { 0 } } },
    { NGX_HTTP_LUNARY_SRC_BODY, 0, ngx_string("body"),
      { ngx_null_string, NULL, NULL, NULL, { 0 } } },
    { NGX_HTTP_LUNARY_SRC_HEADER, 0, ngx_string("header"),
      { ngx_null_string, NULL, NULL, NULL, { 0 } } }
};


void
ngx_http_lunary_read_headers(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_str_t         name;
    ngx_uint_t        kind, n;
    ngx_table_elt_t  *h;

    ctx->headers.read = 1;
    ctx->headers.trusted = ngx_http_lunary_trusted_peer(r, lcf);

    if (!ngx_http_lunary_names_any(lcf->identity, &r->headers_in.headers)) {
        return;
    }

    for (kind = 0; kind < NGX_HTTP_LUNARY_H_MAX; kind++) {
        ngx_http_lunary_read_header(r, ctx, lcf, kind);
    }

    if ((lcf->accept & NGX_HTTP_LUNARY_ACCEPT_PORTKEY)
        && ctx->headers.user.len == 0)
    {
        ngx_str_set(&name, "x-portkey-metadata");

        h = ngx_http_lunary_find_header(r, &name, &n);

        if (h == NULL) {
            return;
        }

        if (n > 1) {
            ctx->headers.duplicate = 1;
        }

        (void) ngx_http_lunary_accept_metadata(r, ctx, &h->value);
    }
}


static void
ngx_http_lunary_read_header(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf, ngx_uint_t kind)
{
    ngx_str_t        *name, value;
    ngx_uint_t        i, n;
    ngx_array_t      *names;
    ngx_table_elt_t  *h;

    names = lcf->names[kind];
    name = names->elts;

    for (i = 0; i < names->nelts; i++) {

        if (name[i].data[name[i].len - 1] == '*') {

            if (ngx_http_lunary_prefix_props(r, ctx, &name[i],
                                             &ctx->headers.props)
                == NGX_OK)
            {
                return;
            }

            continue;
        }

        h = ngx_http_lunary_find_header(r, &name[i], &n);
        if (h == NULL) {
            continue;
        }

        value = h->value;

        switch (kind) {

        case NGX_HTTP_LUNARY_H_USER:

            if (n > 1) {
                ctx->headers.duplicate = 1;
            }

            if (!lunary_user_id_valid(lunary_ngx_str(value))) {
                continue;
            }

            ctx->headers.user = value;
            ctx->headers.accepted = (i >= lcf->own_names);
            return;

        case NGX_HTTP_LUNARY_H_PROPS:

            if (ngx_http_lunary_header_props(r, &value, &ctx->headers.props)
                != NGX_OK)
            {
                continue;
            }

            return;

        case NGX_HTTP_LUNARY_H_TAGS:

            if (ngx_http_lunary_header_tags(r, ctx, &value,
                                            &ctx->headers.tags)
                != NGX_OK)
            {
                continue;
            }

            return;

        case NGX_HTTP_LUNARY_H_THREAD:

            if (lunary_user_id_valid(lunary_ngx_str(value))) {
                ctx->headers.thread = value;
                return;
            }

            continue;

        default: /* NGX_HTTP_LUNARY_H_PARENT */

            if (lunary_user_id_valid(lunary_ngx_str(value))) {
                ctx->headers.parent = value;
                return;
            }

            continue;
        }
    }
}


/* the last header of that name, and how many there are */

static ngx_table_elt_t *
ngx_http_lunary_find_header(ngx_http_request_t *r, ngx_str_t *name,
    ngx_uint_t *n)
{
    ngx_table_elt_t         *h, *found;
    ngx_http_lunary_walk_t   w;

    *n = 0;
    found = NULL;

    ngx_http_lunary_walk(&w, &r->headers_in.headers);

    while ((h = ngx_http_lunary_walk_next(&w)) != NULL) {
        if (ngx_http_lunary_header_is(h, (char *) name->data, name->len)) {
            found = h;
            (*n)++;
        }
    }

    return found;
}


/* JSON where it starts with a brace, else base64url of JSON */

static ngx_int_t
ngx_http_lunary_header_props(ngx_http_request_t *r, ngx_str_t *value,
    ngx_str_t *props)
{
    ngx_str_t  json;

    if (value->len == 0 || value->len > NGX_HTTP_LUNARY_PROPS_MAX) {
        return NGX_DECLINED;
    }

    json = *value;

    if (value->data[0] != '{') {

        json.data = ngx_pnalloc(r->pool, ngx_base64_decoded_length(value->len));
        if (json.data == NULL) {
            return NGX_ERROR;
        }

        if (ngx_decode_base64url(&json, value) != NGX_OK
            && ngx_decode_base64(&json, value) != NGX_OK)
        {
            return NGX_DECLINED;
        }
    }

    if (ngx_http_lunary_json_object(&json) != NGX_OK) {
        return NGX_DECLINED;
    }

    *props = json;

    return NGX_OK;
}


/* one property a header: its name behind the prefix, in lower case */

static ngx_int_t
ngx_http_lunary_prefix_props(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_str_t *prefix, ngx_str_t *props)
{
    int                      rc;
    u_char                  *name;
    size_t                   len;
    ngx_int_t                result;
    lunary_buf_t             out;
    ngx_table_elt_t         *h;
    ngx_http_lunary_walk_t   w;

    len = prefix->len - 1;

    ngx_memzero(&out, sizeof(lunary_buf_t));
    rc = 0;

    ngx_http_lunary_walk(&w, &r->headers_in.headers);

    while (rc == 0 && (h = ngx_http_lunary_walk_next(&w)) != NULL) {

        if (h->key.len <= len
            || ngx_strncasecmp(h->key.data, prefix->data, len) != 0)
        {
            continue;
        }

        name = ngx_pnalloc(r->pool, h->key.len - len);
        if (name == NULL) {
            rc = LUNARY_NOMEM;
            break;
        }

        ngx_strlow(name, h->key.data + len, h->key.len - len);

        rc = lunary_buf_append(&ctx->mem, &out, out.len ? ",\"" : "{\"", 2)
          || lunary_json_escape(&ctx->mem, &out,
                                lunary_str(name, h->key.len - len))
          || lunary_buf_lit(&ctx->mem, &out, "\":\"")
          || lunary_json_escape(&ctx->mem, &out, lunary_ngx_str(h->value))
          || lunary_buf_lit(&ctx->mem, &out, "\"");
    }

    result = NGX_DECLINED;

    if (rc == 0 && out.len
        && lunary_buf_lit(&ctx->mem, &out, "}") == LUNARY_OK)
    {
        result = ngx_http_lunary_pool_copy(r->pool, lunary_buf_str(&out),
                                           props);
    }

    lunary_buf_free(&ctx->mem, &out);

    return result;
}


/* a comma list becomes a JSON array */

static ngx_int_t
ngx_http_lunary_header_tags(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_str_t *value, ngx_str_t *tags)
{
    int            rc;
    u_char        *p, *last, *start, *end;
    ngx_int_t      result;
    lunary_buf_t   out;

    ngx_memzero(&out, sizeof(lunary_buf_t));
    rc = 0;

    p = value->data;
    last = p + value->len;

    while (p < last && rc == 0) {

        while (p < last && (*p == ' ' || *p == '\t' || *p == ',')) {
            p++;
        }

        start = p;

        while (p < last && *p != ',') {
            p++;
        }

        end = p;

        while (end > start && (end[-1] == ' ' || end[-1] == '\t')) {
            end--;
        }

        if (end == start) {
            continue;
        }

        rc = lunary_buf_append(&ctx->mem, &out, out.len ? ",\"" : "[\"", 2)
          || lunary_json_escape(&ctx->mem, &out,
                                lunary_str(start, end - start))
          || lunary_buf_lit(&ctx->mem, &out, "\"");
    }

    result = NGX_DECLINED;

    if (rc == 0 && out.len
        && lunary_buf_lit(&ctx->mem, &out, "]") == LUNARY_OK)
    {
        result = ngx_http_lunary_pool_copy(r->pool, lunary_buf_str(&out),
                                           tags);
    }

    lunary_buf_free(&ctx->mem, &out);

    return result;
}


/* the TCP peer, whatever realip made of the address since */

static ngx_uint_t
ngx_http_lunary_trusted_peer(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_str_t                   name, text;
    ngx_addr_t                  addr;
    ngx_uint_t                  key;
    struct sockaddr            *sockaddr;
    ngx_http_variable_value_t  *vv;

    if (lcf->trusted == NULL) {
        return 0;
    }

    sockaddr = r->connection->sockaddr;

    ngx_str_set(&name, "realip_remote_addr");
    key = ngx_hash_key(name.data, name.len);

    vv = ngx_http_get_variable(r, &name, key);

    if (vv && !vv->not_found && vv->valid && vv->len) {

        text.data = vv->data;
        text.len = vv->len;

        if (text.len >= 5 && ngx_strncmp(text.data, "unix:", 5) == 0) {
            return lcf->trusted_unix;
        }

        if (ngx_parse_addr(r->pool, &addr, text.data, text.len) != NGX_OK) {
            return 0;
        }

        sockaddr = addr.sockaddr;
    }

    if (sockaddr->sa_family == AF_UNIX) {
        return lcf->trusted_unix;
    }

    return ngx_cidr_match(sockaddr, lcf->trusted) == NGX_OK;
}


ngx_uint_t
ngx_http_lunary_identity_header(ngx_http_lunary_loc_conf_t *lcf,
    ngx_str_t *name)
{
    ngx_str_t   *names, head, prefix;
    ngx_uint_t   kind, i;

    for (kind = 0; kind < NGX_HTTP_LUNARY_H_MAX; kind++) {

        names = lcf->names[kind]->elts;

        for (i = 0; i < lcf->names[kind]->nelts; i++) {

            head = *name;
            prefix = names[i];

            if (prefix.data[prefix.len - 1] == '*') {
                prefix.len--;

                if (head.len <= prefix.len) {
                    continue;
                }

                head.len = prefix.len;
            }

            if (ngx_http_lunary_same_name(&head, &prefix)) {
                return 1;
            }
        }
    }

    return ngx_http_lunary_accept_header(lcf, name);
}


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
                                   &other))
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


/*
 * *props becomes the members of both objects; those of *props win: they stand
 * behind, so that they also win for a reader who keeps the last of two names
 * that are spelled apart.
 */

static ngx_int_t
ngx_http_lunary_merge_props(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_str_t *props, ngx_str_t *lower)
{
    int                 rc;
    size_t              left;
    ngx_int_t           result;
    lunary_buf_t        out;
    lunary_str_t        high, key, value;
    lunary_json_iter_t  it;

    high = lunary_ngx_str(*props);

    if (high.len == 0) {
        *props = *lower;
        return NGX_OK;
    }

    ngx_memzero(&out, sizeof(lunary_buf_t));

    rc = lunary_buf_lit(&ctx->mem, &out, "{");

    lunary_json_iter(&it, lunary_ngx_str(*lower));

    /* each is looked up in the other object: thousands of them, which nobody
     * has but to keep us busy, are not all taken */

    left = NGX_HTTP_LUNARY_MERGE_BYTES / high.len;

    while (rc == 0 && left-- && lunary_json_member(&it, &key, &value)) {

        if (lunary_json_get_n(high, (const char *) key.data, key.len).len) {
            continue;
        }

        rc = lunary_buf_append(&ctx->mem, &out, out.len > 1 ? ",\"" : "\"",
                               out.len > 1 ? 2 : 1)
          || lunary_buf_append(&ctx->mem, &out, key.data, key.len)
          || lunary_buf_lit(&ctx->mem, &out, "\":")
          || lunary_buf_append(&ctx->mem, &out, value.data, value.len);
    }

    lunary_json_iter(&it, high);

    while (rc == 0 && lunary_json_member(&it, &key, &value)) {

        rc = lunary_buf_append(&ctx->mem, &out, out.len > 1 ? ",\"" : "\"",
                               out.len > 1 ? 2 : 1)
          || lunary_buf_append(&ctx->mem, &out, key.data, key.len)
          || lunary_buf_lit(&ctx->mem, &out, "\":")
          || lunary_buf_append(&ctx->mem, &out, value.data, value.len);
    }

    if (rc == 0) {
        rc = lunary_buf_lit(&ctx->mem, &out, "}");
    }

    result = NGX_ERROR;

    if (rc == 0) {
        result = ngx_http_lunary_pool_copy(r->pool, lunary_buf_str(&out),
                                           props);
    }

    lunary_buf_free(&ctx->mem, &out);

    return result;
}


/* keeps the members that lunary_props names */

static ngx_int_t
ngx_http_lunary_filter_props(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_array_t *names, ngx_str_t *props)
{
    int            rc;
    ngx_int_t      result;
    ngx_str_t     *name;
    ngx_uint_t     i;
    lunary_buf_t   out;
    lunary_str_t   value;

    ngx_memzero(&out, sizeof(lunary_buf_t));

    name = names->elts;
    rc = 0;

    for (i = 0; rc == 0 && i < names->nelts; i++) {

        value = lunary_json_get_n(lunary_ngx_str(*props),
                                  (const char *) name[i].data, name[i].len);
        if (value.len == 0) {
            continue;
        }

        rc = lunary_buf_append(&ctx->mem, &out, out.len ? ",\"" : "{\"", 2)
          || lunary_json_escape(&ctx->mem, &out, lunary_ngx_str(name[i]))
          || lunary_buf_lit(&ctx->mem, &out, "\":")
          || lunary_buf_append(&ctx->mem, &out, value.data, value.len);
    }

    ngx_str_null(props);

    result = rc ? NGX_ERROR : NGX_OK;

    if (rc == 0 && out.len) {

        result = NGX_ERROR;

        if (lunary_buf_lit(&ctx->mem, &out, "}") == LUNARY_OK) {
            result = ngx_http_lunary_pool_copy(r->pool, lunary_buf_str(&out),
                                               props);
        }
    }

    lunary_buf_free(&ctx->mem, &out);

    return result;
}


static ngx_int_t
ngx_http_lunary_pool_copy(ngx_pool_t *pool, lunary_str_t from, ngx_str_t *to)
{
    to->data = ngx_pnalloc(pool, from.len);
    if (to->data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(to->data, from.data, from.len);
    to->len = from.len;

    return NGX_OK;
}
