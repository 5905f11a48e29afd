/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * lunary_inject_user: the resolved user, told to the upstream in members that
 * its API defines or in a header, plain or as HMAC-SHA-256, in place of what
 * the client wrote there.  So a gateway behind us may believe it.
 *
 * Invariants
 *   - what the client wrote in such a place never passes, whether a user is
 *     known or not, however the name is spelled; a body in which it cannot be
 *     taken out is refused (enforce);
 *   - never longer than 64 characters in members that are limited to that: a
 *     longer id is told as its SHA-256.
 */

#include "ngx_http_lunary_module.h"
#include "inspect/lunary_form.h"
#include "inspect/lunary_json.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>


#define NGX_HTTP_LUNARY_INJECT_MAX   64
#define NGX_HTTP_LUNARY_INJECT_KEY   4096


static ngx_int_t ngx_http_lunary_inject_key(ngx_conf_t *cf, ngx_str_t *file,
    ngx_str_t *key);
static int ngx_http_lunary_inject_member(ngx_http_lunary_ctx_t *ctx,
    lunary_buf_t *out, const char *name, ngx_str_t *value);


/* a member, and what it is among the marks of a body */

typedef struct {
    ngx_str_t    name;
    ngx_uint_t   bit;
    uint32_t     marks;
} ngx_http_lunary_inject_name_t;

static ngx_http_lunary_inject_name_t  ngx_http_lunary_inject_names[] = {

    { ngx_string("user"), NGX_HTTP_LUNARY_INJECT_USER,
      lunary_member_bit(LUNARY_M_USER) },

    { ngx_string("safety_identifier"), NGX_HTTP_LUNARY_INJECT_SAFETY,
      lunary_member_bit(LUNARY_M_SAFETY) },

    { ngx_string("metadata.user_id"), NGX_HTTP_LUNARY_INJECT_METADATA,
      lunary_member_bit(LUNARY_M_MD_USER_ID) },

    { ngx_null_string, 0, 0 }
};


/* headers by which the request itself is read */

static ngx_str_t  ngx_http_lunary_inject_never[] = {
    ngx_string("Connection"), ngx_string("Content-Encoding"),
    ngx_string("Content-Length"), ngx_string("Content-Type"),
    ngx_string("Cookie"), ngx_string("Expect"), ngx_string("Host"),
    ngx_string("Referer"), ngx_string("TE"), ngx_string("Trailer"),
    ngx_string("Transfer-Encoding"), ngx_string("Upgrade"),
    ngx_string("User-Agent"), ngx_string("Via"),
    ngx_string("X-Forwarded-For"), ngx_null_string
};


char *
ngx_http_lunary_conf_inject(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_lunary_loc_conf_t *lcf = conf;

    u_char                          ch;
    size_t                          n;
    ngx_str_t                      *value, *name, file;
    ngx_uint_t                      i;
    ngx_http_lunary_inject_conf_t  *ij;
    ngx_http_lunary_inject_name_t  *in;

    if (lcf->inject_set) {
        return "is duplicate";
    }

    lcf->inject_set = 1;

    ij = &lcf->inject;
    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        return cf->args->nelts == 2 ? NGX_CONF_OK
                                    : "takes nothing behind off";
    }

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "hmac_file=", 10) == 0) {

            file.data = value[i].data + 10;
            file.len = value[i].len - 10;

            if (ij->key.len) {
                return "has a duplicate hmac_file=";
            }

            if (ngx_http_lunary_inject_key(cf, &file, &ij->key) != NGX_OK) {
                return NGX_CONF_ERROR;
            }

            continue;
        }

        if (ngx_strncmp(value[i].data, "header:", 7) == 0
            && value[i].len > 7)
        {
            if (ij->headers == NULL) {
                ij->headers = ngx_array_create(cf->pool, 2, sizeof(ngx_str_t));
                if (ij->headers == NULL) {
                    return NGX_CONF_ERROR;
                }
            }

            name = ngx_array_push(ij->headers);
            if (name == NULL) {
                return NGX_CONF_ERROR;
            }

            name->data = value[i].data + 7;
            name->len = value[i].len - 7;

            for (n = 0; n < name->len; n++) {
                ch = name->data[n];

                if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z')
                      || (ch >= '0' && ch <= '9') || ch == '-' || ch == '_'))
                {
                    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                       "invalid header name \"%V\" in "
                                       "\"lunary_inject_user\"", name);
                    return NGX_CONF_ERROR;
                }
            }

            for (n = 0; ngx_http_lunary_inject_never[n].len; n++) {
                if (name->len == ngx_http_lunary_inject_never[n].len
                    && ngx_strncasecmp(name->data,
                                       ngx_http_lunary_inject_never[n].data,
                                       name->len)
                       == 0)
                {
                    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                       "\"%V\" in \"lunary_inject_user\" says "
                                       "how a request is read or where it is "
                                       "from, not who sent it", &value[i]);
                    return NGX_CONF_ERROR;
                }
            }

            continue;
        }

        for (in = ngx_http_lunary_inject_names; in->name.len; in++) {
            if (in->name.len == value[i].len
                && ngx_strncmp(in->name.data, value[i].data, value[i].len)
                   == 0)
            {
                break;
            }
        }

        if (in->name.len == 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "unknown \"%V\" in \"lunary_inject_user\": "
                               "write user, safety_identifier, "
                               "metadata.user_id or header:NAME, and "
                               "hmac_file=PATH", &value[i]);
            return NGX_CONF_ERROR;
        }

        ij->members |= in->bit;
    }

    if (ij->members == 0 && ij->headers == NULL) {
        return "names no place: write user, safety_identifier, "
               "metadata.user_id or header:NAME";
    }

    return NGX_CONF_OK;
}


