/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * One LLM call: the way of its bytes.  See lunary_call.h.
 *
 *   request   (inflate) → sniff → lunary_request (JSON) or lunary_form
 *             → the dialect's request()
 *   response  (inflate) → sniff → lunary_frame → the dialect's event()
 *                               → lunary_doc   → the dialect's body()
 *
 * What a body is, is told by its Content-Type and by its first bytes, and the
 * bytes win: errors come as JSON where a stream was announced, streams come
 * without a type, and JSON comes as text/plain.
 */

#include <stdio.h>

#include "lunary_call_internal.h"


#define lunary_lower(c)                                                      \
    ((unsigned char) ((c) >= 'A' && (c) <= 'Z' ? (c) | 0x20 : (c)))


/* what is done with a body's bytes */

enum {
    LUNARY_KIND_NONE = 0,             /* not known yet                       */
    LUNARY_KIND_JSON,
    LUNARY_KIND_FORM,
    LUNARY_KIND_FRAME,
    LUNARY_KIND_TEXT,                 /* an error's plain text               */
    LUNARY_KIND_SKIP
};


static void lunary_call_request_bytes(void *ctx, const unsigned char *p,
    size_t n);
static void lunary_call_request_sniff(lunary_call_t *call,
    const unsigned char *p, size_t n);
static void lunary_call_request_json(lunary_call_t *call);
static void lunary_call_request_form(lunary_call_t *call);
static void lunary_call_read_request(lunary_call_t *call);
static void lunary_call_type(lunary_call_t *call, lunary_str_t type);
static void lunary_call_response_bytes(void *ctx, const unsigned char *p,
    size_t n);
static size_t lunary_call_response_sniff(lunary_call_t *call,
    const unsigned char *p, size_t n);
static int lunary_call_sniffed(lunary_call_t *call);
static int lunary_call_starts(const unsigned char *p, size_t n,
    const char *s);
static void lunary_call_response_start(lunary_call_t *call, int kind);
static void lunary_call_frame(lunary_call_t *call, lunary_frame_kind_e kind);
static void lunary_call_event(void *ctx, lunary_str_t name,
    lunary_str_t data, unsigned flags);
static void lunary_call_doc(lunary_call_t *call, int rc);
static void lunary_call_response_last(lunary_call_t *call, int complete);
static void lunary_call_close(lunary_call_t *call);
static void lunary_call_fold(lunary_call_t *call);
static void lunary_call_write_error(lunary_call_t *call);
static void lunary_call_capped(lunary_call_t *call, lunary_run_t *run,
    lunary_field_e f, lunary_buf_t *b);
static void lunary_call_body_error(lunary_call_t *call, lunary_run_t *run);
static void lunary_call_set_tokens(lunary_run_t *run, lunary_field_e f,
    int64_t n);
static int lunary_call_has(lunary_str_t s, const char *word);


lunary_call_t *
lunary_call_create(lunary_mem_t *mem, const lunary_call_conf_t *conf)
{
    lunary_call_t  *call;
    lunary_priv_t  *priv;

    priv = lunary_alloc(mem, sizeof(lunary_priv_t));
    if (priv == NULL) {
        return NULL;
    }

    memset(priv, 0, sizeof(lunary_priv_t));

    call = &priv->pub;

    call->mem = mem;
    call->conf = *conf;
    call->dialect = &lunary_dialect_unknown;
    call->stream = -1;

    call->tokens.prompt = LUNARY_UNKNOWN;
    call->tokens.completion = LUNARY_UNKNOWN;
    call->tokens.total = LUNARY_UNKNOWN;
    call->tokens.cached = LUNARY_UNKNOWN;
    call->tokens.cache_write = LUNARY_UNKNOWN;
    call->tokens.reasoning = LUNARY_UNKNOWN;
    call->input_tokens = LUNARY_UNKNOWN;
    call->output_tokens = LUNARY_UNKNOWN;
    priv->header_input = LUNARY_UNKNOWN;
    priv->header_output = LUNARY_UNKNOWN;

    /* a body holds more than one field, and what is not captured is small */

    priv->doc_max = conf->capture_max;

    if (priv->doc_max < LUNARY_CALL_DOC) {
        priv->doc_max = LUNARY_CALL_DOC;
    }

    lunary_output_init(&priv->out, mem, conf->capture_max,
                       (conf->capture & LUNARY_CAPTURE_OUTPUT) != 0);

    return call;
}


void
lunary_call_destroy(lunary_call_t *call)
{
    lunary_mem_t   *mem;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);
    mem = call->mem;

    lunary_call_close(call);

    if (priv->rq_inflate != NULL) {
        lunary_inflate_destroy(priv->rq_inflate);
    }

    if (priv->form != NULL) {
        lunary_form_destroy(priv->form);
    }

    if (priv->rq != NULL) {
        lunary_request_destroy(priv->rq);
    }

    lunary_output_free(&priv->out);

    lunary_buf_free(mem, &priv->form_user);
    lunary_buf_free(mem, &priv->model);
    lunary_buf_free(mem, &priv->input_buf);
    lunary_buf_free(mem, &priv->params);
    lunary_buf_free(mem, &priv->metadata);
    lunary_buf_free(mem, &priv->status_text);
    lunary_buf_free(mem, &priv->output);
    lunary_buf_free(mem, &priv->response_model);
    lunary_buf_free(mem, &priv->response_id);
    lunary_buf_free(mem, &priv->client_request_id);
    lunary_buf_free(mem, &priv->error_type_header);
    lunary_buf_free(mem, &priv->usage);
    lunary_buf_free(mem, &priv->error_message);
    lunary_buf_free(mem, &priv->error_type);
    lunary_buf_free(mem, &priv->error_code);
    lunary_buf_free(mem, &priv->error);
    lunary_buf_free(mem, &priv->body_error);
    lunary_buf_free(mem, &priv->notes);

    lunary_free(mem, (void *) priv->path.data, priv->path.len);
    lunary_free(mem, priv, sizeof(lunary_priv_t));
}


