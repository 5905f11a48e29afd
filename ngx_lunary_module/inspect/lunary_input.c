/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Building `input`: requests that are not OpenAI-style messages are written
 * anew in Lunary's message form.  What is copied comes from a request's text,
 * which is valid JSON (lunary_doc.h, strict).
 *
 * What is written may be many times as long as what was read: once it is over
 * the field's bound it goes through a document, which keeps to it.
 */

#include "lunary_dialects.h"

#include <stdio.h>


#define LUNARY_INPUT_PIECE  4096


static int lunary_input_reserve(lunary_call_t *call, size_t size);
static int lunary_input_bound(lunary_call_t *call);
static int lunary_input_tool_head(lunary_call_t *call, lunary_str_t id,
    lunary_str_t content);
static int lunary_model_says(lunary_str_t model, const char *word);


int
lunary_input_raw(lunary_call_t *call, lunary_str_t bytes)
{
    size_t          max;
    lunary_buf_t   *b;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);
    b = &priv->input_buf;

    priv->input_built += bytes.len;

    if (!lunary_call_wants_input(call)) {
        return LUNARY_OK;
    }

    if (priv->input_doc == NULL) {

        max = call->conf.capture_max;

        if (bytes.len <= max && b->len <= max - bytes.len) {

            if (bytes.len > b->cap - b->len && b->cap > max / 3 * 2
                && lunary_input_reserve(call, max) != LUNARY_OK)
            {
                return LUNARY_NOMEM;
            }

            return lunary_buf_append(call->mem, b, bytes.data, bytes.len);
        }

        if (lunary_input_bound(call) != LUNARY_OK) {
            return LUNARY_NOMEM;
        }
    }

    /* one that nests too deep is ended where it does */

    return lunary_doc_feed(priv->input_doc, bytes.data, bytes.len)
           == LUNARY_NOMEM ? LUNARY_NOMEM : LUNARY_OK;
}


/* as much as it may ever be, and not half as much again */

static int
lunary_input_reserve(lunary_call_t *call, size_t size)
{
    void          *p;
    lunary_buf_t  *b;

    b = &lunary_priv(call)->input_buf;
    size = (size + 63) & ~(size_t) 63;

    p = lunary_realloc(call->mem, b->data, b->cap, size);
    if (p == NULL) {
        return LUNARY_NOMEM;
    }

    b->data = p;
    b->cap = size;

    return LUNARY_OK;
}


/* the buffer's bytes go into a document, piece by piece: they are not there
 * twice */

static int
lunary_input_bound(lunary_call_t *call)
{
    size_t          n;
    lunary_buf_t   *b;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);
    b = &priv->input_buf;

    priv->input_doc = lunary_doc_create(call->mem, call->conf.capture_max,
                                        call->conf.capture_max / 16, 0);
    if (priv->input_doc == NULL) {
        return LUNARY_NOMEM;
    }

    while (b->len != 0) {

        n = b->len / 2;

        if (n < LUNARY_INPUT_PIECE) {
            n = b->len;
        }

        if (lunary_doc_feed(priv->input_doc, b->data, n) == LUNARY_NOMEM) {
            return LUNARY_NOMEM;
        }

        b->len -= n;
        memmove(b->data, b->data + n, b->len);

        if (b->len != 0) {
            (void) lunary_input_reserve(call, b->len);
        }
    }

    lunary_buf_free(call->mem, b);

    return LUNARY_OK;
}


int
lunary_input_open(lunary_call_t *call)
{
    return lunary_priv(call)->input_built == 0
           ? lunary_input_lit(call, "[") : lunary_input_lit(call, ",");
}


int
lunary_input_message(lunary_call_t *call, const char *role)
{
    int  rc;

    rc = lunary_input_open(call);

    if (rc == LUNARY_OK) {
        rc = lunary_input_lit(call, "{\"role\":\"");
    }

    if (rc == LUNARY_OK) {
        rc = lunary_input_raw(call, lunary_str(role, strlen(role)));
    }

    if (rc == LUNARY_OK) {
        rc = lunary_input_lit(call, "\"");
    }

    return rc;
}


