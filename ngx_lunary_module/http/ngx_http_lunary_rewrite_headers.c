/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The headers that the upstream gets: without those of identity and the
 * session's, with lunary_inject_user's, and an Accept-Encoding that the module
 * can read the answer of.
 *
 * Invariants
 *   - with nothing to take out or to put in the list is not touched;
 *   - what goes is what was there when the caller was judged: a value that
 *     another module has put there since (a key for the upstream) stays;
 *   - old elements stay as they are: typed pointers into them, such as
 *     headers_in.accept_encoding that nginx's gzip asks, remain true.
 */

#include "ngx_http_lunary_module.h"


#define NGX_HTTP_LUNARY_IS(h, name)                                           \
    ngx_http_lunary_header_is(h, name, sizeof(name) - 1)


/* what was done to a header: what it is now (no key: it is not there), and
 * what it was (no key: it is new).  Their bytes tell it among others. */

typedef struct {
    ngx_table_elt_t    now;
    ngx_table_elt_t    was;
} ngx_http_lunary_change_t;


static ngx_uint_t ngx_http_lunary_marked(ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf, ngx_table_elt_t *h);
static ngx_uint_t ngx_http_lunary_goes(ngx_http_lunary_loc_conf_t *lcf,
    ngx_table_elt_t *h);
static ngx_uint_t ngx_http_lunary_is_claim(ngx_http_lunary_loc_conf_t *lcf,
    ngx_table_elt_t *h);
static ngx_uint_t ngx_http_lunary_is_session(ngx_http_lunary_loc_conf_t *lcf,
    ngx_table_elt_t *h);
static ngx_int_t ngx_http_lunary_rebuild(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf,
    ngx_uint_t what, ngx_uint_t more, ngx_list_t *list);
static ngx_int_t ngx_http_lunary_put_in(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf,
    ngx_str_t *user, ngx_list_t *list);
static void ngx_http_lunary_swap(ngx_http_request_t *r, ngx_list_t *list);
static ngx_int_t ngx_http_lunary_note(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_table_elt_t *now, ngx_table_elt_t *was);
static ngx_int_t ngx_http_lunary_change(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf,
    ngx_uint_t what, ngx_table_elt_t *h, ngx_str_t *value);


ngx_int_t
ngx_http_lunary_rewrite_names(ngx_conf_t *cf, ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_str_t                          *name, text;
    ngx_uint_t                          i, kind;
    ngx_http_lunary_names_t            *names;
    ngx_http_lunary_session_id_conf_t  *ic;

    names = ngx_pcalloc(cf->pool, 2 * sizeof(ngx_http_lunary_names_t));
    if (names == NULL) {
        return NGX_ERROR;
    }

    lcf->identity = &names[0];
    lcf->changed = &names[1];

    for (kind = 0; kind < NGX_HTTP_LUNARY_H_MAX; kind++) {
        name = lcf->names[kind]->elts;

        for (i = 0; i < lcf->names[kind]->nelts; i++) {
            ngx_http_lunary_names_add(lcf->identity, &name[i]);
        }
    }

    if (lcf->accept & NGX_HTTP_LUNARY_ACCEPT_PORTKEY) {
        ngx_str_set(&text, "x-portkey-metadata");
        ngx_http_lunary_names_add(lcf->identity, &text);
    }

    if (lcf->strip) {
        *lcf->changed = *lcf->identity;
    }

    if (lcf->inject.headers) {
        name = lcf->inject.headers->elts;

        for (i = 0; i < lcf->inject.headers->nelts; i++) {
            ngx_http_lunary_names_add(lcf->changed, &name[i]);
        }
    }

    ic = &lcf->session_id;

    if (ic->from == NGX_HTTP_LUNARY_ID_COOKIE) {
        ngx_str_set(&text, "Cookie");
        ngx_http_lunary_names_add(lcf->changed, &text);

    } else if (ic->from) {
        ngx_http_lunary_names_add(lcf->changed, &ic->name);
    }

    ngx_str_set(&text, "Accept-Encoding");
    ngx_http_lunary_names_add(lcf->changed, &text);

    return NGX_OK;
}


/*
 * Which headers are to go is noted when the caller has been judged by them: one
 * that another module has given its own value since is not the client's.
 */