/* --- the request --- */

void
lunary_call_start(lunary_call_t *call, lunary_str_t method,
    lunary_str_t path, lunary_str_t content_type,
    lunary_str_t content_encoding)
{
    int                      rc;
    void                    *p;
    lunary_priv_t           *priv;
    const lunary_dialect_t  *d;

    priv = lunary_priv(call);

    if (path.len > 2048) {
        path.len = 2048;
    }

    if (path.len != 0 && priv->path.len == 0) {
        p = lunary_alloc(call->mem, path.len);

        if (p != NULL) {
            memcpy(p, path.data, path.len);
            priv->path = lunary_str(p, path.len);
        }
    }

    d = call->conf.forced;

    if (d == NULL) {
        d = lunary_dialect_by_path(method, path);
    }

    if (d != NULL) {
        call->dialect = d;
        call->recognised = 1;
    }

    rc = lunary_inflate_create(call->mem, content_encoding,
                               &priv->rq_inflate);

    if (rc != LUNARY_OK) {
        call->request_state = rc == LUNARY_NOMEM ? LUNARY_BODY_NOMEM
                                                 : LUNARY_BODY_ENCODING;
        priv->rq_kind = LUNARY_KIND_SKIP;
        return;
    }

    priv->form = lunary_form_create(call->mem, content_type, &rc);

    if (priv->form != NULL) {

        /* curl -d says urlencoded for JSON as well: its bytes decide */

        if (lunary_call_has(content_type, "multipart")) {
            priv->rq_kind = LUNARY_KIND_FORM;
        }

    } else if (rc == LUNARY_NOMEM) {
        call->request_state = LUNARY_BODY_NOMEM;
        priv->rq_kind = LUNARY_KIND_SKIP;

    } else if (lunary_call_has(content_type, "json")) {
        priv->rq_kind = LUNARY_KIND_JSON;
    }
}


void
lunary_call_request(lunary_call_t *call, const unsigned char *p, size_t n)
{
    int             rc;
    lunary_priv_t  *priv;

    if (n == 0) {
        return;
    }

    priv = lunary_priv(call);

    if (call->request_state == LUNARY_BODY_NONE) {
        call->request_state = LUNARY_BODY_PARTIAL;
    }

    if (priv->rq_inflate == NULL || priv->rq_kind == LUNARY_KIND_SKIP) {
        lunary_call_request_bytes(call, p, n);
        return;
    }

    rc = lunary_inflate_feed(priv->rq_inflate, p, n,
                             lunary_call_request_bytes, call);

    if (rc < 0 && priv->rq_kind != LUNARY_KIND_SKIP) {
        call->request_state = rc == LUNARY_NOMEM ? LUNARY_BODY_NOMEM
                              : rc == LUNARY_LIMIT ? LUNARY_BODY_LIMIT
                              : LUNARY_BODY_ENCODING;
        priv->rq_kind = LUNARY_KIND_SKIP;
    }
}


static void
lunary_call_request_bytes(void *ctx, const unsigned char *p, size_t n)
{
    int             rc;
    lunary_call_t  *call;
    lunary_priv_t  *priv;

    call = ctx;
    priv = lunary_priv(call);

    if (priv->rq_kind == LUNARY_KIND_NONE) {
        lunary_call_request_sniff(call, p, n);
    }

    switch (priv->rq_kind) {

    case LUNARY_KIND_NONE:
    case LUNARY_KIND_JSON:

        /* white space may be the start of JSON: offsets count from there */

        if (priv->rq == NULL) {
            lunary_call_request_json(call);
        }

        if (priv->rq == NULL) {
            return;
        }

        rc = lunary_request_feed(priv->rq, p, n);

        if (rc < 0) {

            /* what was read stays; request_end() says what it was */

            call->request_state = rc == LUNARY_LIMIT ? LUNARY_BODY_LIMIT
                                  : rc == LUNARY_NOMEM ? LUNARY_BODY_NOMEM
                                  : LUNARY_BODY_INVALID;
            priv->rq_kind = LUNARY_KIND_SKIP;
        }

        return;

    case LUNARY_KIND_FORM:

        if (lunary_form_feed(priv->form, p, n) == LUNARY_NOMEM) {
            call->request_state = LUNARY_BODY_NOMEM;
            priv->rq_kind = LUNARY_KIND_SKIP;
        }

        return;

    default:
        return;
    }
}


