/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What dialects tell of errors, and where an error stands in the answers of
 * providers:
 *
 *     {"error":{"message","type"|"status","code"}}   OpenAI, Anthropic, Google
 *     {"error":TEXT,"message"?,"code"?}              Ollama, Cohere, others
 *     {"error"|"errors":[{"message"},...]}           Cloudflare, watsonx, ...
 *     {"message"|"Message"|"detail"|"title"}         Bedrock, FastAPI, RFC 9457
 */

#include "lunary_call_internal.h"


static void lunary_call_error_value(lunary_call_t *call, lunary_str_t v);
static lunary_str_t lunary_call_first(lunary_str_t v);
static int lunary_call_said(lunary_str_t v);


void
lunary_call_error(lunary_call_t *call, lunary_str_t message,
    lunary_str_t type, lunary_str_t code)
{
    size_t         len;
    lunary_str_t   inside;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    call->errored = 1;

    if (priv->has_error) {
        return;
    }

    priv->has_error = 1;

    if (lunary_json_is_string(message)) {
        inside = lunary_json_inside(message);

        if (inside.len > LUNARY_CALL_ERROR) {
            inside.len = lunary_inside_floor(inside, LUNARY_CALL_ERROR);
        }

        (void) lunary_inside_copy(call->mem, &priv->error_message, inside);

    } else if (message.len != 0
               && lunary_json_type(message) != LUNARY_JSON_NULL)
    {
        lunary_call_error_value(call, message);
    }

    inside = lunary_json_inside(type);

    if (inside.len > LUNARY_OUTPUT_ID) {
        inside.len = lunary_inside_floor(inside, LUNARY_OUTPUT_ID);
    }

    (void) lunary_inside_copy(call->mem, &priv->error_type, inside);

    if (code.len != 0 && code.len <= LUNARY_OUTPUT_ID
        && lunary_json_type(code) != LUNARY_JSON_NULL
        && lunary_json_valid(code, 8))
    {
        len = priv->error_code.len;

        if (lunary_buf_append(call->mem, &priv->error_code, code.data,
                              code.len) != LUNARY_OK)
        {
            priv->error_code.len = len;
        }
    }
}


void
lunary_call_error_text(lunary_call_t *call, lunary_str_t bytes)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (bytes.len == 0) {
        return;
    }

    call->errored = 1;

    if (priv->has_error) {
        return;
    }

    priv->has_error = 1;

    if (bytes.len > LUNARY_CALL_ERROR) {
        bytes.len = LUNARY_CALL_ERROR;
    }

    (void) lunary_json_escape(call->mem, &priv->error_message, bytes);
}


void
lunary_call_exception(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    size_t         i;
    lunary_str_t   message, none;
    unsigned char  type[LUNARY_FRAME_NAME + 2];

    none = lunary_str(NULL, 0);
    message = lunary_json_get(data, "message");

    if (message.len == 0) {
        message = lunary_json_get(data, "Message");
    }

    /* it is a word, or nothing that AWS would send */

    for (i = 0; i < name.len; i++) {
        if (name.data[i] <= ' ' || name.data[i] >= 0x7f
            || name.data[i] == '"' || name.data[i] == '\\')
        {
            break;
        }
    }

    if (i < name.len || name.len > LUNARY_FRAME_NAME) {
        lunary_call_error(call, message, none, none);
        return;
    }

    type[0] = '"';
    memcpy(type + 1, name.data, name.len);
    type[name.len + 1] = '"';

    lunary_call_error(call, message, lunary_str(type, name.len + 2), none);
}


/* a message that is an object or array: its JSON, without white space */

