/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What the request's headers say of the caller, by the names of lunary_header
 * and lunary_accept: read once a location, before they are stripped.
 *
 * Invariants
 *   - a header that is there but holds no user id, props or tags is passed over
 *     for the next name;
 *   - headers count as verified only from peers of lunary_trusted_from.
 */

#include "ngx_http_lunary_module.h"
#include "ngx_http_lunary_json.h"
#include "inspect/lunary_json.h"


#define NGX_HTTP_LUNARY_PROPS_MAX  (64 * 1024)


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