static void
lunary_call_request_sniff(lunary_call_t *call, const unsigned char *p,
    size_t n)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    while (n != 0 && (*p == ' ' || *p == '\t' || *p == '\r' || *p == '\n')) {
        p++;
        n--;
    }

    if (n == 0) {
        return;
    }

    if (*p == '{' || *p == '[') {
        priv->rq_kind = LUNARY_KIND_JSON;

    } else if (priv->form != NULL) {
        priv->rq_kind = LUNARY_KIND_FORM;

    } else {
        call->request_state = LUNARY_BODY_OTHER;
        priv->rq_kind = LUNARY_KIND_SKIP;
    }
}


static void
lunary_call_request_json(lunary_call_t *call)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    priv->rq = lunary_request_create(call->mem, priv->doc_max,
                                     call->conf.capture_max / 16);

    if (priv->rq == NULL) {
        call->request_state = LUNARY_BODY_NOMEM;
        priv->rq_kind = LUNARY_KIND_SKIP;
    }
}


void
lunary_call_request_end(lunary_call_t *call)
{
    int             rc;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (call->request_state == LUNARY_BODY_PARTIAL) {

        if (priv->rq_kind == LUNARY_KIND_JSON && priv->rq != NULL) {
            rc = lunary_request_finish(priv->rq);

            call->request_state = rc == LUNARY_OK ? LUNARY_BODY_JSON
                                  : rc == LUNARY_LIMIT ? LUNARY_BODY_LIMIT
                                  : rc == LUNARY_NOMEM ? LUNARY_BODY_NOMEM
                                  : LUNARY_BODY_INVALID;

            if (rc == LUNARY_OK) {
                priv->text = lunary_doc_text(lunary_request_doc(priv->rq));
            }

        } else if (priv->rq_kind == LUNARY_KIND_FORM) {
            lunary_call_request_form(call);

        } else if (priv->rq_kind == LUNARY_KIND_NONE) {

            /* nothing but white space */

            call->request_state = LUNARY_BODY_OTHER;
        }
    }

    if (priv->rq_inflate != NULL) {
        lunary_inflate_destroy(priv->rq_inflate);
        priv->rq_inflate = NULL;

        /* offsets would not be the wire's */

        priv->rq_deflated = 1;
    }

    lunary_call_read_request(call);
}


/* a form's end: its fields as JSON, its `user` as a claim */

static void
lunary_call_request_form(lunary_call_t *call)
{
    lunary_str_t    user;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (lunary_form_finish(priv->form) != LUNARY_OK) {
        call->request_state = LUNARY_BODY_INVALID;
        return;
    }

    call->request_state = LUNARY_BODY_FORM;
    priv->text = lunary_form_text(priv->form);

    user = lunary_json_inside(lunary_json_get(priv->text, "user"));

    if (user.len != 0
        && lunary_json_unescape(call->mem, &priv->form_user, user)
           == LUNARY_OK
        && lunary_user_id_valid(lunary_buf_str(&priv->form_user)))
    {
        priv->form_claims.user = lunary_buf_str(&priv->form_user);
    }
}


static void
lunary_call_read_request(lunary_call_t *call)
{
    lunary_priv_t           *priv;
    const lunary_dialect_t  *d;

    priv = lunary_priv(call);

    if (!call->recognised && priv->text.len != 0
        && call->request_state != LUNARY_BODY_FORM)
    {
        d = lunary_dialect_by_body(priv->text);

        if (d != NULL) {
            call->dialect = d;
        }
    }

    if (call->dialect->request != NULL) {
        (void) call->dialect->request(call, priv->text);
    }

    if (priv->text.len != 0 && !priv->members_read) {

        /* a dialect that nobody knows: what most have in common */

        lunary_call_model(call, lunary_json_get(priv->text, "model"));
        lunary_call_stream(call, lunary_json_get(priv->text, "stream"));

        priv->metadata_value = lunary_json_get(priv->text, "metadata");
    }

    lunary_call_metadata(call, priv->metadata_value);
}


const lunary_claims_t *
lunary_call_claims(lunary_call_t *call)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (call->request_state == LUNARY_BODY_JSON) {
        return lunary_request_claims(priv->rq);
    }

    return &priv->form_claims;
}


lunary_request_t *
lunary_call_body(lunary_call_t *call)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (call->request_state != LUNARY_BODY_JSON || priv->rq_deflated) {
        return NULL;
    }

    return priv->rq;
}


int
lunary_call_duplicate(const lunary_call_t *call)
{
    const lunary_priv_t  *priv;

    priv = (const lunary_priv_t *) call;

    return call->request_state == LUNARY_BODY_JSON
           && lunary_request_duplicate(priv->rq);
}


/* --- the response --- */