ngx_int_t
ngx_http_lunary_rewrite_mark(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf)
{
    u_char                 **mark;
    ngx_table_elt_t         *h;
    ngx_http_lunary_walk_t   w;

    ctx->marks = NULL;

    ngx_http_lunary_walk(&w, &r->headers_in.headers);

    while ((h = ngx_http_lunary_walk_next(&w)) != NULL) {

        if (!ngx_http_lunary_names_may(lcf->changed, &h->key)
            || !ngx_http_lunary_goes(lcf, h))
        {
            continue;
        }

        /* before a subrequest, which shares variables, is without it */

        if (ngx_http_lunary_is_claim(lcf, h)) {
            ngx_http_lunary_header_var_keep(r, &h->key);
        }

        if (ctx->marks == NULL) {
            ctx->marks = ngx_array_create(r->pool, 4, sizeof(u_char *));
            if (ctx->marks == NULL) {
                return NGX_ERROR;
            }
        }

        mark = ngx_array_push(ctx->marks);
        if (mark == NULL) {
            return NGX_ERROR;
        }

        *mark = h->value.data;
    }

    return NGX_OK;
}


/*
 * 1 where it was there when the caller was judged.  Headers come in the order
 * of their marks, unless others have changed the list: it mostly is the next.
 */

static ngx_uint_t
ngx_http_lunary_marked(ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf, ngx_table_elt_t *h)
{
    u_char      **mark;
    ngx_uint_t    i, n;

    if (ctx == NULL || lcf->phase != NGX_HTTP_LUNARY_PREACCESS) {
        return 1;
    }

    if (ctx->marks == NULL) {
        return 0;
    }

    mark = ctx->marks->elts;
    n = ctx->marks->nelts;

    if (ctx->mark < n && mark[ctx->mark] == h->value.data) {
        ctx->mark++;
        return 1;
    }

    for (i = 0; i < n; i++) {
        if (mark[i] == h->value.data) {
            ctx->mark = i + 1;
            return 1;
        }
    }

    return 0;
}


/* 1 where it is to be taken out, if it is the client's */

static ngx_uint_t
ngx_http_lunary_goes(ngx_http_lunary_loc_conf_t *lcf, ngx_table_elt_t *h)
{
    return !ngx_http_lunary_inject_header(lcf, &h->key)
           && (ngx_http_lunary_is_claim(lcf, h)
               || ngx_http_lunary_is_session(lcf, h));
}


static ngx_uint_t
ngx_http_lunary_is_claim(ngx_http_lunary_loc_conf_t *lcf, ngx_table_elt_t *h)
{
    return lcf->strip
           && ngx_http_lunary_names_may(lcf->identity, &h->key)
           && ngx_http_lunary_identity_header(lcf, &h->key)
           && !ngx_http_lunary_is_session(lcf, h)
           && !ngx_http_lunary_inject_header(lcf, &h->key);
}


static ngx_uint_t
ngx_http_lunary_is_session(ngx_http_lunary_loc_conf_t *lcf,
    ngx_table_elt_t *h)
{
    ngx_http_lunary_session_id_conf_t  *ic;

    ic = &lcf->session_id;

    return ic->from
           && ic->from != NGX_HTTP_LUNARY_ID_COOKIE
           && ngx_http_lunary_header_is(h, (char *) ic->name.data,
                                        ic->name.len);
}


/* what was done before in the same request is added to; what fails is as if it
 * had not been tried */

ngx_int_t
ngx_http_lunary_rewrite_headers(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf,
    ngx_uint_t what)
{
    ngx_int_t   rc;
    ngx_str_t   user;
    ngx_list_t  list;
    ngx_uint_t  n;

    if (!ctx->headers_swapped) {
        ctx->changes = NULL;
    }

    n = ctx->changes ? ctx->changes->nelts : 0;

    ngx_str_null(&user);

    if ((what & NGX_HTTP_LUNARY_PUT_IN) && lcf->inject.headers
        && ngx_http_lunary_inject_value(r, ctx, lcf, &user) != NGX_OK)
    {
        return NGX_ERROR;
    }

    rc = ngx_http_lunary_rebuild(r, ctx, lcf, what, user.len != 0, &list);

    if (rc == NGX_DECLINED) {
        return NGX_OK;
    }

    if (rc == NGX_OK && user.len) {
        rc = ngx_http_lunary_put_in(r, ctx, lcf, &user, &list);
    }

    if (rc != NGX_OK) {

        if (ctx->changes) {
            ctx->changes->nelts = n;
        }

        return NGX_ERROR;
    }

    if (!ctx->headers_swapped) {
        ctx->received = r->headers_in.headers;
        ctx->headers_swapped = 1;
    }

    ngx_http_lunary_swap(r, &list);

    return NGX_OK;
}


