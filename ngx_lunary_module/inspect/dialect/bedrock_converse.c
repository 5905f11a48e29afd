/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * bedrock.converse: Amazon Bedrock Runtime's Converse and ConverseStream (API
 * reference, 2023-09-30).
 *
 * The model stands in the path.  A stream ends with messageStop and then
 * metadata, which has the usage.  Cache reads and writes are not in
 * inputTokens.
 */

#include "../lunary_dialects.h"


#define LUNARY_CONVERSE_FORMAT  16    /* png, jpeg, gif, webp                 */


static int lunary_converse_request(lunary_call_t *call, lunary_str_t text);
static int lunary_converse_message(lunary_call_t *call, lunary_str_t m);
static int lunary_converse_result(lunary_call_t *call, lunary_str_t v);
static int lunary_converse_block(lunary_call_t *call, lunary_str_t block);
static int lunary_converse_body(lunary_call_t *call, lunary_str_t text);
static void lunary_converse_content(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t block);
static int lunary_converse_on_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);
static void lunary_converse_usage(lunary_call_t *call, lunary_str_t usage);


const lunary_dialect_t  lunary_bedrock_converse = {
    lunary_string("bedrock.converse"),
    lunary_string("llm"),
    lunary_string("aws.bedrock"),
    LUNARY_STYLE_BEDROCK,
    LUNARY_STRIP_ALL,
    lunary_converse_request,
    lunary_converse_body,
    lunary_converse_on_event
};


/* /model/ID/VERB; an id may be an ARN with slashes in it */

void
lunary_bedrock_path(lunary_call_t *call)
{
    lunary_str_t  s;

    s = lunary_call_path(call, "/model/", "");

    while (s.len != 0 && s.data[s.len - 1] != '/') {
        s.len--;
    }

    if (s.len != 0) {
        s.len--;
        lunary_call_model_bytes(call, s);
    }

    call->stream = lunary_call_path_ends(call, "-stream");

    lunary_priv(call)->fold = LUNARY_TOKENS_CACHE_APART;
}


static int
lunary_converse_request(lunary_call_t *call, lunary_str_t text)
{
    static const lunary_str_t  but[] = {
        lunary_string("messages"),
        lunary_string("system")
    };

    lunary_bedrock_path(call);
    lunary_call_params(call, text, but, NULL, 2);
    lunary_converse_messages(call, text);

    return LUNARY_OK;
}


/* messages and system of Converse, and of Nova on InvokeModel */

void
lunary_converse_messages(lunary_call_t *call, lunary_str_t text)
{
    int                 rc, n;
    lunary_str_t        v, system, messages;
    lunary_json_iter_t  it;

    static const lunary_str_t  key = lunary_string("messages");
    static const lunary_str_t  before = lunary_string("system");

    system = lunary_json_get(text, "system");
    messages = lunary_json_get(text, "messages");

    if (lunary_json_is_array(system) && system.len > 2) {
        rc = lunary_input_message(call, "system");

        if (rc == LUNARY_OK) {
            rc = lunary_input_lit(call, ",\"content\":[");
        }

        lunary_json_iter(&it, system);

        for (n = 0; rc == LUNARY_OK && lunary_json_element(&it, &v); n++) {

            if (n) {
                rc = lunary_input_lit(call, ",");
            }

            if (rc == LUNARY_OK) {
                rc = lunary_converse_block(call, v);
            }
        }

        if (rc == LUNARY_OK) {
            rc = lunary_input_lit(call, "]}");
        }

        if (rc != LUNARY_OK) {
            return;
        }

        lunary_input_also(call, before);
    }

    if (lunary_json_is_array(messages)) {

        lunary_json_iter(&it, messages);

        while (lunary_json_element(&it, &v)) {
            if (lunary_converse_message(call, v) != LUNARY_OK) {
                return;
            }
        }
    }

    lunary_input_done(call, key);
}