void
lunary_call_answer(lunary_call_t *call, unsigned status,
    lunary_str_t content_type, lunary_str_t content_encoding,
    lunary_header_pt header, void *ctx)
{
    int             rc;
    size_t          i;
    lunary_str_t    v;
    lunary_buf_t   *b;
    lunary_priv_t  *priv;

    static const lunary_str_t  ids[] = {
        lunary_string("x-request-id"),
        lunary_string("request-id"),             /* Anthropic                */
        lunary_string("x-amzn-requestid"),       /* Bedrock                  */
        lunary_string("apim-request-id"),        /* Azure                    */
    };

    priv = lunary_priv(call);
    priv->status = status;

    if (header != NULL) {

        for (i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
            v = header(ctx, (const char *) ids[i].data, ids[i].len);

            if (v.len != 0 && v.len <= 256 && lunary_utf8_valid(v)) {
                priv->client_request_id.len = 0;
                (void) lunary_buf_append(call->mem, &priv->client_request_id,
                                         v.data, v.len);
                break;
            }
        }

        /* "ValidationException:http://internal.amazon.com/..." */

        v = header(ctx, "x-amzn-errortype", 16);

        for (i = 0; i < v.len && v.data[i] != ':'; i++) { /* void */ }

        if (i != 0 && i <= 128) {
            b = &priv->error_type_header;

            if (lunary_buf_lit(call->mem, b, "\"") != LUNARY_OK
                || lunary_json_escape(call->mem, b, lunary_str(v.data, i))
                   != LUNARY_OK
                || lunary_buf_lit(call->mem, b, "\"") != LUNARY_OK)
            {
                b->len = 0;
            }
        }

        /* Bedrock counts for models that do not tell */

        v = header(ctx, "x-amzn-bedrock-input-token-count", 32);
        lunary_call_count(&priv->header_input, v);

        v = header(ctx, "x-amzn-bedrock-output-token-count", 33);
        lunary_call_count(&priv->header_output, v);
    }

    if (!lunary_call_has(content_type, "application/json")) {
        lunary_call_type(call, content_type);
    }

    rc = lunary_inflate_create(call->mem, content_encoding,
                               &priv->rs_inflate);

    if (rc != LUNARY_OK) {
        call->response_state = rc == LUNARY_NOMEM ? LUNARY_BODY_NOMEM
                                                  : LUNARY_BODY_ENCODING;
        priv->rs_kind = LUNARY_KIND_SKIP;

    } else if (priv->rs_media) {
        priv->rs_kind = LUNARY_KIND_SKIP;

    } else if (priv->rs_aws) {
        lunary_call_frame(call, LUNARY_FRAME_AWS);
    }

    if (status >= 400) {
        call->errored = 1;
    }
}


/* what a Content-Type that is not JSON's announces */

static void
lunary_call_type(lunary_call_t *call, lunary_str_t type)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    priv->rs_sse = lunary_call_has(type, "text/event-stream");
    priv->rs_aws = lunary_call_has(type, "amazon.eventstream");
    priv->rs_lines = lunary_call_has(type, "ndjson")
                     || lunary_call_has(type, "jsonl")
                     || lunary_call_has(type, "stream+json");
    priv->rs_media = lunary_call_has(type, "audio/")
                     || lunary_call_has(type, "image/")
                     || lunary_call_has(type, "video/");
}


void
lunary_call_response(lunary_call_t *call, const unsigned char *p, size_t n)
{
    int             rc;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (n == 0 || priv->ended) {
        return;
    }

    if (call->response_state == LUNARY_BODY_NONE) {
        call->response_state = priv->rs_media ? LUNARY_BODY_OTHER
                                              : LUNARY_BODY_PARTIAL;
    }

    if (priv->rs_kind == LUNARY_KIND_SKIP) {
        return;
    }

    if (priv->rs_inflate == NULL) {
        lunary_call_response_bytes(call, p, n);
        return;
    }

    rc = lunary_inflate_feed(priv->rs_inflate, p, n,
                             lunary_call_response_bytes, call);

    if (rc < 0 && priv->rs_kind != LUNARY_KIND_SKIP) {

        /* what was inflated so far is read */

        lunary_call_response_last(call, 0);

        call->response_state = rc == LUNARY_NOMEM ? LUNARY_BODY_NOMEM
                               : rc == LUNARY_LIMIT ? LUNARY_BODY_LIMIT
                               : LUNARY_BODY_ENCODING;
    }
}


static void
lunary_call_response_bytes(void *ctx, const unsigned char *p, size_t n)
{
    int             rc;
    size_t          k;
    lunary_call_t  *call;
    lunary_priv_t  *priv;

    call = ctx;
    priv = lunary_priv(call);

    if (priv->rs_kind == LUNARY_KIND_NONE) {
        k = lunary_call_response_sniff(call, p, n);
        p += k;
        n -= k;
    }

    switch (priv->rs_kind) {

    case LUNARY_KIND_FRAME:
        rc = lunary_frame_feed(&priv->frame, p, n);

        if (rc == LUNARY_ERROR) {
            call->response_state = LUNARY_BODY_INVALID;
            priv->rs_kind = LUNARY_KIND_SKIP;
        }

        return;

    case LUNARY_KIND_JSON:
        rc = lunary_doc_feed(priv->doc, p, n);

        if (rc != LUNARY_OK) {
            lunary_call_doc(call, rc);
        }

        return;

    case LUNARY_KIND_TEXT:

        if (n > LUNARY_CALL_ERROR - priv->error_message.len) {
            n = LUNARY_CALL_ERROR - priv->error_message.len;
        }

        (void) lunary_buf_append(call->mem, &priv->error_message, p, n);
        return;

    default:
        return;
    }
}


/*
 * Looks for what the body is.  Returns how many of the n bytes are used up;
 * what was held back before is fed from here.
 */

