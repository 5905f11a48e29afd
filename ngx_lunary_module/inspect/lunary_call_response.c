/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A call's response: what kind of body it is, its bytes, its end.
 *
 * What a body is, is told by its Content-Type and by its first bytes, and the
 * bytes win: errors come as JSON where a stream was announced, streams come
 * without a type, and JSON comes as text/plain.
 */

#include "lunary_call_internal.h"


/* the start of an answer that tells of an error is kept: if nothing else can
 * be read in it, its text is the message */

#define lunary_call_keeps_error(priv)                                        \
    ((priv)->rs_raw && (priv)->error_raw.len < LUNARY_CALL_ERROR)


static void lunary_call_type(lunary_call_t *call, lunary_str_t type);
static void lunary_call_response_bytes(void *ctx, const unsigned char *p,
    size_t n);
static size_t lunary_call_response_sniff(lunary_call_t *call,
    const unsigned char *p, size_t n);
static int lunary_call_sniffed(lunary_call_t *call);
static int lunary_call_starts(const unsigned char *p, size_t n, const char *s);
static void lunary_call_response_start(lunary_call_t *call, int kind);
static void lunary_call_frame(lunary_call_t *call, lunary_frame_kind_e kind);
static void lunary_call_response_last(lunary_call_t *call);


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
                               LUNARY_INFLATE_RESPONSE, &priv->rs_inflate);

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

    if (priv->rs_kind == LUNARY_KIND_SKIP && !lunary_call_keeps_error(priv)) {
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

        lunary_call_response_last(call);

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

    if (lunary_call_keeps_error(priv)) {

        if (n <= LUNARY_CALL_ERROR - priv->error_raw.len) {
            rc = lunary_buf_append(call->mem, &priv->error_raw, p, n);

        } else {
            rc = lunary_buf_append(call->mem, &priv->error_raw, p,
                                   LUNARY_CALL_ERROR - priv->error_raw.len);
        }

        priv->rs_raw = (rc == LUNARY_OK);
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
        lunary_call_json(call, p, n);
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
    lunary_priv_t  *priv;
    unsigned char   held[sizeof(priv->sniff)];

    priv = lunary_priv(call);

    for (i = 0; i < n; i++) {

        if (priv->sniff_len == 0
            && (p[i] == ' ' || p[i] == '\t' || p[i] == '\r' || p[i] == '\n'))
        {
            if (priv->status >= 400 && priv->error_raw.len < LUNARY_CALL_ERROR)
            {
                (void) lunary_buf_append(call->mem, &priv->error_raw, p + i,
                                         1);
            }

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
    size_t          n, i, nfields;
    lunary_priv_t  *priv;

    static const char  *const fields[] = {
        "data:", "event:", "id:", "retry:", "data :", "error:"
    };

    priv = lunary_priv(call);
    n = priv->sniff_len;

    /* "error: ..." and ": ..." may well be what a proxy says */

    nfields = sizeof(fields) / sizeof(fields[0]);

    if (priv->status >= 400 && !priv->rs_sse) {
        nfields = 2;
    }

    switch (priv->sniff[0]) {

    case '{':

        /* a line of NDJSON goes on, one value with line breaks may not */

        return n == 1 && (priv->lines || priv->rs_lines) ? LUNARY_KIND_NONE
                                                         : LUNARY_KIND_JSON;

    case '[':
        return LUNARY_KIND_JSON;

    case ':':

        if (nfields > 2) {
            return LUNARY_KIND_FRAME;
        }

        break;

    case 0:

        /* an AWS event stream's first length: under 16 MiB */

        if (n < LUNARY_FRAME_PRELUDE) {
            return LUNARY_KIND_NONE;
        }

        if (lunary_frame_aws_starts(priv->sniff)) {
            return LUNARY_KIND_FRAME;
        }

        break;

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

    for (i = 0; i < nfields; i++) {
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

    priv->rs_raw = (priv->status >= 400 && kind != LUNARY_KIND_SKIP);

    if (kind == LUNARY_KIND_FRAME) {
        lunary_call_frame(call, priv->sniff[0] == 0 ? LUNARY_FRAME_AWS
                                                    : LUNARY_FRAME_SSE);
        return;
    }

    if (kind == LUNARY_KIND_JSON) {

        if ((priv->rs_lines
             || (priv->lines && call->stream == 1 && priv->status < 400))
            && priv->sniff[1] != '\r' && priv->sniff[1] != '\n')
        {
            lunary_call_frame(call, LUNARY_FRAME_LINES);
            return;
        }

        if (priv->array && priv->sniff[0] == '[') {
            lunary_call_frame(call, LUNARY_FRAME_ARRAY);
            return;
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
    priv->rs_framed = 1;
    priv->rs_kind = LUNARY_KIND_FRAME;
}


void
lunary_call_response_end(lunary_call_t *call, int complete)
{
    lunary_priv_t    *priv;
    lunary_choice_t  *ch;

    priv = lunary_priv(call);

    if (priv->ended) {
        return;
    }

    priv->ended = 1;

    lunary_call_response_last(call);

    /* a stream that ended in order without the terminal event of its API:
       some gateways never send [DONE], some APIs have none */

    if (complete && priv->framed && !call->errored && !call->torn) {
        for (ch = priv->out.choices; ch != NULL; ch = ch->next) {
            if (ch->finish_reason.len != 0 || priv->ends) {
                call->terminal = 1;
            }
        }
    }
    lunary_call_close(call);
}


/* the last byte of what can be read came: what is pending is read */

static void
lunary_call_response_last(lunary_call_t *call)
{
    int             rc;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    switch (priv->rs_kind) {

    case LUNARY_KIND_NONE:

        /* so short that it could have been the start of anything */

        if (priv->status >= 400 && priv->sniff_len != 0) {
            call->response_state = LUNARY_BODY_OTHER;
            (void) lunary_buf_append(call->mem, &priv->error_raw, priv->sniff,
                                     priv->sniff_len);
        }

        break;

    case LUNARY_KIND_FRAME:
        call->torn = lunary_frame_end(&priv->frame);
        break;

    case LUNARY_KIND_JSON:

        if (priv->doc == NULL) {
            break;
        }

        rc = lunary_doc_finish(priv->doc);
        lunary_call_doc(call, rc);

        if (rc == LUNARY_ERROR) {

            /* no byte of it was wrong: it broke off */

            call->response_state = LUNARY_BODY_PARTIAL;
        }

        break;

    default:
        break;
    }

    priv->rs_kind = LUNARY_KIND_SKIP;
}


/* gives back what only reading the response needs */

void
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
    lunary_buf_free(call->mem, &priv->repeat);

    priv->rs_kind = LUNARY_KIND_SKIP;
}