static int
lunary_converse_message(lunary_call_t *call, lunary_str_t m)
{
    int                 rc, parts, tools;
    lunary_str_t        v, t, content;
    lunary_json_iter_t  it;

    content = lunary_json_get(m, "content");

    if (!lunary_json_is_array(content)) {
        rc = lunary_input_open(call);

        return rc == LUNARY_OK ? lunary_input_raw(call, m) : rc;
    }

    rc = LUNARY_OK;
    parts = tools = 0;

    lunary_json_iter(&it, content);

    while (rc == LUNARY_OK && lunary_json_element(&it, &v)) {
        t = lunary_json_get(v, "toolResult");

        if (t.len != 0) {
            rc = lunary_converse_result(call, t);

        } else if (lunary_json_get(v, "toolUse").len != 0) {
            tools++;

        } else {
            parts++;
        }
    }

    if (rc != LUNARY_OK || parts + tools == 0) {
        return rc;
    }

    rc = lunary_input_message(call, lunary_value_is(lunary_json_get(m,
                                                        "role"), "assistant")
                                    ? "assistant" : "user");

    if (rc == LUNARY_OK) {
        rc = parts ? lunary_input_lit(call, ",\"content\":[")
                   : lunary_input_lit(call, ",\"content\":null");
    }

    if (parts) {
        parts = 0;
        lunary_json_iter(&it, content);

        while (rc == LUNARY_OK && lunary_json_element(&it, &v)) {

            if (lunary_json_get(v, "toolResult").len != 0
                || lunary_json_get(v, "toolUse").len != 0)
            {
                continue;
            }

            if (parts++) {
                rc = lunary_input_lit(call, ",");
            }

            if (rc == LUNARY_OK) {
                rc = lunary_converse_block(call, v);
            }
        }

        if (rc == LUNARY_OK) {
            rc = lunary_input_lit(call, "]");
        }
    }

    if (rc == LUNARY_OK && tools) {
        rc = lunary_input_lit(call, ",\"tool_calls\":[");
        tools = 0;

        lunary_json_iter(&it, content);

        while (rc == LUNARY_OK && lunary_json_element(&it, &v)) {
            t = lunary_json_get(v, "toolUse");

            if (t.len != 0) {
                rc = lunary_input_tool(call, lunary_json_get(t, "toolUseId"),
                                       lunary_json_get(t, "name"),
                                       lunary_json_get(t, "input"),
                                       tools++ == 0);
            }
        }

        if (rc == LUNARY_OK) {
            rc = lunary_input_lit(call, "]");
        }
    }

    return rc == LUNARY_OK ? lunary_input_lit(call, "}") : rc;
}


static int
lunary_converse_result(lunary_call_t *call, lunary_str_t v)
{
    lunary_str_t  id, content;

    id = lunary_json_get(v, "toolUseId");
    content = lunary_json_get(v, "content");

    return lunary_value_is(lunary_json_get(v, "status"), "error")
           ? lunary_input_tool_failed(call, id, content)
           : lunary_input_tool_result(call, id, content);
}


static int
lunary_converse_block(lunary_call_t *call, lunary_str_t block)
{
    int            rc;
    lunary_str_t   v, format;
    unsigned char  type[LUNARY_CONVERSE_FORMAT + 8];

    v = lunary_json_get(block, "text");

    if (lunary_json_is_string(v)) {
        rc = lunary_input_lit(call, "{\"type\":\"text\",\"text\":");

        if (rc == LUNARY_OK) {
            rc = lunary_input_raw(call, v);
        }

        return rc == LUNARY_OK ? lunary_input_lit(call, "}") : rc;
    }

    v = lunary_json_get(block, "image");

    if (lunary_json_is_object(v)) {
        format = lunary_json_inside(lunary_json_get(v, "format"));
        v = lunary_json_get(lunary_json_get(v, "source"), "bytes");

        if (!lunary_json_is_string(v)) {

            /* an s3Location */

            return lunary_input_raw(call, block);
        }

        if (format.len == 0 || format.len > LUNARY_CONVERSE_FORMAT) {
            return lunary_input_image(call, lunary_str(NULL, 0), v);
        }

        memcpy(type, "\"image/", 7);
        memcpy(type + 7, format.data, format.len);
        type[7 + format.len] = '"';

        return lunary_input_image(call, lunary_str(type, format.len + 8), v);
    }

    return lunary_input_raw(call, block);
}


static int
lunary_converse_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_converse_value(call, text);

    return LUNARY_OK;
}


void
lunary_converse_value(lunary_call_t *call, lunary_str_t v)
{
    lunary_str_t         m, stop, content;
    lunary_choice_t     *ch;
    lunary_json_iter_t   it;

    m = lunary_json_get(lunary_json_get(v, "output"), "message");
    stop = lunary_json_get(v, "stopReason");

    if (lunary_json_is_object(m) || lunary_json_is_string(stop)) {

        ch = lunary_call_choice(call, 0);
        content = lunary_json_get(m, "content");

        if (lunary_json_is_array(content)) {
            lunary_json_iter(&it, content);

            while (lunary_json_element(&it, &m)) {
                lunary_converse_content(call, ch, m);
            }
        }

        lunary_call_finish_reason(call, ch, stop);
    }

    lunary_converse_usage(call, lunary_json_get(v, "usage"));
}