static size_t
lunary_call_response_sniff(lunary_call_t *call, const unsigned char *p,
    size_t n)
{
    int             kind;
    size_t          i, len;
    unsigned char   held[8];
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    for (i = 0; i < n; i++) {

        if (priv->sniff_len == 0
            && (p[i] == ' ' || p[i] == '\t' || p[i] == '\r' || p[i] == '\n'))
        {
            continue;
        }

        priv->sniff[priv->sniff_len++] = p[i];

        if (priv->sniff_len == 3
            && memcmp(priv->sniff, "\xef\xbb\xbf", 3) == 0)
        {
            priv->sniff_len = 0;
            continue;
        }

        kind = lunary_call_sniffed(call);

        if (kind == LUNARY_KIND_NONE) {
            continue;
        }

        /* sniff[] holds at most what this and earlier feeds brought; all of
           it is fed again from the copy */

        len = priv->sniff_len;
        memcpy(held, priv->sniff, len);

        lunary_call_response_start(call, kind);

        if (len <= i + 1) {

            /* the usual case: all lies in this feed */

            return i + 1 - len;
        }

        lunary_call_response_bytes(call, held, len);

        return i + 1;
    }

    return n;
}


/* what the first bytes say; LUNARY_KIND_NONE: not enough of them */

static int
lunary_call_sniffed(lunary_call_t *call)
{
    int             rc, may;
    size_t          n, i;
    lunary_priv_t  *priv;

    static const char  *const fields[] = {
        "data:", "event:", "id:", "retry:", "data :", "error:"
    };

    priv = lunary_priv(call);
    n = priv->sniff_len;

    switch (priv->sniff[0]) {

    case '{':
    case '[':
        return LUNARY_KIND_JSON;

    case ':':
        return LUNARY_KIND_FRAME;

    case 0xef:

        /* a byte order mark, perhaps */

        if (n < 3) {
            return LUNARY_KIND_NONE;
        }

        break;

    default:
        break;
    }

    may = 0;

    for (i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        rc = lunary_call_starts(priv->sniff, n, fields[i]);

        if (rc > 0) {
            return LUNARY_KIND_FRAME;
        }

        may |= (rc == 0);
    }

    if (may) {
        return LUNARY_KIND_NONE;
    }

    if (priv->rs_sse) {
        return LUNARY_KIND_FRAME;
    }

    return priv->status >= 400 ? LUNARY_KIND_TEXT : LUNARY_KIND_SKIP;
}


/* 1: p starts with s; 0: it may, with more bytes; -1: it does not */

static int
lunary_call_starts(const unsigned char *p, size_t n, const char *s)
{
    size_t  len;

    len = strlen(s);

    if (n >= len) {
        return memcmp(p, s, len) == 0 ? 1 : -1;
    }

    return memcmp(p, s, n) == 0 ? 0 : -1;
}


static void
lunary_call_response_start(lunary_call_t *call, int kind)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (kind == LUNARY_KIND_FRAME) {
        lunary_call_frame(call, LUNARY_FRAME_SSE);
        return;
    }

    if (kind == LUNARY_KIND_JSON) {

        if (priv->rs_lines
            || (priv->lines && call->stream == 1 && priv->status < 400))
        {
            lunary_call_frame(call, LUNARY_FRAME_LINES);
            return;
        }

        if (priv->array && priv->sniff[0] == '[') {
            lunary_call_frame(call, LUNARY_FRAME_ARRAY);
            return;
        }

        priv->doc = lunary_doc_create(call->mem, priv->doc_max,
                                      call->conf.capture_max / 16, 0);

        if (priv->doc == NULL) {
            call->response_state = LUNARY_BODY_NOMEM;
            kind = LUNARY_KIND_SKIP;
        }

    } else {
        call->response_state = LUNARY_BODY_OTHER;
    }

    priv->rs_kind = kind;
}


static void
lunary_call_frame(lunary_call_t *call, lunary_frame_kind_e kind)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    lunary_frame_init(&priv->frame, call->mem, kind, priv->doc_max,
                      lunary_call_event, call);

    priv->framed = 1;
    priv->rs_kind = LUNARY_KIND_FRAME;
}


static void
lunary_call_event(void *ctx, lunary_str_t name, lunary_str_t data,
    unsigned flags)
{
    lunary_str_t    type, none;
    lunary_call_t  *call;
    lunary_priv_t  *priv;
    unsigned char   quoted[LUNARY_FRAME_NAME + 2];

    call = ctx;
    priv = lunary_priv(call);
    none = lunary_str(NULL, 0);

    call->response_state = LUNARY_BODY_STREAM;

    if (flags & LUNARY_FRAME_FIELD) {

        /* llama.cpp: "error: {...}" in the middle of a stream */

        if (lunary_json_is_object(data)) {
            lunary_call_error(call, lunary_json_get(data, "message"),
                              lunary_json_get(data, "type"),
                              lunary_json_get(data, "code"));
        }

        return;
    }

    if (flags & LUNARY_FRAME_EXCEPTION) {

        /* AWS: the exception's name is the message's type */

        quoted[0] = '"';
        memcpy(quoted + 1, name.data, name.len);
        quoted[name.len + 1] = '"';

        type = lunary_str(quoted, name.len + 2);

        lunary_call_error(call, lunary_json_get(data, "message"), type, none);
        return;
    }

    if (priv->status >= 400 && !priv->has_error) {
        (void) lunary_call_error_of(call, data, 1);
    }

    if (call->dialect->event != NULL) {
        (void) call->dialect->event(call, name, data);

    } else if (lunary_eq(name, "error")
               || lunary_json_inside(lunary_json_get(data, "error")).len != 0
               || lunary_json_is_object(lunary_json_get(data, "error")))
    {
        (void) lunary_call_error_of(call, data, 1);
    }
}