/* the file's first line */

static ngx_int_t
ngx_http_lunary_inject_key(ngx_conf_t *cf, ngx_str_t *file, ngx_str_t *key)
{
    ngx_str_t    *line;
    ngx_array_t  *lines;

    lines = ngx_http_lunary_read_lines(cf, file, "hmac_file");
    if (lines == NULL) {
        return NGX_ERROR;
    }

    line = lines->elts;

    if (lines->nelts > 1) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "hmac_file \"%V\" holds more than one line: "
                           "there is one key", file);
        return NGX_ERROR;
    }

    *key = line[0];

    return NGX_OK;
}


ngx_uint_t
ngx_http_lunary_inject_members(ngx_http_lunary_ctx_t *ctx,
    ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_uint_t                      members;
    const lunary_dialect_t         *dialect;
    ngx_http_lunary_inject_name_t  *in;

    dialect = ctx->call->dialect;

    /* of an unknown API no body is rewritten */

    if (dialect->strip == 0) {
        return 0;
    }

    members = lcf->inject.members;

    /* what is taken out there is nothing that the provider defines */

    for (in = ngx_http_lunary_inject_names; in->name.len; in++) {
        if (dialect->strip & in->marks) {
            members &= ~in->bit;
        }
    }

    return members;
}


ngx_int_t
ngx_http_lunary_inject_value(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf,
    ngx_str_t *value)
{
    ngx_str_t      *user;
    unsigned int    n;
    unsigned char   md[EVP_MAX_MD_SIZE];

    ngx_str_null(value);

    user = &ctx->identity.user;

    if (user->len == 0) {
        return NGX_OK;
    }

    if (lcf->inject.key.len == 0 && user->len <= NGX_HTTP_LUNARY_INJECT_MAX) {
        *value = *user;
        return NGX_OK;
    }

    if (lcf->inject.key.len) {

        if (HMAC(EVP_sha256(), lcf->inject.key.data,
                 (int) lcf->inject.key.len, user->data, user->len, md, &n)
            == NULL)
        {
            return NGX_ERROR;
        }

    } else if (!EVP_Digest(user->data, user->len, md, &n, EVP_sha256(), NULL))
    {
        return NGX_ERROR;
    }

    value->data = ngx_pnalloc(r->pool, 2 * n);
    if (value->data == NULL) {
        return NGX_ERROR;
    }

    value->len = ngx_hex_dump(value->data, md, n) - value->data;

    return NGX_OK;
}