/*
 * A subrequest has a copy of the main request's headers.  One that comes before
 * those are rewritten is no less a way to an upstream; what the client wrote
 * in place of a user stays there only if that is one.
 */

ngx_int_t
ngx_http_lunary_rewrite_subrequest(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_int_t   rc;
    ngx_uint_t  what;
    ngx_list_t  list;

    what = NGX_HTTP_LUNARY_TAKE_OUT;

    if (ctx == NULL) {
        what |= NGX_HTTP_LUNARY_PUT_IN;
    }

    rc = ngx_http_lunary_rebuild(r, ctx, lcf, what, 0, &list);

    if (rc == NGX_OK) {
        ngx_http_lunary_swap(r, &list);
    }

    return (rc == NGX_DECLINED) ? NGX_OK : rc;
}


/*
 * Builds the list of headers anew where some must go or change, or more are to
 * come: proxy copies the list and asks for nothing else.  NGX_DECLINED: it may
 * stay as it is.  Of the main request what was done is noted.
 */

static ngx_int_t
ngx_http_lunary_rebuild(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf, ngx_uint_t what, ngx_uint_t more,
    ngx_list_t *list)
{
    ngx_int_t                rc;
    ngx_str_t                value;
    ngx_uint_t               pass, changes;
    ngx_table_elt_t         *h, *copy;
    ngx_http_lunary_walk_t   w;

    changes = more;

    ngx_memzero(list, sizeof(ngx_list_t));

    /* first pass: is there anything to do; second: do it */

    for (pass = 0; pass < 2; pass++) {

        if (pass == 1
            && ngx_list_init(list, r->pool, 20, sizeof(ngx_table_elt_t))
               != NGX_OK)
        {
            return NGX_ERROR;
        }

        if (ctx) {
            ctx->mark = 0;
        }

        ngx_http_lunary_walk(&w, &r->headers_in.headers);

        while ((h = ngx_http_lunary_walk_next(&w)) != NULL) {

            value = h->value;
            rc = NGX_DECLINED;

            if (ngx_http_lunary_names_may(lcf->changed, &h->key)) {
                rc = ngx_http_lunary_change(r, ctx, lcf, what, h, &value);
            }

            if (rc == NGX_ERROR) {
                return NGX_ERROR;
            }

            if (rc != NGX_DECLINED) {
                changes = 1;
            }

            if (pass == 0) {
                if (changes) {
                    break;
                }

                continue;
            }

            copy = NULL;

            if (rc != NGX_OK) {
                copy = ngx_list_push(list);
                if (copy == NULL) {
                    return NGX_ERROR;
                }

                *copy = *h;
                copy->value = value;
            }

            if (rc == NGX_DECLINED || r != r->main) {
                continue;
            }

            if (rc == NGX_OK && ngx_http_lunary_is_claim(lcf, h)) {
                ngx_http_lunary_header_var_keep(r, &h->key);

            } else {
                ngx_http_lunary_header_var_drop(r, &h->key);
            }

            if (ngx_http_lunary_note(r, ctx, copy, h) != NGX_OK) {
                return NGX_ERROR;
            }
        }

        if (!changes) {
            return NGX_DECLINED;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_lunary_put_in(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf, ngx_str_t *user, ngx_list_t *list)
{
    ngx_str_t        *name;
    ngx_uint_t        i;
    ngx_table_elt_t  *h;

    name = lcf->inject.headers->elts;

    for (i = 0; i < lcf->inject.headers->nelts; i++) {

        h = ngx_list_push(list);
        if (h == NULL) {
            return NGX_ERROR;
        }

        ngx_memzero(h, sizeof(ngx_table_elt_t));

        h->key = name[i];
        h->value = *user;

        h->lowcase_key = ngx_pnalloc(r->pool, name[i].len);
        if (h->lowcase_key == NULL) {
            return NGX_ERROR;
        }

        /* by its hash proxy finds what proxy_set_header replaces */

        h->hash = ngx_hash_strlow(h->lowcase_key, name[i].data, name[i].len);

        ngx_http_lunary_header_var_drop(r, &name[i]);

        if (ngx_http_lunary_note(r, ctx, h, NULL) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static void
ngx_http_lunary_swap(ngx_http_request_t *r, ngx_list_t *list)
{
    r->headers_in.headers = *list;

    /* the list's `last` points into its own first part where it is short */

    if (r->headers_in.headers.part.next == NULL) {
        r->headers_in.headers.last = &r->headers_in.headers.part;
    }

#if (nginx_version >= 1023000)

    /* for fastcgi, scgi and uwsgi nginx links headers of one name, once: the
     * copies would lead to what was taken out */

    r->headers_in.multi_linked = 0;
#endif
}


static ngx_int_t
ngx_http_lunary_note(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_table_elt_t *now, ngx_table_elt_t *was)
{
    ngx_http_lunary_change_t  *c;

    if (ctx->changes == NULL) {
        ctx->changes = ngx_array_create(r->pool, 4,
                                        sizeof(ngx_http_lunary_change_t));
        if (ctx->changes == NULL) {
            return NGX_ERROR;
        }
    }

    c = ngx_array_push(ctx->changes);
    if (c == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(c, sizeof(ngx_http_lunary_change_t));

    if (now) {
        c->now = *now;
    }

    if (was) {
        c->was = *was;
    }

    return NGX_OK;
}


void
ngx_http_lunary_restore_headers(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx)
{
    ngx_list_t                 list;
    ngx_uint_t                 i, n;
    ngx_table_elt_t           *h, *copy;
    ngx_http_lunary_walk_t     w;
    ngx_http_lunary_change_t  *c;

    if (!ctx->headers_swapped) {
        return;
    }

    c = ctx->changes->elts;
    n = ctx->changes->nelts;

    if (ngx_list_init(&list, r->pool, 20, sizeof(ngx_table_elt_t)) != NGX_OK) {
        return;
    }

    ngx_http_lunary_walk(&w, &r->headers_in.headers);

    while ((h = ngx_http_lunary_walk_next(&w)) != NULL) {

        for (i = 0; i < n; i++) {
            if (c[i].now.key.data == h->key.data
                && c[i].now.value.data == h->value.data)
            {
                break;
            }
        }

        if (i < n && c[i].was.key.data == NULL) {
            continue;
        }

        copy = ngx_list_push(&list);
        if (copy == NULL) {
            return;
        }

        *copy = *h;

        if (i < n) {
            copy->value = c[i].was.value;
        }
    }

    for (i = 0; i < n; i++) {

        ngx_http_lunary_header_var_drop(r, c[i].now.key.data ? &c[i].now.key
                                                             : &c[i].was.key);

        if (c[i].now.key.data) {
            continue;
        }

        copy = ngx_list_push(&list);
        if (copy == NULL) {
            return;
        }

        *copy = c[i].was;
    }

    ctx->headers_swapped = 0;

    ngx_http_lunary_swap(r, &list);
}


/* what becomes of a header: NGX_DECLINED: it stays; NGX_OK: it goes;
 * NGX_DONE: it stays with *value */

static ngx_int_t
ngx_http_lunary_change(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf, ngx_uint_t what, ngx_table_elt_t *h,
    ngx_str_t *value)
{
    ngx_int_t                           rc;
    ngx_http_lunary_session_id_conf_t  *ic;

    ic = &lcf->session_id;
    rc = NGX_DECLINED;

    if (ngx_http_lunary_inject_header(lcf, &h->key)) {
        return (what & NGX_HTTP_LUNARY_PUT_IN) ? NGX_OK : NGX_DECLINED;
    }

    if (!(what & NGX_HTTP_LUNARY_TAKE_OUT)) {
        return NGX_DECLINED;
    }

    if (ngx_http_lunary_goes(lcf, h) && ngx_http_lunary_marked(ctx, lcf, h)) {
        return NGX_OK;
    }

    if (ic->from == NGX_HTTP_LUNARY_ID_COOKIE
        && NGX_HTTP_LUNARY_IS(h, "Cookie"))
    {
        rc = ngx_http_lunary_without_cookie(r, &ic->name, value);
    }

    if (rc == NGX_DECLINED
        && ctx && !ctx->aside
        && NGX_HTTP_LUNARY_IS(h, "Accept-Encoding"))
    {
        if (ctx->usage) {

            /* a stream that is to be changed must be plain */

            ngx_str_set(value, "identity");
            return NGX_DONE;
        }

        return ngx_http_lunary_readable_codings(r, value);
    }

    return rc;
}