/* the document is complete (LUNARY_DONE), or cannot be read on */

static void
lunary_call_doc(lunary_call_t *call, int rc)
{
    lunary_str_t    text;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);
    priv->rs_kind = LUNARY_KIND_SKIP;

    if (rc == LUNARY_DONE || rc == LUNARY_OK) {
        rc = lunary_doc_finish(priv->doc);
    }

    switch (rc) {

    case LUNARY_OK:
        call->response_state = LUNARY_BODY_JSON;
        call->terminal = 1;
        break;

    case LUNARY_LIMIT:
        call->response_state = LUNARY_BODY_LIMIT;
        break;

    case LUNARY_NOMEM:
        call->response_state = LUNARY_BODY_NOMEM;
        break;

    default:
        call->response_state = LUNARY_BODY_INVALID;
        break;
    }

    if (rc != LUNARY_OK && lunary_doc_close(priv->doc) != LUNARY_OK) {
        return;
    }

    text = lunary_doc_text(priv->doc);
    priv->out.lost += lunary_doc_removed(priv->doc);

    if (priv->status >= 400) {
        (void) lunary_call_error_of(call, text, 1);
    }

    if (call->dialect->body != NULL) {
        (void) call->dialect->body(call, text);
    }

    /* an answer with nothing in it may be an error in spite of its status */

    if (priv->out.choices == NULL && priv->status < 400) {
        (void) lunary_call_error_of(call, text, 0);
    }

    lunary_doc_destroy(priv->doc);
    priv->doc = NULL;
}


void
lunary_call_response_end(lunary_call_t *call, int complete)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (priv->ended) {
        return;
    }

    priv->ended = 1;

    lunary_call_response_last(call, complete);
    lunary_call_close(call);
}


/* the last byte of what can be read came: what is pending is read */

static void
lunary_call_response_last(lunary_call_t *call, int complete)
{
    int             rc;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    switch (priv->rs_kind) {

    case LUNARY_KIND_FRAME:
        lunary_frame_end(&priv->frame);
        break;

    case LUNARY_KIND_JSON:
        rc = lunary_doc_finish(priv->doc);
        lunary_call_doc(call, rc);

        if (rc == LUNARY_ERROR && !complete) {
            call->response_state = LUNARY_BODY_PARTIAL;
        }

        break;

    default:
        break;
    }

    priv->rs_kind = LUNARY_KIND_SKIP;
}


/* gives back what only reading the response needs */

static void
lunary_call_close(lunary_call_t *call)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (priv->framed) {
        lunary_frame_free(&priv->frame);
        priv->framed = 0;
    }

    if (priv->doc != NULL) {
        lunary_doc_destroy(priv->doc);
        priv->doc = NULL;
    }

    if (priv->rs_inflate != NULL) {
        lunary_inflate_destroy(priv->rs_inflate);
        priv->rs_inflate = NULL;
    }

    lunary_buf_free(call->mem, &priv->scratch);

    priv->rs_kind = LUNARY_KIND_SKIP;
}


/* --- the run --- */