ngx_int_t
ngx_http_lunary_inject_edits(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf,
    uint32_t strip, lunary_edit_t *edits, size_t max)
{
    int                             rc, n;
    u_char                         *p;
    ngx_str_t                       value;
    ngx_uint_t                      members;
    lunary_buf_t                    root, metadata, scratch;
    lunary_request_t               *rq;
    lunary_rewrite_t                rw;
    ngx_http_lunary_inject_name_t  *in;

    rq = lunary_call_body(ctx->call);

    if (rq == NULL) {
        return NGX_ERROR;
    }

    if (ngx_http_lunary_inject_value(r, ctx, lcf, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    members = ngx_http_lunary_inject_members(ctx, lcf);

    ngx_memzero(&rw, sizeof(lunary_rewrite_t));
    ngx_memzero(&root, sizeof(lunary_buf_t));
    ngx_memzero(&metadata, sizeof(lunary_buf_t));
    ngx_memzero(&scratch, sizeof(lunary_buf_t));

    rw.strip = strip;
    rc = 0;

    for (in = ngx_http_lunary_inject_names; in->name.len; in++) {

        if (!(members & in->bit)) {
            continue;
        }

        rw.strip |= in->marks;
        rw.folded |= in->marks;

        if (in->bit == NGX_HTTP_LUNARY_INJECT_METADATA) {

            /* another metadata beside ours would be believed by some */

            rw.folded |= lunary_member_bit(LUNARY_M_METADATA);
        }

        if (value.len == 0 || rc) {
            continue;
        }

        rc = in->bit == NGX_HTTP_LUNARY_INJECT_METADATA
             ? ngx_http_lunary_inject_member(ctx, &metadata, "user_id", &value)
             : ngx_http_lunary_inject_member(ctx, &root,
                                             (char *) in->name.data, &value);
    }

    n = LUNARY_NOMEM;

    if (rc == 0) {
        rw.root = lunary_buf_str(&root);
        rw.metadata = lunary_buf_str(&metadata);

        n = lunary_request_rewrite(rq, &rw, &ctx->mem, &scratch, edits, max);
    }

    /* the edits' text lives as long as the request */

    if (n > 0 && scratch.len) {

        p = ngx_pnalloc(r->pool, scratch.len);

        if (p) {
            ngx_memcpy(p, scratch.data, scratch.len);

            for (rc = 0; rc < n; rc++) {
                if (edits[rc].text.len) {
                    edits[rc].text.data = p + (edits[rc].text.data
                                               - scratch.data);
                }
            }

        } else {
            n = LUNARY_NOMEM;
        }
    }

    lunary_buf_free(&ctx->mem, &root);
    lunary_buf_free(&ctx->mem, &metadata);
    lunary_buf_free(&ctx->mem, &scratch);

    return n < 0 ? NGX_ERROR : n;
}


static int
ngx_http_lunary_inject_member(ngx_http_lunary_ctx_t *ctx, lunary_buf_t *out,
    const char *name, ngx_str_t *value)
{
    return (out->len && lunary_buf_lit(&ctx->mem, out, ","))
        || lunary_buf_lit(&ctx->mem, out, "\"")
        || lunary_buf_append(&ctx->mem, out, name, ngx_strlen(name))
        || lunary_buf_lit(&ctx->mem, out, "\":\"")
        || lunary_json_escape(&ctx->mem, out, lunary_ngx_str(*value))
        || lunary_buf_lit(&ctx->mem, out, "\"");
}


ngx_uint_t
ngx_http_lunary_inject_refused(ngx_http_request_t *r,
    ngx_http_lunary_ctx_t *ctx, ngx_http_lunary_loc_conf_t *lcf)
{
    ngx_str_t          claim, value;
    ngx_uint_t         members, names;
    lunary_request_t  *rq;

    members = ngx_http_lunary_inject_members(ctx, lcf);

    if (members == 0 || (ctx->request_bytes == 0 && !ctx->unread)) {
        return 0;
    }

    rq = lunary_call_body(ctx->call);

    if (rq) {
        return lunary_request_flooded(rq)
               || !lunary_json_is_object(lunary_request_text(rq));
    }

    /* a form's fields stay: they may name nobody but the user */

    if (ctx->call->request_state == LUNARY_BODY_FORM) {

        names = lunary_call_form_names(ctx->call);

        if ((names & LUNARY_FORM_AMBIGUOUS)
            || ((names & LUNARY_FORM_SAFETY)
                && (members & NGX_HTTP_LUNARY_INJECT_SAFETY))
            || ((names & LUNARY_FORM_METADATA)
                && (members & NGX_HTTP_LUNARY_INJECT_METADATA)))
        {
            return 1;
        }

        if (!(names & LUNARY_FORM_USER)
            || !(members & NGX_HTTP_LUNARY_INJECT_USER))
        {
            return 0;
        }

        claim = ngx_http_lunary_str(lunary_call_claims(ctx->call)->user);

        return ngx_http_lunary_inject_value(r, ctx, lcf, &value) != NGX_OK
               || value.len == 0
               || value.len != claim.len
               || ngx_memcmp(value.data, claim.data, claim.len) != 0;
    }

    return 1;
}


ngx_uint_t
ngx_http_lunary_inject_header(ngx_http_lunary_loc_conf_t *lcf,
    ngx_str_t *name)
{
    ngx_str_t   *names;
    ngx_uint_t   i;

    if (lcf->inject.headers == NULL) {
        return 0;
    }

    names = lcf->inject.headers->elts;

    for (i = 0; i < lcf->inject.headers->nelts; i++) {
        if (ngx_http_lunary_same_name(name, &names[i])) {
            return 1;
        }
    }

    return 0;
}
