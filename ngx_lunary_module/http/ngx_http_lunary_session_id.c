/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The session's id: out of a cookie, a header or a bearer token, its signature
 * verified where there is a secret.
 *
 * Invariants
 *   - a cookie is the one that the application would read;
 *   - a bad signature is no session.
 */

#include "ngx_http_lunary_module.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>


#define NGX_HTTP_LUNARY_SESSION_ID_MAX  512


static ngx_uint_t ngx_http_lunary_own_key(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf, ngx_str_t *key);
static ngx_int_t ngx_http_lunary_unsign(ngx_http_request_t *r,
    ngx_http_lunary_session_id_conf_t *ic, ngx_str_t *id);
static ngx_int_t ngx_http_lunary_cookie(ngx_http_request_t *r,
    ngx_str_t *name, ngx_str_t *value);


ngx_int_t
ngx_http_lunary_session_id(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf, ngx_str_t *id)
{
    ngx_uint_t                          i;
    ngx_table_elt_t                    *h;
    ngx_http_lunary_ctx_t              *ctx;
    ngx_http_lunary_session_id_conf_t  *ic;

    ngx_str_null(id);

    ic = &lcf->session_id;

    switch (ic->from) {

    case NGX_HTTP_LUNARY_ID_COOKIE:

        if (ngx_http_lunary_cookie(r, &ic->name, id) != NGX_OK) {
            return NGX_OK;
        }

        break;

    case NGX_HTTP_LUNARY_ID_HEADER:

        /* as it came: what is read here does not reach the upstream */

        ctx = ngx_http_lunary_get_ctx(r);

        h = ngx_http_lunary_header((ctx && ctx->headers_swapped)
                                   ? &ctx->received : &r->headers_in.headers,
                                   (char *) ic->name.data, ic->name.len);
        if (h) {
            *id = h->value;
        }

        break;

    case NGX_HTTP_LUNARY_ID_BEARER:

        h = r->headers_in.authorization;

        if (h && h->value.len > 7
            && ngx_strncasecmp(h->value.data, (u_char *) "bearer ", 7) == 0)
        {
            id->data = h->value.data + 7;
            id->len = h->value.len - 7;

            while (id->len && id->data[0] == ' ') {
                id->data++;
                id->len--;
            }
        }

        break;

    default:
        return NGX_OK;
    }

    if (ngx_http_lunary_unsign(r, ic, id) != NGX_OK) {
        return NGX_ERROR;
    }

    if (id->len > NGX_HTTP_LUNARY_SESSION_ID_MAX) {
        ngx_str_null(id);
    }

    /* what was percent-encoded goes into keys and, as a variable, anywhere */

    for (i = 0; i < id->len; i++) {
        if (id->data[i] < 0x20 || id->data[i] == 0x7f) {
            ngx_str_null(id);
            break;
        }
    }

    return NGX_OK;
}


/*
 * The first cookie of that very name.  nginx's own $cookie_NAME folds case and
 * takes a comma for a separator: what it finds inside the value of another
 * cookie would be a session to us and none to the application.
 */