void
lunary_call_finish(lunary_call_t *call, lunary_run_t *run)
{
    int               rc;
    lunary_doc_t     *doc;
    lunary_priv_t    *priv;
    lunary_choice_t  *ch;

    priv = lunary_priv(call);

    lunary_call_response_end(call, 0);

    /* a request that never ended: what was there of it */

    if (call->request_state == LUNARY_BODY_PARTIAL && priv->text.len == 0) {

        if (priv->rq != NULL && priv->rq_kind == LUNARY_KIND_JSON) {
            doc = lunary_request_doc(priv->rq);

            if (lunary_doc_close(doc) == LUNARY_OK) {
                priv->text = lunary_doc_text(doc);
            }
        }

        lunary_call_read_request(call);
    }

    if (priv->header_input != LUNARY_UNKNOWN
        && call->tokens.prompt == LUNARY_UNKNOWN)
    {
        call->tokens.prompt = priv->header_input;
    }

    if (priv->header_output != LUNARY_UNKNOWN
        && call->tokens.completion == LUNARY_UNKNOWN)
    {
        call->tokens.completion = priv->header_output;
    }

    lunary_call_fold(call);

    lunary_run_set(run, LUNARY_F_TYPE, call->dialect->type);
    lunary_run_set(run, LUNARY_F_API, call->dialect->name);
    lunary_run_set(run, LUNARY_F_MODEL, call->model);
    lunary_run_set(run, LUNARY_F_RESPONSE_MODEL,
                   lunary_buf_str(&priv->response_model));
    lunary_run_set(run, LUNARY_F_RESPONSE_ID,
                   lunary_buf_str(&priv->response_id));
    lunary_run_set(run, LUNARY_F_CLIENT_REQUEST_ID,
                   lunary_buf_str(&priv->client_request_id));

    if (call->stream >= 0) {
        lunary_run_set_int(run, LUNARY_F_STREAM, call->stream);

    } else if (call->response_state == LUNARY_BODY_STREAM) {
        lunary_run_set_int(run, LUNARY_F_STREAM, 1);

    } else if (call->dialect != &lunary_dialect_unknown) {
        lunary_run_set_int(run, LUNARY_F_STREAM, 0);
    }

    lunary_call_capped(call, run, LUNARY_F_PARAMS, &priv->params);
    lunary_call_capped(call, run, LUNARY_F_METADATA, &priv->metadata);

    /* input */

    if (priv->input_size != 0) {

        if (priv->input.len > call->conf.capture_max) {
            size_t        removed;
            lunary_buf_t  small;

            memset(&small, 0, sizeof(lunary_buf_t));

            if (lunary_doc_cap(call->mem, &small, priv->input,
                               call->conf.capture_max, &removed)
                == LUNARY_OK)
            {
                lunary_buf_free(call->mem, &priv->input_buf);
                priv->input_buf = small;
                priv->input = lunary_buf_str(&priv->input_buf);
            }
        }

        lunary_run_set(run, LUNARY_F_INPUT, priv->input);
        lunary_run_set_int(run, LUNARY_F_INPUT_BYTES,
                           (int64_t) priv->input_size);
    }

    /* output */

    lunary_run_set(run, LUNARY_F_FINISH_REASON,
                   lunary_buf_str(&priv->status_text));

    for (ch = priv->out.choices; ch != NULL; ch = ch->next) {
        if (ch->finish_reason.len != 0
            && (ch->index == 0 || ch->next == NULL))
        {
            lunary_run_set(run, LUNARY_F_FINISH_REASON,
                           lunary_buf_str(&ch->finish_reason));
            break;
        }
    }

    if (priv->output.len == 0 && priv->out.choices != NULL) {
        rc = lunary_output_write(&priv->out, &priv->output,
                                 &priv->output_size);

        if (rc != LUNARY_OK || priv->out.budget.off) {
            lunary_buf_free(call->mem, &priv->output);
        }
    }

    if (priv->output_size != 0) {
        lunary_run_set(run, LUNARY_F_OUTPUT, lunary_buf_str(&priv->output));
        lunary_run_set_int(run, LUNARY_F_OUTPUT_BYTES,
                           (int64_t) priv->output_size);
    }

    rc = (priv->input.len != 0 && priv->input_size != priv->input.len)
         | (priv->output.len != 0 && priv->output_size != priv->output.len)
           << 1;

    switch (rc) {

    case 1:
        lunary_run_set_lit(run, LUNARY_F_TRUNCATED, "input");
        break;

    case 2:
        lunary_run_set_lit(run, LUNARY_F_TRUNCATED, "output");
        break;

    case 3:
        lunary_run_set_lit(run, LUNARY_F_TRUNCATED, "input,output");
        break;

    default:
        break;
    }

    /* usage */

    if (priv->usage.len != 0
        && lunary_json_valid(lunary_buf_str(&priv->usage), 32))
    {
        lunary_run_set(run, LUNARY_F_USAGE, lunary_buf_str(&priv->usage));
    }

    lunary_call_set_tokens(run, LUNARY_F_PROMPT_TOKENS, call->tokens.prompt);
    lunary_call_set_tokens(run, LUNARY_F_COMPLETION_TOKENS,
                           call->tokens.completion);
    lunary_call_set_tokens(run, LUNARY_F_TOTAL_TOKENS, call->tokens.total);
    lunary_call_set_tokens(run, LUNARY_F_CACHED_TOKENS, call->tokens.cached);
    lunary_call_set_tokens(run, LUNARY_F_CACHE_WRITE_TOKENS,
                           call->tokens.cache_write);
    lunary_call_set_tokens(run, LUNARY_F_REASONING_TOKENS,
                           call->tokens.reasoning);
    lunary_call_set_tokens(run, LUNARY_F_INPUT_TOKENS, call->input_tokens);
    lunary_call_set_tokens(run, LUNARY_F_OUTPUT_TOKENS, call->output_tokens);

    lunary_call_write_error(call);
    lunary_run_set(run, LUNARY_F_ERROR, lunary_buf_str(&priv->error));

    lunary_call_body_error(call, run);
}


/* makes token counts comparable */

static void
lunary_call_fold(lunary_call_t *call)
{
    lunary_tokens_t  *t;

    t = &call->tokens;

    call->input_tokens = t->prompt;
    call->output_tokens = t->completion;

    switch (lunary_priv(call)->fold) {

    case LUNARY_TOKENS_CACHE_APART:

        if (t->prompt == LUNARY_UNKNOWN) {
            break;
        }

        if (t->cached != LUNARY_UNKNOWN) {
            call->input_tokens += t->cached;
        }

        if (t->cache_write != LUNARY_UNKNOWN) {
            call->input_tokens += t->cache_write;
        }

        break;

    case LUNARY_TOKENS_THOUGHTS_APART:

        if (t->prompt != LUNARY_UNKNOWN) {
            call->input_tokens += lunary_priv(call)->more_input;
        }

        if (t->reasoning == LUNARY_UNKNOWN) {
            break;
        }

        call->output_tokens = t->reasoning;

        if (t->completion != LUNARY_UNKNOWN) {
            call->output_tokens += t->completion;
        }

        break;

    default:  /* LUNARY_TOKENS_INCLUSIVE */

        /* xAI and some others leave reasoning out of completion_tokens: the
           total shows it */

        if (t->prompt != LUNARY_UNKNOWN && t->completion != LUNARY_UNKNOWN
            && t->reasoning > 0
            && t->total == t->prompt + t->completion + t->reasoning)
        {
            call->output_tokens += t->reasoning;
        }

        break;
    }
}


