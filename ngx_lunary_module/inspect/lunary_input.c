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
lunary_input_open(lunary_call_t *call)
{
    return lunary_priv(call)->input_buf.len == 0
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

    return rc == LUNARY_OK ? lunary_input_lit(call, "}") : rc;
}


int
lunary_input_image(lunary_call_t *call, lunary_str_t type,
    lunary_str_t base64)
{
    int            rc;
    lunary_str_t   data;
    lunary_buf_t  *b;

    b = &lunary_priv(call)->input_buf;
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
            rc = lunary_buf_append_int(call->mem, b, (int64_t) data.len);
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


int
lunary_model_embeds(lunary_str_t model)
{
    size_t  i;

    for (i = 0; i + 5 <= model.len; i++) {
        if (memcmp(model.data + i, "embed", 5) == 0) {
            return 1;
        }
    }

    return 0;
}
