/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A call's request: what kind of body it is, reading it, and settling the
 * dialect.  A body is known by its Content-Type and its first bytes, and the
 * bytes win: curl -d says urlencoded for JSON as well.
 */

#include "lunary_call_internal.h"
#include "lunary_string.h"


#define LUNARY_CALL_MORE  -1              /* it takes more bytes to tell      */

#define lunary_call_request_space(c)                                         \
    ((c) == ' ' || (c) == '\t' || (c) == '\r' || (c) == '\n')


static void lunary_call_request_bytes(void *ctx, const unsigned char *p,
    size_t n);
static void lunary_call_request_bad(lunary_call_t *call, int rc);
static int lunary_call_request_wide(const unsigned char *p, size_t n);
static void lunary_call_request_sniff(lunary_call_t *call,
    const unsigned char *p, size_t n);
static void lunary_call_request_json(lunary_call_t *call);
static void lunary_call_request_form(lunary_call_t *call);


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
        call->recognised = (d != &lunary_dialect_unknown);
        priv->by_path = 1;
    }

    rc = lunary_inflate_create(call->mem, content_encoding,
                               LUNARY_INFLATE_REQUEST, &priv->rq_inflate);

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
lunary_call_lend(lunary_call_t *call, unsigned char *place, size_t size)
{
    _Static_assert(LUNARY_CALL_BEHIND == LUNARY_STRING_PAD, "room behind");

    lunary_priv(call)->rq_lent = place;
    lunary_priv(call)->rq_lent_size = size;
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
    lunary_call_t  *call;
    lunary_priv_t  *priv;

    call = ctx;
    priv = lunary_priv(call);

    priv->rq_size += n;

    if (priv->rq_kind == LUNARY_KIND_NONE) {
        lunary_call_request_sniff(call, p, n);
    }

    switch (priv->rq_kind) {

    case LUNARY_KIND_NONE:

        /* what may be the start of a form is one's */

        if (priv->form != NULL
            && lunary_form_feed(priv->form, p, n) == LUNARY_NOMEM)
        {
            call->request_state = LUNARY_BODY_NOMEM;
            priv->rq_kind = LUNARY_KIND_SKIP;
            return;
        }

        if (priv->rq_first_len != 0) {
            return;
        }

        /* fall through */

    case LUNARY_KIND_JSON:

        /* white space may be the start of JSON: offsets count from there */

        if (priv->rq == NULL) {
            lunary_call_request_json(call);
        }

        if (priv->rq == NULL) {
            return;
        }

        lunary_call_request_bad(call, lunary_request_feed(priv->rq, p, n));

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


/* JSON that is read no further; what was read stays */

static void
lunary_call_request_bad(lunary_call_t *call, int rc)
{
    if (rc < 0) {
        call->request_state = rc == LUNARY_LIMIT ? LUNARY_BODY_LIMIT
                              : rc == LUNARY_NOMEM ? LUNARY_BODY_NOMEM
                              : LUNARY_BODY_INVALID;
        lunary_priv(call)->rq_kind = LUNARY_KIND_SKIP;
    }
}


/*
 * 1 where text begins that some read as JSON and we do not: behind a byte
 * order mark, or in UTF-16 or UTF-32.  So it is JSON that is not valid, not a
 * body of another kind.  LUNARY_CALL_MORE: that is not to be told yet.
 */

static int
lunary_call_request_wide(const unsigned char *p, size_t n)
{
    size_t         unit;
    unsigned char  c;

    if (p[0] != 0 && p[0] < 0xef) {
        return 0;
    }

    if (n < 2) {
        return LUNARY_CALL_MORE;
    }

    switch (p[0]) {

    case 0xef:
        return p[1] == 0xbb;

    case 0xfe:
        return p[1] == 0xff;

    case 0xff:
        return p[1] == 0xfe;

    case 0:
        break;

    default:
        return 0;
    }

    unit = p[1] ? 2 : 4;

    if (n < unit) {
        return LUNARY_CALL_MORE;
    }

    if (unit == 4 && p[2] != 0) {
        return p[2] == 0xfe && p[3] == 0xff;
    }

    c = p[unit - 1];

    if (!lunary_call_request_space(c)) {
        return c == '{' || c == '[';
    }

    return n == unit ? LUNARY_CALL_MORE : p[unit] == 0;
}


/* decided by as many of the first bytes as it takes, however they come */

static void
lunary_call_request_sniff(lunary_call_t *call, const unsigned char *p,
    size_t n)
{
    int             wide;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (priv->rq_first_len == 0) {

        while (n != 0 && lunary_call_request_space(*p)) {
            p++;
            n--;
        }

        if (n == 0) {
            return;
        }

        if (*p == '{' || *p == '[') {
            priv->rq_kind = LUNARY_KIND_JSON;
            return;
        }
    }

    do {
        priv->rq_first[priv->rq_first_len++] = *p++;
        wide = lunary_call_request_wide(priv->rq_first, priv->rq_first_len);

    } while (wide == LUNARY_CALL_MORE && --n != 0);

    if (wide == LUNARY_CALL_MORE) {
        return;
    }

    if (wide) {
        call->request_state = LUNARY_BODY_INVALID;
        priv->rq_kind = LUNARY_KIND_SKIP;

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

    } else if (priv->rq_lent != NULL) {
        lunary_request_lend(priv->rq, priv->rq_lent, priv->rq_lent_size);
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
                priv->text = lunary_request_text(priv->rq);
            }

            priv->rq_kind = LUNARY_KIND_SKIP;

        } else if (priv->rq_kind == LUNARY_KIND_FORM
                   || (priv->rq_first_len != 0 && priv->form != NULL))
        {
            lunary_call_request_form(call);

        } else if (priv->rq_kind == LUNARY_KIND_NONE) {

            /* white space, and no more than the start of something */

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


void
lunary_call_read_request(lunary_call_t *call)
{
    int                      torn;
    lunary_priv_t           *priv;
    const lunary_dialect_t  *d;

    priv = lunary_priv(call);

    priv->request_read = 1;

    if (call->request_state == LUNARY_BODY_PARTIAL
        && priv->rq_kind == LUNARY_KIND_JSON && priv->rq != NULL)
    {
        lunary_call_request_bad(call, lunary_request_judge(priv->rq));
    }

    if (priv->text.len == 0 && priv->rq != NULL
        && call->request_state != LUNARY_BODY_OTHER)
    {
        torn = lunary_request_torn(priv->rq);

        if (lunary_request_close(priv->rq) == LUNARY_OK) {

            /* broken off or malformed: its model is worth knowing all the
               same, its claims are not (lunary_call_claims) */

            priv->text = lunary_request_text(priv->rq);
            priv->torn = torn ? lunary_call_last(priv->text) : NULL;
        }
    }

    if (!priv->by_path && priv->text.len != 0
        && call->request_state != LUNARY_BODY_FORM)
    {
        d = lunary_dialect_by_body(priv->path, priv->text);

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

    priv->torn = NULL;

    lunary_call_metadata(call, priv->metadata_value);
}


int
lunary_call_elsewhere(lunary_call_t *call, lunary_str_t text)
{
    const lunary_dialect_t  *d;

    if (call->conf.forced != NULL || !call->recognised) {
        return 0;
    }

    d = lunary_dialect_by_body(lunary_priv(call)->path, text);

    call->dialect = d != NULL ? d : &lunary_dialect_unknown;
    call->recognised = 0;

    if (call->dialect->request != NULL) {
        (void) call->dialect->request(call, text);
    }

    return 1;
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


lunary_str_t
lunary_call_body_text(const lunary_call_t *call)
{
    return ((const lunary_priv_t *) call)->text;
}


uint64_t
lunary_call_body_size(const lunary_call_t *call)
{
    return ((const lunary_priv_t *) call)->rq_size;
}


int
lunary_call_duplicate(const lunary_call_t *call)
{
    const lunary_priv_t  *priv;

    priv = (const lunary_priv_t *) call;

    if (call->request_state == LUNARY_BODY_JSON) {
        return lunary_request_duplicate(priv->rq);
    }

    return (lunary_call_form_names(call) & LUNARY_FORM_AMBIGUOUS) != 0;
}


int
lunary_call_other_user(lunary_call_t *call, lunary_str_t user,
    lunary_mem_t *mem, lunary_buf_t *out)
{
    return call->request_state == LUNARY_BODY_JSON
           && lunary_request_other_user(lunary_priv(call)->rq, user, mem,
                                        out);
}


unsigned
lunary_call_form_names(const lunary_call_t *call)
{
    return call->request_state == LUNARY_BODY_FORM
           ? lunary_form_names(((const lunary_priv_t *) call)->form) : 0;
}
