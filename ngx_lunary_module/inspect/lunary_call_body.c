/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A call's response, once it is known what it is: a stream's events and a JSON
 * body, as they go to the dialect.  Of what broke off it gets what is sure: no
 * half name, no end.
 *
 * Invariants
 *   - of a body a dialect gets a valid JSON value; of an event, any text;
 *   - priv->torn and the document's lent text are there while it reads only.
 */

#include "lunary_call_internal.h"


static size_t lunary_call_cut(const lunary_doc_t *doc);
static void lunary_call_read_body(lunary_call_t *call, lunary_str_t text);


void
lunary_call_event(void *ctx, lunary_str_t name, lunary_str_t data,
    unsigned flags)
{
    unsigned        terminal;
    lunary_call_t  *call;
    lunary_priv_t  *priv;

    call = ctx;
    priv = lunary_priv(call);

    call->response_state = LUNARY_BODY_STREAM;

    if (priv->repeat.len != 0) {

        if (flags == 0 && lunary_call_repeat(call, name, data)) {
            return;
        }

        priv->repeat.len = 0;
    }

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

        lunary_call_exception(call, name, data);
        return;
    }

    priv->rs_object |= lunary_json_is_object(data);

    if (lunary_eq(name, "error") && !lunary_json_is_object(data)) {

        if (lunary_json_is_string(data) && lunary_json_valid(data, 1)) {
            lunary_call_error(call, data, lunary_str(NULL, 0),
                              lunary_str(NULL, 0));

        } else {
            lunary_call_error_text(call, data);
        }
    }

    if (priv->status >= 400 && !priv->has_error) {
        (void) lunary_call_error_of(call, data, 1);
    }

    if (call->dialect->event != NULL) {
        priv->changes = 0;
        priv->repeats = 0;

        terminal = call->terminal;

        if (flags & LUNARY_FRAME_OPEN) {
            priv->torn = lunary_call_last(data);
        }

        (void) call->dialect->event(call, name, data);

        if (flags & LUNARY_FRAME_TORN) {

            /* half of the last event is none */

            call->terminal = terminal;
            priv->torn = NULL;
        }

        lunary_call_repeat_note(call, name, data);

    } else if (lunary_eq(name, "error")
               || lunary_json_inside(lunary_json_get(data, "error")).len != 0
               || lunary_json_is_object(lunary_json_get(data, "error")))
    {
        (void) lunary_call_error_of(call, data, 1);
    }
}


/* an answer that lies whole in its first piece is read there */

void
lunary_call_json(lunary_call_t *call, const unsigned char *p, size_t n)
{
    int             rc;
    size_t          len;
    lunary_priv_t  *priv;
    lunary_tape_t   tape;

    priv = lunary_priv(call);

    if (priv->doc == NULL) {

        len = lunary_whole(p, n, priv->doc_max, &tape);

        if (len != 0) {
            priv->rs_kind = LUNARY_KIND_SKIP;
            call->response_state = LUNARY_BODY_JSON;
            call->terminal = 1;

            priv->tape = &tape;
            lunary_call_read_body(call, lunary_str(p, len));
            priv->tape = NULL;

            return;
        }

        priv->doc = lunary_doc_create(call->mem, priv->doc_max,
                                      call->conf.capture_max / 16, 0);

        if (priv->doc == NULL) {
            call->response_state = LUNARY_BODY_NOMEM;
            priv->rs_kind = LUNARY_KIND_SKIP;
            return;
        }
    }

    rc = lunary_doc_feed(priv->doc, p, n);

    if (rc != LUNARY_OK) {
        lunary_call_doc(call, rc);
    }
}


/* the document is complete (LUNARY_DONE), or cannot be read on */

void
lunary_call_doc(lunary_call_t *call, int rc)
{
    int               open;
    lunary_buf_t      b;
    lunary_str_t      text;
    lunary_priv_t    *priv;
    lunary_budget_t  *budget;

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

    open = 0;

    if (rc != LUNARY_OK) {
        open = lunary_doc_torn(priv->doc);

        if (lunary_doc_close(priv->doc) != LUNARY_OK) {
            return;
        }
    }

    text = lunary_doc_text(priv->doc);
    priv->torn = open ? lunary_call_last(text) : NULL;
    priv->out.lost += lunary_call_cut(priv->doc);

    /* a long text is not held twice: it stays in the document's memory */

    budget = &priv->out.budget;

    budget->lent = 1;
    lunary_call_read_body(call, text);
    budget->lent = 0;

    priv->torn = NULL;

    if (rc != LUNARY_OK) {

        /* what a dialect takes for its end is none of half a body */

        call->terminal = 0;
    }

    if (budget->borrower != NULL) {
        lunary_doc_release(priv->doc, &b);
        lunary_text_own(budget, &b);
    }

    lunary_doc_destroy(priv->doc);
    priv->doc = NULL;
}


/* what was cut of an answer, but for what it repeats of others: the request,
 * sources */

static size_t
lunary_call_cut(const lunary_doc_t *doc)
{
    size_t  i, n, k;

    static const lunary_str_t  others[] = {
        lunary_string("instructions"),
        lunary_string("tools"),
        lunary_string("prompt"),
        lunary_string("metadata"),
        lunary_string("citations"),
        lunary_string("search_results"),
        lunary_string("chat_history"),
        lunary_string("documents"),
        lunary_string("context")
    };

    n = lunary_doc_removed(doc);

    for (i = 0; n != 0 && i < sizeof(others) / sizeof(others[0]); i++) {
        k = lunary_doc_removed_of(doc, others[i]);
        n -= k < n ? k : n;
    }

    return n;
}


/* text: one JSON value, valid, in UTF-8 */

static void
lunary_call_read_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    priv->out.budget.valid = text;

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

    priv->out.budget.valid = lunary_str(NULL, 0);
}