static ngx_int_t
ngx_http_lunary_cookie(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value)
{
    ngx_str_t          rest, whole, one;
    ngx_table_elt_t   *h;
#if (nginx_version >= 1023000)

    for (h = r->headers_in.cookie; h; h = h->next) {
#else
    ngx_uint_t         i;
    ngx_table_elt_t  **cookies;

    cookies = r->headers_in.cookies.elts;

    for (i = 0; i < r->headers_in.cookies.nelts; i++) {
        h = cookies[i];
#endif
        rest = h->value;

        while (ngx_http_lunary_next_cookie(&rest, &whole, &one, value)) {

            if (one.len == name->len
                && ngx_memcmp(one.data, name->data, name->len) == 0)
            {
                return NGX_OK;
            }
        }
    }

    ngx_str_null(value);

    return NGX_DECLINED;
}


ngx_uint_t
ngx_http_lunary_next_cookie(ngx_str_t *rest, ngx_str_t *whole,
    ngx_str_t *name, ngx_str_t *value)
{
    u_char  *p, *last, *end;

    p = rest->data;
    last = p + rest->len;

    while (p < last && (*p == ' ' || *p == '\t' || *p == ';')) {
        p++;
    }

    if (p == last) {
        return 0;
    }

    whole->data = p;

    end = ngx_strlchr(p, last, ';');

    if (end == NULL) {
        end = last;
    }

    rest->data = end;
    rest->len = last - end;

    while (end[-1] == ' ' || end[-1] == '\t') {
        end--;
    }

    whole->len = end - p;

    name->data = p;
    value->data = ngx_strlchr(p, end, '=');

    if (value->data == NULL) {
        name->len = whole->len;
        value->data = end;
        value->len = 0;
        return 1;
    }

    name->len = value->data - p;

    while (name->len
           && (p[name->len - 1] == ' ' || p[name->len - 1] == '\t'))
    {
        name->len--;
    }

    do {
        value->data++;
    } while (value->data < end
             && (*value->data == ' ' || *value->data == '\t'));

    value->len = end - value->data;

    return 1;
}


/*
 * express (cookie-signature): s:<id>.<base64 of HMAC-SHA-256 without padding>,
 * percent-encoded.  With secrets a bad or missing signature is no session;
 * without, the id is taken out of what looks signed.
 */

static ngx_int_t
ngx_http_lunary_unsign(ngx_http_request_t *r,
    ngx_http_lunary_session_id_conf_t *ic, ngx_str_t *id)
{
    u_char        *p, *src, *dst;
    ngx_str_t      mac, text, b64, *secret;
    ngx_uint_t     i;
    unsigned int   n;
    u_char         md[EVP_MAX_MD_SIZE], encoded[EVP_MAX_MD_SIZE * 2];

    if (id->len > 2
        && (ngx_strncasecmp(id->data, (u_char *) "s%3A", 4) == 0
            || ngx_strncmp(id->data, "s:", 2) == 0))
    {
        if (id->len > 3 * NGX_HTTP_LUNARY_SESSION_ID_MAX) {
            ngx_str_null(id);
            return NGX_OK;
        }

        text.data = ngx_pnalloc(r->pool, id->len);
        if (text.data == NULL) {
            return NGX_ERROR;
        }

        src = id->data;
        dst = text.data;

        ngx_unescape_uri(&dst, &src, id->len, 0);

        text.len = dst - text.data;

        text.data += 2;
        text.len -= 2;

        p = text.data + text.len;

        while (p > text.data && p[-1] != '.') {
            p--;
        }

        if (p == text.data) {
            ngx_str_null(id);
            return NGX_OK;
        }

        id->data = text.data;
        id->len = p - 1 - text.data;

        mac.data = p;
        mac.len = text.data + text.len - p;

        while (mac.len && mac.data[mac.len - 1] == '=') {
            mac.len--;
        }

        if (ic->secrets == NULL) {
            return NGX_OK;
        }

    } else {

        if (ic->secrets) {
            ngx_str_null(id);
        }

        return NGX_OK;
    }

    secret = ic->secrets->elts;

    for (i = 0; i < ic->secrets->nelts; i++) {

        if (HMAC(EVP_sha256(), secret[i].data, (int) secret[i].len, id->data,
                 id->len, md, &n)
            == NULL)
        {
            return NGX_ERROR;
        }

        text.data = md;
        text.len = n;
        b64.data = encoded;

        ngx_encode_base64(&b64, &text);

        while (b64.len && encoded[b64.len - 1] == '=') {
            b64.len--;
        }

        if (b64.len == mac.len
            && CRYPTO_memcmp(encoded, mac.data, mac.len) == 0)
        {
            return NGX_OK;
        }
    }

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "lunary: session cookie with a bad signature");

    ngx_str_null(id);

    return NGX_OK;
}


/*
 * The key's text.  Empty where a variable in it is: `sess:$cookie_sid` without
 * that cookie is the key of no session, not of the session "sess:".
 */

ngx_int_t
ngx_http_lunary_session_key(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf, ngx_str_t *key)
{
    size_t  literal;

    if (ngx_http_complex_value(r, lcf->session.key, key) != NGX_OK) {
        return NGX_ERROR;
    }

    literal = lcf->session.literal;

    if (key->len <= literal
        || key->len > literal + NGX_HTTP_LUNARY_SESSION_ID_MAX)
    {
        ngx_str_null(key);

    } else if (ngx_http_lunary_own_key(r, lcf, key)) {
        ngx_str_null(key);
    }

    return NGX_OK;
}


/*
 * 1 where what stands in the key for a variable has made it one of ours: in
 * a thread's or a run's hash is a user whom anybody may have claimed.
 */

static ngx_uint_t
ngx_http_lunary_own_key(ngx_http_request_t *r,
    ngx_http_lunary_loc_conf_t *lcf, ngx_str_t *key)
{
    size_t             len;
    ngx_str_t          prefix;
    ngx_uint_t         i;
    static ngx_str_t   kinds[] = {
        ngx_string("run:"), ngx_string("thread:"), ngx_string("user:"),
        ngx_string("users:"), ngx_string("policy:"), ngx_string("budget:"),
        ngx_string("outbox:"), ngx_null_string
    };

    prefix = ngx_http_lunary_prefix(r);

    for (i = 0; kinds[i].len; i++) {

        len = prefix.len + kinds[i].len;

        if (lcf->session.head < len && key->len >= len
            && ngx_memcmp(key->data, prefix.data, prefix.len) == 0
            && ngx_memcmp(key->data + prefix.len, kinds[i].data, kinds[i].len)
               == 0)
        {
            return 1;
        }
    }

    return 0;
}
