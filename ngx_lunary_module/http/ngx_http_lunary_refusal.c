/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Refusals: codes, texts, and the shape that each API gives its errors.
 *
 * Invariants
 *   - sent by us: no error_page makes them look like an answer;
 *   - no text that a client sent is in one.
 */

#include "ngx_http_lunary_refusal.h"


/* how each API names an error of that status */

typedef struct {
    ngx_uint_t             status;
    ngx_str_t              openai;
    ngx_str_t              anthropic;
    ngx_str_t              gemini;
    ngx_str_t              bedrock;
} ngx_http_lunary_status_names_t;


static ngx_buf_t *ngx_http_lunary_refusal_body(ngx_http_request_t *r,
    lunary_style_e style, ngx_http_lunary_refusal_t *ref);
static ngx_http_lunary_status_names_t *ngx_http_lunary_status_names(
    ngx_uint_t status);


ngx_http_lunary_refusal_t  ngx_http_lunary_refusals[] = {

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
      ngx_string("The request body's Content-Encoding keeps its user from "
                 "being read, or from being replaced: send it "
                 "uncompressed.") },

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


ngx_int_t
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