int
lunary_input_said(lunary_call_t *call, const char *role, lunary_str_t value)
{
    int  rc;

    rc = lunary_input_message(call, role);

    if (rc == LUNARY_OK) {
        rc = lunary_input_lit(call, ",\"content\":");
    }

    if (rc == LUNARY_OK) {
        rc = lunary_input_raw(call, value);
    }

    return rc == LUNARY_OK ? lunary_input_lit(call, "}") : rc;
}


int
lunary_input_tool(lunary_call_t *call, lunary_str_t id, lunary_str_t name,
    lunary_str_t args, int first)
{
    int  rc;

    rc = first ? lunary_input_lit(call, "{") : lunary_input_lit(call, ",{");

    if (rc == LUNARY_OK && lunary_json_inside(id).len != 0) {
        rc = lunary_input_lit(call, "\"id\":");

        if (rc == LUNARY_OK) {
            rc = lunary_input_raw(call, id);
        }

        if (rc == LUNARY_OK) {
            rc = lunary_input_lit(call, ",");
        }
    }

    if (rc == LUNARY_OK) {
        rc = lunary_input_lit(call, "\"type\":\"function\","
                              "\"function\":{\"name\":");
    }

    if (rc == LUNARY_OK) {
        rc = lunary_input_raw(call, lunary_json_is_string(name)
                                    ? name : lunary_str("\"\"", 2));
    }

    if (rc == LUNARY_OK) {
        rc = lunary_input_lit(call, ",\"arguments\":");
    }

    if (rc == LUNARY_OK && lunary_json_is_string(args)) {
        rc = lunary_input_raw(call, args);

    } else if (rc == LUNARY_OK) {
        rc = lunary_input_lit(call, "\"");

        if (rc == LUNARY_OK) {
            rc = lunary_input_escaped(call, args);
        }

        if (rc == LUNARY_OK) {
            rc = lunary_input_lit(call, "\"");
        }
    }

    return rc == LUNARY_OK ? lunary_input_lit(call, "}}") : rc;
}


int
lunary_input_tool_call(lunary_call_t *call, lunary_str_t id,
    lunary_str_t name, lunary_str_t args)
{
    int  rc;

    rc = lunary_input_message(call, "assistant");

    if (rc == LUNARY_OK) {
        rc = lunary_input_lit(call, ",\"content\":null,\"tool_calls\":[");
    }

    if (rc == LUNARY_OK) {
        rc = lunary_input_tool(call, id, name, args, 1);
    }

    return rc == LUNARY_OK ? lunary_input_lit(call, "]}") : rc;
}


int
lunary_input_tool_result(lunary_call_t *call, lunary_str_t id,
    lunary_str_t content)
{
    int  rc;

    rc = lunary_input_tool_head(call, id, content);

    return rc == LUNARY_OK ? lunary_input_lit(call, "}") : rc;
}


int
lunary_input_tool_failed(lunary_call_t *call, lunary_str_t id,
    lunary_str_t content)
{
    int  rc;

    rc = lunary_input_tool_head(call, id, content);

    return rc == LUNARY_OK ? lunary_input_lit(call, ",\"is_error\":true}")
                           : rc;
}


static int
lunary_input_tool_head(lunary_call_t *call, lunary_str_t id,
    lunary_str_t content)
{
    int  rc;

    rc = lunary_input_message(call, "tool");

    if (rc == LUNARY_OK && lunary_json_inside(id).len != 0) {
        rc = lunary_input_lit(call, ",\"tool_call_id\":");

        if (rc == LUNARY_OK) {
            rc = lunary_input_raw(call, id);
        }
    }

    if (rc == LUNARY_OK) {
        rc = lunary_input_lit(call, ",\"content\":");
    }

    if (rc == LUNARY_OK) {
        rc = lunary_input_raw(call, content.len != 0
                                    ? content : lunary_str("null", 4));
    }

    return rc;
}


