/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Building `input`: requests that are not OpenAI-style messages are written
 * anew in Lunary's message form.  What is copied comes from a request's text,
 * which is valid JSON (lunary_doc.h, strict).
 */

#include "lunary_dialects.h"


int
lunary_input_raw(lunary_call_t *call, lunary_str_t bytes)
{
    return lunary_buf_append(call->mem, &lunary_priv(call)->input_buf,
                             bytes.data, bytes.len);
}


int
lunary_input_message(lunary_call_t *call, const char *role)
{
    int  rc;

    rc = lunary_priv(call)->input_buf.len == 0
         ? lunary_input_lit(call, "[{\"role\":\"")
         : lunary_input_lit(call, ",{\"role\":\"");

    if (rc == LUNARY_OK) {
        rc = lunary_input_raw(call, lunary_str(role, strlen(role)));
    }

    if (rc == LUNARY_OK) {
        rc = lunary_input_lit(call, "\"");
    }

    return rc;
}


void
lunary_input_done(lunary_call_t *call, lunary_str_t key)
{
    lunary_buf_t  *b;

    b = &lunary_priv(call)->input_buf;

    if (b->len == 0) {
        return;
    }

    if (lunary_input_lit(call, "]") != LUNARY_OK) {
        lunary_buf_free(call->mem, b);
        return;
    }

    lunary_call_input_built(call, key);
}


int
lunary_input_escaped(lunary_call_t *call, lunary_str_t value)
{
    return lunary_json_escape(call->mem, &lunary_priv(call)->input_buf,
                              value);
}