static void
lunary_call_set_tokens(lunary_run_t *run, lunary_field_e f, int64_t n)
{
    if (n != LUNARY_UNKNOWN) {
        lunary_run_set_int(run, f, n);
    }
}


/* a JSON field that is cut where it is over capture_max */

static void
lunary_call_capped(lunary_call_t *call, lunary_run_t *run, lunary_field_e f,
    lunary_buf_t *b)
{
    size_t        removed;
    lunary_buf_t  small;

    if (b->len > call->conf.capture_max) {
        memset(&small, 0, sizeof(lunary_buf_t));

        if (lunary_doc_cap(call->mem, &small, lunary_buf_str(b),
                           call->conf.capture_max, &removed) != LUNARY_OK)
        {
            lunary_buf_free(call->mem, &small);
            return;
        }

        lunary_buf_free(call->mem, b);
        *b = small;
    }

    lunary_run_set(run, f, lunary_buf_str(b));
}


static void
lunary_call_write_error(lunary_call_t *call)
{
    int            rc;
    lunary_buf_t   *b, text;
    lunary_mem_t   *mem;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);
    mem = call->mem;
    b = &priv->error;

    if (b->len != 0) {
        return;
    }

    if (!priv->has_error) {

        /* an error's plain text: kept as it came so far */

        if (priv->error_message.len == 0) {
            return;
        }

        memset(&text, 0, sizeof(lunary_buf_t));

        rc = lunary_json_escape(mem, &text,
                                lunary_buf_str(&priv->error_message));

        lunary_buf_free(mem, &priv->error_message);

        if (rc != LUNARY_OK) {
            lunary_buf_free(mem, &text);
            return;
        }

        priv->error_message = text;
        priv->has_error = 1;
    }

    rc = lunary_buf_lit(mem, b, "{");

    if (rc == LUNARY_OK && priv->error_message.len != 0) {
        rc = lunary_buf_lit(mem, b, "\"message\":\"");

        if (rc == LUNARY_OK) {
            rc = lunary_buf_append(mem, b, priv->error_message.data,
                                   priv->error_message.len);
        }

        if (rc == LUNARY_OK) {
            rc = lunary_buf_lit(mem, b, "\"");
        }
    }

    if (rc == LUNARY_OK && priv->error_type.len != 0) {
        rc = b->len > 1 ? lunary_buf_lit(mem, b, ",\"type\":\"")
                        : lunary_buf_lit(mem, b, "\"type\":\"");

        if (rc == LUNARY_OK) {
            rc = lunary_buf_append(mem, b, priv->error_type.data,
                                   priv->error_type.len);
        }

        if (rc == LUNARY_OK) {
            rc = lunary_buf_lit(mem, b, "\"");
        }
    }

    if (rc == LUNARY_OK && priv->error_code.len != 0) {
        rc = b->len > 1 ? lunary_buf_lit(mem, b, ",\"code\":")
                        : lunary_buf_lit(mem, b, "\"code\":");

        if (rc == LUNARY_OK) {
            rc = lunary_buf_append(mem, b, priv->error_code.data,
                                   priv->error_code.len);
        }
    }

    if (rc == LUNARY_OK && b->len > 1) {
        rc = lunary_buf_lit(mem, b, "}");

    } else {
        b->len = 0;
    }

    if (rc != LUNARY_OK) {
        b->len = 0;
    }
}


/* why a body could not be read, where one could not */

static void
lunary_call_body_error(lunary_call_t *call, lunary_run_t *run)
{
    char         text[64];
    int          n;
    const char  *rq, *rs;

    static const char  *const names[] = {
        NULL, NULL, NULL, NULL, NULL, NULL,
        "invalid", "limit", "encoding", "memory"
    };

    rq = names[call->request_state];
    rs = names[call->response_state];

    if (rq == NULL && rs == NULL) {
        return;
    }

    n = snprintf(text, sizeof(text), "%s%s%s%s%s",
                 rq ? "request_" : "", rq ? rq : "",
                 rq && rs ? "," : "",
                 rs ? "response_" : "", rs ? rs : "");

    lunary_priv(call)->body_error.len = 0;

    if (lunary_buf_append(call->mem, &lunary_priv(call)->body_error, text,
                          (size_t) n) == LUNARY_OK)
    {
        lunary_run_set(run, LUNARY_F_BODY_ERROR,
                       lunary_buf_str(&lunary_priv(call)->body_error));
    }
}


/* 1 where s holds the word (lower case), ASCII case folded */

static int
lunary_call_has(lunary_str_t s, const char *word)
{
    size_t  i, k, len;

    len = strlen(word);

    for (i = 0; i + len <= s.len; i++) {

        /* the first byte mostly says no */

        if ((s.data[i] | 0x20) != (unsigned char) word[0]) {
            continue;
        }

        for (k = 1; k < len && lunary_lower(s.data[i + k])
                               == (unsigned char) word[k]; k++)
        {
            /* void */
        }

        if (k == len) {
            return 1;
        }
    }

    return 0;
}