static void
lunary_call_error_value(lunary_call_t *call, lunary_str_t v)
{
    int             string;
    size_t          i, n;
    lunary_buf_t    b;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    memset(&b, 0, sizeof(lunary_buf_t));

    n = v.len < LUNARY_CALL_ERROR ? v.len : LUNARY_CALL_ERROR;

    if (lunary_buf_reserve(call->mem, &b, n) != LUNARY_OK) {
        return;
    }

    string = 0;

    for (i = 0; i < v.len && b.len < n; i++) {

        if (string) {
            if (v.data[i] == '\\' && i + 1 < v.len && b.len + 1 < n) {
                b.data[b.len++] = v.data[i++];

            } else if (v.data[i] == '"') {
                string = 0;
            }

        } else if (v.data[i] == '"') {
            string = 1;

        } else if (v.data[i] == ' ' || v.data[i] == '\n'
                   || v.data[i] == '\r' || v.data[i] == '\t')
        {
            continue;
        }

        b.data[b.len++] = v.data[i];
    }

    (void) lunary_json_escape(call->mem, &priv->error_message,
                              lunary_buf_str(&b));

    lunary_buf_free(call->mem, &b);
}


/* the first element of an array, or the value itself */

static lunary_str_t
lunary_call_first(lunary_str_t v)
{
    return lunary_json_is_array(v) ? lunary_json_at(v, 0) : v;
}


/* 0: a member that is not there, or null */

static int
lunary_call_said(lunary_str_t v)
{
    return lunary_json_type(v) > LUNARY_JSON_NONE
           && lunary_json_type(v) != LUNARY_JSON_NULL;
}


int
lunary_call_error_of(lunary_call_t *call, lunary_str_t v, int failed)
{
    lunary_str_t   m[10], type, code, message, none;
    lunary_priv_t  *priv;

    static const lunary_str_t  keys[] = {
        lunary_string("error"),              /* 0 */
        lunary_string("errors"),             /* 1 */
        lunary_string("message"),            /* 2 */
        lunary_string("type"),               /* 3 */
        lunary_string("code"),               /* 4 */
        lunary_string("detail"),             /* 5 */
        lunary_string("title"),              /* 6 */
        lunary_string("__type"),             /* 7 */
        lunary_string("Message"),            /* 8 */
        lunary_string("error_type")          /* 9 */
    };

    priv = lunary_priv(call);
    none = lunary_str(NULL, 0);

    /* Google answers streams with [{"error":{}}] */

    v = lunary_call_first(v);

    if (!lunary_json_is_object(v)) {
        return 0;
    }

    (void) lunary_json_pick(v, keys, m, 10);

    if (lunary_json_is_object(m[0])) {

        v = m[0];

        type = lunary_json_get(v, "type");

        if (lunary_json_inside(type).len == 0) {
            type = lunary_json_get(v, "status");
        }

        if (lunary_json_inside(type).len == 0) {
            type = lunary_json_get(v, "__type");
        }

        lunary_call_error(call, lunary_json_get(v, "message"), type,
                          lunary_json_get(v, "code"));
        return 1;
    }

    if (lunary_json_inside(m[0]).len != 0) {

        type = lunary_json_inside(m[9]).len != 0 ? m[9] : m[3];
        message = (failed && lunary_json_is_string(m[2])) ? m[2] : m[0];

        lunary_call_error(call, message, type, m[4]);
        return 1;
    }

    if (lunary_json_is_array(m[1]) || lunary_json_is_array(m[0])) {

        v = lunary_json_at(lunary_json_is_array(m[1]) ? m[1] : m[0], 0);

        if (lunary_json_is_object(v)) {
            lunary_call_error(call, lunary_json_get(v, "message"),
                              lunary_json_get(v, "type"),
                              lunary_json_get(v, "code"));
            return 1;
        }

        if (v.len != 0) {
            lunary_call_error(call, v, none, none);
            return 1;
        }
    }

    if (!failed
        && !lunary_value_is(lunary_json_get(v, "object"), "error")
        && !(lunary_value_is(m[3], "error") && m[2].len != 0))
    {
        return 0;
    }

    message = lunary_call_said(m[2]) ? m[2]
              : lunary_call_said(m[8]) ? m[8]
              : lunary_call_said(m[5]) ? m[5] : m[6];

    type = lunary_json_inside(m[3]).len != 0 ? m[3] : m[7];
    code = m[4];

    if (priv->error_type_header.len != 0) {

        /* AWS names the exception in a header (kept with its quotes) */

        type = lunary_buf_str(&priv->error_type_header);
    }

    lunary_call_error(call, message, type, code);

    return 1;
}