static void
lunary_converse_content(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t block)
{
    lunary_str_t         v;
    lunary_tool_t       *t;
    lunary_json_iter_t   it;

    v = lunary_json_get(block, "text");

    lunary_call_text(call, ch, lunary_json_inside(v));

    /* generated text, with where it comes from */

    v = lunary_json_get(lunary_json_get(block, "citationsContent"),
                        "content");
    lunary_json_iter(&it, v);

    while (lunary_json_element(&it, &v)) {
        lunary_call_text(call, ch,
                         lunary_json_inside(lunary_json_get(v, "text")));
    }

    v = lunary_json_get(block, "toolUse");

    if (lunary_json_is_object(v)
        && !lunary_value_is(lunary_json_get(v, "type"), "server_tool_use"))
    {
        t = lunary_call_tool_new(call, ch, -1);

        lunary_call_tool_id(call, t, lunary_json_get(v, "toolUseId"));
        lunary_call_tool_name(call, t, lunary_json_get(v, "name"));
        lunary_call_tool_value(call, t, lunary_json_get(v, "input"));
    }

    v = lunary_json_get(block, "reasoningContent");

    if (v.len != 0) {
        v = lunary_json_get(lunary_json_get(v, "reasoningText"), "text");
        lunary_call_reasoning(call, ch, lunary_json_inside(v));
    }
}


static int
lunary_converse_on_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    lunary_converse_event(call, name, data);

    return LUNARY_OK;
}


void
lunary_converse_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    int64_t           index;
    lunary_str_t      v, t, i;
    lunary_tool_t    *tool;
    lunary_choice_t  *ch;

    ch = lunary_call_choice(call, 0);

    lunary_priv(call)->fold = LUNARY_TOKENS_CACHE_APART;

    i = lunary_json_get(data, "contentBlockIndex");

    if (i.len == 0 || !lunary_json_int(i, &index)) {
        index = -1;
    }

    if (lunary_eq(name, "contentBlockDelta")) {

        v = lunary_json_get(data, "delta");

        t = lunary_json_get(v, "text");
        lunary_call_text(call, ch, lunary_json_inside(t));

        t = lunary_json_get(lunary_json_get(v, "reasoningContent"), "text");
        lunary_call_reasoning(call, ch, lunary_json_inside(t));

        t = lunary_json_get(lunary_json_get(v, "toolUse"), "input");

        if (lunary_json_is_string(t) && ch != NULL) {

            /* only of tools that started as the caller's */

            tool = lunary_output_tool(ch, index);

            if (tool != NULL) {
                lunary_call_tool_args(call, tool, t);
            }
        }

    } else if (lunary_eq(name, "contentBlockStart")) {

        v = lunary_json_get(lunary_json_get(data, "start"), "toolUse");

        if (lunary_json_is_object(v)
            && !lunary_value_is(lunary_json_get(v, "type"),
                                "server_tool_use"))
        {
            tool = lunary_call_tool_new(call, ch, index);

            lunary_call_tool_id(call, tool, lunary_json_get(v, "toolUseId"));
            lunary_call_tool_name(call, tool, lunary_json_get(v, "name"));
        }

    } else if (lunary_eq(name, "messageStop")) {
        lunary_call_finish_reason(call, ch,
                                  lunary_json_get(data, "stopReason"));
        call->terminal = 1;

    } else if (lunary_eq(name, "metadata")) {
        lunary_converse_usage(call, lunary_json_get(data, "usage"));
        call->terminal = 1;

    } else if (name.len > 9
               && memcmp(name.data + name.len - 9, "Exception", 9) == 0)
    {
        lunary_call_exception(call, name, data);
    }
}


static void
lunary_converse_usage(lunary_call_t *call, lunary_str_t usage)
{
    lunary_str_t      v[7];
    lunary_tokens_t  *t;

    static const lunary_str_t  keys[] = {
        lunary_string("inputTokens"),
        lunary_string("outputTokens"),
        lunary_string("totalTokens"),
        lunary_string("cacheReadInputTokens"),
        lunary_string("cacheReadInputTokenCount"),
        lunary_string("cacheWriteInputTokens"),
        lunary_string("cacheWriteInputTokenCount")
    };

    if (!lunary_json_is_object(usage)) {
        return;
    }

    lunary_call_usage(call, usage);

    t = &call->tokens;

    (void) lunary_json_pick(usage, keys, v, 7);

    lunary_call_count(&t->prompt, v[0]);
    lunary_call_count(&t->completion, v[1]);
    lunary_call_count(&t->total, v[2]);
    lunary_call_count(&t->cached, v[3].len ? v[3] : v[4]);
    lunary_call_count(&t->cache_write, v[5].len ? v[5] : v[6]);
}