int
lunary_input_image(lunary_call_t *call, lunary_str_t type,
    lunary_str_t base64)
{
    int            rc;
    char           text[sizeof("18446744073709551615")];
    lunary_str_t   data;

    data = lunary_json_inside(base64);

    rc = lunary_input_lit(call, "{\"type\":\"image_url\",\"image_url\":"
                          "{\"url\":\"data:");

    if (rc == LUNARY_OK) {
        rc = lunary_input_raw(call, lunary_json_inside(type));
    }

    if (rc == LUNARY_OK) {
        rc = lunary_input_lit(call, ";base64,");
    }

    if (rc == LUNARY_OK && data.len != 0 && data.data[0] == '['
        && data.len < 64)
    {
        /* the document has put the size in the bytes' place */

        rc = lunary_input_raw(call, data);

    } else if (rc == LUNARY_OK) {
        rc = lunary_input_lit(call, "[");

        if (rc == LUNARY_OK) {
            (void) snprintf(text, sizeof(text), "%zu", data.len);
            rc = lunary_input_raw(call, lunary_str(text, strlen(text)));
        }

        if (rc == LUNARY_OK) {
            rc = lunary_input_lit(call, " bytes]");
        }
    }

    return rc == LUNARY_OK ? lunary_input_lit(call, "\"}}") : rc;
}


int
lunary_input_image_url(lunary_call_t *call, lunary_str_t url)
{
    int  rc;

    rc = lunary_input_lit(call, "{\"type\":\"image_url\",\"image_url\":"
                          "{\"url\":");

    if (rc == LUNARY_OK) {
        rc = lunary_input_raw(call, url);
    }

    return rc == LUNARY_OK ? lunary_input_lit(call, "}}") : rc;
}


void
lunary_input_also(lunary_call_t *call, lunary_str_t key)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (priv->rq != NULL && priv->input_built != 0) {
        priv->input_built += lunary_request_removed_of(priv->rq, key);
    }
}


void
lunary_input_done(lunary_call_t *call, lunary_str_t key)
{
    lunary_buf_t   *b;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);
    b = &priv->input_buf;

    if (priv->input_built == 0) {
        return;
    }

    if (lunary_input_lit(call, "]") != LUNARY_OK) {
        lunary_buf_free(call->mem, b);
        return;
    }

    if (priv->input_doc != NULL) {

        if (lunary_doc_close(priv->input_doc) == LUNARY_OK) {
            lunary_doc_release(priv->input_doc, b);
        }

        lunary_doc_destroy(priv->input_doc);
        priv->input_doc = NULL;
    }

    lunary_call_input_built(call, key);
}


int
lunary_input_escaped(lunary_call_t *call, lunary_str_t value)
{
    int             rc;
    size_t          n, len;
    lunary_buf_t   *b, piece;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);
    b = &priv->input_buf;

    /* no byte becomes more than six */

    if (priv->input_doc == NULL && lunary_call_wants_input(call)
        && value.len <= (call->conf.capture_max - b->len) / 6)
    {
        len = b->len;
        rc = lunary_json_escape(call->mem, b, value);
        priv->input_built += b->len - len;

        return rc;
    }

    /* piece by piece, each up to a character's end */

    memset(&piece, 0, sizeof(lunary_buf_t));

    rc = LUNARY_OK;

    while (value.len != 0 && rc == LUNARY_OK) {

        n = value.len;

        if (n > LUNARY_INPUT_PIECE) {
            n = LUNARY_INPUT_PIECE;

            while (n > LUNARY_INPUT_PIECE - 4 && (value.data[n] & 0xc0) == 0x80)
            {
                n--;
            }
        }

        piece.len = 0;
        rc = lunary_json_escape(call->mem, &piece, lunary_str(value.data, n));

        if (rc == LUNARY_OK) {
            rc = lunary_input_raw(call, lunary_buf_str(&piece));
        }

        value.data += n;
        value.len -= n;
    }

    lunary_buf_free(call->mem, &piece);

    return rc;
}


int
lunary_model_embeds(lunary_str_t model)
{
    return lunary_model_says(model, "embed");
}


int
lunary_model_reranks(lunary_str_t model)
{
    return lunary_model_says(model, "rerank");
}


static int
lunary_model_says(lunary_str_t model, const char *word)
{
    size_t  i, len;

    len = strlen(word);

    for (i = 0; i + len <= model.len; i++) {
        if (memcmp(model.data + i, word, len) == 0) {
            return 1;
        }
    }

    return 0;
}
